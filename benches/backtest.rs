//! A month of history through a back-test, beside what it is measured against.
//!
//! `cargo bench -p cutover-benches --bench backtest [-- DAYS]`
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a bench that cannot start has nothing to say"
)]
fn main() {
    use cutover::policy::{
        backtest::{self, Options, side::Side},
        engine::{Engine, Limits},
        history::{Line, read::Lines, synthetic::Synthetic},
        port::Kind,
    };
    use cutover::{app::admit, clock};
    let days: u64 = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1);
    let synthetic = Synthetic { checks: 17_280 * days, ..Synthetic::default() };
    let mut text = Vec::new();
    let t = clock::mono();
    for r in synthetic {
        r.write(&mut text).unwrap();
    }
    println!("generate {:?} {} bytes per check", clock::mono().since(t), text.len() as u64 / (17280 * days));
    let t = clock::mono();
    let n = Lines::new(&text[..], "x").map(|l| l.unwrap()).count();
    println!("read {n} in {:?}", clock::mono().since(t));
    let engine = Engine::new(Limits::default()).unwrap();
    for guest in ["thresholds", "sequential"] {
        let file = format!("{}/../target/components/{guest}.wasm", env!("CARGO_MANIFEST_DIR"));
        let p = admit(&engine, Kind::Rollback, &std::fs::read(file).unwrap(), "{}").unwrap();
        let mut side = Side::default();
        side.seat(&p);
        let t = clock::mono();
        let report = backtest::run(Lines::new(&text[..], "x"), vec![side], &Options::default(), |_, _| {}).unwrap();
        let took = clock::mono().since(t);
        println!("{guest}: {took:?} = {:?} per check; {:?}", took / n as u32, report.sides[0].rollback);
        println!("{:?} {}", report.sides[0].verdicts, report.sides[0].changes.len());
    }
}
