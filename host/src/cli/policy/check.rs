//! `cutover policy check`: what a bundle or a component is, and whether a host would admit it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::super::{Format, client::Client, output};
use super::{Failed, push, sandbox::Sandbox};
use cutover_authoring::author::inspect::{self, Admitted, Report, Shape, Subject};
use cutover_control::registry::Offer;
use cutover_model::{environment, port::Kind};
use cutover_policy_host::{
    bundle::{Bundle, MAX_COMPONENT, files},
    engine::Imports,
};

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The folder of a bundle, or the file of a component.
    #[arg(default_value = ".")]
    policy: PathBuf,
    /// Fail if there is advice, too.
    #[arg(long)]
    strict: bool,
    /// Ask a running host, by its admin plane, whether it would admit this bundle; it is not kept there.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    #[command(flatten)]
    sandbox: Sandbox,
    #[command(flatten)]
    format: Format,
}

/// What a bundle has beside its component.
struct Extras {
    bundle: Bundle,
    /// Files with cases.
    cases: usize,
}

pub(super) fn run(args: &Check) -> Result<(), Failed> {
    let opened = args.sandbox.open()?;
    let path = args.policy.as_path();
    let extras =
        if path.is_file() { None } else { Some(Extras { bundle: opened.bundle(path)?, cases: case_files(path) }) };
    let mut report = if let Some(admin) = &args.admin {
        let bundle = extras.as_ref().map(|extras| &extras.bundle);
        asked(admin, bundle.ok_or_else(|| Failed::usage("`--admin` is for a bundle; name its folder"))?)?
    } else if let Some(Extras { bundle, .. }) = &extras {
        let imports = Imports::of(bundle.wasi_stub);
        let (component, settings) = (&bundle.component, &bundle.settings);
        inspect::inspect(&opened.engine, &Subject { component, kind: Some(bundle.kind), settings, imports })
    } else {
        let component = files::read(path, MAX_COMPONENT);
        let component = component.map_err(|e| Failed::usage(format!("`{}` {e}", path.display())))?;
        let subject = Subject { component: &component, kind: None, settings: "{}", imports: Imports::None };
        inspect::inspect(&opened.engine, &subject)
    };
    if let Some(extras) = &extras {
        report.advice.extend(advice(extras, report.admitted.first()));
    }
    // Then the time is that of the cache, and says nothing of the component.
    if opened.engine.compilations().from_disk > 0
        && let Some(shape) = &mut report.compiled
    {
        shape.compile_us = None;
    }
    if args.format.json {
        output::json(&document(path, extras.as_ref(), &report));
    } else {
        for line in text(path, extras.as_ref(), &report) {
            output::line(&line);
        }
    }
    let (problems, advice) = (report.problems.len(), report.advice.len());
    match (problems, advice) {
        (0, _) if !args.strict => Ok(()),
        (0, 0) => Ok(()),
        (0, _) => Err(Failed::new(format!("`{}`: {advice} piece(s) of advice, with --strict", path.display()))),
        _ => Err(Failed::new(format!("`{}` has {problems} problem(s)", path.display()))),
    }
}

/// What a running host says of a bundle.
fn asked(admin: &str, bundle: &Bundle) -> Result<Report, Failed> {
    let offer = Offer::bundled(bundle.clone(), &environment::user(), "a check");
    let answer = Client::patient(admin, push::PATIENCE).post("/api/v1/policies/check", &push::body(offer))?;
    serde_json::from_value(answer)
        .map_err(|e| Failed::new(format!("the answer of the host at {admin} is no report: {e}")))
}

fn case_files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder.join("cases")).into_iter().flatten().flatten();
    let is_case =
        |path: &Path| path.extension().is_some_and(|e| ["toml", "yaml", "yml"].iter().any(|known| e == *known));
    entries.filter(|entry| is_case(&entry.path())).count()
}

