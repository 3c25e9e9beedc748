//! What a release is: a policy under a name and a version that never change their meaning.

use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::dsse::Envelope;
use cutover_model::{clock::UnixMs, port::Kind};

/// The most bytes of an envelope.
pub const MAX_ENVELOPE: usize = 1 << 20;

/// The most bytes of settings and script together.
pub const MAX_SETTINGS: usize = 256 << 10;

/// The default settings of a policy and, where it is a script, the script.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// The settings by name; empty where every setting has its default.
    pub values: Map<String, Value>,
    /// The script, where the component is an interpreter.
    pub script: Option<String>,
}

/// What a policy is, in full. This is what people sign: nothing that changes what the policy does is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its name, 1 to 64 characters of `a-z 0-9 -`.
    pub name: String,
    /// Its version, a semantic version without build metadata.
    pub version: String,
    /// The kind that it is admitted for.
    pub kind: Kind,
    /// SHA-256 of the component, lower-case hex: this says what the policy does.
    pub component_sha256: String,
    /// The version of the contract that the component was built against.
    pub contract: String,
    /// SHA-256 of the JSON Schema of its settings, as the policy describes them; lower-case hex.
    pub settings_schema_sha256: String,
    /// Its default settings, by name; settings of operators are laid over them.
    pub settings: Map<String, Value>,
    /// The script, where the component is an interpreter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// Whether the component may import the closed stand-in for WASI.
    #[serde(default)]
    pub wasi_stub: bool,
}

/// Where a release came from, as whoever pushed it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Provenance {
    /// A component without a bundle around it.
    File {
        /// The file, on the machine that pushed it.
        path: String,
    },
    /// A folder with a policy, its settings and its cases.
    Bundle {
        /// The folder, on the machine that pushed it.
        path: String,
    },
    /// An artefact in an OCI registry, pulled by the command line.
    Oci {
        /// The reference as it was asked for.
        reference: String,
        /// The tag of the reference; none if it named a digest alone.
        tag: Option<String>,
        /// The digest of the manifest that the reference led to: `sha256:` and hex.
        manifest: String,
    },
}

/// A policy that the host knows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Release {
    /// What the policy is; this part is what signatures vouch for.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// What the policy says that it does, in one sentence.
    pub summary: String,
    /// Who wrote it, as whoever pushed it says; who pushed it, if that was not said.
    pub author: String,
    /// Why it was pushed, in the words of whoever pushed it.
    pub reason: String,
    /// The operator who pushed it, by the name that came with the request.
    pub actor: String,
    /// When it was pushed.
    pub at: UnixMs,
    /// Where it came from, as whoever pushed it says.
    pub provenance: Provenance,
    /// The signed manifest with its signatures; none for a policy that nobody signed.
    pub envelope: Option<Envelope>,
}

/// A reference to a release, as people write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `NAME@VERSION`: one release.
    Exact(String, String),
    /// `sha256:HEX`, whole or the beginning.
    Digest(String),
    /// `NAME`, or the beginning of a digest.
    Bare(String),
}

/// The shortest beginning of a digest that is looked up.
const MIN_PREFIX: usize = 6;

impl Settings {
    /// With settings of an operator laid over them, field by field. A script is not a setting: it stays.
    #[must_use]
    pub fn with(mut self, overrides: Map<String, Value>) -> Self {
        self.values.extend(overrides);
        self
    }

    /// As the component takes them: JSON, with the script and the kind that it is to be beside the settings where there
    /// is one.
    pub fn json(&self, kind: Kind) -> String {
        let values = Value::Object(self.values.clone());
        match &self.script {
            None => values.to_string(),
            Some(script) => {
                let kind = kind.name().into();
                let all = [("kind", kind), ("script", script.clone().into()), ("settings", values)];
                Value::Object(all.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()).to_string()
            }
        }
    }
}

impl Manifest {
    /// Name and version in one word: `NAME@VERSION`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// The settings and the script.
    pub fn settings(&self) -> Settings {
        Settings { values: self.settings.clone(), script: self.script.clone() }
    }

