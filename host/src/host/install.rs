//! Puts policies into their slots: reads and admits them off every hot path, then asks the migration's controller.
//!
//! Reading and admitting are done on threads that nothing else needs: a disk that hangs, or a policy that keeps the
//! compiler busy, holds up no order and no judge.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value};

use super::{Host, Migration};
use cutover_control::{
    migration::{
        CommandKind, CommandReply, Declined, Install,
        handle::{AdmittedPolicy, Changed, Code},
    },
    registry::{FindError, Offer, PushError},
};
use cutover_model::{causes::chain, port::Kind};
use cutover_policy_host::{
    PolicyError,
    admission::admit_with,
    blocking::{Blocking, BlockingError},
    bundle::{
        Bundle,
        files::{FileError, Folder},
    },
    candidate::Rule,
    engine::Limits,
    installed::{InstalledPolicy, Title},
    release::{Manifest, Settings},
    trust::Refused,
};

/// Threads that read bundles, how long one may wait for a thread, and how long reading may take.
const READERS: (usize, Duration, Duration) = (4, Duration::from_secs(2), Duration::from_secs(10));

/// Threads that admit policies, and how long one may wait for one: a push may take as long.
const ADMITTERS: (usize, Duration) = (4, Duration::from_secs(30));

/// What admitting takes beyond compiling, and waiting for other compilations.
const ADMITTING: Duration = Duration::from_mins(2);

/// The threads on which policies are read and admitted.
#[derive(Debug, Clone)]
pub struct Desk {
    /// Threads that read bundles.
    pub reading: Blocking,
    /// Threads that compile policies and try them out.
    pub admitting: Blocking,
}

impl Desk {
    /// A desk with bounds of its own on threads, and on the time that they may take.
    pub fn new(limits: &Limits) -> Self {
        let (readers, turn, limit) = READERS;
        let reading = Blocking::new("reading a bundle", readers, turn, limit);
        let (admitters, turn) = ADMITTERS;
        let admitting = Blocking::new("admitting a policy", admitters, turn, limits.compile_time + ADMITTING);
        Self { reading, admitting }
    }
}

/// Why a policy was not put anywhere.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    /// Requests may not name bundles there.
    #[error(
        "the bundle `{folder}` is in none of the folders that requests may name bundles in ({allowed}); add its folder to \
         `host.policy_folders`, or push it to the registry with `cutover policy push` and name the release"
    )]
    Folder {
        /// The folder that the request names.
        folder: String,
        /// The folders that are allowed, as a list.
        allowed: String,
    },
    /// The bundle cannot be read.
    #[error("the request {0}")]
    Bundle(String),
    /// There is no such release.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The registry does not take it.
    #[error("{shown}")]
    Push {
        shown: String,
        #[source]
        source: Box<PushError>,
    },
    /// Those that the host trusts do not vouch for it.
    #[error("{shown} {refused}")]
    Untrusted { shown: String, refused: Refused },
    /// It is of another kind.
    #[error("{shown} is a {kind} policy, not {wanted}")]
    Kind {
        shown: String,
        /// The kind that it has.
        kind: Kind,
        /// What was asked for.
        wanted: Kind,
    },
    /// The settings have what JSON has not.
    #[error("the settings cannot be said in JSON")]
    Settings,
    /// It is not admitted.
    #[error("the policy of {shown} {error}")]
    Policy { shown: String, error: PolicyError },
    /// No thread had time.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

