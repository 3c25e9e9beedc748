//! The artefact itself: its manifest, its config, and our annotations. No network.

use std::collections::BTreeMap;

use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest};
use serde_json::json;

use super::sha256;
use cutover_model::clock::UnixMs;
use cutover_policy_host::{
    dsse::Envelope,
    release::{MAX_ENVELOPE, MAX_SETTINGS, Manifest},
};

/// The config of a Wasm OCI artefact, and its one layer.
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";

/// What the policy is, as JSON; see [`Manifest`].
const MANIFEST: &str = "vnd.cutover.policy.manifest";

/// Who vouches for it: a DSSE envelope as JSON.
const SIGNATURES: &str = "vnd.cutover.policy.signatures";

/// A policy as an OCI artefact.
#[derive(Debug, Clone, Copy)]
pub struct Artefact<'a> {
    /// What the policy is.
    pub manifest: &'a Manifest,
    /// The interfaces that it exports.
    pub exports: &'a [String],
    /// What it says that it does.
    pub summary: &'a str,
    /// The author, as a person is named in an annotation.
    pub author: &'a str,
    /// Who vouches for it.
    pub envelope: Option<&'a Envelope>,
    /// The bytes of the component.
    pub component: &'a [u8],
}

/// What a manifest says.
#[derive(Debug)]
pub(super) struct Found {
    /// The component's digest, and how large it claims to be.
    pub(super) layer: String,
    pub(super) size: i64,
    pub(super) manifest: Option<Manifest>,
    pub(super) envelope: Option<Envelope>,
    pub(super) author: Option<String>,
}

impl Artefact<'_> {
    /// The manifest and the config, as bytes.
    pub(super) fn write(&self, now: UnixMs) -> Result<(Vec<u8>, Vec<u8>), String> {
        let text = |e: serde_json::Error| e.to_string();
        let layer = sha256(self.component);
        let created = now.rfc3339();
        let config = json!({
            "created": created,
            "author": self.author,
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [layer],
            "component": { "exports": self.exports, "imports": [], "target": null },
        });
        let config = serde_json::to_vec(&config).map_err(text)?;
        let mut annotations = BTreeMap::from([
            ("org.opencontainers.image.created".to_owned(), created),
            ("org.opencontainers.image.title".to_owned(), self.manifest.name.clone()),
            ("org.opencontainers.image.version".to_owned(), self.manifest.version.clone()),
            ("org.opencontainers.image.description".to_owned(), self.summary.to_owned()),
            (AUTHORS.to_owned(), self.author.to_owned()),
            (MANIFEST.to_owned(), serde_json::to_string(self.manifest).map_err(text)?),
        ]);
        if let Some(envelope) = self.envelope {
            annotations.insert(SIGNATURES.to_owned(), serde_json::to_string(envelope).map_err(text)?);
        }
        let descriptor = |media_type: &str, digest: String, bytes: &[u8]| OciDescriptor {
            media_type: media_type.to_owned(),
            digest,
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        let manifest = OciImageManifest {
            media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
            config: descriptor(CONFIG, sha256(&config), &config),
            layers: vec![descriptor(LAYER, layer, self.component)],
            annotations: Some(annotations),
            ..OciImageManifest::default()
        };
        Ok((serde_json::to_vec(&manifest).map_err(text)?, config))
    }
}

/// The annotation that OCI has for authors.
const AUTHORS: &str = "org.opencontainers.image.authors";

