//! Configurations, broken one field at a time.

use std::path::Path;

use cutover::config::{Config, ConfigError};
use tempfile::TempDir;
use toml::Table;

use crate::harness::{Setup, root};

/// A good configuration.
fn good(folder: &Path) -> Table {
    let setup = Setup { limits: "time = '100ms'", ..Setup::default() };
    toml::from_str(&setup.text(folder, (0, 0))).unwrap()
}

/// Sets a field; a value of nothing takes it away.
fn set(table: &mut Table, path: &str, value: &str) {
    let (parents, field) = path.rsplit_once('.').unwrap_or(("", path));
    let mut at = table;
    for parent in parents.split('.').filter(|p| !p.is_empty()) {
        let entry = at.entry(parent).or_insert_with(|| Table::new().into());
        if let Some(workers) = entry.as_integer() {
            *entry = Table::from_iter([("min".to_owned(), workers.into())]).into();
        }
        at = entry.as_table_mut().unwrap();
    }
    if value.is_empty() {
        assert!(at.remove(field).is_some(), "`{path}` is there to be taken away");
    } else {
        let mut parsed: Table = toml::from_str(&format!("value = {value}")).unwrap();
        at.insert(field.to_owned(), parsed.remove("value").unwrap());
    }
}

fn refusal(folder: &Path, changes: &[(&str, &str)], flags: &[(&str, &str)]) -> ConfigError {
    let mut table = good(folder);
    for (path, value) in changes {
        set(&mut table, path, value);
    }
    let flags: Vec<_> = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::parse(&table.to_string(), folder, &flags).expect_err(&format!("{changes:?} {flags:?}"))
}

fn problems(error: ConfigError) -> Vec<String> {
    match error {
        ConfigError::Problems { problems, .. } => problems.iter().map(ToString::to_string).collect(),
        ConfigError::Syntax { .. } | ConfigError::Read { .. } => panic!("not a wrong value: {error}"),
    }
}

#[test]
fn the_configuration_that_is_broken_below_is_good() {
    let folder = TempDir::new().unwrap();
    let config = Config::parse(&good(folder.path()).to_string(), folder.path(), &[]).unwrap();
    assert_eq!((config.migrations.len(), config.migrations[0].policies.len()), (1, 4));
}