impl From<InstallError> for Declined {
    fn from(error: InstallError) -> Self {
        let code = match &error {
            InstallError::Folder { .. } => Code::Folder,
            InstallError::Blocking(_) => Code::Busy,
            InstallError::Push { source, .. } if matches!(**source, PushError::Blocking(_)) => Code::Busy,
            InstallError::Push { source, .. } if matches!(**source, PushError::Store(_)) => Code::NotRecorded,
            InstallError::Bundle(_) => Code::Policy("bundle"),
            InstallError::Find(FindError::Unknown { .. } | FindError::Ambiguous { .. }) => Code::UnknownPolicy,
            InstallError::Find(FindError::Store(_)) => Code::NotRecorded,
            InstallError::Find(_) => Code::Policy("unknown-policy"),
            InstallError::Push { source, .. } => Code::Policy(source.cause()),
            InstallError::Untrusted { refused, .. } => Code::Policy(refused.cause()),
            InstallError::Kind { .. } => Code::Policy("kind"),
            InstallError::Settings => Code::Policy("settings"),
            InstallError::Policy { error, .. } => Code::Policy(error.cause()),
        };
        Self::new(code, chain(&error))
    }
}

/// The person who gives an order, and the reason, as they go on record.
#[expect(missing_docs, reason = "the names and types of the fields say what they are")]
#[derive(Debug, Clone, Copy)]
pub struct Attribution<'a> {
    pub actor: &'a str,
    pub reason: &'a str,
}

/// Which policy, with which settings.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// The folder or the release that it comes from.
    pub source: Source<'a>,
    /// Laid over the settings in force, if the policy in charge has the same name.
    pub settings: &'a toml::Table,
    /// Laid over the policy's own in any case.
    pub from_defaults: bool,
}

