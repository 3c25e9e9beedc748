//! Every misdeed in every export of the contract: the cause is recorded by its type, the time and the memory that it
//! takes are bounded, and a policy beside it answers all the while.

use std::{sync::Arc, time::Duration};

use cutover_model::clock;
use cutover_policy_host::{
    PolicyError,
    engine::{Engine, Limits, Policy},
};

use super::{
    alone::alone,
    ask::{ask, first_error, frame},
    contract::{Export, Guest},
};

/// How long one attempt may take: instantiation, settings and the question have 250 ms each at the most; the rest is for
/// machines that are busy with other things.
const AT_MOST: Duration = Duration::from_secs(10);

/// A way to misbehave, and the causes that it may be recorded under.
struct Misdeed {
    what: &'static str,
    /// Where it cannot be done.
    but: &'static [Export],
    write: fn(Guest) -> Guest,
    causes: &'static [&'static str],
}

/// Functions that misdeeds call.
const FIELDS: &str = r#"
  (global $calls (mut i32) (i32.const 0))
  (func $spin (loop $again (br $again)))
  (func $deep (param i64) (result i64) (i64.add (i64.const 1) (call $deep (i64.add (local.get 0) (i64.const 1)))))
  (func $grow (loop $again (br_if $again (i32.ne (i32.const -1) (memory.grow (i32.const 16))))))
  (func $fill (memory.fill (i32.const 65536) (i32.const 0x61) (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 65536))))
"#;

/// A list or text of so many elements, far away, as all that an answer of eight bytes each can say: every word of the
/// answer is an address or a length that is out of bounds.
const WORDS_OUT_OF_BOUNDS: &str = r"(memory.fill (i32.const 128) (i32.const 0x7f) (i32.const 128))
  (i32.store8 (i32.const 128) (i32.const 0)) i32.const 128";

const MISDEEDS: &[Misdeed] = &[
    Misdeed { what: "traps", but: &[], write: |g| g.body("unreachable"), causes: &["trap"] },
    Misdeed { what: "loops", but: &[], write: |g| g.body("call $spin unreachable"), causes: &["deadline"] },
    Misdeed {
        what: "recurses",
        but: &[],
        write: |g| g.body("i64.const 0 call $deep drop unreachable"),
        causes: &["stack-overflow"],
    },
    Misdeed {
        what: "takes all memory and then traps",
        but: &[],
        write: |g| g.body("call $grow call $fill unreachable"),
        // Filling tens of megabytes takes more than the few milliseconds of a `decide`, on a slow machine.
        causes: &["out-of-memory", "deadline"],
    },
    Misdeed {
        what: "answers from beyond its memory",
        but: &[Export::Decide],
        write: |g| g.body("i32.const -64"),
        causes: &["malformed"],
    },
    Misdeed {
        what: "answers from an odd address",
        but: &[Export::Decide],
        write: |g| g.body("i32.const 65"),
        causes: &["malformed"],
    },
    Misdeed {
        what: "answers with lists from beyond its memory",
        // Its sane answer has neither lists nor texts.
        but: &[Export::Decide, Export::Configure],
        write: |g| g.body(WORDS_OUT_OF_BOUNDS),
        causes: &["malformed"],
    },
    Misdeed {
        what: "answers with a case that does not exist",
        but: &[Export::Describe, Export::Compare],
        write: |g| match g.export {
            Export::Decide => g.body("i32.const 7"),
            _ => g.body("(i32.store8 (i32.const 128) (i32.const 9)) i32.const 128"),
        },
        causes: &["malformed"],
    },
    Misdeed {
        what: "traps while cleaning up",
        but: &[Export::Decide],
        write: |g| clean_up(g, "unreachable"),
        causes: &["trap"],
    },
    Misdeed {
        what: "loops while cleaning up",
        but: &[Export::Decide],
        write: |g| clean_up(g, "call $spin"),
        causes: &["deadline"],
    },
    Misdeed {
        what: "puts the question beyond its memory",
        but: &[Export::Describe],
        write: |g| realloc(g, "i32.const -64"),
        causes: &["malformed"],
    },
    Misdeed {
        what: "traps when it is to make room for the question",
        but: &[Export::Describe],
        write: |g| realloc(g, "unreachable"),
        causes: &["trap"],
    },
    Misdeed {
        what: "loops when it is to make room for the question",
        but: &[Export::Describe],
        write: |g| realloc(g, "call $spin unreachable"),
        causes: &["deadline"],
    },
    Misdeed {
        what: "recurses when it is to make room for the question",
        but: &[Export::Describe],
        write: |g| realloc(g, "i64.const 0 call $deep drop unreachable"),
        causes: &["stack-overflow"],
    },
    Misdeed { what: "loops when it starts", but: &[], write: |g| start(g, "call $spin"), causes: &["deadline"] },
    Misdeed { what: "traps when it starts", but: &[], write: |g| start(g, "unreachable"), causes: &["trap"] },
    Misdeed {
        what: "recurses when it starts",
        but: &[],
        write: |g| start(g, "i64.const 0 call $deep drop"),
        causes: &["stack-overflow"],
    },
];