/// A field, its wrong value, and the words that must be said of it.
const WRONG_VALUES: [(&str, &str, &str); 67] = [
    ("host.data_plane", "'here'", "is `here`; it must be an address and a port"),
    ("host.data_plane", "'127.0.0.1:70000'", "an address and a port"),
    ("host.admin", "'8081'", "an address and a port"),
    ("host.webhooks", "['ftp://x/']", "`ftp://x/`; it must be a URL that begins with `http://`"),
    ("host.webhooks", "['http://a/', 'two words']", "`two words`"),
    ("host.keep_metrics", "'1s'", "between 1m and 3650d"),
    ("host.keep_metrics", "'for ever'", "a span of time"),
    ("host.policy_limits.memory_bytes", "1", "between 1024 and 1073741824 bytes"),
    ("host.policy_limits.output_bytes", "1023", "between 1024 and"),
    ("host.policy_limits.component_bytes", "1000000000", "between 1024 and"),
    ("host.policy_limits.time", "'2m'", "between 1ms and 1m"),
    ("host.policy_limits.decide_time", "'0ms'", "between 1ms and 1m"),
    ("migrations.programs.check_interval", "'1ms'", "between 100ms and 1h"),
    ("migrations.programs.check_interval", "'often'", "a span of time"),
    ("migrations.programs.deadline", "'0s'", "between 1ms and 1h"),
    ("migrations.programs.failover_reserve", "100", "between 0 and 99"),
    ("migrations.programs.shadow_timeout", "'2h'", "between 1ms and 1h"),
    ("migrations.programs.headers", "{}", "is for HTTP services"),
    ("migrations.programs.rate_limit", "{ rate = '1/s' }", "is for HTTP services"),
    ("migrations.programs.operations.list_programs.rate_limit", "{ rate = '1/s' }", "is for HTTP services"),
    ("migrations.programs.operations", "{}", "has no operation"),
    ("migrations.programs.operations.list_programs.key", "'id'", "belong to the class `replicate`"),
    ("migrations.programs.operations.delete_program.key", "", "needs a `key`"),
    ("migrations.programs.v1.mode", "'parallel'", "is `parallel`; it must be `serialized` or `concurrent`"),
    ("migrations.programs.v1.workers", "0", "is 0; it must be between 1 and 1024"),
    ("migrations.programs.v2.workers", "1025", "between 1 and 1024"),
    ("migrations.programs.v2.command", "[]", "is empty; give the program"),
    (
        "migrations.programs.v2.command",
        "['no-such-program']",
        "`no-such-program`, which is not a program that can be found",
    ),
    ("migrations.programs.v2.command", "['./worker']", "`./worker`, which is not a program that can be found"),
    ("migrations.programs.v2.directory", "'gone'", "gone`, which is not a folder"),
    ("migrations.programs.v2.start_timeout", "'1ms'", "between 10ms and 1h"),
    ("migrations.programs.v2.health_interval", "'1ms'", "between 100ms and 1h"),
    ("migrations.programs.v2.health_failures", "0", "at least 1 failed health check"),
    ("migrations.programs.v2.drain_timeout", "'2d'", "between 0s and 1d"),
    ("migrations.programs.v2.drain_timeout", "'-1s'", "a span of time"),
    ("migrations.programs.policies.routing", "", "is missing; name a bundle"),
    ("migrations.programs.policies.rollback", "", "is missing"),
    ("migrations.programs.policies.stages", "", "is missing"),
    ("migrations.programs.policies.routing", "'gone'", "gone`, whose policy.toml cannot be read"),
    ("migrations.programs.policies.routing", "'SHIPPED/thresholds'", "thresholds`, which is a rollback policy"),
    (
        "migrations.programs.policies.judge",
        "'SHIPPED/thresholds'",
        "`judge` is not a kind of policy; the kinds are routing",
    ),
    ("migrations", "{}", "has no migration; add a `[migrations.NAME]`"),
    ("migrations.programs.v1.command", "['python3 worker.py']", "is not a program that can be found"),
    ("migrations.programs.v1.directory", "'cutover.toml'", "is not a folder"),
    ("host.policy_limits.time", "'fast'", "a span of time"),
    ("migrations.programs.v1.health_interval", "'2h'", "between 100ms and 1h"),
    ("migrations.programs.v2.health_timeout", "'0ms'", "between 1ms and 1h"),
    ("migrations.programs.v2.workers.min", "0", "is 0; it must be between 1 and 1024"),
    ("migrations.programs.v2.workers.max", "1", "is 1; it must be between 2 and 1024"),
    ("migrations.programs.v2.workers.overflow", "1025", "between 0 and 1024"),
    ("migrations.programs.v2.workers.overflow_idle", "'1ms'", "between 1s and 1d"),
    ("migrations.programs.v1.workers.overflow", "1", "is for pools that are `concurrent`"),
    ("migrations.programs.v2.queue.order", "'random'", "is `random`; it must be `fifo` or `lifo`"),
    ("migrations.programs.v2.queue.most", "1000001", "between 0 and 1000000"),
    ("migrations.programs.v2.queue.timeout", "'2h'", "between 1ms and 1h"),
    ("migrations.programs.v2.restarts.count", "10001", "between 0 and 10000"),
    ("migrations.programs.v2.warm_up.order", "'slow'", "it must be `parallel`, `sequential` or `staged`"),
    ("migrations.programs.v2.stop.term", "'2h'", "between 0s and 1h"),
    ("migrations.programs.v2.errors.timeout.retries", "101", "between 0 and 100"),
    ("migrations.programs.v2.errors.backoff.longest", "'0s'", "between 1ms and 1h"),
    ("migrations.programs.v2.breaker.failures", "0", "between 1 and 10000"),
    ("migrations.programs.v2.breaker.open_for", "'1ms'", "between 10ms and 1d"),
    ("migrations.programs.v2.optimizer.grow_above", "101", "is 101; it must be between 1 and 100"),
    ("migrations.programs.v2.optimizer.shrink_below", "51", "between 0 and 50"),
    ("migrations.programs.v2.optimizer.max_overflow", "1025", "between 0 and 1024"),
    ("migrations.programs.v2.optimizer.window", "'2m'", "between 1s and 1m"),
    ("migrations.programs.v2.optimizer.cool_down", "'0s'", "between 1s and 1d"),
];

