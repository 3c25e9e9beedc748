//! Policy bundles: a folder with a `policy.toml` that names a kind, a component and settings.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::policy::port::Kind;

/// A bundle that was read: everything that is needed to admit its policy.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The folder.
    pub folder: PathBuf,
    /// Its name.
    pub name: String,
    /// The kind of policy.
    pub kind: Kind,
    /// Its settings as JSON.
    pub settings: String,
    /// The component's file.
    pub file: PathBuf,
    /// The component.
    pub component: Vec<u8>,
}

/// `policy.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    #[serde(rename = "version")]
    _version: String,
    kind: String,
    guest: Option<String>,
    component: Option<PathBuf>,
    #[serde(default)]
    settings: toml::Table,
}

impl Bundle {
    /// Reads a bundle. `components` is where guests that are named are found; `overrides` are laid over its settings.
    ///
    /// # Errors
    /// What is wrong, and where, as a sentence that begins after the bundle's path.
    pub fn read(folder: &Path, components: &Path, overrides: &toml::Table) -> Result<Self, String> {
        let manifest = folder.join("policy.toml");
        let text = std::fs::read_to_string(&manifest)
            .map_err(|e| format!("names the bundle `{}`, whose policy.toml cannot be read: {e}", folder.display()))?;
        let wrong = |what: String| format!("names the bundle `{}`, whose policy.toml {what}", folder.display());
        let manifest: Manifest =
            toml::from_str(&text).map_err(|e| wrong(format!("is not one: {}", e.to_string().trim_end())))?;
        let kind: Kind = manifest.kind.parse().map_err(|e| wrong(format!("has a wrong `kind`: {e}")))?;
        let file = match (&manifest.guest, &manifest.component) {
            (Some(guest), None) => components.join(format!("{guest}.wasm")),
            (None, Some(component)) => folder.join(component),
            _ => return Err(wrong("must have one of `guest` and `component`".into())),
        };
        let component = std::fs::read(&file).map_err(|e| {
            wrong(format!(
                "needs the component `{}`, which cannot be read: {e}; build the guests with `cargo xtask guests`",
                file.display()
            ))
        })?;
        let mut settings = json(manifest.settings)?;
        settings.extend(json(overrides.clone())?);
        Ok(Self {
            folder: folder.to_owned(),
            name: manifest.name,
            kind,
            settings: Value::Object(settings).to_string(),
            file,
            component,
        })
    }
}

fn json(table: toml::Table) -> Result<Map<String, Value>, String> {
    match serde_json::to_value(table) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("has settings that are not a table".into()),
        Err(error) => Err(format!("has settings that JSON cannot say: {error}")),
    }
}
