//! Policy bundles: a folder with a `policy.toml` that names a kind, a component and settings.
//!
//! A bundle with a `script` is a script for the interpreter that its `guest` is: the interpreter gets
//! `{"script": TEXT, "kind": KIND, "settings": {..}}` as its settings. [`files`] says what is read of a folder that
//! strangers laid out.

pub mod files;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use self::files::{FileError, Folder};
use crate::{
    check,
    dsse::Envelope,
    release::{MAX_ENVELOPE, Manifest as Released, Settings, check_name, check_version},
};
use cutover_model::port::Kind;

/// The most bytes of a `policy.toml`, and of a script: several times what any registry takes.
pub const MAX_TEXT: usize = 1 << 20;

/// The most bytes of a component that is read where no limit of a host is known: the most that one can be configured to take.
pub const MAX_COMPONENT: usize = 256 << 20;

/// A bundle that was read: everything that is needed to admit its policy.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The folder that has `policy.toml`.
    pub folder: PathBuf,
    /// The policy's name in `policy.toml`.
    pub name: String,
    /// The policy's version in `policy.toml` (Semantic Versioning).
    pub version: String,
    /// The kind of policy.
    pub kind: Kind,
    /// Its settings as JSON, as its component takes them, with what was laid over them.
    pub settings: String,
    /// Its own settings, without that, and its script: what is signed and published.
    pub own: Settings,
    /// Who vouches for it: `policy.sig.json` beside its `policy.toml`, as `cutover policy sign` writes it.
    pub envelope: Option<Envelope>,
    /// Whether its component may import the closed, deterministic stand-in for WASI.
    pub wasi_stub: bool,
    /// The rules of the findings that it may give, for the coverage of its tests.
    pub findings: Vec<String>,
    /// The file that the component was read from.
    pub file: PathBuf,
    /// The bytes of the component.
    pub component: Vec<u8>,
}

/// `policy.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The bundle's name, 1 to 64 characters of `a-z 0-9 -`.
    pub name: String,
    /// Its version, a semantic version without build metadata.
    pub version: String,
    kind: String,
    /// The guest that is its component, by name.
    pub guest: Option<String>,
    /// Its component, as a file.
    pub component: Option<PathBuf>,
    /// Its script, as a file, if its guest is an interpreter.
    pub script: Option<PathBuf>,
    #[serde(default)]
    wasi_stub: bool,
    #[serde(default)]
    findings: Vec<String>,
    /// What `cutover policy bench` holds it to.
    #[serde(default)]
    pub budget: Budget,
    #[serde(default)]
    settings: toml::Table,
}

/// `[budget]` of a `policy.toml`: what a question to it may cost, as people write it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// The most units of fuel for one call; `None` for the host's limit.
    pub max_fuel: Option<u64>,
    /// The 99th percentile of its time, such as `5us`.
    pub max_p99: Option<String>,
    /// Linear memory, such as `2MiB`.
    pub max_memory: Option<String>,
}

impl Manifest {
    /// Reads the `policy.toml` of a bundle, whether its component is built or not.
    ///
    /// # Errors
    /// What is wrong, as a sentence that begins after the bundle's path.
    pub fn read(folder: &Path) -> Result<Self, String> {
        Self::read_in(&open(folder)?)
    }

    fn read_in(folder: &Folder) -> Result<Self, String> {
        let text = folder.text(Path::new(MANIFEST), MAX_TEXT);
        let folder = folder.path();
        let text = text.map_err(|e| format!("names the bundle `{}`, whose {MANIFEST} {e}", folder.display()))?;
        let manifest: Self = toml::from_str(&text).map_err(|e| {
            let message = check::text(e.to_string());
            wrong(folder, &format!("is not one: {}", message.trim_end()))
        })?;
        // What the registry takes, so that nobody finds out when it is pushed.
        let field = |field, value: &str, why: String| {
            let value = crate::error::said(value);
            wrong(folder, &format!("has a wrong `{field}`: `{value}` {why}"))
        };
        check_name(&manifest.name).map_err(|why| field("name", &manifest.name, why))?;
        check_version(&manifest.version).map_err(|why| field("version", &manifest.version, why))?;
        Ok(manifest)
    }

    /// The kind of policy.
    ///
    /// # Errors
    /// What is wrong, as a sentence that begins after the bundle's path.
    pub fn kind(&self, folder: &Path) -> Result<Kind, String> {
        self.kind.parse().map_err(|e| wrong(folder, &format!("has a wrong `kind`: {e}")))
    }

    /// The component's file. `components` is where guests that are named are found.
    ///
    /// # Errors
    /// What is wrong, as a sentence that begins after the bundle's path.
    pub fn file(&self, folder: &Path, components: &Path) -> Result<PathBuf, String> {
        match (&self.guest, &self.component) {
            (Some(guest), None) if !is_guest(guest) => {
                let guest = crate::error::said(guest);
                Err(wrong(
                    folder,
                    &format!("has a wrong `guest`: `{guest}` is not 1 to 64 characters of `a-z A-Z 0-9 - _`"),
                ))
            }
            (Some(guest), None) => Ok(components.join(format!("{guest}.wasm"))),
            (None, Some(component)) => Ok(folder.join(component)),
            _ => Err(wrong(folder, "must have one of `guest` and `component`")),
        }
    }

