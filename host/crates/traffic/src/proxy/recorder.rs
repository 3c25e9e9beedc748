//! Counts one exchange with an upstream, once, when it has ended.

use std::{sync::Arc, time::Duration};

use hyper::body::Bytes;

use super::{catalogue::OperationRef, download::STILL, mirror::Original};
use crate::{
    message::{Fields, ReplyHead, encoding},
    observe::{
        Failed, Observation, Outcome, Recorder, Session,
        failed::{self, Said},
    },
};
use cutover_model::request::{Class, FailureKind, PoolId};

/// Counts one exchange when its answer's body has ended, or is not read any more.
#[derive(Debug)]
pub struct ResponseRecorder {
    recorder: Arc<Recorder>,
    operation: Arc<str>,
    session: Option<Session>,
    apart: bool,
    stands_in: bool,
    class: Class,
    failed: Arc<Failed>,
    /// What the head alone says of it. None once it was told.
    ended: Option<Ended>,
    /// The body as far as it has come, and how it is encoded, if it says whether the call failed.
    body: Option<(String, Vec<u8>)>,
    /// V1's answer, if it is to be compared with V2's.
    mirrored: Option<Box<Original>>,
}

/// What an exchange is counted as, whatever comes of it.
#[derive(Debug, Clone, Copy)]
pub struct CallContext<'a> {
    /// Where it is counted.
    pub recorder: &'a Arc<Recorder>,
    pub operation: &'a Arc<str>,
    pub class: Class,
    /// What counts as failed.
    pub failed: &'a Arc<Failed>,
    /// Its session, as [`Recorder::session`] makes it; `None` if it has none.
    pub session: Option<Session>,
    /// Whether it is no evidence, because its caller chose the pool.
    pub apart: bool,
    /// Whether V1 answers in V2's place: the requests that V2 fails are no sample of what V1 is asked.
    pub stands_in: bool,
}

/// What became of an exchange.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The pool that the exchange was with.
    pub pool: PoolId,
    /// Whether it was answered or failed.
    pub outcome: Outcome,
    /// The status of the answer; 0 if there is none.
    pub status: u16,
    /// Whether the body says whether it failed, and could not be looked at.
    pub unread: bool,
    /// Whether the other pool answered instead.
    pub failed_over: bool,
    /// How long the pool took to the head.
    pub took: Duration,
}

/// The status of an exchange whose caller left before it was over, as other proxies log it; it is never sent.
const CALLER_LEFT: u16 = 499;

impl Ended {
    /// An exchange whose caller left before the head was there. A caller that waited long was let down; any other
    /// counts as one that left, with a latency of at least so long.
    pub fn abandoned(pool: PoolId, took: Duration) -> Self {
        if took >= STILL {
            return Self::without_answer(pool, FailureKind::Timeout, took);
        }
        Self { pool, outcome: Outcome::Answered, status: CALLER_LEFT, unread: false, failed_over: false, took }
    }

    /// An exchange that got no answer.
    pub const fn without_answer(pool: PoolId, kind: FailureKind, took: Duration) -> Self {
        Self { pool, outcome: Outcome::Failed(kind), status: 0, unread: false, failed_over: false, took }
    }

    /// Takes a body into account.
    fn hear(&mut self, said: Said) {
        match said {
            Said::Failed => self.outcome = Outcome::Failed(FailureKind::Worker),
            Said::Unread => self.unread = true,
            Said::Fine => {}
        }
    }
}

impl<'a> CallContext<'a> {
    /// The context of a request of this operation.
    pub const fn of(
        recorder: &'a Arc<Recorder>,
        kind: &'a OperationRef,
        session: Option<Session>,
        apart: bool,
    ) -> Self {
        let (operation, failed) = (&kind.name, &kind.failed);
        Self { recorder, operation, class: kind.class, failed, session, apart, stands_in: false }
    }