fn clean_up(guest: Guest, clean_up: &str) -> Guest {
    Guest { clean_up: clean_up.into(), ..guest }
}

/// Room for the settings is made as it should be, where it is not the settings that are to suffer.
fn realloc(guest: Guest, realloc: &str) -> Guest {
    Guest { realloc: Some(realloc.into()), ..guest }
}

fn start(guest: Guest, body: &str) -> Guest {
    let fields = format!("{} (func $begin {body}) (start $begin)", guest.fields);
    guest.fields(fields)
}

fn engine() -> Arc<Engine> {
    Engine::new(Limits::default()).unwrap()
}

/// A policy that is sane in every export, ready to be asked between attempts.
fn neighbour(engine: &Arc<Engine>) -> Policy {
    let component = Guest::with(Export::Judge).component();
    cutover_policy_host::admission::admit(engine, Export::Judge.kind(), &component, "{}").unwrap()
}

#[test]
fn what_a_test_does_not_write_is_sane() {
    let engine = engine();
    for export in Export::ALL {
        assert_eq!(first_error(&engine, &Guest::with(export).component(), export), Ok(()), "{}", export.name());
    }
}

#[test]
fn every_misdeed_in_every_export_has_a_typed_cause_and_costs_little() {
    let name = "hostile::exports::every_misdeed_in_every_export_has_a_typed_cause_and_costs_little";
    alone(name, 400, || {
        let engine = engine();
        let neighbour = neighbour(&engine);
        let mut tried = 0;
        for misdeed in MISDEEDS {
            for export in Export::ALL.into_iter().filter(|export| !misdeed.but.contains(export)) {
                let what = format!("`{}` that {}", export.name(), misdeed.what);
                let component = (misdeed.write)(Guest::with(export).fields(FIELDS)).component();
                let started = clock::mono();
                let error = first_error(&engine, &component, export).expect_err(&what);
                let took = clock::mono().since(started);
                assert!(misdeed.causes.contains(&error.cause()), "{what}: {error:?}");
                assert!(took < AT_MOST, "{what} took {took:?}");
                assert!(error.to_string().len() < 10_000, "{what}: {} bytes of error", error.to_string().len());
                assert_eq!(ask(&neighbour, Export::Judge), Ok(()), "the policy beside {what}");
                tried += 1;
            }
        }
        assert!(tried > 120, "{tried} attempts");
    });
}

/// Texts: each with the export's answer, where it lies, and where in it the text is.
fn texts() -> Vec<(Export, String)> {
    // An error is a text at 4, behind the case at 0.
    let error = "(i32.store8 (i32.const 128) (i32.const 1)) (i32.store (i32.const 132) ADDRESS) \
                 (i32.store (i32.const 136) LENGTH) i32.const 128";
    let result = [Export::MakePlan, Export::AdaptCall, Export::AdaptReply].map(|export| (export, error.to_owned()));
    // Theirs is at 8, because their answers have integers of 64 bits.
    let wide = error.replace("132", "136").replace("(i32.const 136) LENGTH", "(i32.const 140) LENGTH");
    let wide = [Export::Next, Export::Judge].map(|export| (export, wide.clone()));
    let name = "(i32.store (i32.const 0) ADDRESS) (i32.store (i32.const 4) LENGTH) i32.const 0";
    let problem = "(i32.store8 (i32.const 128) (i32.const 1)) (i32.store (i32.const 132) (i32.const 144)) \
                   (i32.store (i32.const 136) (i32.const 1)) (i32.store (i32.const 144) ADDRESS) \
                   (i32.store (i32.const 148) LENGTH) i32.const 128";
    // Two outcomes, the first of them `incomparable` with a text.
    let outcome = "(i32.store8 (i32.const 128) (i32.const 3)) (i32.store (i32.const 132) ADDRESS) \
                   (i32.store (i32.const 136) LENGTH) \
                   (i32.store (i32.const 512) (i32.const 128)) (i32.store (i32.const 516) (i32.const 2)) i32.const 512";
    let others =
        [(Export::Describe, name.to_owned()), (Export::Configure, problem.into()), (Export::Compare, outcome.into())];
    result.into_iter().chain(wide).chain(others).collect()
}

