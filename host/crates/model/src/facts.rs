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
    /// When the batch began, on the timeline that policies are told (`clock::timeline`).
    pub start_ms: UnixMs,
    /// The length of the batch, in milliseconds.
    pub duration_ms: u32,
    /// V2's share when the batch ended.
    pub share: Ppm,
    /// Calls by operation, ascending by name; operations without calls are left out.
    pub operations: Vec<OperationCalls>,
    /// V1's members when the batch ended.
    pub v1: Members,
    /// V2's members when the batch ended.
    pub v2: Members,
    /// Comparisons that ended within the batch, whenever their calls were made.
    pub comparisons: Comparisons,
    /// Measurements without a field of their own, ascending by name.
    pub gauges: Vec<Gauge>,
}

/// One operation in one batch, both pools side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationCalls {
    /// The operation's name in the configuration.
    pub operation: String,
    /// The operation's class, which says what may be repeated and mirrored.
    pub class: Class,
    /// What callers that V1 served saw.
    pub v1: Calls,
    /// What callers that V2 served saw.
    pub v2: Calls,
    /// What mirrored calls to V2 did; their `failed_over`, `units` and `unit_errors` are 0.
    pub shadow: Calls,
}

/// What callers of one pool saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Calls that were answered, successfully or not. Mirrored calls are not in here.
    pub requests: u64,
    /// Calls that failed because of the pool. A refusal that is the caller's fault is not in here.
    pub errors: u64,
    /// Those of `errors` that ran out of time.
    pub timeouts: u64,
    /// Those of `errors` that the other pool answered instead.
    pub failed_over: u64,
    /// Distinct sessions with a call that had not failed before in this stage; a call without a session counts as one.
    pub units: u64,
    /// Those of `units` that failed for the first time.
    pub unit_errors: u64,
    /// Counts of calls by latency in microseconds, as `[[bucket, count], ..]`, ascending; `wit/types.wit` says what a
    /// bucket holds.
    #[serde(serialize_with = "write_latency", deserialize_with = "read_latency")]
    pub latency: Histogram,
}

/// The workers or upstreams of one pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Members that the pool is meant to have.
    pub wanted: u32,
    /// Members that can take calls when the batch ends.
    pub ready: u32,
    /// Members that died or were removed within the batch.
    pub failures: u32,
    /// Calls that wait for a member when the batch ends.
    pub queued: u32,
    /// Resident memory of all members, in bytes; 0 where it cannot be known.
    pub rss_bytes: u64,
}

/// What the comparison policy said of mirrored pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparisons {
    /// Pairs whose results are equal.
    pub same: u64,
    /// Pairs whose results differ only in what the rules ignore.
    pub ignored: u64,
    /// Pairs whose results differ.
    pub different: u64,
    /// Pairs that the policy could not compare.
    pub incomparable: u64,
}

/// A measured value that has no field of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauge {
    /// The name, such as `host.cpu-ppm`; `wit/types.wit` lists the host's own.
    pub name: String,
    /// The value; its unit is part of the name.
    pub value: i64,
}

/// One fact behind an answer: what was observed, and the limit that it was held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The name of the rule, such as `v2-error-rate`.
    pub rule: String,
    /// The value that was observed, in `unit`.
    pub observed: i64,
    /// The limit that it was compared with, in `unit`.
    pub limit: i64,
    /// `ppm`, `ratio-ppm` (1 000 000 is 1x), `us`, `ms`, `bytes`, `count` or another word, which is shown as it is.
    pub unit: String,
    /// A sentence for people.
    pub note: String,
}

impl Calls {
    /// Adds all counts of `other`, latencies included.
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
    /// Adds all counts of `other`.
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
