//! `cutover policy bench`: what a question to a policy costs, and whether that is within its budget.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{
    super::{Format, output},
    Failed,
    sandbox::{self, Sandbox},
};
use crate::app;
use cutover_authoring::{
    author::{
        bench::{self, Breach, Budget, Cost},
        inspect,
        workload::{self, Step},
    },
    cases,
};
use cutover_model::causes::chain;
use cutover_policy_host::{
    bundle::{Bundle, Manifest},
    engine::{KindLimits, Limits, Policy},
};

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The bundle's folder.
    #[arg(default_value = ".")]
    bundle: PathBuf,
    /// How often each function is asked.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    iterations: u32,
    /// Ask the same questions of every policy of a kind, and not those of the bundle's cases.
    #[arg(long)]
    generated: bool,
    /// Fail if a question takes more units of fuel. Like the two below, it goes before `[budget]` of policy.toml.
    #[arg(long, value_name = "N")]
    max_fuel: Option<u64>,
    /// Fail if the 99th percentile of the time is longer, such as `5us`.
    #[arg(long, value_name = "SPAN", value_parser = bench::span)]
    max_p99: Option<u64>,
    /// Fail if an instance has more memory, such as `2MiB`.
    #[arg(long, value_name = "SIZE", value_parser = bench::bytes)]
    max_memory: Option<u64>,
    #[command(flatten)]
    sandbox: Sandbox,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: &Bench) -> Result<(), Failed> {
    let folder = args.bundle.as_path();
    let opened = args.sandbox.open_without_cache()?;
    let bundle = opened.bundle(folder)?;
    let budget = args.budget(&sandbox::manifest(folder)?)?;
    let failed = |what: String| Failed::new(format!("`{}`: {what}", folder.display()));
    let policy = app::admit_bundle(&opened.engine, &bundle).map_err(|error| failed(inspect::problem(&error)))?;
    let calls = usize::try_from(args.iterations).unwrap_or(usize::MAX);
    let (steps, origin) = args.questions(&policy)?;
    let costs = workload::by_function(steps)
        .iter()
        .map(|questions| bench::measure(&policy, questions, calls))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(error.to_string()))?;
    let (hosts, mut breaches) = (Limits::default(), Vec::new());
    for cost in &costs {
        breaches.extend(budget.breaches(cost));
        breaches.extend(too_slow(cost, hosts.of(policy.kind)));
    }
    show(args, &bundle, &policy, (&costs, origin), (&budget, &breaches)).map_err(|e| failed(inspect::problem(&e)))?;
    if breaches.is_empty() {
        return Ok(());
    }
    Err(failed(format!("over its budget:\n{}", breaches.iter().map(breach).collect::<Vec<_>>().join("\n"))))
}

impl Bench {
    /// Those of the bundle's cases, or, without any, representative ones; and where they are from.
    fn questions(&self, policy: &Policy) -> Result<(Vec<Step>, &'static str), Failed> {
        let has_cases = !self.generated && self.bundle.join("cases").is_dir();
        let of_cases = if has_cases { cases::questions(&self.bundle, policy) } else { Ok(Vec::new()) };
        let of_cases = of_cases.map_err(|e| Failed::usage(chain(&e)))?;
        let origin = if of_cases.is_empty() { "generated" } else { "of its cases" };
        let mut steps = if of_cases.is_empty() { workload::generated(policy.kind) } else { of_cases };
        // Cases route requests; what they come to is not what they cost.
        steps.extend(workload::decisions(bench::decided_by(policy, &steps)));
        Ok((steps, origin))
    }

    fn budget(&self, manifest: &Manifest) -> Result<Budget, Failed> {
        let said = &manifest.budget;
        let of_bundle = Budget::read(said.max_fuel, said.max_p99.as_deref(), said.max_memory.as_deref());
        let of_bundle = of_bundle.map_err(|e| {
            Failed::usage(format!("`[budget]` of `{}` is wrong: {e}", self.bundle.join("policy.toml").display()))
        })?;
        let own = Budget { max_fuel: self.max_fuel, max_p99_nanos: self.max_p99, max_memory_bytes: self.max_memory };
        Ok(own.or(of_bundle))
    }
}

fn show(
    args: &Bench,
    bundle: &Bundle,
    policy: &Policy,
    (costs, origin): (&[Cost], &str),
    (budget, breaches): (&Budget, &[Breach]),
) -> Result<(), cutover_policy_host::PolicyError> {
    let (compiled, start) = (policy.compiled(), policy.start_up()?);
    if args.format.json {
        output::json(&json!({
            "bundle": args.bundle,
            "name": bundle.name,
            "version": bundle.version,
            "kind": bundle.kind,
            "digest": &*compiled.digest,
            "compile_us": compiled.compilation.as_micros(),
            "component_bytes": compiled.bytes,
            "image_bytes": compiled.image_bytes,
            "instantiation_ns": start.instantiation.as_nanos(),
            "configuration_ns": start.configuration.as_nanos(),
            "start_fuel": start.fuel,
            "start_memory_bytes": start.memory,
            "questions": origin,
            "functions": costs,
            "budget": budget,
            "breaches": breaches,
            "ok": breaches.is_empty(),
        }));
        return Ok(());
    }
    let kib = |bytes: usize| bytes.div_ceil(1024);
    output::line(&format!("{} {} ({}), {} KiB", bundle.name, bundle.version, bundle.kind, kib(compiled.bytes)));
    output::line(&format!(
        "compiled in {} ms to {} KiB; instance {}, settings {}, {} units of fuel, {} KiB of memory",
        compiled.compilation.as_millis(),
        kib(compiled.image_bytes),
        time(nanos(start.instantiation)),
        time(nanos(start.configuration)),
        start.fuel,
        kib(start.memory),
    ));
    output::line(&format!("questions: {origin}"));
    costs.iter().flat_map(lines).for_each(|line| output::line(&line));
    output::line("fuel is the same in every run and on every machine; times are not");
    if cfg!(debug_assertions) {
        output::line("this host is a debug build: times of one that is released are shorter");
    }
    Ok(())
}

