//! History: what policies were asked in earnest, as JSON Lines, for back-tests.
//!
//! One line for each check, in the order in which policies were asked, and lines that mark moments such as a fault. The
//! format is in `docs/history.md`: fields may be added to it, so a reader passes over fields and types of lines that it
//! does not know (and counts the lines), but refuses a line whose version is higher than its own. [`read`] reads it and
//! names file, line and field of what is wrong.

pub mod read;
pub mod synthetic;

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use cutover_model::{
    clock::UnixMs,
    facts::Batch,
    port::{Check, Phase, Verdict},
    request::Ppm,
};

/// The version of check lines that this host writes, and the highest that it reads.
pub const VERSION: u32 = 1;

/// The kind of mark that says when V2 began to be at fault.
pub const FAULT: &str = "fault";

/// The kind of mark that says that the host's clock was set back: the next check may be earlier than the one before.
pub const CLOCK_SET_BACK: &str = "clock-set-back";

/// A check that was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its number in the store that recorded it; ascending. 0 for one that no store has.
    pub id: i64,
    /// The question that the policies were asked.
    pub check: Check,
    /// The rollback policy's answer; none if it failed or nobody was in charge.
    pub verdict: Option<Verdict>,
}

/// A moment that people want to see in a back-test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The moment that is marked, on the same timeline as the checks.
    pub at: UnixMs,
    /// [`FAULT`], [`CLOCK_SET_BACK`], or a word of its author.
    pub kind: String,
    /// One sentence for people; may be empty.
    #[serde(default)]
    pub note: String,
}

/// One line of history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A check that policies were asked about.
    Check(Recorded),
    /// A moment between two checks that is shown to people and not to policies.
    Mark(Mark),
    /// A line of a type that this host does not know.
    Unknown,
}

/// A check as the store has it: its batches are still JSON.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its number in the store that recorded it; ascending.
    pub id: i64,
    /// The moment of the check, as in [`Check`].
    pub now_ms: UnixMs,
    /// Where the migration stood, as in [`Check`].
    pub phase: Phase,
    /// The stage from 0, as in [`Check`].
    pub stage: u32,
    /// V2's share at the check, as in [`Check`].
    pub share: Ppm,
    /// When the stage began, as in [`Check`].
    pub stage_started_ms: UnixMs,
    /// The rollback policy's answer; none if it failed or nobody was in charge.
    pub verdict: Option<Verdict>,
    /// The batches as a JSON list, exactly as they were recorded.
    pub batches: Box<RawValue>,
}

/// A check line, as it is written.
#[derive(Serialize)]
struct CheckLine<'a, B> {
    r#type: &'static str,
    v: u32,
    id: i64,
    now_ms: UnixMs,
    phase: Phase,
    stage: u32,
    share: Ppm,
    stage_started_ms: UnixMs,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
    batches: &'a B,
}

/// A mark line, as it is written.
#[derive(Serialize)]
struct MarkLine<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    mark: &'a Mark,
}

impl Stored {
    /// Reads its batches.
    ///
    /// # Errors
    /// When they are not what the host writes.
    pub fn read(self) -> Result<Recorded, serde_json::Error> {
        let batches: Vec<Batch> = serde_json::from_str(self.batches.get())?;
        let Self { id, now_ms, phase, stage, share, stage_started_ms, verdict, .. } = self;
        Ok(Recorded { id, check: Check { now_ms, phase, stage, share, stage_started_ms, batches }, verdict })
    }

    /// Writes its line.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&self, mut out: impl io::Write) -> io::Result<()> {
        let line = CheckLine {
            r#type: "check",
            v: VERSION,
            id: self.id,
            now_ms: self.now_ms,
            phase: self.phase,
            stage: self.stage,
            share: self.share,
            stage_started_ms: self.stage_started_ms,
            verdict: self.verdict,
            batches: &self.batches,
        };
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")
    }
}

impl Recorded {
    /// Writes its line.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&self, mut out: impl io::Write) -> io::Result<()> {
        let line = CheckLine {
            r#type: "check",
            v: VERSION,
            id: self.id,
            now_ms: self.check.now_ms,
            phase: self.check.phase,
            stage: self.check.stage,
            share: self.check.share,
            stage_started_ms: self.check.stage_started_ms,
            verdict: self.verdict,
            batches: &self.check.batches,
        };
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")
    }
}

impl Mark {
    /// That the host's clock was set back before `at`.
    pub fn clock_set_back(before: UnixMs, at: UnixMs) -> Self {
        let note = format!("the check before was at {}", before.rfc3339());
        Self { at, kind: CLOCK_SET_BACK.into(), note }
    }

    /// Writes its line.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write(&self, mut out: impl io::Write) -> io::Result<()> {
        serde_json::to_writer(&mut out, &MarkLine { r#type: "mark", mark: self })?;
        out.write_all(b"\n")
    }
}
