//! `[host.policy_limits]`: for all kinds of policies, by kind, and of the host.

use serde::Deserialize;

use super::validate::At;
use cutover_model::port::Kind;
use cutover_policy_host::engine::{KindLimits, Limits};

/// `[host.policy_limits]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyLimits {
    /// Linear memory over all of a guest's memories.
    pub memory_bytes: Option<u64>,
    /// Time for a question.
    pub time: Option<String>,
    /// Time for one `decide`.
    pub decide_time: Option<String>,
    /// What a question may have.
    pub input_bytes: Option<u64>,
    /// What may cross from guest to host in one question.
    pub output_bytes: Option<u64>,
    /// What may be remembered from one question to the next.
    pub remember_bytes: Option<u64>,
    /// Core instances of a component.
    pub instances: Option<u64>,
    /// Memories of all of them.
    pub memories: Option<u64>,
    /// Tables of all of them.
    pub tables: Option<u64>,
    /// Elements of each table.
    pub table_elements: Option<u64>,
    /// The most bytes of a component.
    pub component_bytes: Option<u64>,
    /// Time for a compilation.
    pub compile_time: Option<String>,
    /// Memory for a compilation.
    pub compile_bytes: Option<u64>,
    /// Compilations that may run at once.
    pub compilations: Option<u64>,
    /// Native stack of a guest.
    pub stack_bytes: Option<u64>,
    /// Instances of all policies.
    pub live_instances: Option<u64>,
    /// Of routing policies alone.
    pub routing: OfKind,
    /// Limits of adapters, where they differ from those of all policies.
    pub adapter: OfKind,
    /// Of comparison policies alone.
    pub comparison: OfKind,
    /// Of rollback policies alone.
    pub rollback: OfKind,
    /// Of stages policies alone.
    pub stages: OfKind,
}

/// `[host.policy_limits.KIND]`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OfKind {
    /// Linear memory over all of a guest's memories.
    pub memory_bytes: Option<u64>,
    /// Time for a question.
    pub time: Option<String>,
    /// Time for one `decide`.
    pub decide_time: Option<String>,
    /// What a question may have.
    pub input_bytes: Option<u64>,
    /// What may cross from guest to host in one question.
    pub output_bytes: Option<u64>,
    /// What may be remembered from one question to the next.
    pub remember_bytes: Option<u64>,
    /// Core instances of a component.
    pub instances: Option<u64>,
    /// Memories of all of them.
    pub memories: Option<u64>,
    /// Tables of all of them.
    pub tables: Option<u64>,
    /// Elements of each table.
    pub table_elements: Option<u64>,
}

/// What the file says laid over the defaults: first what it says of all kinds, then what it says of one.
pub(super) fn limits(at: &mut At<'_>, raw: &PolicyLimits) -> Limits {
    let mut limits = Limits::default();
    let all = raw.of_all();
    for kind in Kind::ALL {
        lay_over(at, &all, limits.of_mut(kind));
    }
    // What is wrong for all kinds is one problem and not five.
    at.forget_repeated();
    for (kind, own) in raw.by_kind() {
        let mut at = at.field(kind.name());
        if own.decide_time.is_some() && kind != Kind::Routing {
            at.field("decide_time").wrong("belongs to `routing`, which alone is asked per request");
        }
        lay_over(&mut at, own, limits.of_mut(kind));
    }
    at.field("component_bytes").bytes(raw.component_bytes, &mut limits.component_bytes, 256 << 20);
    at.field("compilations").number(raw.compilations, &mut limits.compilations, 1, 64);
    at.field("stack_bytes").number(raw.stack_bytes, &mut limits.stack_bytes, 64 << 10, 1 << 20);
    at.field("live_instances").number(raw.live_instances, &mut limits.live_instances, 16, 10_000);
    at.field("compile_bytes").number(raw.compile_bytes, &mut limits.compile_bytes, 64 << 20, 64 << 30);
    if let Some(time) = &raw.compile_time {
        limits.compile_time = at.field("compile_time").duration(time, "100ms", "10m");
    }
    limits
}

