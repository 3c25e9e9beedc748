//! Compares a new configuration with what the store says migrations under way ran by. People are told before a restart
//! changes it (`cutover check --against-store`), and when it has.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::{StartError, planes, policies::fingerprint};
use crate::{
    config::{MigrationConfig, PlaneConfig},
    host::Change,
};
use cutover_control::migration::flags::Flags;
use cutover_model::{
    port::{Kind, Phase},
    request::{Class, Ppm},
};
use cutover_policy_host::bundle::Bundle;
use cutover_store::{
    Store, StoreError,
    in_force::{InCharge, InForce},
    records::PoolConfiguration,
    state::{State, table::Table},
};

/// A migration as a configuration has it, as far as this is about it.
#[derive(Debug)]
pub(super) struct Configured<'a> {
    pub(super) name: &'a str,
    pub(super) in_force: InForce,
    pub(super) policies: &'a BTreeMap<Kind, Bundle>,
    /// The pools of V1 and of V2, in this order.
    pub(super) pools: [PoolConfiguration; 2],
    pub(super) is_v1_absent: bool,
    /// Flags that the environment sets.
    pub(super) flags: &'a BTreeMap<String, Value>,
}

impl<'a> From<&'a MigrationConfig> for Configured<'a> {
    fn from(config: &'a MigrationConfig) -> Self {
        let operations = match &config.plane {
            PlaneConfig::Operations(plane) => {
                plane.operations.iter().map(|(name, operation)| (name.to_string(), operation.class)).collect()
            }
            PlaneConfig::Http(plane) => plane.classes.iter().map(|(name, class)| (name.to_string(), *class)).collect(),
        };
        let in_force = InForce { salt: config.salt.clone(), operations };
        Self {
            name: &config.name,
            in_force,
            policies: &config.policies,
            pools: planes::configurations(&config.plane),
            is_v1_absent: config.plane.is_v1_absent(),
            flags: &config.flags,
        }
    }
}

/// What a restart with these migrations would change.
///
/// # Errors
/// When the store fails or what it has cannot be read.
pub async fn changes(migrations: &[MigrationConfig], store: &Store) -> Result<Vec<Change>, StoreError> {
    let configured: Vec<_> = migrations.iter().map(Configured::from).collect();
    of(&configured, store).await
}

