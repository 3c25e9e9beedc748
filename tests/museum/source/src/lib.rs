//! Policies of the museum, one for each world of the contract: small, deterministic, and never changed again.
//!
//! Each is built with the feature of its name. They say little and take in all that their kind is asked, so that a host
//! that lowers a question or lifts an answer differently is found out.

macro_rules! policy {
    ($world:literal, $name:literal, $attributes:expr) => {
        wit_bindgen::generate!({ path: "../../../wit", world: $world });

        struct Piece;

        impl exports::cutover::policy::policy::Guest for Piece {
            fn describe() -> exports::cutover::policy::policy::Description {
                exports::cutover::policy::policy::Description {
                    name: $name.into(),
                    version: "0.1.0".into(),
                    summary: "a piece of the museum".into(),
                    attributes: $attributes,
                    settings_schema: r#"{"type":"object"}"#.into(),
                }
            }

            fn configure(settings: String) -> Result<(), Vec<exports::cutover::policy::policy::Problem>> {
                if settings == "{}" {
                    return Ok(());
                }
                let message = format!("is {settings}; it must be {{}}");
                Err(vec![exports::cutover::policy::policy::Problem { path: "piece".into(), message }])
            }
        }

        export!(Piece);
    };
}

#[cfg(any(feature = "routing", feature = "deciding"))]
mod routing {
    #[cfg(feature = "routing")]
    policy!("routing-policy", "museum-routing", Vec::new());
    #[cfg(feature = "deciding")]
    policy!("deciding-policy", "museum-deciding", vec!["header:x-ring".into(), "session".into()]);

    use exports::cutover::policy::routing::{Answer, Condition, Guest, Plan, Rule, Situation, Target, Test};

    impl Guest for Piece {
        /// One rule of each test and target; what it remembers grows with each plan.
        fn make_plan(situation: Situation, mut memory: Vec<u8>) -> Result<Answer, String> {
            if situation.salt == "refuse" {
                return Err(format!("refused at {}", situation.now_ms));
            }
            memory.push(situation.stage as u8);
            let rule = |name: &str, attribute: &str, test, target| Rule {
                name: name.into(),
                conditions: vec![Condition { attribute: attribute.into(), test }],
                target,
            };
            let mut rules = vec![
                rule("beta", "header:x-ring", Test::OneOf(vec!["beta".into(), "alpha".into()]), Target::V2),
                rule("staff", "session", Test::Prefix("staff-".into()), Target::Share),
                rule("nobody", "session", Test::Absent, Target::V1),
            ];
            if cfg!(feature = "deciding") {
                rules.push(rule("ask", "header:x-ring", Test::Present, Target::Decide));
            }
            let names = situation.operations.iter().map(|operation| operation.name.clone());
            let plan = Plan {
                rules,
                otherwise: Target::Share,
                sticky: "session".into(),
                salt: format!("{}/{}", situation.migration, situation.salt),
                share: situation.share,
                shadow_share: 250_000,
                shadow_operations: names.collect(),
            };
            Ok(Answer { plan, memory })
        }
    }

    #[cfg(feature = "deciding")]
    impl exports::cutover::policy::decide::Guest for Piece {
        /// By the ring that the frame names; by the position where it names none.
        fn decide(frame: Vec<u8>) -> exports::cutover::policy::decide::Choice {
            use exports::cutover::policy::decide::Choice;
            let word = |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().unwrap());
            let (position, share, ring) = (word(0), word(4), word(12));
            match ring {
                u32::MAX if position < share => Choice::V2,
                u32::MAX => Choice::V1,
                length if &frame[16..16 + length as usize] == b"beta" => Choice::V2,
                _ => Choice::Share,
            }
        }
    }
}

#[cfg(feature = "stages")]
mod stages {
    policy!("stages-policy", "museum-stages", Vec::new());

    use exports::cutover::policy::stages::{Action, Answer, Finding, Guest, Progress, Step, Verdict};

    impl Guest for Piece {
        /// Up by one when all is well or it is forced, down by one at a warning.
        fn next(progress: Progress, forced: bool, memory: Vec<u8>) -> Result<Answer, String> {
            let requests: u64 =
                progress.batches.iter().flat_map(|batch| &batch.operations).map(|calls| calls.v2.requests).sum();
            let step = |stage, share| Step { stage, share, soak_ms: Some(progress.stage_started_ms) };
            let action = match progress.verdict {
                Verdict::Healthy if progress.share == 1_000_000 => Action::Complete,
                Verdict::Healthy => Action::Advance(step(progress.stage + 1, progress.share + 100_000)),
                _ if forced => Action::Advance(step(progress.stage + 1, progress.share + 100_000)),
                Verdict::Warn => Action::Retreat(step(progress.stage - 1, progress.share - 100_000)),
                Verdict::Hold => Action::Hold,
                Verdict::RollBack => Action::Pause,
            };
            let note = format!("{requests} requests, {} bytes of memory", memory.len());
            let unit = "count".into();
            let finding =
                Finding { rule: "requests".into(), observed: requests as i64, limit: i64::MIN, unit, note };
            Ok(Answer { action, findings: vec![finding], memory: memory.into_iter().rev().collect() })
        }
    }
}

