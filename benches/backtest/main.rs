//! A month of recorded checks through policies: what `cutover policy backtest` takes, reading its file included.
//!
//! Half a million checks are too many to repeat, so this prints a table of one pass each, and what is slow is asked of
//! the first checks alone and scaled, which its row says. Each policy is held against the same rule compiled into this
//! process, without a sandbox, and against a fresh instance for each check, as a host has it. All that judge the same
//! checks by the same rule must say the same.
//!
//! `cargo bench --bench backtest -- [FILTER] [--checks=N]`: rows whose name has `FILTER`, and a history of `N` checks.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a bench talks to a terminal")]

#[path = "../fixtures.rs"]
mod fixtures;
mod native;

use std::{
    fs::File,
    io::{BufReader, BufWriter, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use cutover_authoring::backtest::{self, Options, report::SideReport, side::Side};
use cutover_model::{
    clock::{self, UnixMs},
    request::Ppm,
};
use cutover_policy_host::{
    engine::Engine,
    history::{FAULT, Mark, read::Lines, synthetic::Synthetic},
    installed::Title,
};
use fixtures::{bundled, engine};

/// Thirty days of checks each five seconds.
const MONTH: usize = 518_400;

/// The checks of a run that only shows that everything works, as `cargo test --benches` wants it.
const SHORT: usize = 1_000;

/// What is seated.
type Seat = Box<dyn Fn(&Arc<Engine>) -> Side>;

/// A row of the table.
struct Row {
    name: String,
    /// One of so many checks is asked about; what that takes is scaled.
    one_in: usize,
    installed: Seat,
}

/// What something took.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Duration,
}

struct Told {
    filter: Option<String>,
    checks: usize,
}

fn main() {
    let told = told();
    let file = tempfile::NamedTempFile::new().unwrap();
    write(file.path(), told.checks);
    let bytes = file.as_file().metadata().unwrap().len();
    println!("a history of {} checks, {} bytes each", told.checks, bytes / told.checks as u64);
    println!("{:<50} {:>8} {:>8} {:>8} {:>10} {:>10}", "", "asked", "seconds", "CPU s", "p50 us", "to native");

    let engine = engine();
    if told.wants("reading") {
        let (took, read) = timed(|| lines(file.path()).count());
        assert_eq!(read, told.checks + 1, "the checks and a mark");
        println!("{}", took.shown("reading alone", told.checks, None, None));
    }
    for rule in [rows("thresholds", native::thresholds), rows("sequential", native::sequential)] {
        // The first row of a rule is what the others are held against.
        let mut first: Option<(Took, SideReport)> = None;
        for row in rule.into_iter().filter(|row| told.wants(&row.name)) {
            let asked = told.checks / row.one_in;
            let (took, said) = timed(|| run(file.path(), (row.installed)(&engine), asked));
            assert!(said.errors.is_empty(), "{}: {:?}", row.name, said.errors);
            let (took, scaled) = (took.times(row.one_in), if row.one_in == 1 { "" } else { ", scaled" });
            let native = first.as_ref().map(|(took, _)| took);
            let median = said.rollback.as_ref().map(|cost| cost.p50_ns);
            println!("{}", took.shown(&format!("{}{scaled}", row.name), asked, median, native));
            match &first {
                Some((_, native)) => agree(&row, native, &said),
                None => first = Some((took, said)),
            }
        }
    }
}

/// A rule in its forms, the one without a sandbox first.
fn rows(name: &'static str, native: fn() -> Side) -> Vec<Row> {
    let folder = format!("policies/{name}");
    let script = (name == "thresholds").then(|| Row {
        name: format!("{name}, Rhai, kept instance"),
        one_in: 20,
        installed: Box::new(|engine| kept(engine, "policies/thresholds-rhai")),
    });
    let (one, other) = (folder.clone(), folder);
    let rows = [
        Row { name: format!("{name}, native"), one_in: 1, installed: Box::new(move |_| native()) },
        Row {
            name: format!("{name}, kept instance"),
            one_in: 1,
            installed: Box::new(move |engine| kept(engine, &one)),
        },
        Row {
            name: format!("{name}, a fresh instance for each check"),
            one_in: 5,
            installed: Box::new(move |engine| {
                let policy = bundled(engine, &other);
                let mut side = Side::default();
                side.judge(Box::new(move |check, memory| policy.judge(check, memory)));
                side
            }),
        },
    ];
    rows.into_iter().chain(script).collect()
}

/// As the command line seats a policy.
fn kept(engine: &Arc<Engine>, folder: &str) -> Side {
    let mut side = Side::default();
    let policy = bundled(engine, folder);
    assert!(side.install(&policy, Title::from(&*policy.description)));
    side
}

fn run(file: &Path, side: Side, checks: usize) -> SideReport {
    let report = backtest::run(lines(file).take(checks), vec![side], &Options::default(), |_, _| {}).unwrap();
    report.sides.into_iter().next().unwrap()
}

fn lines(file: &Path) -> Lines<BufReader<File>> {
    // The buffer of `cutover policy backtest`.
    Lines::new(BufReader::with_capacity(1 << 16, File::open(file).unwrap()), file.display().to_string())
}

/// Changes up to the last check that both were asked about.
fn agree(row: &Row, native: &SideReport, said: &SideReport) {
    let verdicts = |side: &SideReport| side.changes.iter().map(|c| (c.at, c.verdict)).collect::<Vec<_>>();
    let (expected, found) = (verdicts(native), verdicts(said));
    let same = if row.one_in == 1 { expected == found } else { expected.starts_with(&found) };
    assert!(same, "{} does not judge as the native rule does: {found:?} instead of {expected:?}", row.name);
}

/// A healthy ramp in three stages; V2 breaks in the last fiftieth.
fn write(file: &Path, checks: usize) {
    let stages = [(0, 50_000), (checks / 10, 250_000), (checks / 3, 500_000)];
    let whole = Synthetic::default();
    let breaks = UnixMs(whole.start.0 + (checks - checks / 50) as u64 * whole.interval_ms);
    let history = Synthetic {
        checks: checks as u64,
        stages: stages.map(|(from, ppm)| (from as u64, Ppm::new(ppm))).into(),
        fault: Some((breaks, 150_000)),
        ..whole
    };
    let mut out = BufWriter::new(File::create(file).unwrap());
    for recorded in history {
        recorded.write(&mut out).unwrap();
    }
    Mark { at: breaks, kind: FAULT.into(), note: "V2 breaks".into() }.write(&mut out).unwrap();
    out.flush().unwrap();
}

fn timed<T>(of: impl FnOnce() -> T) -> (Took, T) {
    let (began, used) = (clock::mono(), cpu());
    let done = of();
    (Took { wall: clock::mono().since(began), cpu: cpu().saturating_sub(used) }, done)
}

/// Processor time of this process, all threads: what a busy machine does not stretch.
fn cpu() -> Duration {
    // Fields 14 and 15, of which 12 and 13 come behind the name; the kernel's clock for them ticks each 10 ms.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

impl Took {
    fn times(self, factor: usize) -> Self {
        let factor = u32::try_from(factor).unwrap();
        Self { wall: self.wall * factor, cpu: self.cpu * factor }
    }

    /// A row, with the processor time as a multiple of that of the native rule.
    fn shown(&self, name: &str, asked: usize, median_ns: Option<u64>, native: Option<&Self>) -> String {
        let (wall, cpu) = (self.wall.as_secs_f64(), self.cpu.as_secs_f64());
        let median = median_ns.map_or(String::new(), |ns| format!("{}.{}", ns / 1_000, ns / 100 % 10));
        let ratio = native.map_or(String::new(), |native| format!("{:.2}", cpu / native.cpu.as_secs_f64()));
        format!("{name:<50} {asked:>8} {wall:>8.1} {cpu:>8.1} {median:>10} {ratio:>10}")
    }
}

fn told() -> Told {
    let mut told = Told { filter: None, checks: SHORT };
    for word in std::env::args().skip(1) {
        if word == "--bench" {
            told.checks = told.checks.max(MONTH);
        } else if let Some(checks) = word.strip_prefix("--checks=") {
            told.checks = checks.parse().unwrap();
        } else if !word.starts_with('-') {
            told.filter = Some(word);
        }
    }
    told
}

impl Told {
    fn wants(&self, row: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| format!("backtest/{row}").contains(filter))
    }
}