#[test]
fn each_wrong_value_is_named_by_its_path_with_what_would_be_right() {
    let folder = TempDir::new().unwrap();
    let shipped = root().join("policies").display().to_string();
    for (path, value, words) in WRONG_VALUES {
        let all = problems(refusal(folder.path(), &[(path, &value.replace("SHIPPED", &shipped))], &[]));
        assert_eq!(all.len(), 1, "{path} = {value}: {all:#?}");
        // A removal needs its key: the problem is with the operation that removes.
        let named = if words == "needs a `key`" { path.replace(".key", ".removes") } else { path.to_owned() };
        assert!(all[0].starts_with(&format!("`{named}` ")) && all[0].contains(words), "{path} = {value}: {}", all[0]);
    }
}

#[test]
fn what_is_wrong_between_fields_is_named_too() {
    let folder = TempDir::new().unwrap();
    let same = [("host.data_plane", "'127.0.0.1:9000'"), ("host.admin", "'127.0.0.1:9000'")];
    let refused = |changes: &[(&str, &str)]| problems(refusal(folder.path(), changes, &[]));
    assert_eq!(
        refused(&same),
        ["`host.admin` is the same as `host.data_plane`; operators need an address of their own"]
    );
    let unbuilt = refused(&[("host.components", "'gone'")]);
    assert_eq!(unbuilt.len(), 4, "each policy misses its component: {unbuilt:#?}");
    assert!(
        unbuilt.iter().all(|p| p.contains("cargo xtask guests") && p.starts_with("`migrations.programs.policies."))
    );
    let odd = refused(&[("migrations.programs.operations.'two words'", "{ class = 'read' }")]);
    assert!(odd[0].contains("two words") && odd[0].contains("1 to 64 characters of"), "{odd:?}");
}

#[test]
fn flags_of_the_environment_that_do_not_exist_are_named() {
    let folder = TempDir::new().unwrap();
    let said = |flags: &[(&str, &str)]| problems(refusal(folder.path(), &[], flags));
    let unknown = said(&[("PROGRAMS_SHADOWS", "true")]);
    assert!(unknown[0].starts_with("`migrations.programs.flags` "), "{unknown:?}");
    assert!(unknown[0].contains("there is no flag `shadows`; the flags are pool_v2_enabled"), "{unknown:?}");
    let wrong = said(&[("PROGRAMS_SHADOW", "yes")]);
    assert!(wrong[0].contains("`shadow` takes `true` or `false`, not `\"yes\"`"), "{wrong:?}");
    let nobody = said(&[("PROMPTS_SHADOW", "true")]);
    assert_eq!(nobody, ["`environment.CUTOVER_FLAG_PROMPTS_SHADOW` names no migration of this configuration"]);
    let two = said(&[("PROGRAMS_SHADOW", "1"), ("SHADOW", "true")]);
    assert_eq!(two.len(), 2, "{two:?}");
}

#[test]
fn a_flag_belongs_to_the_migration_with_the_longest_name_that_fits() {
    let folder = TempDir::new().unwrap();
    let mut table = good(folder.path());
    let migrations = table["migrations"].as_table_mut().unwrap();
    let other = migrations["programs"].clone();
    migrations.insert("programs-eu".into(), other);
    let flags = [("PROGRAMS_EU_SHADOW".to_owned(), "false".to_owned())];
    let config = Config::parse(&table.to_string(), folder.path(), &flags).unwrap_or_else(|e| panic!("{e}"));
    let flags: Vec<_> = config.migrations.iter().map(|m| (m.name.as_str(), m.flags.contains_key("shadow"))).collect();
    assert_eq!(flags, [("programs", false), ("programs-eu", true)]);
}