fn lines(cost: &Cost) -> Vec<String> {
    let how = if cost.fresh {
        "on a fresh instance each time, as the host asks"
    } else {
        "on a warm instance, as the host asks"
    };
    let Cost { fuel, nanos, alone_fuel, alone_nanos, .. } = cost;
    let row = |name: &str, one: [String; 4]| {
        let [p50, p99, mean, max] = one;
        format!("  {name:22} {p50:>12} {p99:>12} {mean:>12} {max:>12}")
    };
    let times = |s: &bench::Spread| [s.p50, s.p99, s.mean, s.max].map(time);
    let counts = |s: &bench::Spread| [s.p50, s.p99, s.mean, s.max].map(|n| n.to_string());
    let mut lines = vec![
        format!("{}: {} calls {how}", cost.function, cost.calls),
        row("", ["p50", "p99", "mean", "max"].map(String::from)),
        row("time", times(nanos)),
        row("fuel", counts(fuel)),
    ];
    if cost.fresh {
        lines.push(row("time, question alone", times(alone_nanos)));
        lines.push(row("fuel, question alone", counts(alone_fuel)));
    }
    lines.push(format!(
        "  at most {} KiB of memory, {} bytes remembered, {} bytes of answer",
        cost.memory_bytes.div_ceil(1024),
        cost.remembered_bytes,
        cost.answer_bytes
    ));
    if cost.said_errors > 0 {
        lines.push(format!("  {} of the questions were answered with an error of its own", cost.said_errors));
    }
    lines
}

/// What a host would not wait for, as a rule: half of the questions take longer than the limit that hosts have by default.
fn too_slow(cost: &Cost, hosts: &KindLimits) -> Option<Breach> {
    let (limit, allowed) =
        if cost.function == "decide" { ("decide_time", hosts.decide_time) } else { ("time", hosts.time) };
    let (allowed, measured) = (nanos(allowed), cost.nanos.p50);
    (measured > allowed).then_some(Breach { function: cost.function, limit, allowed, measured })
}

fn breach(breach: &Breach) -> String {
    let Breach { function, limit, allowed, measured } = breach;
    let over = measured - allowed;
    match *limit {
        "max_p99" => {
            format!("  {function}: p99 is {}, {} over {limit} = {}", time(*measured), time(over), time(*allowed))
        }
        "time" | "decide_time" => {
            let (median, allowed) = (time(*measured), time(*allowed));
            format!(
                "  {function}: half of the questions take {median} or more; hosts wait {allowed} (`host.policy_limits.{limit}`)"
            )
        }
        "max_memory" => format!("  {function}: {measured} bytes of memory, {over} over {limit} = {allowed}"),
        _ => format!("  {function}: {measured} units of fuel, {over} over {limit} = {allowed}"),
    }
}

fn nanos(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// `850 ns`, `12.3 us`, `4.5 ms`.
fn time(nanos: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", nanos / unit, nanos % unit * 10 / unit);
    match nanos {
        ..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => format!("{} us", tenths(1_000)),
        1_000_000.. => format!("{} ms", tenths(1_000_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_write_them() {
        assert_eq!([850, 12_345, 4_560_000].map(time), ["850 ns", "12.3 us", "4.5 ms"]);
    }

    #[test]
    fn a_breach_says_by_how_much() {
        let of = |limit, allowed, measured| breach(&Breach { function: "judge", limit, allowed, measured });
        assert_eq!(of("max_fuel", 40_000, 41_230), "  judge: 41230 units of fuel, 1230 over max_fuel = 40000");
        assert_eq!(of("max_p99", 5_000, 7_500), "  judge: p99 is 7.5 us, 2.5 us over max_p99 = 5.0 us");
        assert_eq!(of("max_memory", 1, 3), "  judge: 3 bytes of memory, 2 over max_memory = 1");
        let slow = of("time", 250_000_000, 300_000_000);
        assert!(slow.contains("take 300.0 ms or more; hosts wait 250.0 ms (`host.policy_limits.time`)"), "{slow}");
    }

    #[test]
    fn what_hosts_do_not_wait_for_is_a_breach_without_a_budget() {
        let cost = |function, p50| Cost {
            function,
            fresh: true,
            calls: 1,
            fuel: bench::Spread::default(),
            nanos: bench::Spread { p50, max: 10_000_000_000, ..bench::Spread::default() },
            alone_fuel: bench::Spread::default(),
            alone_nanos: bench::Spread::default(),
            memory_bytes: 0,
            remembered_bytes: 0,
            answer_bytes: 0,
            said_errors: 0,
        };
        let hosts = KindLimits::default();
        assert_eq!(too_slow(&cost("judge", 250_000_000), &hosts), None, "some may be slow on a busy machine");
        assert_eq!(too_slow(&cost("judge", 250_000_001), &hosts).unwrap().limit, "time");
        assert_eq!(too_slow(&cost("decide", 5_000_001), &hosts).unwrap().limit, "decide_time");
    }
}
