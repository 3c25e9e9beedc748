//! The new host, as the old one sees it.

use std::{
    ffi::OsString,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

use super::{BEGIN, HandOverError, Message, PREPARE, PROTOCOL, Plane, wire::Wire};
use crate::app::sockets::Sockets;
use cutover_model::environment;
use cutover_traffic::{descriptors, ingress::transfer::Carried};

/// See the module. One that is dropped goes on as a process of its own, if it has been told `go`.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    wire: Wire,
}

impl Successor {
    /// Starts the new host.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, arguments: &[OsString]) -> Result<Self, HandOverError> {
        let failed = |source| HandOverError::Start { program: program.display().to_string(), source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let child = Command::new(program)
            .args(arguments)
            .env(environment::HAND_OVER, std::process::id().to_string())
            .envs(descriptors::before().map(|limit| (environment::DESCRIPTORS, limit.to_string())))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .map_err(failed)?;
        let wire = Wire::new(tokio::net::UnixStream::from_std(ours).map_err(failed)?);
        Ok(Self { child, wire })
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Hands it the sockets and waits until it is prepared to take over.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn prepare(&mut self, sockets: &Sockets, open: Vec<String>) -> Result<(), HandOverError> {
        let planes =
            sockets.data_plane.iter().map(|socket| (Plane::Data, socket)).chain([(Plane::Admin, &sockets.admin)]);
        for (plane, socket) in planes {
            let message = Message::Socket { plane, given: sockets.given };
            self.wire.send(&message, &[], Some(socket.as_fd())).await?;
        }
        self.wire.tell(&Message::State { protocol: PROTOCOL, open }).await?;
        self.expect("prepared", PREPARE, |message| matches!(message, Message::Prepared)).await
    }

    /// Leaves the store to it and waits until it serves.
    ///
    /// # Errors
    /// Why it does not. It may still have the store: see [`Successor::end`].
    pub async fn begin(&mut self) -> Result<(), HandOverError> {
        self.wire.tell(&Message::Go).await?;
        self.expect("serving", BEGIN, |message| matches!(message, Message::Serving)).await
    }

    /// Ends it, and waits until it is gone.
    pub async fn end(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::error!(%error, "the new host cannot be ended");
        }
    }

    /// Hands it connections until there are no more.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn carry(mut self, connections: &mut mpsc::Receiver<Carried>) -> Result<u64, HandOverError> {
        let mut carried = 0;
        while let Some(Carried { stream, read, is_new }) = connections.recv().await {
            self.wire.send(&Message::Connection { is_new }, &read, Some(stream.as_fd())).await?;
            carried += 1;
        }
        Ok(carried)
    }

    async fn expect(
        &mut self,
        what: &'static str,
        limit: Duration,
        is: impl Fn(&Message) -> bool,
    ) -> Result<(), HandOverError> {
        let said = timeout(limit, self.wire.receive()).await.map_err(|_late| HandOverError::Late { what, limit })??;
        match said {
            Some((message, ..)) if is(&message) => Ok(()),
            Some((Message::Failed { why }, ..)) => Err(HandOverError::Failed(why)),
            Some(_) => Err(HandOverError::Unexpected),
            None => {
                let ended = self.child.wait().await?;
                Err(HandOverError::Failed(format!("it ended ({ended}); its log says why")))
            }
        }
    }
}