/// Where a policy is.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// In the folder of a bundle, on this machine.
    Bundle(&'a Path),
    /// In the registry: `NAME@VERSION`, `NAME` or a digest.
    Release(&'a str),
}

/// A policy that was found and that the host trusts.
struct Found {
    shown: String,
    kind: Kind,
    title: Title,
    component: Vec<u8>,
    /// The settings of the policy itself, before any are laid over them.
    own: Settings,
    wasi_stub: bool,
}

impl Host {
    /// Puts a policy in charge of its kind, which must be `kind` if that is given. The hot path does not notice.
    ///
    /// # Errors
    /// Why not, as a sentence.
    pub async fn activate(
        &self,
        migration: &str,
        kind: Option<Kind>,
        choice: Choice<'_>,
        order: Attribution<'_>,
    ) -> Result<CommandReply, Declined> {
        let found = self.find(migration)?;
        let admitted = self.admitted(found, kind, choice, order).await?;
        self.put_in_place(found, Install::Activate(admitted), order).await
    }

    /// Lets a policy run beside the one in charge.
    ///
    /// # Errors
    /// Why not, as a sentence.
    pub async fn stand_by(
        &self,
        migration: &str,
        kind: Option<Kind>,
        choice: Choice<'_>,
        rule: Rule,
        order: Attribution<'_>,
    ) -> Result<CommandReply, Declined> {
        let found = self.find(migration)?;
        let admitted = self.admitted(found, kind, choice, order).await?;
        self.put_in_place(found, Install::Candidate(admitted, rule), order).await
    }

    /// Puts the candidate in charge, sends it away, or goes back to the previous policy.
    ///
    /// # Errors
    /// Why not, as a sentence.
    pub async fn install(
        &self,
        migration: &str,
        what: Install,
        order: Attribution<'_>,
    ) -> Result<CommandReply, Declined> {
        self.put_in_place(self.find(migration)?, what, order).await
    }

    async fn put_in_place(
        &self,
        found: &Migration,
        what: Install,
        order: Attribution<'_>,
    ) -> Result<CommandReply, Declined> {
        found.handle.ask(CommandKind::Install(Box::new(what)), order.actor, order.reason).await
    }

    fn find(&self, migration: &str) -> Result<&Migration, Declined> {
        let unknown = || Declined::new(Code::NotFound, format!("there is no migration `{migration}`"));
        self.migrations.get(migration).ok_or_else(unknown)
    }

    /// Finds a policy and admits it.
    async fn admitted(
        &self,
        of: &Migration,
        wanted: Option<Kind>,
        choice: Choice<'_>,
        order: Attribution<'_>,
    ) -> Result<AdmittedPolicy, InstallError> {
        let found = match choice.source {
            Source::Bundle(folder) => self.bundle(folder, order).await?,
            Source::Release(reference) => self.release(reference).await?,
        };
        let Found { shown, kind, title, component, own, wasi_stub } = found;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != kind) {
            return Err(InstallError::Kind { shown, kind, wanted });
        }
        let Ok(Value::Object(overrides)) = serde_json::to_value(choice.settings) else {
            return Err(InstallError::Settings);
        };
        let in_force = of.slots.get(kind).installed().filter(|installed| installed.title.name == title.name);
        let in_force = in_force.map(|installed| values(installed.policy.settings(), own.script.is_some()));
        // Whoever changes one setting means the others to stay as they are.
        let base = in_force.clone().filter(|_| !overrides.is_empty() && !choice.from_defaults);
        let settings = own.with(base.unwrap_or_default()).with(overrides);
        let changed = in_force.map_or_else(Vec::new, |before| differences(&before, &settings.values));
        let settings = settings.json(kind);
        let engine = Arc::clone(&self.engine);
        let admit = move || (admit_with(&engine, kind, &component, &settings, wasi_stub), component);
        let (policy, component) = self.desk.admitting.run(admit).await?;
        let policy = Arc::new(policy.map_err(|error| InstallError::Policy { shown, error })?);
        let configured = of.configured.get(&kind).cloned().unwrap_or_default();
        Ok(AdmittedPolicy { installed: InstalledPolicy { policy, title, wasi_stub }, component, configured, changed })
    }

    async fn bundle(&self, folder: &Path, order: Attribution<'_>) -> Result<Found, InstallError> {
        let bundle = self.read(folder).await?;
        let shown = format!("the bundle `{}`", bundle.folder.display());
        if self.registry.trust.is_required() {
            // What is vouched for is known from then on, so that it may run again after a restart.
            let offer = Offer::bundled(bundle.clone(), order.actor, order.reason);
            let pushed = self.registry.push(offer, order.actor).await;
            pushed.map_err(|source| InstallError::Push { shown: shown.clone(), source: source.into() })?;
        }
        Ok(Found {
            shown,
            kind: bundle.kind,
            title: Title { name: bundle.name, version: bundle.version },
            component: bundle.component,
            own: bundle.own,
            wasi_stub: bundle.wasi_stub,
        })
    }

    /// Reads a bundle from one of the folders that requests may name.
    async fn read(&self, folder: &Path) -> Result<Bundle, InstallError> {
        let (wanted, allowed) = (folder.to_owned(), Arc::clone(&self.policy_folders));
        let (components, component_bytes) = (self.components.clone(), self.engine.limits().component_bytes);
        let read = move || {
            let unreadable = |e: &FileError| {
                InstallError::Bundle(format!("names the bundle `{}`, whose policy.toml {e}", shown(&wanted)))
            };
            let opened = match within(&wanted, &allowed) {
                Some((root, below)) => Folder::open(root).and_then(|root| root.below(below)),
                None => return Err(not_allowed(&wanted, &allowed)),
            };
            let opened = opened.map_err(|e| unreadable(&e))?;
            Bundle::read_in(&opened, &components, &toml::Table::new(), component_bytes).map_err(InstallError::Bundle)
        };
        self.desk.reading.run(read).await?
    }

    async fn release(&self, reference: &str) -> Result<Found, InstallError> {
        let (release, component) = self.registry.find(reference).await?;
        let shown = format!("the release `{}`", release.manifest.label());
        // The keys may have changed since it was pushed.
        let verified = self.registry.trust.verify(&release);
        verified.map_err(|refused| InstallError::Untrusted { shown: shown.clone(), refused })?;
        let own = release.manifest.settings();
        let Manifest { name, version, kind, wasi_stub, .. } = release.manifest;
        Ok(Found { shown, kind, title: Title { name, version }, component, own, wasi_stub })
    }
}

