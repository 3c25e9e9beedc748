//! What became of one exchange with an upstream, told once, when it has ended.

use std::{sync::Arc, time::Duration};

use hyper::body::Bytes;

use super::mirror::Original;
use crate::{
    observe::{Observation, Outcome, Recorder, Session},
    request::{Class, PoolId},
};

/// See the module.
#[derive(Debug)]
pub struct Account {
    recorder: Arc<Recorder>,
    operation: Arc<str>,
    session: Option<Session>,
    class: Class,
    pool: PoolId,
    took: Duration,
    /// What the head alone says of it. None once it was told.
    outcome: Option<Outcome>,
    /// V1's answer, if it is to be compared with V2's.
    mirrored: Option<Box<Original>>,
}

/// Whose exchange it is.
#[derive(Debug, Clone, Copy)]
pub struct Whose<'a> {
    /// Where it is counted.
    pub recorder: &'a Arc<Recorder>,
    /// The operation.
    pub operation: &'a Arc<str>,
    /// Its class.
    pub class: Class,
    /// The sticky key.
    pub session: Option<Session>,
}

impl Whose<'_> {
    /// Counts what became of an exchange with a pool.
    pub fn observe(self, pool: PoolId, outcome: Outcome, failed_over: bool, took: Duration) {
        self.recorder.record(Observation {
            operation: self.operation,
            class: self.class,
            pool,
            mirrored: false,
            session: self.session,
            outcome,
            failed_over,
            took,
        });
    }
}

impl Account {
    /// Of an answer whose head took this long.
    pub fn new(
        whose: Whose<'_>,
        pool: PoolId,
        took: Duration,
        outcome: Outcome,
        mirrored: Option<Box<Original>>,
    ) -> Self {
        let (recorder, operation) = (Arc::clone(whose.recorder), Arc::clone(whose.operation));
        let Whose { class, session, .. } = whose;
        Self { recorder, operation, session, class, pool, took, outcome: Some(outcome), mirrored }
    }

    /// A part of the body came by.
    pub fn see(&mut self, data: &Bytes) {
        if let Some(original) = &mut self.mirrored {
            original.see(data);
        }
    }

    /// Tells what the head said, of an answer whose end nobody has seen: it is compared with nothing.
    pub fn leave(&mut self) {
        self.mirrored = None;
        self.close(None);
    }

    /// Tells what became of it; `instead` if that is not what the head said.
    pub fn close(&mut self, instead: Option<Outcome>) {
        let Some(outcome) = self.outcome.take().map(|said| instead.unwrap_or(said)) else { return };
        let (recorder, operation, session) = (&self.recorder, &self.operation, self.session);
        Whose { recorder, operation, class: self.class, session }.observe(self.pool, outcome, false, self.took);
        if let Some(original) = self.mirrored.take()
            && instead.is_none()
        {
            original.compare();
        }
    }
}
