//! What policies see: batches of integer counts, as `wit/types.wit` has them. Plain data; recorded as JSON.

use cutover_contract::histogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    clock::UnixMs,
    request::{Class, Ppm},
};

/// What happened in one span of time, one second long as a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// When it began.
    pub start_ms: UnixMs,
    /// How long it was.
    pub duration_ms: u32,
    /// V2's share at its end.
    pub share: Ppm,
    /// Calls by operation, ascending by name; operations without calls are left out.
    pub operations: Vec<OperationCalls>,
    /// V1's members at its end.
    pub v1: Members,
    /// V2's members at its end.
    pub v2: Members,
    /// Comparisons that ended in it.
    pub comparisons: Comparisons,
    /// Further measurements, ascending by name.
    pub gauges: Vec<Gauge>,
}

/// One operation in one batch, both pools side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationCalls {
    /// The operation.
    pub operation: String,
    /// Its class.
    pub class: Class,
    /// What callers of V1 saw.
    pub v1: Calls,
    /// What callers of V2 saw.
    pub v2: Calls,
    /// What mirrored calls to V2 did.
    pub shadow: Calls,
}

/// What callers of one pool saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Calls that were answered, successfully or not.
    pub requests: u64,
    /// Calls that failed because of the pool.
    pub errors: u64,
    /// Those of `errors` that ran out of time.
    pub timeouts: u64,
    /// Those of `errors` that the other pool answered instead.
    pub failed_over: u64,
    /// Distinct sessions with a call that had not failed before in this stage.
    pub units: u64,
    /// Those of `units` that failed for the first time.
    pub unit_errors: u64,
    /// Latency as `[[bucket, count], ..]`, ascending.
    #[serde(serialize_with = "write_latency", deserialize_with = "read_latency")]
    pub latency: Histogram,
}

/// The workers or upstreams of one pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Members that the pool is meant to have.
    pub wanted: u32,
    /// Members that can take calls.
    pub ready: u32,
    /// Members that died or were removed within the batch.
    pub failures: u32,
    /// Calls that wait for a member.
    pub queued: u32,
    /// Resident memory of all members.
    pub rss_bytes: u64,
}

/// What the comparison policy said of mirrored pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparisons {
    /// Equal.
    pub same: u64,
    /// Equal but for what the rules ignore.
    pub ignored: u64,
    /// Different.
    pub different: u64,
    /// Could not be compared.
    pub incomparable: u64,
}

/// A measured value that has no field of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauge {
    /// Such as `host.cpu-ppm`.
    pub name: String,
    /// Its value; the name says the unit.
    pub value: i64,
}

/// One fact behind an answer: what was observed, and the limit that it was held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule.
    pub rule: String,
    /// The value that was observed, in `unit`.
    pub observed: i64,
    /// The limit that it was compared with, in `unit`.
    pub limit: i64,
    /// `ppm`, `ratio-ppm`, `us`, `ms`, `bytes`, `count` or another word.
    pub unit: String,
    /// A sentence for people.
    pub note: String,
}

impl Calls {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.timeouts += other.timeouts;
        self.failed_over += other.failed_over;
        self.units += other.units;
        self.unit_errors += other.unit_errors;
        self.latency.merge(&other.latency);
    }
}

impl Comparisons {
    /// Adds all of `other`.
    pub const fn merge(&mut self, other: Self) {
        self.same += other.same;
        self.ignored += other.ignored;
        self.different += other.different;
        self.incomparable += other.incomparable;
    }
}

fn write_latency<S: Serializer>(latency: &Histogram, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(latency.buckets())
}

fn read_latency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Histogram, D::Error> {
    Ok(Vec::<(u32, u64)>::deserialize(deserializer)?.into_iter().collect())
}
