//! Questions to measure a policy with: representative ones of its kind, the same on every machine.

use cutover_contract::{frame, histogram, share};

use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Calls, Comparisons, Members, OperationCalls},
    port::{AdapterCall, AdapterReply, Check, Kind, Pair, Phase, Progress, Side, Situation, Verdict},
    request::{Class, Ppm},
};

/// One question to a policy, with all that it is asked about but its memory.
#[derive(Debug, Clone)]
pub enum Question {
    /// To a rollback policy.
    Judge(Check),
    /// To a stages policy.
    Next(Progress),
    /// To a routing policy.
    MakePlan(Situation),
    /// To a routing policy, per request: a packed frame.
    Decide(Vec<u8>),
    /// To a comparison policy.
    Compare(Vec<Pair>),
    /// To an adapter, of a call that it translates.
    AdaptCall(AdapterCall),
    /// To an adapter, of the reply to its call.
    AdaptReply(AdapterCall, AdapterReply),
}

/// A question in its place.
#[derive(Debug, Clone)]
pub struct Step {
    /// The question that is put.
    pub question: Question,
    /// What is remembered before it, where a sequence begins; elsewhere what the question before it left.
    pub begins_with: Option<Vec<u8>>,
}

/// When the questions begin: a Monday at ten.
const BEGIN: u64 = 1_767_607_200_000;

/// Checks in a row: five minutes at the host's interval of five seconds, so that what is remembered fills up.
const CHECKS: u64 = 60;

/// Pairs that are compared at once.
const PAIRS: u64 = 32;

/// Requests that are routed.
const REQUESTS: u64 = 100;

/// Operations of a migration, with their classes.
const OPERATIONS: [(&str, Class); 4] = [
    ("create_program", Class::Replicate),
    ("execute", Class::Read),
    ("health_check", Class::Exclusive),
    ("list_programs", Class::Read),
];

impl Question {
    /// The function that it is put to, as the contract names it.
    pub const fn function(&self) -> &'static str {
        match self {
            Self::Judge(_) => "judge",
            Self::Next(_) => "next",
            Self::MakePlan(_) => "make-plan",
            Self::Decide(_) => "decide",
            Self::Compare(_) => "compare",
            Self::AdaptCall(_) => "adapt-call",
            Self::AdaptReply(..) => "adapt-reply",
        }
    }
}

/// Questions of a kind, in their order; [`decisions`] are beside them.
pub fn generated(kind: Kind) -> Vec<Step> {
    let questions: Vec<_> = match kind {
        Kind::Rollback => checks().map(Question::Judge).collect(),
        Kind::Stages => {
            let progress = |check| Progress { check, verdict: Verdict::Healthy, forced: false };
            checks().map(progress).map(Question::Next).collect()
        }
        Kind::Routing => situations(),
        Kind::Comparison => vec![Question::Compare((0..PAIRS).map(pair).collect())],
        Kind::Adapter => {
            let call = AdapterCall { operation: "execute".into(), session: "s1".into(), body: program(1, 0) };
            let reply = AdapterReply { success: true, body: result(1, 12) };
            vec![Question::AdaptCall(call.clone()), Question::AdaptReply(call, reply)]
        }
    };
    let first = |at| (at == 0).then(Vec::new);
    (0..).zip(questions).map(|(at, question)| Step { question, begins_with: first(at) }).collect()
}

/// Questions to `decide` with these attributes; nothing, if it is not asked.
pub fn decisions(attributes: Option<&[String]>) -> impl Iterator<Item = Step> {
    let frames = attributes.into_iter().flat_map(|attributes| (0..REQUESTS).map(|n| frame(n, attributes)));
    frames.map(|question| Step { question, begins_with: None })
}

/// The questions by the function that they are put to, in the order in which those come first. Each list begins with
/// nothing remembered unless its first question says otherwise.
pub fn by_function(steps: Vec<Step>) -> Vec<Vec<Step>> {
    let mut lists: Vec<Vec<Step>> = Vec::new();
    for mut step in steps {
        let same =
            |list: &&mut Vec<Step>| list.first().is_some_and(|f| f.question.function() == step.question.function());
        if let Some(list) = lists.iter_mut().find(same) {
            list.push(step);
        } else {
            step.begins_with.get_or_insert_default();
            lists.push(vec![step]);
        }
    }
    lists
}

