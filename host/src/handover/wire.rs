//! Messages and descriptors over a Unix socket.
//!
//! A message is a head of eight bytes (the length of the JSON, the length of the bytes that follow it; both big-endian),
//! the JSON, and the bytes. A descriptor goes with the first byte of the head (`SCM_RIGHTS`, unix(7)), so whoever reads
//! the head alone gets no descriptor but its own.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use hyper::body::Bytes;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UnixStream,
};

use super::Message;

/// The longest JSON: labels of pools.
const MAX_JSON: usize = 1 << 20;

/// The most bytes that may be read of a connection and not used: several heads.
const MAX_BYTES: usize = 16 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Wire(UnixStream);

impl Wire {
    pub(super) const fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    pub(super) async fn tell(&mut self, message: &Message) -> io::Result<()> {
        self.send(message, &[], None).await
    }

    pub(super) async fn send(
        &mut self,
        message: &Message,
        bytes: &[u8],
        with: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let json = serde_json::to_vec(message)?;
        let length = |of: usize| u32::try_from(of).map_err(|_too_long| io::Error::other("a message is too long"));
        let head = [length(json.len())?.to_be_bytes(), length(bytes.len())?.to_be_bytes()].concat();
        let sent = self.0.async_io(Interest::WRITABLE, || self.send_head(&head, with)).await?;
        // Who sends eight bytes to an empty socket sends them all; but nobody promises that.
        self.0.write_all(head.get(sent..).unwrap_or_default()).await?;
        self.0.write_all(&json).await?;
        self.0.write_all(bytes).await
    }

    /// None when the other side has closed.
    pub(super) async fn receive(&mut self) -> io::Result<Option<(Message, Bytes, Option<OwnedFd>)>> {
        let (mut head, mut got, mut descriptor) = ([0; 8], 0, None);
        while got < head.len() {
            let rest = head.get_mut(got..).unwrap_or_default();
            let (read, with) = {
                let rest = parking_lot::Mutex::new(rest);
                self.0.async_io(Interest::READABLE, || self.receive_head(&mut rest.lock())).await?
            };
            match read {
                0 if got == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => got += read,
            }
            descriptor = descriptor.or(with);
        }
        let [json, bytes] = [head.first_chunk::<4>(), head.last_chunk::<4>()]
            .map(|length| length.map_or(0, |length| u32::from_be_bytes(*length) as usize));
        if json > MAX_JSON || bytes > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
        }
        let mut body = vec![0; json + bytes];
        self.0.read_exact(&mut body).await?;
        let bytes = Bytes::from(body.split_off(json));
        Ok(Some((serde_json::from_slice(&body)?, bytes, descriptor)))
    }

    fn send_head(&self, head: &[u8], with: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let with: Vec<_> = with.into_iter().collect();
        if !with.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&with)) {
            return Err(io::Error::other("there is no room for a descriptor"));
        }
        Ok(sendmsg(self.0.as_fd(), &[IoSlice::new(head)], &mut control, SendFlags::NOSIGNAL)?)
    }

    fn receive_head(&self, head: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let read = recvmsg(self.0.as_fd(), &mut [IoSliceMut::new(head)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut descriptor = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                descriptor = descriptor.or(descriptors.last());
            }
        }
        Ok((read.bytes, descriptor))
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::net::UnixStream as Blocking};

    use super::*;

    #[tokio::test]
    async fn messages_arrive_in_order_each_with_its_own_descriptor() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut ours, mut theirs) = (Wire::new(ours), Wire::new(theirs));
        let (mut inside, outside) = Blocking::pair().unwrap();
        ours.tell(&Message::Prepared).await.unwrap();
        ours.send(&Message::Connection { is_new: false }, b"GET / HT", Some(outside.as_fd())).await.unwrap();
        ours.tell(&Message::Serving).await.unwrap();
        drop((ours, outside));
        inside.write_all(b"hello").unwrap();
        assert!(matches!(theirs.receive().await.unwrap(), Some((Message::Prepared, _, None))));
        let Some((Message::Connection { is_new: false }, bytes, Some(descriptor))) = theirs.receive().await.unwrap()
        else {
            panic!("no connection");
        };
        assert_eq!(&bytes[..], b"GET / HT");
        let mut hello = [0; 5];
        io::Read::read_exact(&mut Blocking::from(descriptor), &mut hello).unwrap();
        assert_eq!(&hello, b"hello");
        assert!(matches!(theirs.receive().await.unwrap(), Some((Message::Serving, _, None))));
        assert!(theirs.receive().await.unwrap().is_none());
    }
}