/// The folder that a bundle is in, of those that are allowed, and the rest of its path.
fn within<'a>(wanted: &'a Path, allowed: &'a [PathBuf]) -> Option<(&'a Path, &'a Path)> {
    allowed.iter().find_map(|root| Some((root.as_path(), wanted.strip_prefix(root).ok()?)))
}

fn not_allowed(wanted: &Path, allowed: &[PathBuf]) -> InstallError {
    let allowed: Vec<_> = allowed.iter().map(|folder| format!("`{}`", folder.display())).collect();
    InstallError::Folder { folder: shown(wanted), allowed: allowed.join(", ") }
}

fn shown(path: &Path) -> String {
    cutover_policy_host::error::said(&path.display().to_string())
}

/// The settings of a policy in charge, as people write them: a script's own are among those of its interpreter.
fn values(settings: &str, is_script: bool) -> Map<String, Value> {
    let mut all = serde_json::from_str::<Map<String, Value>>(settings).unwrap_or_default();
    match all.remove("settings") {
        Some(Value::Object(own)) if is_script => own,
        Some(other) => {
            all.insert("settings".into(), other);
            all
        }
        None => all,
    }
}

/// What some settings have otherwise than others, by path.
fn differences(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<Changed> {
    let mut all = Vec::new();
    compare("", before, now, &mut all);
    all
}

fn compare(path: &str, before: &Map<String, Value>, now: &Map<String, Value>, all: &mut Vec<Changed>) {
    let mut names: Vec<_> = before.keys().chain(now.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let setting = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (before.get(name), now.get(name)) {
            (Some(Value::Object(before)), Some(Value::Object(now))) => compare(&setting, before, now, all),
            (from, to) if from == to => {}
            (from, to) => all.push(Changed {
                setting,
                from: from.cloned().unwrap_or_default(),
                to: to.cloned().unwrap_or_default(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_that_differ_are_named_by_their_path() {
        let map = |value: Value| value.as_object().cloned().unwrap();
        let before = map(json!({ "a": 1, "shadow": { "soak": "1m", "min": 2 }, "gone": true }));
        let now = map(json!({ "a": 1, "shadow": { "soak": "2m", "min": 2 }, "new": [1] }));
        let changed: Vec<_> = differences(&before, &now).into_iter().map(|c| (c.setting, c.from, c.to)).collect();
        let expected = [
            ("gone".to_owned(), json!(true), json!(null)),
            ("new".into(), json!(null), json!([1])),
            ("shadow.soak".into(), json!("1m"), json!("2m")),
        ];
        assert_eq!(changed, expected);
    }

    #[test]
    fn the_settings_of_a_script_are_its_own() {
        let script = r#"{"script":"..","kind":"stages","settings":{"a":1}}"#;
        assert_eq!(Value::from(values(script, true)), json!({ "a": 1 }));
        assert_eq!(
            Value::from(values(r#"{"settings":{"a":1},"b":2}"#, false)),
            json!({ "settings": { "a": 1 }, "b": 2 })
        );
    }

    #[test]
    fn only_what_is_below_an_allowed_folder_is_within() {
        let allowed = [PathBuf::from("/srv/policies"), PathBuf::from("/etc/cutover/judge")];
        let within =
            |wanted: &'static str| within(Path::new(wanted), &allowed).map(|(_, below)| below.display().to_string());
        assert_eq!(within("/srv/policies/a/b").as_deref(), Some("a/b"));
        assert_eq!(
            within("/srv/policies/../../etc").as_deref(),
            Some("../../etc"),
            "which is refused when it is opened"
        );
        assert_eq!(within("/etc/cutover/judge").as_deref(), Some(""));
        for outside in ["/srv/policies-of-others/a", "/srv", "/etc/cutover", "policies/a", "/", ""] {
            assert_eq!(within(outside), None, "{outside}");
        }
    }
}
