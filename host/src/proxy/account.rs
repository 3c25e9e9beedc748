//! What became of one exchange with an upstream, told once, when it has ended.

use std::{sync::Arc, time::Duration};

use hyper::body::Bytes;

use super::mirror::Original;
use crate::{
    observe::{Observation, Outcome, Recorder},
    request::{Class, PoolId},
};

/// See the module.
#[derive(Debug)]
pub struct Account {
    recorder: Arc<Recorder>,
    operation: Arc<str>,
    session: Option<Arc<str>>,
    class: Class,
    pool: PoolId,
    took: Duration,
    /// What the head alone says of it. None once it was told.
    outcome: Option<Outcome>,
    /// V1's answer, if it is to be compared with V2's.
    mirrored: Option<Box<Original>>,
}

/// The parts that say whose exchange it is.
#[derive(Debug, Clone)]
pub struct Whose {
    /// Where it is counted.
    pub recorder: Arc<Recorder>,
    /// The operation.
    pub operation: Arc<str>,
    /// Its class.
    pub class: Class,
    /// The sticky key.
    pub session: Option<Arc<str>>,
}

impl Account {
    /// Of an answer whose head took this long.
    pub fn new(whose: Whose, pool: PoolId, took: Duration, outcome: Outcome, mirrored: Option<Box<Original>>) -> Self {
        let Whose { recorder, operation, class, session } = whose;
        Self { recorder, operation, session, class, pool, took, outcome: Some(outcome), mirrored }
    }

    /// A part of the body came by.
    pub fn see(&mut self, data: &Bytes) {
        if let Some(original) = &mut self.mirrored {
            original.see(data);
        }
    }

    /// Tells what became of it; `instead` if that is not what the head said.
    pub fn close(&mut self, instead: Option<Outcome>) {
        let Some(outcome) = self.outcome.take().map(|said| instead.unwrap_or(said)) else { return };
        self.recorder.record(Observation {
            operation: &self.operation,
            class: self.class,
            pool: self.pool,
            mirrored: false,
            session: self.session.as_deref(),
            outcome,
            failed_over: false,
            took: self.took,
        });
        if let Some(original) = self.mirrored.take()
            && instead.is_none()
        {
            original.compare();
        }
    }
}