/// A field, a value of a type that it does not take or a name that nobody knows, and what would be right.
const WRONG_SHAPES: [(&str, &str, &str); 35] = [
    ("host", "1", "is `1`; it must be a table, such as `[host]`"),
    ("host.data_plane", "8080", "is `8080`; it must be text in quotes, such as `\"127.0.0.1:8080\"`"),
    ("host.webhooks", "'http://a/'", "it must be a list, such as `[\"http://127.0.0.1:9000/hook\"]`"),
    ("host.webhooks", "[1]", "it must be text in quotes"),
    ("host.policy_limits.memory_bytes", "'32MB'", "is `\"32MB\"`; it must be a whole number"),
    ("host.policy_limits.memory_bytes", "-1", "is `-1`; it must be a whole number"),
    ("host.policy_limits.fuel", "1", "is no field; there are `"),
    ("host.stores", "'a.db'", "is no field; did you mean `store`?"),
    ("host.http.max_connections", "-1", "is `-1`; it must be a whole number from 1 to 1000000"),
    ("migration", "{}", "is no field; did you mean `migrations`?"),
    ("migrations.programs.deadline", "2", "is `2`; it must be a span of time, such as `\"30s\"`"),
    ("migrations.programs.timeout", "'2s'", "is no field; there are `salt`"),
    ("migrations.programs.failover_reserve", "-1", "is `-1`; it must be a whole number from 0 to 99"),
    ("migrations.programs.rate_limit", "{}", "misses `rate`; add it, such as `rate = \"100/s\"`"),
    ("migrations.programs.rate_limit", "'100/s'", "it must be a table, such as `{ rate = \"100/s\" }`"),
    ("migrations.programs.headers", "{ request = { set = [] } }", "it must be a table, such as `{ x-environment = "),
    ("migrations.programs.shadow_budget", "'16'", "it must be a whole number from 0 on, such as 16"),
    (
        "migrations.programs.operations.execute.class",
        "'write'",
        "must be `\"read\"`, `\"replicate\"` or `\"exclusive\"`",
    ),
    ("migrations.programs.operations.execute.class", "", "misses `class`; add it, such as `class = \"read\"`"),
    ("migrations.programs.operations.execute.sticky", "true", "is no field"),
    ("migrations.programs.operations.delete_program.removes", "'yes'", "it must be `true` or `false`"),
    ("migrations.programs.v1.mode", "", "misses `mode`; add it, such as `mode = \"concurrent\"`"),
    ("migrations.programs.v2", "", "misses `v2`; add it, such as `[migrations.NAME.v2]`"),
    ("migrations.programs.v2.mode", "", "misses `mode`"),
    ("migrations.programs.v2.workers", "'two'", "must be a whole number from 1 to 1024, or a table such as `{ min"),
    ("migrations.programs.v2.workers", "-1", "is `-1`; it must be a whole number from 1 to 1024, or a table"),
    ("migrations.programs.v2.workers", "", "misses `workers`; add it, such as `workers = 4`"),
    ("migrations.programs.v2.command", "'python3 worker.py'", "must be a list, such as `[\"python3\", \"worker.py\"]`"),
    ("migrations.programs.v2.command", "", "misses `command`"),
    ("migrations.programs.v2.environment.MODE", "1", "must be text in quotes"),
    ("migrations.programs.v2.max_waiting", "9", "is no field"),
    ("migrations.programs.v2.workers.least", "9", "is no field; there are `min`"),
    ("migrations.programs.v2.errors.crash", "{}", "is no field"),
    ("migrations.programs.v2.errors.worker.strategy", "'again'", "it must be `\"retry-now\"`, "),
    ("migrations.programs.v2.warm_up.calls", "[{}]", "misses `operation`; add it, such as `operation = \"execute\"`"),
];

#[test]
fn each_wrong_type_and_unknown_field_is_shown_with_its_line_and_what_would_be_right() {
    let folder = TempDir::new().unwrap();
    for (path, value, words) in WRONG_SHAPES {
        let error = refusal(folder.path(), &[(path, value)], &[]);
        let all = problems(error);
        // Without `[host]` nobody knows where the components are.
        assert!(all.len() == 1 || path == "host", "{path} = {value}: {all:#?}");
        // What is missing is missed by its table.
        let named = if value.is_empty() { path.rsplit_once('.').unwrap().0 } else { path };
        let said = &all[0];
        assert!(said.starts_with(&format!("`{named}")) && said.contains("(line "), "{path} = {value}: {said}");
        assert!(said.contains(words), "{path} = {value}: {said}");
        for word in ["struct", "u64", "usize", "u32", "variant", "sequence", "i64", "map"] {
            assert!(!said.contains(word), "{path} = {value} speaks of types: {said}");
        }
    }
}