fn text(body: &str, address: &str, length: &str) -> String {
    body.replace("ADDRESS", &format!("(i32.const {address})")).replace("LENGTH", &format!("(i32.const {length})"))
}

#[test]
fn texts_that_are_no_utf_8_too_long_or_nowhere_are_answers_that_cannot_be_read() {
    let name = "hostile::exports::texts_that_are_no_utf_8_too_long_or_nowhere_are_answers_that_cannot_be_read";
    alone(name, 400, || {
        let engine = engine();
        let neighbour = neighbour(&engine);
        // What is at 2 000 is not UTF-8: a byte that never is, one that is cut, an overlong one, half of a pair.
        let broken = r#"(data (i32.const 2000) "a\ff") (data (i32.const 2010) "\e2\82") (data (i32.const 2020) "\c0\80") (data (i32.const 2030) "\ed\a0\80")"#;
        let places = [
            ("2000", "2"),
            ("2010", "2"),
            ("2020", "2"),
            ("2030", "3"),
            // Longer than what may cross, though it is all there.
            ("65536", "2000000"),
            ("0", "0x7fffffff"),
            ("0", "0xffffffff"),
            ("0xffffffff", "1"),
            ("0xfffffff0", "0x20"),
        ];
        for (export, body) in texts() {
            for (address, length) in places {
                let what = format!("`{}` with a text of {length} bytes at {address}", export.name());
                let guest = Guest { pages: 40, ..Guest::with(export) };
                let guest = guest.fields(broken).body(text(&body, address, length));
                let error = first_error(&engine, &guest.component(), export).expect_err(&what);
                assert_eq!(error.cause(), "malformed", "{what}: {error:?}");
                assert_eq!(ask(&neighbour, Export::Judge), Ok(()), "the policy beside {what}");
            }
            // The same answer with a text that is one is an answer.
            let guest = Guest::with(export).body(text(&body, "256", "5"));
            let cause = first_error(&engine, &guest.component(), export).map_err(|error| error.cause());
            let wanted = match export {
                Export::Describe | Export::Compare => Ok(()),
                Export::Configure => Err("settings"),
                _ => Err("said"),
            };
            assert_eq!(cause, wanted, "`{}`", export.name());
        }
    });
}

#[test]
fn a_trap_that_comes_only_under_load_costs_the_question_that_it_comes_with() {
    let engine = engine();
    // The fourth call of an instance traps.
    let body = "(global.set $calls (i32.add (global.get $calls) (i32.const 1))) \
                (if (i32.ge_u (global.get $calls) (i32.const 4)) (then unreachable)) i32.const ANSWER";
    let guest = |export, answer| Guest::with(export).fields(FIELDS).body(body.replace("ANSWER", answer)).component();

    let decides =
        cutover_policy_host::admission::admit(&engine, Export::Decide.kind(), &guest(Export::Decide, "0"), "{}")
            .unwrap();
    let causes: Vec<_> = (0..12).map(|_| decides.decide(&frame()).map_err(|error| error.cause())).collect();
    for (n, answered) in causes.iter().enumerate() {
        let wanted = if n % 4 == 3 { Err("trap") } else { Ok(cutover_model::port::Target::V1) };
        assert_eq!(*answered, wanted, "call {n}");
    }

    let judges =
        cutover_policy_host::admission::admit(&engine, Export::Judge.kind(), &guest(Export::Judge, "64"), "{}")
            .unwrap();
    for _ in 0..12 {
        assert_eq!(ask(&judges, Export::Judge), Ok(()), "a fresh instance has never been called");
    }
    let mut warm = judges.warm();
    let failed = (0..12).filter(|_| warm.judge(&super::ask::check(), &[]).answer.is_err()).count();
    assert_eq!(failed, 3, "an instance that is kept is replaced by one that counts anew");
}

#[test]
fn a_trap_that_comes_only_with_a_large_question_leaves_small_ones_answered() {
    let engine = engine();
    let body = "(if (i32.ge_u (local.get 1) (i32.const 100)) (then unreachable)) i32.const 0";
    let component = Guest::with(Export::Decide).body(body).component();
    let policy = cutover_policy_host::admission::admit(&engine, Export::Decide.kind(), &component, "{}").unwrap();
    for _ in 0..3 {
        assert!(policy.decide(&frame()).is_ok());
        assert!(matches!(policy.decide(&[0; 100]), Err(PolicyError::Trap { .. })));
    }
    let most = policy.limits().input_bytes;
    assert!(matches!(policy.decide(&vec![0; most + 1]), Err(PolicyError::InputTooLarge { .. })));
}
