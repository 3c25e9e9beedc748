//! `cutover policy backtest`: recorded history through one or two policies.

mod text;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use serde_json::{Map, Value};

use crate::cli::{
    Failed, HostAddress,
    history::source::{Origin, Span},
    output,
};
use cutover_authoring::backtest::{self, BacktestError, Options, side::Side};
use cutover_model::{
    causes::chain,
    clock::{self, UnixMs},
    port::Kind,
};
use cutover_policy_host::{
    bundle::{Bundle, files},
    engine::{Engine, KindLimits, Limits, Policy},
    history::{
        Line,
        read::{Lines, ReadError},
    },
    installed::Title,
};

/// A back-test waits longer for an answer than a host does: what it finds must not depend on how busy this machine is.
const TIME: Duration = Duration::from_secs(30);

/// Checks between two words of progress.
const PROGRESS: u64 = 50_000;

#[derive(Debug, Args)]
pub(crate) struct Backtest {
    /// Who is asked: a bundle's folder, or a component's file. Give a rollback policy, a stages policy, or one of each;
    /// a stages policy alone gets the verdicts that were recorded.
    #[arg(long, value_name = "BUNDLE", required = true)]
    policy: Vec<PathBuf>,
    /// Who else is asked, to be held against it.
    #[arg(long, value_name = "BUNDLE")]
    against: Vec<PathBuf>,
    /// What they are asked about: a file of lines, a store's file, `-` for standard input, or `host:MIGRATION`.
    #[arg(long, value_name = "SOURCE")]
    history: String,
    /// Settings of `--policy`, a JSON object; laid over the bundle's.
    #[arg(long, value_name = "JSON")]
    settings: Option<String>,
    /// Settings of `--against`.
    #[arg(long, value_name = "JSON", requires = "against")]
    against_settings: Option<String>,
    /// The migration, if a store has several.
    #[arg(long, value_name = "NAME")]
    migration: Option<String>,
    /// Only checks from this time on, such as `2026-01-31T12:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = UnixMs::parse)]
    from: Option<UnixMs>,
    /// Only checks from before this time.
    #[arg(long, value_name = "TIME", value_parser = UnixMs::parse)]
    to: Option<UnixMs>,
    /// When V2 began to be at fault, in addition to the marks of the history. May be given several times.
    #[arg(long, value_name = "TIME", value_parser = UnixMs::parse)]
    fault: Vec<UnixMs>,
    /// Where the components are that bundles name as their `guest`.
    #[arg(long, value_name = "DIR", default_value = "target/components")]
    components: PathBuf,
    /// Entries of each list that the text shows; `--json` has up to 1000.
    #[arg(long, value_name = "N", default_value_t = 20)]
    show: usize,
    #[command(flatten)]
    host: HostAddress,
}

pub(super) fn run(args: &Backtest) -> Result<(), Failed> {
    let limits = Limits::alike(KindLimits { time: TIME, ..KindLimits::default() });
    let engine = Engine::new(limits).map_err(|e| Failed::new(chain(&e)))?;
    let mut sides = vec![args.side(&engine, &args.policy, args.settings.as_deref(), "--policy")?];
    if !args.against.is_empty() {
        sides.push(args.side(&engine, &args.against, args.against_settings.as_deref(), "--against")?);
    }
    if let [policy, against] = &sides[..]
        && !policy.kinds().any(|kind| against.kinds().any(|other| kind == other))
    {
        return Err(Failed::usage("--policy and --against have no kind in common, so there is nothing to compare"));
    }
    let origin = Origin::parse(&args.history, &args.host.admin, args.migration.as_deref())?;
    let span = Span { from: args.from.unwrap_or_default(), to: args.to.unwrap_or(UnixMs(u64::MAX)) };
    let within = |line: &Result<Line, ReadError>| match line {
        Ok(Line::Check(recorded)) => (span.from..span.to).contains(&recorded.check.now_ms),
        Ok(Line::Mark(_) | Line::Unknown) | Err(_) => true,
    };
    let lines = Lines::new(origin.open(span)?, origin.to_string()).filter(within);
    let started = clock::mono();
    let progress = |checks: u64, at: UnixMs| {
        // Chunks are not as long as what people want to hear of.
        if checks % PROGRESS < 128 && checks >= PROGRESS {
            output::note(&format!("{checks} checks, up to {}", at.rfc3339()));
        }
    };
    let report = backtest::run(lines, sides, &Options { faults: args.fault.clone() }, progress);
    let report = report.map_err(|error| match error {
        BacktestError::History(wrong) => Failed::usage(chain(&wrong)),
        BacktestError::Empty | BacktestError::NoVerdicts => Failed::usage(format!("{origin}: {error}")),
        BacktestError::Panicked => Failed::new(error.to_string()),
    })?;
    if args.host.format.json {
        output::json(&report);
    } else {
        for line in text::lines(&report, clock::mono().since(started), args.show) {
            output::line(&line);
        }
    }
    Ok(())
}

