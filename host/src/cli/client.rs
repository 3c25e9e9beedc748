//! Talks to a host's admin plane.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use ureq::{Agent, http::Response};

use super::Failed;

/// How long a host may take: longer than any policy or commit takes, shorter than patience.
const PATIENCE: Duration = Duration::from_secs(15);

/// A host's admin plane.
pub(super) struct Client {
    base: String,
    agent: Agent,
}

impl Client {
    pub(super) fn new(base: &str) -> Self {
        Self::patient(base, PATIENCE)
    }

    /// For what takes a host longer than any policy or commit does.
    pub(super) fn patient(base: &str, patience: Duration) -> Self {
        let config = Agent::config_builder().timeout_global(Some(patience)).http_status_as_error(false);
        Self { base: base.trim_end_matches('/').to_owned(), agent: config.build().into() }
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failed> {
        self.answer(self.agent.get(format!("{}{path}", self.base)).call())
    }

    pub(super) fn post(&self, path: &str, body: &impl Serialize) -> Result<Value, Failed> {
        self.answer(self.agent.post(format!("{}{path}", self.base)).send_json(body))
    }

    pub(super) fn put(&self, path: &str, body: &impl Serialize) -> Result<Value, Failed> {
        self.answer(self.agent.put(format!("{}{path}", self.base)).send_json(body))
    }

    fn answer(&self, answer: Result<Response<ureq::Body>, ureq::Error>) -> Result<Value, Failed> {
        let unreachable = |e: ureq::Error| {
            let message =
                format!("cannot reach the host at {}: {e}; start it, or give its address with --admin", self.base);
            Failed::unreachable(message)
        };
        let mut response = answer.map_err(unreachable)?;
        let status = response.status();
        let body: Value = response.body_mut().read_json().map_err(unreachable)?;
        if status.is_success() {
            return Ok(body);
        }
        let why = body.get("error").and_then(Value::as_str).map_or_else(|| body.to_string(), ToOwned::to_owned);
        Err(Failed::refused(why))
    }
}