    /// The first field in which two differ, with both values as text.
    pub fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let json = |settings: &Map<String, Value>| Value::Object(settings.clone()).to_string();
        let script = |script: &Option<String>| script.clone().unwrap_or_else(|| "none".into());
        let fields = [
            ("name", self.name.clone(), other.name.clone()),
            ("version", self.version.clone(), other.version.clone()),
            ("kind", self.kind.to_string(), other.kind.to_string()),
            ("component_sha256", self.component_sha256.clone(), other.component_sha256.clone()),
            ("contract", self.contract.clone(), other.contract.clone()),
            ("settings_schema_sha256", self.settings_schema_sha256.clone(), other.settings_schema_sha256.clone()),
            ("settings", json(&self.settings), json(&other.settings)),
            ("script", script(&self.script), script(&other.script)),
            ("wasi_stub", self.wasi_stub.to_string(), other.wasi_stub.to_string()),
        ];
        fields.into_iter().find(|(_, a, b)| a != b)
    }
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence that begins after the reference.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(hex) = text.strip_prefix("sha256:") {
            if is_digest_prefix(hex) {
                return Ok(Self::Digest(hex.to_owned()));
            }
            return Err(format!("is not a digest: `sha256:` is followed by {MIN_PREFIX} to 64 digits of `0-9 a-f`"));
        }
        let (name, version) = text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)));
        check_name(name)?;
        match version {
            Some(version) => {
                check_version(version)?;
                Ok(Self::Exact(name.into(), version.into()))
            }
            None => Ok(Self::Bare(name.into())),
        }
    }
}

/// Whether this can be the beginning of a digest.
pub fn is_digest_prefix(text: &str) -> bool {
    (MIN_PREFIX..=64).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether this can be a policy's name.
///
/// # Errors
/// What is wrong with it, as a sentence that begins after the value.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=64).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err("is not a policy's name; use 1 to 64 characters of `a-z 0-9 -`".into())
}

/// Whether this can be a policy's version. Build metadata is refused: it does not order versions, and the tags of OCI
/// registries cannot say it.
///
/// # Errors
/// What is wrong with it, as a sentence that begins after the value.
pub fn check_version(text: &str) -> Result<Version, String> {
    match Version::parse(text) {
        Ok(version) if version.build.is_empty() && text.len() <= 64 => Ok(version),
        Ok(_) => Err("is not a policy's version; leave out what follows `+`, and use at most 64 characters".into()),
        Err(error) => Err(format!("is not a semantic version, such as `1.4.0`: {error}")),
    }
}

/// The version that a name alone stands for: the highest one, and a pre-release only where there is nothing else.
pub fn latest<'a>(versions: impl Iterator<Item = &'a str>) -> Option<Version> {
    versions.filter_map(|v| Version::parse(v).ok()).max_by_key(|v| (v.pre.is_empty(), v.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reference_is_a_name_a_version_or_a_digest() {
        assert_eq!(Reference::parse("thresholds@1.2.3"), Ok(Reference::Exact("thresholds".into(), "1.2.3".into())));
        assert_eq!(Reference::parse("thresholds"), Ok(Reference::Bare("thresholds".into())));
        assert_eq!(Reference::parse("sha256:0123ab"), Ok(Reference::Digest("0123ab".into())));
        for (wrong, why) in [
            ("sha256:0123AB", "not a digest"),
            ("sha256:01", "6 to 64"),
            ("Thresholds", "not a policy's name"),
            ("", "not a policy's name"),
            ("thresholds@1", "semantic version"),
            ("thresholds@1.0.0+7", "what follows `+`"),
            ("../etc@1.0.0", "not a policy's name"),
        ] {
            assert!(Reference::parse(wrong).unwrap_err().contains(why), "{wrong}");
        }
    }

    #[test]
    fn the_latest_version_is_the_highest_that_is_not_a_pre_release() {
        let of = |versions: &[&str]| latest(versions.iter().copied()).map(|v| v.to_string());
        assert_eq!(of(&["1.9.0", "1.10.0", "2.0.0-rc.1"]), Some("1.10.0".into()));
        assert_eq!(of(&["2.0.0-rc.1", "2.0.0-rc.2"]), Some("2.0.0-rc.2".into()));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn settings_are_laid_beside_a_script_and_cannot_replace_it() {
        let map = |value: Value| value.as_object().unwrap().clone();
        let plain = Settings { values: map(json!({ "a": 1, "b": 2 })), script: None };
        assert_eq!(plain.with(map(json!({ "b": 3 }))).json(Kind::Rollback), r#"{"a":1,"b":3}"#);
        let script = Settings { values: map(json!({ "a": 1 })), script: Some("fn judge() {}".into()) };
        let json = script.with(map(json!({ "script": "fn evil() {}" }))).json(Kind::Rollback);
        assert_eq!(json, r#"{"kind":"rollback","script":"fn judge() {}","settings":{"a":1,"script":"fn evil() {}"}}"#);
    }
}