fn lay_over(at: &mut At<'_>, raw: &OfKind, limits: &mut KindLimits) {
    at.field("memory_bytes").bytes(raw.memory_bytes, &mut limits.memory_bytes, 1 << 30);
    at.field("input_bytes").bytes(raw.input_bytes, &mut limits.input_bytes, 256 << 20);
    at.field("output_bytes").bytes(raw.output_bytes, &mut limits.output_bytes, 64 << 20);
    at.field("remember_bytes").bytes(raw.remember_bytes, &mut limits.remember_bytes, 64 << 20);
    at.field("instances").number(raw.instances, &mut limits.instances, 1, 1_000);
    at.field("memories").number(raw.memories, &mut limits.memories, 1, 64);
    at.field("tables").number(raw.tables, &mut limits.tables, 1, 64);
    at.field("table_elements").number(raw.table_elements, &mut limits.table_elements, 1, 1_000_000);
    for (field, raw, time) in
        [("time", &raw.time, &mut limits.time), ("decide_time", &raw.decide_time, &mut limits.decide_time)]
    {
        if let Some(raw) = raw {
            *time = at.field(field).duration(raw, "1ms", "1m");
        }
    }
}

impl PolicyLimits {
    fn of_all(&self) -> OfKind {
        OfKind {
            memory_bytes: self.memory_bytes,
            time: self.time.clone(),
            decide_time: self.decide_time.clone(),
            input_bytes: self.input_bytes,
            output_bytes: self.output_bytes,
            remember_bytes: self.remember_bytes,
            instances: self.instances,
            memories: self.memories,
            tables: self.tables,
            table_elements: self.table_elements,
        }
    }

    const fn by_kind(&self) -> [(Kind, &OfKind); 5] {
        [
            (Kind::Routing, &self.routing),
            (Kind::Adapter, &self.adapter),
            (Kind::Comparison, &self.comparison),
            (Kind::Rollback, &self.rollback),
            (Kind::Stages, &self.stages),
        ]
    }
}