    /// How to get a component that is missing.
    fn mend(&self, folder: &Path) -> String {
        if self.guest.is_some() {
            let variable = cutover_model::environment::COMPONENTS;
            return format!("build the guests with `cargo xtask guests`, or say where they are with `{variable}`");
        }
        format!("build it with `cutover policy build {}`", folder.display())
    }
}

/// A guest is a name and never a path.
fn is_guest(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// The file that makes a folder a bundle.
const MANIFEST: &str = "policy.toml";

fn open(folder: &Path) -> Result<Folder, String> {
    let unreadable = |e| format!("names the bundle `{}`, whose {MANIFEST} {e}", folder.display());
    Folder::open(folder).map_err(unreadable)
}

fn wrong(folder: &Path, what: &str) -> String {
    format!("names the bundle `{}`, whose {MANIFEST} {what}", folder.display())
}

impl Bundle {
    /// Reads a bundle. `components` is where guests that are named are found; `overrides` are laid over its settings.
    ///
    /// # Errors
    /// What is wrong, and where, as a sentence that begins after the bundle's path.
    pub fn read(folder: &Path, components: &Path, overrides: &toml::Table) -> Result<Self, String> {
        Self::read_in(&open(folder)?, components, overrides, MAX_COMPONENT)
    }

    /// The same of a folder that is open, and of a component of so many bytes at most.
    ///
    /// # Errors
    /// What is wrong, and where, as a sentence that begins after the bundle's path.
    pub fn read_in(
        opened: &Folder,
        components: &Path,
        overrides: &toml::Table,
        component_bytes: usize,
    ) -> Result<Self, String> {
        let folder = opened.path();
        let manifest = Manifest::read_in(opened)?;
        let wrong = |what: String| wrong(folder, &what);
        let kind = manifest.kind(folder)?;
        let file = manifest.file(folder, components)?;
        let component = match &manifest.component {
            // The component of the bundle is below its folder; guests are the host's.
            Some(component) => opened.read(component, component_bytes),
            None => files::read(&file, component_bytes),
        };
        let component = component.map_err(|e| {
            let mend = if let FileError::TooLarge { .. } = &e {
                "; raise `host.policy_limits.component_bytes` or shrink it".to_owned()
            } else if e.is_missing() {
                format!("; {}", manifest.mend(folder))
            } else {
                String::new()
            };
            wrong(format!("needs the component `{}`, which {e}{mend}", file.display()))
        })?;
        let unread =
            |file: &Path, e: FileError| wrong(format!("needs the script `{}`, which {e}", folder.join(file).display()));
        let script = manifest.script.as_deref().map(|file| opened.text(file, MAX_TEXT).map_err(|e| unread(file, e)));
        let script = script.transpose()?;
        let own = Settings { values: json(manifest.settings)?, script };
        Ok(Self {
            folder: folder.to_owned(),
            name: manifest.name,
            version: manifest.version,
            wasi_stub: manifest.wasi_stub,
            findings: manifest.findings,
            kind,
            settings: own.clone().with(json(overrides.clone())?).json(kind),
            own,
            envelope: envelope(opened)?,
            file,
            component,
        })
    }

    /// What the bundle claims to be, for whoever is to vouch for it; what only the compiled policy can say is empty.
    pub fn claimed(&self) -> Released {
        Released {
            name: self.name.clone(),
            version: self.version.clone(),
            kind: self.kind,
            component_sha256: hex::encode(Sha256::digest(&self.component)),
            contract: String::new(),
            settings_schema_sha256: String::new(),
            settings: self.own.values.clone(),
            script: self.own.script.clone(),
            wasi_stub: self.wasi_stub,
        }
    }
}

/// The file beside a `policy.toml` with the signatures of its bundle.
pub const SIGNATURES: &str = "policy.sig.json";

fn envelope(folder: &Folder) -> Result<Option<Envelope>, String> {
    let wrong = |what: String| format!("names the bundle `{}`, whose {SIGNATURES} {what}", folder.path().display());
    match folder.read(Path::new(SIGNATURES), MAX_ENVELOPE) {
        Ok(bytes) => {
            let read = serde_json::from_slice::<Envelope>(&bytes).map(Some);
            read.map_err(|e| wrong(format!("is not one: {}", crate::error::said(&e.to_string()))))
        }
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn json(table: toml::Table) -> Result<Map<String, Value>, String> {
    match serde_json::to_value(table) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("has settings that are not a table".into()),
        Err(error) => Err(format!("has settings that JSON cannot say: {error}")),
    }
}
