//! Talks to a host's admin plane.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use ureq::{Agent, http::Response};

use super::Failed;

/// How long a host may take: longer than any policy or commit takes, shorter than patience.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long it may take to compile a policy and to show it what happened since the stage began.
const LONG_PATIENCE: Duration = Duration::from_mins(3);

/// The largest answer that is read: a component.
const MAX_ANSWER: u64 = 256 << 20;
/// The most bytes of a page of lines.
const MOST_LINES: u64 = 1 << 30;

/// The header that answers of an admin plane have.
const PLANE: &str = crate::admin::PLANE;

/// A host's admin plane.
pub(super) struct Client {
    base: String,
    agent: Agent,
}

impl Client {
    pub(super) fn new(base: &str) -> Self {
        Self::patient(base, PATIENCE)
    }

    /// For what takes the host a while.
    pub(super) fn slow(base: &str) -> Self {
        Self::patient(base, LONG_PATIENCE)
    }

    /// For what takes a host longer than any policy or commit does.
    pub(super) fn patient(base: &str, patience: Duration) -> Self {
        let config = Agent::config_builder().timeout_global(Some(patience)).http_status_as_error(false);
        let base = base.trim_end_matches('/');
        // An address is enough.
        let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
        Self { base, agent: config.build().into() }
    }

    /// What `/readyz` says, whether the host is ready or not.
    pub(super) fn ready(&self) -> Result<Value, Failed> {
        let response = self.agent.get(format!("{}/readyz", self.base)).call().map_err(|e| self.unreachable(&e))?;
        let mut response = self.of_admin(response)?;
        response.body_mut().with_config().limit(MAX_ANSWER).read_json().map_err(|e| self.unreachable(&e))
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

    pub(super) fn delete(&self, path: &str, body: &impl Serialize) -> Result<Value, Failed> {
        self.answer(self.agent.delete(format!("{}{path}", self.base)).force_send_body().send_json(body))
    }

    /// Reads bytes.
    pub(super) fn bytes(&self, path: &str) -> Result<Vec<u8>, Failed> {
        let response = self.agent.get(format!("{}{path}", self.base)).call().map_err(|e| self.unreachable(&e))?;
        let mut response = self.of_admin(response)?;
        if response.status().is_success() {
            let read = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
            return read.map_err(|e| self.unreachable(&e));
        }
        self.answer(Ok(response)).and(Err(Failed::new("the host's answer is no component")))
    }

    /// A page of lines, as they are.
    pub(super) fn lines(&self, path: &str) -> Result<Vec<u8>, Failed> {
        let response = self.agent.get(format!("{}{path}", self.base)).call().map_err(|e| self.unreachable(&e))?;
        let mut response = self.of_admin(response)?;
        if !response.status().is_success() {
            return Err(self.answer(Ok(response)).err().unwrap_or_else(|| Failed::refused("the host refused")));
        }
        let body = response.body_mut().with_config().limit(MOST_LINES).read_to_vec();
        body.map_err(|e| self.unreachable(&e))
    }

    fn unreachable(&self, e: &ureq::Error) -> Failed {
        let message =
            format!("cannot reach the host at {}: {e}; start it, or give its address with --admin", self.base);
        Failed::unreachable(message)
    }

    /// Anybody may answer at an address.
    fn of_admin(&self, response: Response<ureq::Body>) -> Result<Response<ureq::Body>, Failed> {
        if response.headers().contains_key(PLANE) {
            return Ok(response);
        }
        let message = format!(
            "what answers at {} is not the admin plane of a host ({}); `host.admin` of its configuration says where that is, \
             and `host.data_plane` is where callers come in: give the former with --admin",
            self.base,
            response.status()
        );
        Err(Failed { code: 3, ..Failed::coded("not-admin", message) })
    }

    fn answer(&self, answer: Result<Response<ureq::Body>, ureq::Error>) -> Result<Value, Failed> {
        let unreachable = |e: ureq::Error| self.unreachable(&e);
        let mut response = self.of_admin(answer.map_err(unreachable)?)?;
        let status = response.status();
        let body: Value = response.body_mut().with_config().limit(MAX_ANSWER).read_json().map_err(unreachable)?;
        if status.is_success() {
            return Ok(body);
        }
        let text = |field| body.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
        let failed = Failed::refused(text("error").unwrap_or_else(|| body.to_string()));
        Err(match text("code") {
            Some(code) => Failed { kind: code.into(), ..failed },
            None => failed,
        })
    }
}