impl At<'_> {
    fn bytes(&mut self, value: Option<u64>, limit: &mut usize, most: u64) {
        self.limit(value, limit, 1 << 10, most, " bytes");
    }

    fn number<T: TryFrom<u64>>(&mut self, value: Option<u64>, limit: &mut T, least: u64, most: u64) {
        self.limit(value, limit, least, most, "");
    }

    fn limit<T: TryFrom<u64>>(&mut self, value: Option<u64>, limit: &mut T, least: u64, most: u64, unit: &str) {
        let Some(value) = value else { return };
        match T::try_from(value) {
            Ok(fits) if (least..=most).contains(&value) => *limit = fits,
            _ => self.wrong(&format!("is {value}; it must be between {least} and {most}{unit}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Problem;

    fn read(text: &str) -> Result<Limits, Vec<Problem>> {
        let raw: PolicyLimits = toml::from_str(text).unwrap_or_else(|e| panic!("{e}"));
        let mut problems = Vec::new();
        let limits = limits(&mut At { path: "host.policy_limits".into(), problems: &mut problems }, &raw);
        if problems.is_empty() { Ok(limits) } else { Err(problems) }
    }

    #[test]
    fn nothing_means_the_defaults() {
        assert_eq!(read(""), Ok(Limits::default()));
    }

    #[test]
    fn what_is_said_of_a_kind_wins_over_what_is_said_of_all() {
        let limits =
            read("time = '1s'\nmemory_bytes = 1048576\nrollback = { time = '2s' }\nrouting.decide_time = '1ms'");
        let limits = limits.unwrap();
        assert_eq!((limits.stages.time, limits.rollback.time), (Duration::from_secs(1), Duration::from_secs(2)));
        assert_eq!((limits.rollback.memory_bytes, limits.routing.memory_bytes), (1 << 20, 1 << 20));
        assert_eq!(limits.routing.decide_time, Duration::from_millis(1));
        assert_eq!(limits.rollback.input_bytes, Limits::default().rollback.input_bytes);
    }

    #[test]
    fn every_problem_is_told_once_and_with_its_place() {
        let problems =
            read("memory_bytes = 1\ncompilations = 0\nstages = { tables = 0, decide_time = '1ms' }\nstack_bytes = 1");
        let problems: Vec<_> = problems.unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "`host.policy_limits.memory_bytes` is 1; it must be between 1024 and 1073741824 bytes",
                "`host.policy_limits.stages.decide_time` belongs to `routing`, which alone is asked per request",
                "`host.policy_limits.stages.tables` is 0; it must be between 1 and 64",
                "`host.policy_limits.compilations` is 0; it must be between 1 and 64",
                "`host.policy_limits.stack_bytes` is 1; it must be between 65536 and 1048576",
            ]
        );
    }

    fn document(name: &str) -> String {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
        std::fs::read_to_string(path).unwrap()
    }

    /// The default of a limit by kind, as the table has it: what most kinds have, and then those that have another.
    fn by_kind(limit: impl Fn(&KindLimits) -> u64) -> String {
        let limits = Limits::default();
        let most = limit(&limits.rollback);
        let mut others: Vec<(u64, Vec<&str>)> = Vec::new();
        for kind in Kind::ALL {
            let own = limit(limits.of(kind));
            match others.iter_mut().find(|(value, _)| *value == own) {
                _ if own == most => {}
                Some((_, kinds)) => kinds.push(kind.name()),
                None => others.push((own, vec![kind.name()])),
            }
        }
        let others = others.iter().map(|(value, kinds)| format!("{} {value}", kinds.join(" and ")));
        let others = others.collect::<Vec<_>>().join(", ");
        if others.is_empty() { most.to_string() } else { format!("{most}; {others}") }
    }

    #[test]
    fn documents_say_what_the_limits_are() {
        let (limits, configuration) = (Limits::default(), document("configuration.md"));
        let wide = |n: usize| u64::try_from(n).unwrap();
        let time = |span: Duration| format!("`\"{}\"`", humantime::format_duration(span));
        let cells = [
            ("memory_bytes", by_kind(|k| wide(k.memory_bytes))),
            ("input_bytes", by_kind(|k| wide(k.input_bytes))),
            ("output_bytes", by_kind(|k| wide(k.output_bytes))),
            ("remember_bytes", by_kind(|k| wide(k.remember_bytes))),
            ("instances", by_kind(|k| k.instances.into())),
            ("memories", by_kind(|k| k.memories.into())),
            ("tables", by_kind(|k| k.tables.into())),
            ("table_elements", by_kind(|k| wide(k.table_elements))),
            ("time", time(limits.rollback.time)),
            ("decide_time", time(limits.routing.decide_time)),
            ("component_bytes", limits.component_bytes.to_string()),
            ("compile_time", time(limits.compile_time)),
            ("compile_bytes", limits.compile_bytes.to_string()),
            ("compilations", limits.compilations.to_string()),
            ("stack_bytes", limits.stack_bytes.to_string()),
            ("live_instances", limits.live_instances.to_string()),
        ];
        for (field, default) in cells {
            let row = format!("| `{field}` | {default} |");
            assert!(configuration.contains(&row), "docs/configuration.md has not {row:?}");
        }
        let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
        let component = mib(limits.component_bytes);
        let said = [
            ("languages.md", format!("fits the default limit on components of {component}")),
            ("languages.md", format!("at its default of {} is enough", mib(limits.comparison.memory_bytes))),
            ("languages.md", format!("the default is {}", humantime::format_duration(limits.comparison.time))),
            ("languages.md", format!("{} KiB for every policy", limits.stack_bytes >> 10)),
            ("registry.md", format!("a component may have {component} and a manifest")),
        ];
        for (name, words) in said {
            assert!(document(name).contains(&words), "docs/{name} has not {words:?}");
        }
    }
}
