//! The old host, as the new one sees it.

use std::{
    fs::File,
    io,
    net::TcpListener,
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use rustix::net::sockopt::socket_peercred;

use super::{HandOverError, Message, PROTOCOL, Plane, wire::Wire};
use crate::app::sockets::Found;
use cutover_model::environment;
use cutover_traffic::ingress::transfer::{Adopter, Carried};

/// See the module.
#[derive(Debug)]
pub struct Predecessor(Wire);

impl Predecessor {
    /// The host that started this one to be taken over from, if one did. Takes its place at standard input away.
    ///
    /// # Errors
    /// When standard input cannot be had.
    pub fn find() -> io::Result<Option<Self>> {
        let Some(pid) = environment::hands_over() else { return Ok(None) };
        let stdin = io::stdin();
        // A variable that came down from further up is nobody's word: the other end must be the host that it names.
        let is_it = socket_peercred(stdin.as_fd()).is_ok_and(|peer| peer.pid.as_raw_pid().unsigned_abs() == pid);
        if !is_it {
            return Ok(None);
        }
        let stream = UnixStream::from(stdin.as_fd().try_clone_to_owned()?);
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        stream.set_nonblocking(true)?;
        Ok(Some(Self(Wire::new(tokio::net::UnixStream::from_std(stream)?))))
    }

    /// Its listening sockets, and the pools that are open there.
    ///
    /// # Errors
    /// When it is gone or cannot be understood.
    pub async fn found(&mut self) -> Result<(Found, Vec<String>), HandOverError> {
        let mut found = Found::default();
        loop {
            match self.0.receive().await?.ok_or(io::ErrorKind::UnexpectedEof).map_err(io::Error::from)? {
                (Message::Socket { plane, given }, _, Some(descriptor)) => {
                    let socket = TcpListener::from(descriptor);
                    found.given |= given;
                    match plane {
                        Plane::Data => found.data_plane.push(socket),
                        Plane::Admin => found.admin = Some(socket),
                    }
                }
                (Message::State { protocol: PROTOCOL, open }, ..) => return Ok((found, open)),
                (Message::State { protocol, .. }, ..) => return Err(HandOverError::Protocol { theirs: protocol }),
                _ => return Err(HandOverError::Unexpected),
            }
        }
    }

    /// Says that this host can take over, and waits until it may.
    ///
    /// # Errors
    /// When it may not any more: the old host goes on, or is gone before it let go of the store.
    pub async fn prepared(&mut self) -> Result<(), HandOverError> {
        self.0.tell(&Message::Prepared).await?;
        match self.0.receive().await? {
            Some((Message::Go, ..)) => Ok(()),
            Some(_) => Err(HandOverError::Unexpected),
            None => Err(HandOverError::Wire(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Says why this host cannot take over.
    pub async fn failed(&mut self, why: String) {
        // One that is gone does not need to know.
        drop(self.0.tell(&Message::Failed { why }).await);
    }

    /// Says that this host serves, and takes in the connections of the old one until that has ended.
    pub async fn take_over(mut self, mut adopter: Adopter) {
        let mut carried = 0_u64;
        if self.0.tell(&Message::Serving).await.is_ok() {
            loop {
                match self.0.receive().await {
                    Ok(Some((Message::Connection { is_new }, read, Some(descriptor)))) => {
                        adopter.adopt(Carried { stream: descriptor.into(), read, is_new }).await;
                        carried += 1;
                    }
                    Ok(Some((Message::Connection { .. }, ..))) => {
                        tracing::error!("a connection is lost: this process has no descriptor left");
                    }
                    Ok(Some(_)) => tracing::error!("the old host said something unexpected"),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(%error, "the old host cannot be understood any more");
                        break;
                    }
                }
            }
        }
        tracing::info!(carried, "the old host has no more connections to hand over");
    }
}
