//! What a restart with a configuration changes for migrations that are under way: held against what the store says they
//! ran by. People are told before it happens (`cutover check --against-store`), and when it has.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::policies::fingerprint;
use crate::{
    config::{MigrationConfig, PlaneConfig, bundle::Bundle},
    migration::{State, table::Table},
    policy::port::Kind,
    request::{Class, Ppm},
    store::{
        Store, StoreError,
        in_force::{InCharge, InForce},
    },
};

/// Something that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The migration.
    pub migration: String,
    /// `migration`, `salt`, `operations`, `stages` or `policy`.
    pub what: &'static str,
    /// Whether callers of V2 notice.
    pub moves_callers: bool,
    /// One sentence.
    pub message: String,
}

/// A migration as a configuration has it, as far as this is about it.
#[derive(Debug)]
pub(super) struct Configured<'a> {
    pub(super) name: &'a str,
    pub(super) in_force: InForce,
    pub(super) policies: &'a BTreeMap<Kind, Bundle>,
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
        Self { name: &config.name, in_force, policies: &config.policies }
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
            None => {}
        }
    }
    Ok(changes)
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
    use crate::{clock::UnixMs, policy::port::Phase, store::records::Decision};

    async fn at_half(folder: &TempDir) -> Store {
        let store = Store::open(&folder.path().join("test.db")).await.unwrap();
        let table =
            Table::of("standard-stages@0.1.0".into(), r#"{"stages":[{"share":"50%","soak":"6s"},{"share":"100%"}]}"#);
        let share = Ppm::new(500_000);
        let state = State { phase: Phase::Ramping, share, table: Some(table), ..State::new(UnixMs(1)) };
        let decision = Decision {
            id: 0,
            migration: "shop".into(),
            at: UnixMs(1),
            kind: "advance".into(),
            actor: "test".into(),
            reason: String::new(),
            from_phase: Phase::Shadow,
            to_phase: Phase::Ramping,
            from_share: Ppm::ZERO,
            to_share: share,
            policy: None,
            digest: None,
            findings: Vec::new(),
            inputs: None,
        };
        store.decide(&decision, &state, None).await.unwrap();
        store.put_in_force("shop", &ran_by("shop", Class::Read), UnixMs(1)).await.unwrap();
        store
    }

    fn ran_by(salt: &str, class: Class) -> InForce {
        InForce { salt: salt.into(), operations: BTreeMap::from([("get".into(), class)]) }
    }

    async fn told(store: &Store, name: &str, in_force: InForce) -> Vec<(&'static str, bool, String)> {
        let policies = BTreeMap::new();
        let changes = of(&[Configured { name, in_force, policies: &policies }], store).await.unwrap();
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

    #[test]
    fn settings_that_differ_are_named_those_of_scripts_too() {
        assert_eq!(differing(r#"{"a":1,"b":2}"#, r#"{"a":1,"c":2}"#), ["`b`", "`c`"]);
        assert_eq!(
            differing(r#"{"script":"x","settings":{"a":1}}"#, r#"{"script":"y","settings":{"a":2}}"#),
            ["`a`", "`script`"]
        );
    }
}