    /// Counts what became of an exchange.
    pub fn observe(self, ended: Ended) {
        let Ended { pool, outcome, status, unread, failed_over, took } = ended;
        let status = if self.stands_in { Observation::no_sample(outcome, status) } else { status };
        let call = Observation {
            operation: self.operation,
            class: self.class,
            pool,
            mirrored: false,
            session: self.session,
            outcome,
            status,
            unread,
            failed_over,
            took,
        };
        if self.apart { self.recorder.apart().record(&call) } else { self.recorder.record(call) }
    }

    /// What the head of an answer says of the exchange.
    pub fn by_head(self, pool: PoolId, head: &ReplyHead, took: Duration) -> Ended {
        let status = head.status.as_u16();
        let has_failed = self.failed.by_head(status, &head.fields) || self.failed.by_time(took);
        let outcome = if has_failed { Outcome::Failed(FailureKind::Worker) } else { Outcome::Answered };
        Ended { pool, outcome, status, unread: false, failed_over: false, took }
    }

    /// The same once the whole body is there.
    pub fn by_body(self, mut ended: Ended, fields: &Fields, body: &[u8]) -> Ended {
        if self.failed.reads_bodies() && ended.outcome == Outcome::Answered {
            ended.hear(self.failed.by_body(ended.status, fields, body));
        }
        ended
    }
}

impl ResponseRecorder {
    /// For an answer whose body, of `size` bytes at least, is still to come.
    pub fn new(
        whose: CallContext<'_>,
        mut ended: Ended,
        fields: &Fields,
        size: u64,
        mirrored: Option<Box<Original>>,
    ) -> Self {
        let (recorder, operation) = (Arc::clone(whose.recorder), Arc::clone(whose.operation));
        let CallContext { class, session, apart, stands_in, .. } = whose;
        let failed = Arc::clone(whose.failed);
        let is_asked = failed.reads_bodies() && ended.outcome == Outcome::Answered;
        let is_long = usize::try_from(size).is_ok_and(|size| size > failed::MOST);
        ended.unread = is_asked && is_long;
        let body = (is_asked && !is_long).then(|| (encoding::of(fields), Vec::new()));
        Self { recorder, operation, session, apart, stands_in, class, failed, ended: Some(ended), body, mirrored }
    }

    /// A part of the body came by.
    pub fn see(&mut self, data: &Bytes) {
        if let Some((_, body)) = &mut self.body {
            if body.len() + data.len() > failed::MOST {
                self.unread();
            } else {
                body.extend_from_slice(data);
            }
        }
        if let Some(original) = &mut self.mirrored {
            original.see(data);
        }
    }

    /// Tells what the head said, of an answer whose end was not seen: it is compared with nothing.
    pub fn leave(&mut self) {
        self.mirrored = None;
        self.unread();
        self.close(None);
    }

    /// Tells that its caller left before its end.
    pub fn abandon(&mut self) {
        if let Some(ended) = self.ended.as_mut().filter(|ended| ended.outcome == Outcome::Answered) {
            ended.status = CALLER_LEFT;
        }
        self.leave();
    }

    /// Tells what became of it; `instead` if that is not what head and body said.
    pub fn close(&mut self, instead: Option<Outcome>) {
        let Some(mut ended) = self.ended.take() else { return };
        match (instead, self.body.take()) {
            (Some(instead), _) => ended.outcome = instead,
            (None, Some((encoding, body))) => {
                ended.hear(self.failed.by_body_in(&encoding, ended.status, &Fields::default(), &body));
            }
            (None, None) => {}
        }
        let (recorder, operation, failed) = (&self.recorder, &self.operation, &self.failed);
        let (class, session, apart, stands_in) = (self.class, self.session, self.apart, self.stands_in);
        CallContext { recorder, operation, class, failed, session, apart, stands_in }.observe(ended);
        if let Some(original) = self.mirrored.take()
            && instead.is_none()
        {
            original.compare();
        }
    }

    /// What the body says will not be known.
    fn unread(&mut self) {
        if self.body.take().is_some()
            && let Some(ended) = &mut self.ended
        {
            ended.unread = true;
        }
    }
}