/// Reads the manifest of an artefact.
pub(super) fn read(body: &[u8]) -> Result<Found, String> {
    let manifest: OciImageManifest =
        serde_json::from_slice(body).map_err(|e| format!("its manifest is not one: {e}"))?;
    if manifest.config.media_type != CONFIG {
        return Err(format!("its config is of type `{}`, not `{CONFIG}`", manifest.config.media_type));
    }
    let [layer] = manifest.layers.as_slice() else {
        return Err(format!("it has {} layers, not 1", manifest.layers.len()));
    };
    if layer.media_type != LAYER {
        return Err(format!("its layer is of type `{}`, not `{LAYER}`", layer.media_type));
    }
    if layer.digest.strip_prefix("sha256:").is_none_or(|hex| hex.len() != 64) {
        return Err(format!("its layer has the digest `{}`, which is not SHA-256", layer.digest));
    }
    let annotations = manifest.annotations.clone().unwrap_or_default();
    let limited = |key: &str, limit: usize| match annotations.get(key) {
        Some(text) if text.len() > limit => Err(format!("its annotation `{key}` has more than {limit} bytes")),
        found => Ok(found),
    };
    let wrong = |key: &str, e: &serde_json::Error| format!("its annotation `{key}` cannot be read: {e}");
    let described = limited(MANIFEST, 2 * MAX_SETTINGS)?;
    let signatures = limited(SIGNATURES, MAX_ENVELOPE)?;
    Ok(Found {
        layer: layer.digest.clone(),
        size: layer.size,
        manifest: described.map(|t| serde_json::from_str(t).map_err(|e| wrong(MANIFEST, &e))).transpose()?,
        envelope: signatures.map(|t| serde_json::from_str(t).map_err(|e| wrong(SIGNATURES, &e))).transpose()?,
        author: annotations.get(AUTHORS).filter(|a| !a.is_empty()).cloned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;
    use cutover_model::port::Kind;

    fn manifest() -> Manifest {
        Manifest {
            name: "thresholds".into(),
            version: "1.2.0".into(),
            kind: Kind::Rollback,
            component_sha256: "ab".repeat(32),
            contract: "0.1.0".into(),
            settings_schema_sha256: "cd".repeat(32),
            settings: Map::new(),
            script: None,
            wasi_stub: false,
        }
    }

    fn written() -> Value {
        let manifest = manifest();
        let exports = ["cutover:policy/rollback@0.1.0".to_owned()];
        let artefact = Artefact {
            manifest: &manifest,
            exports: &exports,
            summary: "Fixed limits.",
            author: "alice",
            envelope: None,
            component: b"\0asm",
        };
        let (bytes, config) = artefact.write(UnixMs(0)).unwrap();
        let written: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(written["config"]["digest"], sha256(&config));
        let expected = json!({
            "created": "1970-01-01T00:00:00.000Z",
            "author": "alice",
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [sha256(b"\0asm")],
            "component": { "exports": exports, "imports": [], "target": null },
        });
        assert_eq!(serde_json::from_slice::<Value>(&config).unwrap(), expected);
        written
    }

    #[test]
    fn an_artefact_has_the_layout_that_other_tools_read() {
        let written = written();
        assert_eq!(written["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(written["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
        assert_eq!(written["layers"].as_array().unwrap().len(), 1);
        assert_eq!(written["layers"][0]["mediaType"], "application/wasm");
        assert_eq!(written["layers"][0]["digest"], sha256(b"\0asm"));
    }

    #[test]
    fn what_was_written_is_read() {
        let found = read(written().to_string().as_bytes()).unwrap();
        assert_eq!((found.layer, found.size), (sha256(b"\0asm"), 4));
        assert_eq!((found.manifest, found.envelope, found.author), (Some(manifest()), None, Some("alice".into())));
    }

    #[test]
    fn other_artefacts_are_refused_by_what_they_are() {
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut other = written();
            change(&mut other);
            read(other.to_string().as_bytes()).unwrap_err()
        };
        let image = "application/vnd.oci.image.config.v1+json";
        assert!(refused(&|m| m["config"]["mediaType"] = image.into()).contains(image));
        assert!(refused(&|m| m["layers"] = json!([])).contains("0 layers"));
        assert!(refused(&|m| m["layers"][0]["mediaType"] = "application/gzip".into()).contains("`application/gzip`"));
        assert!(refused(&|m| m["layers"][0]["digest"] = "md5:00".into()).contains("`md5:00`"));
        assert!(refused(&|m| m["annotations"][MANIFEST] = "{}".into()).contains("missing field `name`"));
        assert!(refused(&|m| m["annotations"][SIGNATURES] = "x".repeat(MAX_ENVELOPE + 1).into()).contains("more than"));
        assert!(read(b"<html>").unwrap_err().contains("is not one"));
    }
}
