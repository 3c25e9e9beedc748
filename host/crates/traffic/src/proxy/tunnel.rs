//! A connection that changed its protocol: bytes are passed on both ways as they come.
//!
//! When its pool is drained, a WebSocket is closed as RFC 6455 (7.1.1) has it: each side gets a close frame with the
//! status 1001, "going away", between two frames of its own. For that the frames are followed, not read ([`Frames`]).
//! Other protocols are cut when the pool is stopped.

use std::{fmt, io};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio_util::sync::CancellationToken;

use crate::pool::upstream::Ticket;
use cutover_model::clock;

/// Bytes that are passed on at once.
const CHUNK: usize = 16 << 10;

/// A close frame from a server: final, opcode 8, two bytes, status 1001.
const CLOSE_FROM_SERVER: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// The same from a client, whose frames are masked; the mask is zero.
const CLOSE_FROM_CLIENT: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// A caller's connection that is to change its protocol, or one of its streams.
#[derive(Debug)]
pub struct Upgrading {
    /// The connection, once it has.
    pub connection: OnUpgrade,
    /// What is kept until it is over.
    pub hold: Option<Box<dyn fmt::Debug + Send>>,
}

/// Where in a stream of WebSocket frames it is (RFC 6455, 5.2).
#[derive(Debug, Clone, Copy, Default)]
struct Frames {
    /// The bytes of the frame's head so far.
    head: [u8; 14],
    got: usize,
    /// Bytes of the payload that are still to come.
    left: u64,
}

/// Passes bytes on until one side is done, or the pool is drained or stopped.
pub(super) async fn run(caller: Upgrading, upstream: OnUpgrade, ticket: Ticket, is_websocket: bool) {
    let Upgrading { connection, hold: _hold } = caller;
    let (caller, upstream) = match tokio::try_join!(connection, upstream) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "a connection did not change its protocol");
            return;
        }
    };
    let signals = ticket.signals();
    let passed = tokio::select! {
        passed = pass(caller, upstream, (&ticket, &signals.end), is_websocket) => passed,
        () = signals.give_up.cancelled() => Ok(()),
    };
    if let Err(error) = passed {
        tracing::debug!(%error, "a connection that changed its protocol ended early");
    }
}

async fn pass(
    caller: Upgraded,
    upstream: Upgraded,
    told: (&Ticket, &CancellationToken),
    is_websocket: bool,
) -> io::Result<()> {
    let (from_caller, to_caller) = split(TokioIo::new(caller));
    let (from_upstream, to_upstream) = split(TokioIo::new(upstream));
    let moved = parking_lot::Mutex::new(clock::mono());
    let up = one_way(from_caller, to_upstream, told, is_websocket.then_some(&CLOSE_FROM_CLIENT[..]), &moved);
    let down = one_way(from_upstream, to_caller, told, is_websocket.then_some(&CLOSE_FROM_SERVER[..]), &moved);
    tokio::try_join!(up, down).map(|_| ())
}

/// Passes on what comes from one side; `close` is what ends it if the pool is drained.
async fn one_way<S: AsyncRead + AsyncWrite>(
    mut from: ReadHalf<S>,
    mut to: WriteHalf<S>,
    (ticket, end): (&Ticket, &CancellationToken),
    close: Option<&[u8]>,
    moved: &parking_lot::Mutex<clock::Mono>,
) -> io::Result<()> {
    let idle = ticket.spec().idle_timeout;
    let (mut frames, mut chunk) = (Frames::default(), vec![0; CHUNK]);
    loop {
        if let Some(close) = close
            && frames.at_end()
            && end.is_cancelled()
        {
            to.write_all(close).await?;
            return to.shutdown().await;
        }
        let due = (*moved.lock() + idle).timer();
        let read = tokio::select! {
            read = from.read(&mut chunk) => read?,
            () = end.cancelled(), if close.is_some() && frames.at_end() => continue,
            () = tokio::time::sleep_until(due) => {
                if (*moved.lock() + idle) > clock::mono() {
                    continue;
                }
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved for too long"));
            }
        };
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { return to.shutdown().await };
        *moved.lock() = clock::mono();
        // While the pool is drained, what comes after the end of the frame that is half-way is not passed on.
        let ends = close.is_some() && end.is_cancelled();
        let whole = if close.is_some() { frames.follow(bytes, ends) } else { bytes.len() };
        to.write_all(bytes.get(..whole).unwrap_or(bytes)).await?;
    }
}

impl Frames {
    /// Whether no frame is half-way.
    const fn at_end(&self) -> bool {
        self.got == 0 && self.left == 0
    }

    /// Follows bytes to their end, or, if `stop`, to the end of the frame that is half-way. Returns how many.
    fn follow(&mut self, bytes: &[u8], stop: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if stop && at > 0 && self.at_end() {
                return at;
            }
            if self.left > 0 {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.left -= passed as u64;
                at += passed;
                continue;
            }
            if let (Some(place), Some(byte)) = (self.head.get_mut(self.got), bytes.get(at)) {
                *place = *byte;
            }
            self.got += 1;
            at += 1;
            if let Some(length) = self.length() {
                (self.got, self.left) = (0, length);
            }
        }
        at
    }

    /// The payload's length, once the head is whole.
    fn length(&self) -> Option<u64> {
        let [_, second, rest @ ..] = self.head;
        if self.got < 2 {
            return None;
        }
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (extended, length) = match second & 0x7f {
            126 => (2, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (8, u64::from_be_bytes(*rest.first_chunk()?)),
            short => (0, u64::from(short)),
        };
        (self.got == 2 + extended + mask).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(masked: bool, payload: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match payload {
            0..126 => frame.push(mask | u8::try_from(payload).unwrap()),
            126..65_536 => {
                frame.push(mask | 0x7e);
                frame.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask | 0x7f);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend(vec![7; if masked { 4 } else { 0 }]);
        frame.extend(vec![0xff; payload]);
        frame
    }

    #[test]
    fn close_frames_are_frames() {
        for close in [&CLOSE_FROM_SERVER[..], &CLOSE_FROM_CLIENT] {
            let mut frames = Frames::default();
            assert!(frames.follow(close, false) == close.len() && frames.at_end());
        }
    }

    proptest! {
        #[test]
        fn the_ends_of_frames_are_found_however_they_are_cut(
            payloads in prop::collection::vec((any::<bool>(), prop_oneof![0..300_usize, 65_530..65_540_usize]), 1..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut ends = vec![0];
            let mut all = Vec::new();
            for (masked, payload) in payloads {
                all.extend(frame(masked, payload));
                ends.push(all.len());
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(all.len())).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let mut frames = Frames::default();
            for pair in cuts.windows(2) {
                prop_assert_eq!(frames.follow(&all[pair[0]..pair[1]], false), pair[1] - pair[0]);
                prop_assert_eq!(frames.at_end(), ends.contains(&pair[1]));
            }
        }

        #[test]
        fn stopping_passes_on_the_rest_of_one_frame(first in 1..300_usize, cut in any::<prop::sample::Index>()) {
            let all = [frame(true, first), frame(true, 5)].concat();
            let end = frame(true, first).len();
            let cut = 1 + cut.index(end - 1);
            let mut frames = Frames::default();
            frames.follow(&all[..cut], false);
            prop_assume!(!frames.at_end());
            prop_assert_eq!(frames.follow(&all[cut..], true), end - cut);
            prop_assert!(frames.at_end());
        }
    }
}
