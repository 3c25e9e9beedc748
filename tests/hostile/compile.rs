//! Components that are meant to break whoever reads or compiles them: too deep, too many, too long, too slow.

use std::{fmt::Write as _, time::Duration};

use cutover_model::{clock, port::Kind};
use cutover_policy_host::{
    PolicyError,
    admission::admit,
    engine::{Engine, Limits, Options},
};

use super::{
    alone::alone,
    ask::ask,
    contract::{Export, Guest},
};
use crate::harness::binary;

/// How long a compilation may take here.
const COMPILE_TIME: Duration = Duration::from_secs(10);

/// The compiler is ended after that; the rest is for a machine that does other things.
const AT_MOST: Duration = Duration::from_secs(40);

/// A module with one function of this body, as a component.
fn function(body: &str) -> Vec<u8> {
    wat::parse_str(format!(
        "(component (core module (memory 1) (func (export \"f\") (param i32) (result i32) {body})))"
    ))
    .unwrap()
}

/// A component within a component, and so on. Written as bytes, because the reader of text knows when to stop.
fn nested(times: usize) -> Vec<u8> {
    const HEADER: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];
    let mut component = HEADER.to_vec();
    for _ in 0..times {
        let mut outer = HEADER.to_vec();
        outer.push(4);
        let mut length = component.len();
        while length >= 0x80 {
            outer.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        outer.push(u8::try_from(length).unwrap());
        outer.append(&mut component);
        component = outer;
    }
    component
}

fn repeated(text: impl Fn(usize) -> String, times: usize) -> String {
    (0..times).map(text).collect()
}

fn component(fields: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {fields})")).unwrap()
}

/// A chain of types, each of the one before.
fn types(step: &str, times: usize) -> Vec<u8> {
    let mut text = "(type $t0 u32)".to_owned();
    for n in 1..times {
        write!(text, "(type $t{n} ({}))", step.replace("BEFORE", &format!("$t{}", n - 1))).unwrap();
    }
    component(&text)
}

fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let doubled = (0..30).fold("(core module $m) (core instance (instantiate $m))".to_owned(), |inner, _| {
        format!("(component $c {inner}) (instance (instantiate $c)) (instance (instantiate $c))")
    });
    let long = "a".repeat(50_000);
    vec![
        ("blocks in blocks", function(&("block ".repeat(100_000) + &"end ".repeat(100_000) + "local.get 0"))),
        ("ifs in ifs", function(&("local.get 0 if ".repeat(50_000) + &"end ".repeat(50_000) + "local.get 0"))),
        ("a long sum", function(&("local.get 0 ".to_owned() + &"local.get 0 i32.add ".repeat(200_000)))),
        ("a deep stack", function(&("local.get 0 ".repeat(100_000) + &"i32.mul ".repeat(99_999)))),
        ("loads on loads", function(&("local.get 0 ".to_owned() + &"i32.load ".repeat(100_000)))),
        ("a wide branch", function(&format!("block local.get 0 br_table {} end local.get 0", "0 ".repeat(100_000)))),
        ("many locals", function(&format!("(local {}) local.get 0", "i64 ".repeat(49_000)))),
        ("many functions", component(&format!("(core module {})", "(func)".repeat(300_000)))),
        ("lists of lists", types("list BEFORE", 50_000)),
        ("options of options", types("option BEFORE", 50_000)),
        ("pairs of pairs", types("tuple BEFORE BEFORE", 60)),
        (
            "a wide record",
            component(&format!("(type (record {}))", repeated(|n| format!("(field \"f{n}\" u8) "), 50_000))),
        ),
        ("components in components", nested(400)),
        ("far too many components in components", nested(50_000)),
        ("components that double", component(&doubled)),
        (
            "exports with long names",
            component(&format!(
                "(component $c) (instance $i (instantiate $c)) {}",
                repeated(|n| format!("(export \"{long}{n}\" (instance $i)) "), 100)
            )),
        ),
        (
            "many exports",
            component(&format!(
                "(component $c) (instance $i (instantiate $c)) {}",
                repeated(|n| format!("(export \"e{n}\" (instance $i)) "), 50_000)
            )),
        ),
        ("imports with long names", component(&repeated(|n| format!("(import \"{long}{n}\" (func)) "), 100))),
    ]
}

#[test]
fn components_that_are_bombs_cost_one_refused_policy_each_and_a_few_words() {
    let name = "hostile::compile::components_that_are_bombs_cost_one_refused_policy_each_and_a_few_words";
    alone(name, 600, || {
        let limits = Limits { compile_time: COMPILE_TIME, ..Limits::default() };
        let engine = Engine::start(Options { limits, compiler: Some(binary()), cache: None }).unwrap();
        let neighbour = admit(&engine, Kind::Rollback, &Guest::with(Export::Judge).component(), "{}").unwrap();
        // A compiler that is ended says so; one whose stack ends is a process that died.
        let fair = ["compile", "compile-deadline", "compiler-died", "over-budget", "missing-kind", "imports"];
        for (what, bytes) in bombs() {
            let started = clock::mono();
            let refused = admit(&engine, Kind::Rollback, &bytes, "{}").expect_err(what);
            let took = clock::mono().since(started);
            assert!(fair.contains(&refused.cause()), "{what}: {refused:.500}");
            assert!(took < AT_MOST, "{what} took {took:?}");
            let said = refused.to_string();
            assert!(said.len() < 20_000, "{what}: {} bytes: {said:.300}", said.len());
            assert_eq!(ask(&neighbour, Export::Judge), Ok(()), "the policy beside {what}");
        }
    });
}

#[test]
fn names_of_functions_are_not_told_without_end() {
    let engine = Engine::new(Limits::default()).unwrap();
    let long = "f".repeat(90_000);
    // A function that is deep in others of long names puts the question where no memory is.
    let chain = repeated(
        |n| {
            let next = if n == 39 { "i32.const -64".to_owned() } else { format!("call ${long}{}", n + 1) };
            format!("(func ${long}{n} (result i32) {next})")
        },
        40,
    );
    let guest = Guest::with(Export::Judge).fields(chain);
    let guest = Guest { realloc: Some(format!("call ${long}0")), ..guest };
    match admit(&engine, Kind::Rollback, &guest.component(), "{}") {
        Err(error @ PolicyError::Malformed { .. }) => {
            let said = error.to_string();
            assert!(said.len() < 10_000, "{} bytes: {said:.300}", said.len());
        }
        other => panic!("{other:?}"),
    }
}