pub(super) async fn of(configured: &[Configured<'_>], store: &Store) -> Result<Vec<Change>, StoreError> {
    let states = store.states().await?;
    let mut changes = Vec::new();
    let new: Vec<_> = configured.iter().map(|c| c.name).filter(|name| !states.contains_key(*name)).collect();
    for (name, state) in &states {
        match configured.iter().find(|c| c.name == name) {
            Some(configured) => of_one(configured, state, store, &mut changes).await?,
            None if state.share > Ppm::ZERO => changes.push(gone(name, state, &new)),
            None if matches!(state.phase, Phase::RolledBack | Phase::Paused) => {
                changes.push(forgotten(name, state, &new));
            }
            None => {}
        }
    }
    for configured in configured.iter().filter(|c| c.is_v1_absent && !states.contains_key(c.name)) {
        let (migration, message) = (configured.name.to_owned(), assumes(configured.name));
        changes.push(Change { migration, what: "v1-left-out", moves_callers: true, message });
    }
    Ok(changes)
}

/// What becomes of a migration whose V1 is left out, and of which the store knows nothing.
pub(super) fn assumes(name: &str) -> String {
    format!(
        "`migrations.{name}.v1` is left out, and the store does not know {name}: V2 serves everybody, as in `complete`; if it \
         was not complete, put V1 back into the configuration"
    )
}

/// Why a host with this store cannot start with migrations whose V1 is left out. A store that cannot be read says nothing.
pub(super) async fn needs_v1(store: &Path, absent: impl Iterator<Item = &str>) -> Option<StartError> {
    let mut absent = absent.peekable();
    absent.peek()?;
    let store = Store::open_to_read(store).await.ok()?;
    let states = store.states().await.unwrap_or_default();
    store.close().await;
    absent.find_map(|name| needs(name, states.get(name)?))
}

/// Why V1 cannot be left out.
pub(super) fn needs(name: &str, state: &State) -> Option<StartError> {
    let (phase, share) = (state.in_force(), state.share);
    (!state.is_done_with_v1()).then(|| StartError::NeedsV1 { migration: name.into(), phase, share })
}

/// A migration that was stopped by somebody and that the configuration does not have.
fn forgotten(name: &str, state: &State, new: &[&str]) -> Change {
    let why = state.because.as_ref().map(|because| format!(" ({because})")).unwrap_or_default();
    let renamed = match new {
        [new] => format!(
            "; if `{new}` is its new name: what was decided goes by the name, so `{new}` begins again at `preparing` and ramps. \
             Keep the name, or pause `{new}` as soon as it is in `shadow`"
        ),
        _ => "; a migration of another name begins again at `preparing` and ramps".into(),
    };
    let phase = state.phase;
    let message = format!("`{name}` is {phase}{why}, and the configuration has no such migration{renamed}");
    Change { migration: name.into(), what: "migration", moves_callers: true, message }
}

/// A migration that is under way and that the configuration does not have.
fn gone(name: &str, state: &State, new: &[&str]) -> Change {
    let renamed = match new {
        [new] => format!(
            "; if `{new}` is its new name: where it stands and who is on V2 go by the name, so `{new}` begins at 0% with \
             everybody on V1. Keep the name, or roll `{name}` back first"
        ),
        _ => "; roll it back before it is taken out of the configuration".into(),
    };
    let message = format!(
        "`{name}` is {} with {} on V2, and the configuration has no such migration: its sessions on V2 lose what only V2 \
         knows{renamed}",
        state.phase, state.share
    );
    Change { migration: name.into(), what: "migration", moves_callers: true, message }
}

async fn of_one(
    configured: &Configured<'_>,
    state: &State,
    store: &Store,
    changes: &mut Vec<Change>,
) -> Result<(), StoreError> {
    let name = configured.name;
    let mut change = |what, moves_callers, message| {
        changes.push(Change { migration: name.into(), what, moves_callers, message });
    };
    if let Some(before) = store.in_force(name).await? {
        if before.salt != configured.in_force.salt {
            change("salt", state.share > Ppm::ZERO, salt(&before.salt, &configured.in_force.salt, state));
        }
        let differences = operations(&before.operations, &configured.in_force.operations);
        if !differences.is_empty() {
            change("operations", false, format!("its operations change: {}", differences.join(", ")));
        }
    }
    if configured.is_v1_absent {
        if let Some(refused) = needs(name, state) {
            change("v1-left-out", true, format!("a host refuses to start with it: {refused}"));
        }
        let flags = Flags::new(configured.flags.clone(), store.flags(name).await?).ok();
        if let Some(most) = flags.map(|flags| flags.max_for_v2()).filter(|most| *most < Ppm::ALL) {
            change("flags", true, unheeded(most));
        }
    }
    let [v1, v2] = &configured.pools;
    let before = [store.pool_configuration(v1).await?, store.pool_configuration(v2).await?];
    if let Some(message) = sessions(before.first().and_then(Option::as_ref), &configured.pools[0].config) {
        change("sessions", state.share > Ppm::ZERO, message);
    }
    for (moves_callers, message) in pools(before, configured, state) {
        change("pools", moves_callers, message);
    }
    for (kind, bundle) in configured.policies {
        let before = store.in_charge(name, *kind).await?;
        let Some(before) = before.filter(|before| before.configured != fingerprint(bundle)) else { continue };
        let label = format!("{}@{}", bundle.name, bundle.version);
        change("policy", false, policy(*kind, &before, bundle, &label));
        if *kind == Kind::Stages {
            let known = state.table.clone().unwrap_or_else(|| Table::of(before.label.clone(), &before.settings));
            let table = Table::of(label, &bundle.settings);
            if table.stages != known.stages {
                change("stages", false, table.change(&State { table: Some(known), ..state.clone() }));
            }
        }
    }
    Ok(())
}

/// A warning that flags which keep callers from V2 have no effect, because there is no V1.
pub(super) fn unheeded(most: Ppm) -> String {
    format!(
        "the flags leave V2 no more than {most}, and V1 is left out of the configuration: V2 serves everybody all the same. Set \
         `gradual_rollout_percentage` to 100 and `pool_v2_enabled` to true, or put V1 back"
    )
}

/// A warning if sessions are told by another key: each then has another position; `None` if they are not.
fn sessions(before: Option<&Value>, now: &Value) -> Option<String> {
    let (before, now) = (before?.get("sessions")?, now.get("sessions")?);
    let text = |all: &Value| {
        let all = all.as_array().into_iter().flatten().filter_map(Value::as_str);
        Some(all.collect::<Vec<_>>().join(", ")).filter(|text| !text.is_empty()).unwrap_or_else(|| "nothing".into())
    };
    (before != now).then(|| {
        format!(
            "sessions are told by {}, and were by {}: V2 gets others than those that it has",
            text(now),
            text(before)
        )
    })
}

/// What becomes of who serves. `before` is what V1 and V2 were.
fn pools(before: [Option<Value>; 2], configured: &Configured<'_>, state: &State) -> Vec<(bool, String)> {
    let [v1, v2] = configured.pools.each_ref().map(|pool| members(&pool.config));
    let [was_v1, was_v2] = before.map(|config| config.as_ref().map(members).unwrap_or_default());
    // Where V1 was left out nothing is known of it.
    let was_v1 = if was_v1 == was_v2 { Vec::new() } else { was_v1 };
    let others = |now: &[String], was: &[String]| !was.is_empty() && !now.iter().any(|member| was.contains(member));
    let text = |members: &[String]| members.join(", ");
    let (phase, share) = (state.phase, state.share);
    let mut said = Vec::new();
    if !configured.is_v1_absent && others(&v1, &was_v1) {
        let swapped = others(&v1, &was_v1) && !was_v2.is_empty() && !others(&v1, &was_v2);
        let (now, was) = (text(&v1), text(&was_v1));
        said.push((true, if swapped {
            format!(
                "V1 is what V2 was ({now}; V1 was {was}), while it is {phase} with {share} on V2: who is on V1 gets what was on \
                 trial. To go the other way, give the migration another name"
            )
        } else {
            format!("V1 is another service than before: {now}, and was {was}; what is known of V1 is of the other one")
        }));
    }
    if others(&v2, &was_v2) {
        let (now, was) = (text(&v2), text(&was_v2));
        let swapped = !was_v1.is_empty() && !others(&v2, &was_v1);
        let which = if swapped { "what V1 was" } else { "another service than before" };
        said.push((
            share > Ppm::ZERO || swapped,
            format!("V2 is {which}: {now}, and was {was}; it gets {share} at once, and what was found of V2 is of the other one"),
        ));
    }
    said
}

/// What tells who serves in a pool: its upstreams, or what its workers are told besides the interpreter's name.
fn members(config: &Value) -> Vec<String> {
    let texts = |field: &str| {
        let all = config.get(field).and_then(Value::as_array).into_iter().flatten();
        all.filter_map(|text| text.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let (upstreams, mut command) = (texts("upstreams"), texts("command"));
    if !upstreams.is_empty() {
        return upstreams;
    }
    if command.len() > 1 {
        command.remove(0);
    }
    command
}

fn salt(before: &str, now: &str, state: &State) -> String {
    let changes = format!("the salt of its session hash is `{now}` and was `{before}`");
    let share = state.share;
    if share == Ppm::ZERO {
        return format!("{changes}; nobody is on V2 yet");
    }
    let moved = Ppm::new(Ppm::ALL.get().saturating_sub(share.get()));
    format!(
        "{changes}: who is on V2 is drawn anew, and about {moved} of the sessions that V2 serves now ({share} of all) get V1 \
         again. Set `salt = \"{before}\"` to keep them, or roll back first"
    )
}

const fn class(class: Class) -> &'static str {
    match class {
        Class::Read => "read",
        Class::Replicate => "replicate",
        Class::Exclusive => "exclusive",
    }
}

fn operations(before: &BTreeMap<String, Class>, now: &BTreeMap<String, Class>) -> Vec<String> {
    let said = now.iter().filter_map(|(name, now)| match before.get(name) {
        None => Some(format!("`{name}` is new ({})", class(*now))),
        Some(was) if was != now => Some(format!("`{name}` is {} and was {}", class(*now), class(*was))),
        Some(_) => None,
    });
    let gone = before.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("`{name}` is gone"));
    said.chain(gone).collect()
}

fn policy(kind: Kind, before: &InCharge, bundle: &Bundle, label: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let mut parts = Vec::new();
    if hex::encode(Sha256::digest(&bundle.component)) != before.digest {
        parts.push("its component is another".to_owned());
    }
    let fields = differing(&before.settings, &bundle.settings);
    if !fields.is_empty() {
        parts.push(format!("its settings differ in {}", fields.join(", ")));
    }
    let how = if parts.is_empty() { "with what it had".to_owned() } else { parts.join(", ") };
    format!("the {kind} policy {label} takes the place of {}: {how}; it begins without memory", before.label)
}

/// The settings that differ, by name.
fn differing(before: &str, now: &str) -> Vec<String> {
    let read = |text: &str| {
        let mut fields = serde_json::from_str::<BTreeMap<String, Value>>(text).unwrap_or_default();
        // A script's own settings are among those of its interpreter.
        if let Some(Value::Object(own)) = fields.remove("settings") {
            fields.extend(own);
        }
        fields
    };
    let (before, now) = (read(before), read(now));
    let names = before.keys().chain(now.keys()).collect::<std::collections::BTreeSet<_>>();
    names.into_iter().filter(|name| before.get(*name) != now.get(*name)).map(|name| format!("`{name}`")).collect()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use cutover_model::{clock::UnixMs, port::Phase};
    use cutover_store::records::Decision;

    async fn at_half(folder: &TempDir) -> Store {
        at(folder, Phase::Ramping, Ppm::new(500_000)).await
    }

    async fn at(folder: &TempDir, phase: Phase, share: Ppm) -> Store {
        let store = Store::open(&folder.path().join("test.db")).await.unwrap();
        let table =
            Table::of("standard-stages@0.1.0".into(), r#"{"stages":[{"share":"50%","soak":"6s"},{"share":"100%"}]}"#);
        let state = State { phase, share, table: Some(table), ..State::new(UnixMs(1)) };
        let decision = Decision {
            id: 0,
            migration: "shop".into(),
            at: UnixMs(1),
            kind: "advance".into(),
            actor: "test".into(),
            reason: String::new(),
            from_phase: Phase::Shadow,
            to_phase: phase,
            from_share: Ppm::ZERO,
            to_share: share,
            policy: None,
            digest: None,
            findings: Vec::new(),
            inputs: None,
        };
        store.decide(&decision, &state, None).await.unwrap();
        store.put_in_force("shop", &ran_by("shop", Class::Read), UnixMs(1)).await.unwrap();
        store.configure_pool(&upstreams("shop/v1", 1, "http://one")).await.unwrap();
        store.configure_pool(&upstreams("shop/v2", 2, "http://two")).await.unwrap();
        store
    }

    fn ran_by(salt: &str, class: Class) -> InForce {
        InForce { salt: salt.into(), operations: BTreeMap::from([("get".into(), class)]) }
    }

    async fn told(store: &Store, name: &str, in_force: InForce) -> Vec<(&'static str, bool, String)> {
        let (v1, v2) = (upstreams("shop/v1", 1, "http://one"), upstreams("shop/v2", 2, "http://two"));
        told_of(store, name, in_force, [v1, v2], false).await
    }

    fn upstreams(name: &str, version: u32, url: &str) -> PoolConfiguration {
        PoolConfiguration { name: name.into(), version, config: serde_json::json!({ "upstreams": [url] }) }
    }

    async fn told_of(
        store: &Store,
        name: &str,
        in_force: InForce,
        pools: [PoolConfiguration; 2],
        is_v1_absent: bool,
    ) -> Vec<(&'static str, bool, String)> {
        let (policies, flags) = (BTreeMap::new(), BTreeMap::new());
        let configured = Configured { name, in_force, policies: &policies, pools, is_v1_absent, flags: &flags };
        let changes = of(&[configured], store).await.unwrap();
        changes.into_iter().map(|c| (c.what, c.moves_callers, c.message)).collect()
    }

    #[tokio::test]
    async fn the_same_configuration_changes_nothing() {
        let folder = TempDir::new().unwrap();
        let store = at_half(&folder).await;
        assert_eq!(told(&store, "shop", ran_by("shop", Class::Read)).await, []);
    }

    #[tokio::test]
    async fn another_salt_or_class_and_another_name_are_told_with_what_they_do() {
        let folder = TempDir::new().unwrap();
        let store = at_half(&folder).await;
        let changes = told(&store, "shop", ran_by("other", Class::Exclusive)).await;
        let [(salt, true, drawn), (operations, false, classes)] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!((*salt, *operations), ("salt", "operations"));
        assert!(drawn.contains("about 50% of the sessions that V2 serves now (50% of all) get V1 again"), "{drawn}");
        assert!(drawn.contains("Set `salt = \"shop\"`"), "{drawn}");
        assert_eq!(classes, "its operations change: `get` is exclusive and was read");
        let changes = told(&store, "store", ran_by("store", Class::Read)).await;
        let [("migration", true, renamed)] = &changes[..] else { panic!("{changes:?}") };
        assert!(renamed.contains("`shop` is ramping with 50% on V2") && renamed.contains("if `store` is its new name"));
    }

    #[tokio::test]
    async fn sessions_that_are_told_by_something_else_are_told() {
        let folder = TempDir::new().unwrap();
        let store = at_half(&folder).await;
        let pools = |sessions: &[&str]| {
            ["v1", "v2"].map(|id| {
                let (number, url) = if id == "v1" { (1, "http://one") } else { (2, "http://two") };
                let mut pool = upstreams(&format!("shop/{id}"), number, url);
                pool.config["sessions"] = sessions.into();
                pool
            })
        };
        // What a host before did not keep is not known to have changed.
        let told = |pools| told_of(&store, "shop", ran_by("shop", Class::Read), pools, false);
        assert_eq!(told(pools(&["cookie:sid"])).await, []);
        for pool in pools(&["cookie:sid"]) {
            store.configure_pool(&pool).await.unwrap();
        }
        assert_eq!(told(pools(&["cookie:sid"])).await, []);
        let changes = told(pools(&["the host's cookie `route`", "cookie:sid"])).await;
        let [("sessions", true, message)] = &changes[..] else { panic!("{changes:?}") };
        assert!(
            message.starts_with("sessions are told by the host's cookie `route`, cookie:sid, and were by cookie:sid")
        );
    }

    #[tokio::test]
    async fn what_was_rolled_back_and_gets_another_name_begins_again_which_is_told() {
        let folder = TempDir::new().unwrap();
        let store = at(&folder, Phase::RolledBack, Ppm::ZERO).await;
        let changes = told(&store, "store", ran_by("store", Class::Read)).await;
        let [("migration", true, renamed)] = &changes[..] else { panic!("{changes:?}") };
        assert!(renamed.contains("`shop` is rolled-back") && renamed.contains("so `store` begins again"), "{renamed}");
    }

    #[tokio::test]
    async fn pools_that_are_swapped_or_replaced_are_told_in_any_phase() {
        for (phase, share) in [(Phase::Shadow, Ppm::ZERO), (Phase::RolledBack, Ppm::ZERO), (Phase::Complete, Ppm::ALL)]
        {
            let folder = TempDir::new().unwrap();
            let store = at(&folder, phase, share).await;
            let told = async |one: &str, two: &str| {
                let pools = [upstreams("shop/v1", 1, one), upstreams("shop/v2", 2, two)];
                told_of(&store, "shop", ran_by("shop", Class::Read), pools, false).await
            };
            assert_eq!(told("http://one", "http://two").await, []);
            let swapped = told("http://two", "http://one").await;
            let [("pools", true, v1), ("pools", true, v2)] = &swapped[..] else { panic!("{swapped:?}") };
            assert!(v1.starts_with("V1 is what V2 was (http://two; V1 was http://one)"), "{v1}");
            assert!(v2.starts_with("V2 is what V1 was"), "{v2}");
            let other = told("http://three", "http://two").await;
            let [("pools", true, v1)] = &other[..] else { panic!("{other:?}") };
            assert!(v1.starts_with("V1 is another service than before: http://three, and was http://one"), "{v1}");
            let other = told("http://one", "http://three").await;
            let [("pools", moves, _)] = &other[..] else { panic!("{other:?}") };
            assert_eq!(*moves, share > Ppm::ZERO);
        }
    }

    #[tokio::test]
    async fn a_v1_that_is_left_out_too_early_is_told_and_so_is_one_of_which_nothing_is_known() {
        let folder = TempDir::new().unwrap();
        let store = at_half(&folder).await;
        let pools = || [upstreams("shop/v1", 1, "http://two"), upstreams("shop/v2", 2, "http://two")];
        let changes = told_of(&store, "shop", ran_by("shop", Class::Read), pools(), true).await;
        let [("v1-left-out", true, refused)] = &changes[..] else { panic!("{changes:?}") };
        assert!(refused.contains("refuses to start") && refused.contains("ramping with 50% on V2"), "{refused}");
        let empty = Store::open(&folder.path().join("empty.db")).await.unwrap();
        let changes = told_of(&empty, "shop", ran_by("shop", Class::Read), pools(), true).await;
        let [("v1-left-out", true, assumed)] = &changes[..] else { panic!("{changes:?}") };
        assert!(assumed.contains("V2 serves everybody"), "{assumed}");
    }

    #[tokio::test]
    async fn flags_that_keep_callers_from_v2_count_for_nothing_without_v1_which_is_told() {
        let folder = TempDir::new().unwrap();
        let store = at(&folder, Phase::Complete, Ppm::ALL).await;
        let audited = cutover_store::records::Audited {
            at: UnixMs(1),
            actor: "test".into(),
            migration: "shop".into(),
            action: "set-flag".into(),
            detail: Value::Null,
        };
        store.set_flag("gradual_rollout_percentage", &3.into(), &audited).await.unwrap();
        let pools = [upstreams("shop/v1", 1, "http://two"), upstreams("shop/v2", 2, "http://two")];
        let changes = told_of(&store, "shop", ran_by("shop", Class::Read), pools, true).await;
        let [("flags", true, unheeded)] = &changes[..] else { panic!("{changes:?}") };
        assert!(unheeded.contains("leave V2 no more than 3%"), "{unheeded}");
    }

    #[test]
    fn settings_that_differ_are_named_those_of_scripts_too() {
        assert_eq!(differing(r#"{"a":1,"b":2}"#, r#"{"a":1,"c":2}"#), ["`b`", "`c`"]);
        assert_eq!(
            differing(r#"{"script":"x","settings":{"a":1}}"#, r#"{"script":"y","settings":{"a":2}}"#),
            ["`a`", "`script`"]
        );
    }
}