#[test]
fn wrong_shapes_and_wrong_values_are_told_at_once() {
    let folder = TempDir::new().unwrap();
    let changes = [
        ("host.admin", "'nowhere'"),
        ("host.keep_metrics", "30"),
        ("migrations.programs.deadlines", "'2s'"),
        ("migrations.programs.v1.mode", "'both'"),
        ("migrations.programs.v2.workers", "-1"),
        ("migrations.programs.operations.execute.class", "'write'"),
    ];
    let all = problems(refusal(folder.path(), &changes, &[])).join("\n");
    for (path, _) in changes {
        assert!(all.contains(&format!("`{path}` ")), "no {path} in\n{all}");
    }
    assert_eq!(all.lines().count(), changes.len(), "{all}");
    let broken = Config::parse("[host]\nadmin = \n[migrations\n", folder.path(), &[]).unwrap_err().to_string();
    assert!(broken.contains("line 2") && broken.contains("line 3"), "{broken}");
}

#[test]
fn a_policy_of_a_wrong_shape_is_explained() {
    let folder = TempDir::new().unwrap();
    for (value, words) in
        [("1", "bundle"), ("{ bundle = 'p', setings = {} }", "setings"), ("{ settings = {} }", "bundle")]
    {
        let message = refusal(folder.path(), &[("migrations.programs.policies.routing", value)], &[]).to_string();
        let said = message.lines().last().unwrap();
        assert!(said.contains(words) && !said.contains("untagged"), "{value}: {message}");
    }
}

#[test]
fn a_file_that_is_not_toml_or_not_there_is_named() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("cutover.toml");
    let missing = Config::load(&file).unwrap_err();
    assert!(missing.to_string().contains(&file.display().to_string()), "{missing}");
    assert!(std::error::Error::source(&missing).is_some_and(|why| why.to_string().contains("No such file")));
    std::fs::write(&file, "[host\nadmin = 1").unwrap();
    let broken = Config::load(&file).unwrap_err().to_string();
    assert!(broken.contains(&file.display().to_string()) && broken.contains("line 1"), "{broken}");
}

#[test]
fn all_problems_are_told_at_once() {
    let folder = TempDir::new().unwrap();
    let changes = [
        ("host.admin", "'nowhere'"),
        ("host.keep_metrics", "'1s'"),
        ("migrations.programs.failover_reserve", "120"),
        ("migrations.programs.deadline", "'soon'"),
        ("migrations.programs.operations.execute.key", "'id'"),
        ("migrations.programs.v1.mode", "'both'"),
        ("migrations.programs.v2.workers", "0"),
        ("migrations.programs.v2.command", "['no-such-program']"),
        ("migrations.programs.policies.stages", ""),
    ];
    let error = refusal(folder.path(), &changes, &[("PROGRAMS_SHADOWS", "true"), ("OTHER_SHADOW", "true")]);
    insta::assert_snapshot!(problems(error).join("\n"), @r"
    `host.admin` is `nowhere`; it must be an address and a port, such as `127.0.0.1:8080`
    `host.keep_metrics` is `1s`; it must be between 1m and 3650d
    `migrations.programs.failover_reserve` is a percentage; it must be between 0 and 99
    `migrations.programs.flags` are set wrongly by the environment: there is no flag `shadows`; the flags are pool_v2_enabled, gradual_rollout_percentage, shadow, auto_advance, auto_rollback, circuit_breaker, pool_optimizer
    `migrations.programs.operations.execute.key` and `removes` belong to the class `replicate`; remove them or change the class
    `migrations.programs.v1.mode` is `both`; it must be `serialized` or `concurrent`
    `migrations.programs.v2.workers` is 0; it must be between 1 and 1024
    `migrations.programs.v2.command` begins with `no-such-program`, which is not a program that can be found
    `migrations.programs.deadline` is `soon`; it must be a span of time, such as `1ms` or `5s`
    `migrations.programs.policies.stages` is missing; name a bundle, such as one of those in `policies/`
    `environment.CUTOVER_FLAG_OTHER_SHADOW` names no migration of this configuration
    ");
}