/// Numbers that look random and are the same everywhere (`splitmix64`).
fn noise(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Five minutes of a ramp at 10 %: 200 calls a second, a few of which fail.
fn checks() -> impl Iterator<Item = Check> {
    (1..=CHECKS).map(|n| Check {
        now_ms: UnixMs(BEGIN + n * 5_000),
        phase: Phase::Ramping,
        stage: 1,
        share: Ppm::new(100_000),
        stage_started_ms: UnixMs(BEGIN),
        batches: (0..5).map(|second| batch((n - 1) * 5 + second)).collect(),
    })
}

fn batch(second: u64) -> Batch {
    let operation = |at: u64, name: &str, class| OperationCalls {
        operation: name.into(),
        class,
        v1: calls(second * 16 + at, 90),
        v2: calls(second * 16 + at + 4, 10),
        shadow: if class == Class::Read { calls(second * 16 + at + 8, 9) } else { Calls::default() },
    };
    let operations = OPERATIONS.iter().filter(|(_, class)| *class != Class::Exclusive);
    let workers = |rss| Members { wanted: 4, ready: 4, failures: 0, queued: 0, rss_bytes: rss };
    Batch {
        start_ms: UnixMs(BEGIN + second * 1_000),
        duration_ms: 1_000,
        share: Ppm::new(100_000),
        operations: (0..).zip(operations).map(|(at, (name, class))| operation(at, name, *class)).collect(),
        v1: workers(400 << 20),
        v2: workers((380 << 20) + second * 4_096),
        comparisons: Comparisons { same: 16, ignored: 2, different: 0, incomparable: 0 },
        gauges: Vec::new(),
    }
}

/// Calls with latencies around 20 ms and a tail; one in two hundred fails.
fn calls(seed: u64, requests: u64) -> Calls {
    let mut calls = Calls { requests, units: requests, ..Calls::default() };
    for n in 0..requests {
        let random = noise(seed * 1_000 + n);
        let tail = if random.is_multiple_of(50) { 180_000 } else { 0 };
        calls.latency.add(histogram::index(8_000 + random % 24_000 + tail), 1);
        if noise(random).is_multiple_of(200) {
            calls.errors += 1;
            calls.unit_errors += 1;
        }
    }
    calls
}

fn situations() -> Vec<Question> {
    let stands = [
        (Phase::Shadow, 0, 0),
        (Phase::Ramping, 0, 50_000),
        (Phase::Ramping, 3, 500_000),
        (Phase::Complete, 0, 1_000_000),
    ];
    let situation = |(n, (phase, stage, share)): (u64, _)| Situation {
        now_ms: UnixMs(BEGIN + n * 3_600_000),
        migration: "programs".into(),
        phase,
        stage,
        share: Ppm::new(share),
        salt: "programs".into(),
        operations: OPERATIONS.iter().map(|(name, class)| ((*name).to_owned(), *class)).collect(),
    };
    (0_u64..).zip(stands).map(situation).map(Question::MakePlan).collect()
}

/// One request of a session, with every attribute that is wanted but for every third.
fn frame(n: u64, attributes: &[String]) -> Question {
    let session = format!("session-{n}");
    let value = |name: &str, at: u64| match name {
        "session" => Some(session.clone()),
        "operation" => Some("execute".to_owned()),
        _ if (n + at).is_multiple_of(3) => None,
        _ => Some(format!("value-{}", noise(n * 8 + at) % 16)),
    };
    let values: Vec<_> = (0..).zip(attributes).map(|(at, name)| value(name, at)).collect();
    let mut packed = Vec::new();
    let position = share::position("programs", &session);
    frame::pack(&mut packed, position, 100_000, values.iter().map(Option::as_deref));
    Question::Decide(packed)
}

/// Results of about 1 KiB. Of four pairs, two are equal, one differs in time and one in a value.
fn pair(n: u64) -> Pair {
    let side = |body| Side { success: true, status: 200, media_type: "application/json".into(), body };
    let (time, value) = match n % 4 {
        2 => (17, n),
        3 => (12, n + 1_000),
        _ => (12, n),
    };
    Pair { operation: "execute".into(), v1: side(result(n, 12)), v2: side(result(value, time)) }
}

fn result(n: u64, duration_ms: u64) -> Vec<u8> {
    let rows: Vec<_> =
        (0..12).map(|row| format!(r#"{{"id":{row},"name":"row {row}","score":{}}}"#, noise(n + row) % 1_000)).collect();
    let rows = rows.join(",");
    format!(r#"{{"program_id":"p{n}","ok":true,"duration_ms":{duration_ms},"outputs":{{"rows":[{rows}],"total":12}}}}"#)
        .into_bytes()
}

fn program(n: u64, limit: u64) -> Vec<u8> {
    format!(r#"{{"id":"p{n}","program_id":"p{n}","limit":{limit},"inputs":{{"name":"ann","values":[1,2,3]}}}}"#)
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_questions_that_are_the_same_each_time() {
        let attributes = ["session".to_owned(), "header:x-beta".to_owned()];
        let all = |kind| {
            let attributes = (kind == Kind::Routing).then_some(&attributes[..]);
            by_function(generated(kind).into_iter().chain(decisions(attributes)).collect())
        };
        for kind in Kind::ALL {
            let lists = all(kind);
            let wanted = match kind {
                Kind::Routing => &["make-plan", "decide"][..],
                Kind::Adapter => &["adapt-call", "adapt-reply"],
                Kind::Comparison => &["compare"],
                Kind::Rollback => &["judge"],
                Kind::Stages => &["next"],
            };
            assert_eq!(lists.iter().map(|list| list[0].question.function()).collect::<Vec<_>>(), wanted);
            assert!(lists.iter().all(|list| list[0].begins_with == Some(Vec::new())), "{kind}");
            assert_eq!(format!("{lists:?}"), format!("{:?}", all(kind)));
        }
    }

    #[test]
    fn checks_follow_one_another() {
        let checks: Vec<_> = checks().collect();
        for two in checks.windows(2) {
            assert_eq!(two[0].now_ms, two[1].batches[0].start_ms);
            assert_eq!(two[1].now_ms.since(two[0].now_ms).as_secs(), 5);
        }
        let batch = &checks[0].batches[0];
        assert!(batch.operations.is_sorted_by_key(|o| &o.operation));
        assert!(batch.operations.iter().all(|o| o.v1.latency.total() == o.v1.requests));
    }

    #[test]
    fn pairs_are_equal_or_differ_in_time_or_value() {
        let pairs: Vec<_> = (0..4).map(pair).collect();
        assert_eq!(pairs.iter().map(|p| p.v1.body == p.v2.body).collect::<Vec<_>>(), [true, true, false, false]);
        assert!((400..1_400).contains(&pairs[0].v1.body.len()));
        assert!(pairs.iter().all(|p| serde_json::from_slice::<serde_json::Value>(&p.v2.body).is_ok()));
    }
}