#[cfg(feature = "rollback")]
mod rollback {
    policy!("rollback-policy", "museum-rollback", Vec::new());

    use exports::cutover::policy::rollback::{Answer, Check, Finding, Guest, Verdict};

    impl Guest for Piece {
        /// Rolls back when V2 has failed more than ten times since it was asked first. Looks at everything.
        fn judge(check: Check, memory: Vec<u8>) -> Result<Answer, String> {
            let before = match memory.as_slice() {
                [] => 0,
                bytes => u64::from_le_bytes(bytes.try_into().map_err(|_| format!("{} bytes", bytes.len()))?),
            };
            let calls = || check.batches.iter().flat_map(|batch| &batch.operations);
            let errors = before + calls().map(|calls| calls.v2.errors + calls.v2.timeouts).sum::<u64>();
            let slowest = calls().flat_map(|calls| &calls.v2.latency).map(|bucket| bucket.index).max().unwrap_or(0);
            let gauges: i64 = check.batches.iter().flat_map(|batch| &batch.gauges).map(|gauge| gauge.value).sum();
            let failures: u32 = check.batches.iter().map(|batch| batch.v1.failures + batch.v2.failures).sum();
            let different: u64 = check.batches.iter().map(|batch| batch.comparisons.different).sum();
            let note = format!("slowest {slowest}, gauges {gauges}, failures {failures}, different {different}");
            let unit = "count".into();
            let finding = Finding { rule: "errors".into(), observed: errors as i64, limit: 10, unit, note };
            let verdict = if errors > 10 { Verdict::RollBack } else { Verdict::Healthy };
            let evidence = -(check.now_ms as i64);
            Ok(Answer { verdict, findings: vec![finding], evidence, memory: errors.to_le_bytes().to_vec() })
        }
    }
}

#[cfg(feature = "comparison")]
mod comparison {
    policy!("comparison-policy", "museum-comparison", Vec::new());

    use exports::cutover::policy::comparison::{Difference, Guest, Outcome, Pair, Side};

    impl Guest for Piece {
        /// Byte for byte.
        fn compare(pairs: Vec<Pair>) -> Vec<Outcome> {
            pairs.iter().map(outcome).collect()
        }
    }

    fn outcome(pair: &Pair) -> Outcome {
        let text = |side: &Side| String::from_utf8_lossy(&side.body).into_owned();
        let difference = |kind: &str, v1, v2| Difference {
            path: format!("/{}", pair.operation),
            kind: kind.into(),
            category: "semantic".into(),
            v1,
            v2,
        };
        if pair.v1.status != pair.v2.status {
            let status = |side: &Side| side.status.to_string();
            return Outcome::Ignored(vec![difference("status", status(&pair.v1), status(&pair.v2))]);
        }
        if pair.v1.media_type != pair.v2.media_type {
            return Outcome::Incomparable(format!("{} is not {}", pair.v1.media_type, pair.v2.media_type));
        }
        match pair.v1.body == pair.v2.body && pair.v1.success == pair.v2.success {
            true => Outcome::Same,
            false => Outcome::Different(vec![difference("value", text(&pair.v1), text(&pair.v2))]),
        }
    }
}

#[cfg(feature = "adapter")]
mod adapter {
    policy!("adapter-policy", "museum-adapter", Vec::new());

    use exports::cutover::policy::adapter::{AdaptedCall, Call, Guest, Notice, Reply};

    impl Guest for Piece {
        /// V2's operations have a prefix.
        fn adapt_call(call: Call) -> Result<AdaptedCall, String> {
            if call.operation == "refuse" {
                return Err(format!("refused {}", call.session));
            }
            let notice = Notice { kind: "deprecation".into(), message: format!("{} is old", call.operation) };
            Ok(AdaptedCall { operation: format!("v2-{}", call.operation), body: call.body, notices: vec![notice] })
        }

        /// V2's failures are V1's successes.
        fn adapt_reply(call: Call, reply: Reply) -> Result<Reply, String> {
            let body = [b"\"".as_slice(), call.operation.as_bytes(), b"\""].concat();
            Ok(if reply.success { reply } else { Reply { success: true, body } })
        }
    }
}