/// What a bundle could do better.
fn advice(extras: &Extras, admitted: Option<&Admitted>) -> Vec<String> {
    let bundle = &extras.bundle;
    let mut advice = Vec::new();
    if extras.cases == 0 {
        advice.push(
            "it has no cases; add `cases/*.toml`, so that `cutover policy test` tells when its answers change".into(),
        );
    }
    if bundle.findings.is_empty() && matches!(bundle.kind, Kind::Rollback | Kind::Stages) {
        advice.push(
            "its policy.toml lists no `findings`; list their rules, so that tests tell which were never seen".into(),
        );
    }
    // A script has the name of its interpreter.
    let is_script = bundle.own.script.is_some();
    if let Some(own) = admitted.filter(|own| !is_script && (&own.name, &own.version) != (&bundle.name, &bundle.version))
    {
        let (bundle, own) = (format!("{} {}", bundle.name, bundle.version), format!("{} {}", own.name, own.version));
        advice.push(format!("it calls itself `{own}`, and its policy.toml `{bundle}`; let them say the same"));
    }
    advice
}

fn document(path: &Path, extras: Option<&Extras>, report: &Report) -> Value {
    let bundle = extras.map(|Extras { bundle, cases }| {
        json!({
            "name": bundle.name, "version": bundle.version, "kind": bundle.kind, "component": bundle.file,
            "findings": bundle.findings, "case_files": cases,
        })
    });
    json!({ "ok": report.problems.is_empty(), "policy": path, "bundle": bundle, "report": report })
}

fn text(path: &Path, extras: Option<&Extras>, report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let mut row = |name: &str, value: String| lines.push(format!("{name:10} {value}"));
    match extras {
        Some(Extras { bundle, cases }) => {
            row("bundle", format!("{} {}, {}", bundle.name, bundle.version, bundle.kind));
            row("component", format!("{}, {}", bundle.file.display(), kib(report.bytes)));
            row("cases", format!("{cases} file(s)"));
            row("findings", listed(&bundle.findings));
        }
        None => row("component", format!("{}, {}", path.display(), kib(report.bytes))),
    }
    row("sha256", report.digest.clone());
    if let Some(shape) = &report.compiled {
        shape_rows(shape, &mut row);
    }
    for admitted in &report.admitted {
        admitted_rows(admitted, &mut row);
    }
    for problem in &report.problems {
        row("problem", problem.clone());
    }
    for advice in &report.advice {
        row("advice", advice.clone());
    }
    if report.problems.is_empty() {
        row("result", "a host admits it".into());
    }
    lines
}

fn shape_rows(shape: &Shape, row: &mut impl FnMut(&str, String)) {
    row("contract", listed(&shape.contracts.iter().map(|v| format!("cutover:policy@{v}")).collect::<Vec<_>>()));
    let kinds: Vec<_> = shape.kinds.iter().map(|kind| kind.name().to_owned()).collect();
    row("kinds", format!("{}{}", listed(&kinds), if shape.decides { ", and is asked per request" } else { "" }));
    row("imports", listed(&shape.imports));
    let needs = shape.needs;
    row("needs", format!("{} instance(s), {} memory(s), {} table(s)", needs.instances, needs.memories, needs.tables));
    let took = shape.compile_us.map_or_else(|| "before".into(), |us| format!("in {} ms", us / 1_000));
    row("compiled", format!("to {}, {took}", kib(shape.image_bytes)));
}

fn admitted_rows(admitted: &Admitted, row: &mut impl FnMut(&str, String)) {
    row("describes", format!("{} {}: {}", admitted.name, admitted.version, admitted.summary));
    if !admitted.attributes.is_empty() {
        row("attributes", listed(&admitted.attributes));
    }
    let (memory, limit) = (kib(admitted.memory_bytes), kib(admitted.memory_limit));
    let (us, fuel) = (admitted.start_us, admitted.start_fuel);
    row("starts", format!("in {us} us with {fuel} units of fuel and {memory} of at most {limit} of memory"));
    let schema = serde_json::to_string_pretty(&admitted.settings_schema).unwrap_or_default();
    for (n, line) in schema.lines().enumerate() {
        row(if n == 0 { "settings" } else { "" }, line.to_owned());
    }
}

fn kib(bytes: usize) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