impl Backtest {
    fn side(
        &self,
        engine: &Arc<Engine>,
        policies: &[PathBuf],
        settings: Option<&str>,
        option: &str,
    ) -> Result<Side, Failed> {
        if settings.is_some() && policies.len() > 1 {
            let message =
                format!("settings for {option} belong to one policy, and there are several; put them in bundles");
            return Err(Failed::usage(message));
        }
        let settings: Map<String, Value> = settings.map_or(Ok(Map::new()), serde_json::from_str).map_err(|e| {
            Failed::usage(format!(
                "the settings for {option} are not a JSON object such as `{{\"consecutive\": 2}}`: {e}"
            ))
        })?;
        let mut side = Side::default();
        for path in policies {
            let (policy, title) = self.admit(engine, path, &settings)?;
            if !side.install(&policy, title) {
                let message = format!(
                    "`{}` is a {} policy; {option} takes one rollback policy and one stages policy at the most",
                    path.display(),
                    policy.kind
                );
                return Err(Failed::usage(message));
            }
        }
        Ok(side)
    }

    fn admit(
        &self,
        engine: &Arc<Engine>,
        path: &Path,
        settings: &Map<String, Value>,
    ) -> Result<(Policy, Title), Failed> {
        let shown = path.display();
        let refused = |error| Failed::usage(format!("the policy of `{shown}` {error}"));
        if path.is_dir() {
            let overrides = toml::Table::try_from(settings)
                .map_err(|e| Failed::usage(format!("the settings for `{shown}` cannot be laid over its own: {e}")))?;
            let bundle = Bundle::read(path, &self.components, &overrides)
                .map_err(|e| Failed::usage(format!("the command line {e}")))?;
            let policy =
                cutover_policy_host::admission::admit(engine, bundle.kind, &bundle.component, &bundle.settings)
                    .map_err(refused)?;
            return Ok((policy, Title { name: bundle.name, version: bundle.version }));
        }
        let component = files::read(path, engine.limits().component_bytes).map_err(|e| {
            Failed::usage(format!("the policy `{shown}` {e}; give a bundle's folder or a component's file"))
        })?;
        let compiled = engine.compile(&component).map_err(refused)?;
        let kinds: Vec<_> = compiled.kinds.iter().filter(|k| matches!(k, Kind::Rollback | Kind::Stages)).collect();
        let kind = match kinds[..] {
            [kind] => *kind,
            [] => {
                let all = compiled.kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(Failed::usage(format!("`{shown}` answers {all}; a back-test asks rollback and stages")));
            }
            _ => {
                let message = format!("`{shown}` answers rollback and stages; make a bundle that names its `kind`");
                return Err(Failed::usage(message));
            }
        };
        let settings = Value::Object(settings.clone()).to_string();
        let policy = Policy::admit(engine, compiled, kind, &settings).map_err(refused)?;
        let title = Title::from(&*policy.description);
        Ok((policy, title))
    }
}
