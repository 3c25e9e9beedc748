//! Releases in OCI registries, in the layout of the Wasm OCI artefact (CNCF TAG Runtime), which `wkg` writes and reads: a
//! manifest with a config of type `application/vnd.wasm.config.v0+json` and one layer of type `application/wasm`, which is
//! the component. What a policy is beyond its component travels in two annotations of the manifest, so that any tool
//! that knows the layout still reads the component.
//!
//! A tag may move and a registry may lie: what a reference leads to is pinned by the digest of its manifest, and every
//! byte is checked against the digest that asked for it. What is an answer has no end if a registry likes it so, be it a
//! manifest, a token or an error, and the client reads most of them whole: so a pull or a push is over when this process
//! has taken more memory for it than all of them may need. Plain HTTP is spoken to this machine alone, unless it is
//! asked for. Used by the command line; a host never calls it.

mod address;
mod artefact;

use std::time::Duration;

use futures_util::TryStreamExt as _;
use hyper::header::HeaderValue;
use oci_client::{
    Client,
    client::{ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    manifest::OCI_IMAGE_MEDIA_TYPE,
    secrets::RegistryAuth,
};
use sha2::{Digest as _, Sha256};

pub use self::{address::Address, artefact::Artefact};
use cutover_model::clock::UnixMs;
use cutover_policy_host::{dsse::Envelope, release::Manifest};

/// How long a registry may take to accept a connection, and between two pieces of an answer.
const CONNECT: Duration = Duration::from_secs(10);
const READ: Duration = Duration::from_secs(30);

/// How long the whole of a pull or a push may take.
const WHOLE: Duration = Duration::from_mins(5);

/// The largest manifest: what registries must accept at least, says the OCI distribution specification.
const MAX_MANIFEST: usize = 4 << 20;

/// What an artefact's manifest, tokens and errors may take in memory beside its component, read and written.
const BESIDE: usize = 16 * MAX_MANIFEST;

/// How often it is looked at what was taken: a registry on this machine sends some megabytes meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// How to reach a registry.
#[derive(Debug, Clone)]
pub struct Access {
    /// User and password, if the registry needs them.
    pub credentials: Option<(String, String)>,
    /// Whether to speak plain HTTP to a registry that is not on this machine.
    pub insecure: bool,
    /// The most bytes of a component that is pulled.
    pub max_component: usize,
}

/// A policy as it was pulled from a registry.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The bytes of the component.
    pub component: Vec<u8>,
    /// The digest of the manifest that the reference led to: `sha256:` and hex.
    pub digest: String,
    /// What the policy is; none if the artefact is a component alone.
    pub manifest: Option<Manifest>,
    /// Who vouches for it.
    pub envelope: Option<Envelope>,
    /// Who wrote it, if the artefact says so.
    pub author: Option<String>,
}

/// A policy as it was published to a registry.
#[derive(Debug, Clone)]
pub struct Published {
    /// `oci://HOST/REPOSITORY:TAG`.
    pub reference: String,
    /// The digest of its manifest: `sha256:` and hex.
    pub digest: String,
}

/// Why nothing was pulled or published.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// Not a reference.
    #[error(
        "`{text}` is not an OCI reference: {message}; write `oci://HOST/REPOSITORY:TAG` or `oci://HOST/REPOSITORY@sha256:DIGEST`"
    )]
    Reference {
        /// The text that is no reference.
        text: String,
        /// What is wrong with it.
        message: String,
    },
    /// The client could not be made.
    #[error("cannot prepare a connection to the registry")]
    Client(#[source] OciDistributionError),
    /// The registry does not have it.
    #[error("the registry has no `{reference}`")]
    Missing {
        /// What was asked for.
        reference: String,
    },
    /// The registry refuses, cannot be reached, or serves what does not match its digest.
    #[error("`{reference}`")]
    Registry {
        /// What was asked for.
        reference: String,
        /// What the registry or the connection said.
        #[source]
        source: OciDistributionError,
    },
    /// What it serves does not have the digest that it was asked for by.
    #[error("`{reference}` is not what it should be: the registry serves {found} for {wanted}")]
    Tampered {
        /// What was asked for.
        reference: String,
        /// The digest that was asked for.
        wanted: String,
        /// The digest of what was served.
        found: String,
    },
    /// It took too long.
    #[error("`{reference}` took longer than {} s", WHOLE.as_secs())]
    Late {
        /// What was asked for.
        reference: String,
    },
    /// More bytes than are read.
    #[error("`{reference}` has a {what} of more than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        reference: String,
        /// The manifest or the component.
        what: &'static str,
        /// The most bytes that the answer may have.
        limit: usize,
    },
    /// What the registry sends does not end.
    #[error(
        "`{reference}`: the registry sent more than an artefact of at most {limit} bytes can have; it was given up"
    )]
    Endless {
        /// What was asked for.
        reference: String,
        /// The most bytes of a component.
        limit: usize,
    },
    /// It is something else.
    #[error("`{reference}` is not a WebAssembly artefact: {message}")]
    Layout {
        /// What was asked for.
        reference: String,
        /// What is wrong with it.
        message: String,
    },
    /// The tag holds another policy.
    #[error("`{reference}` holds another policy already ({found}); raise the version, or choose another tag")]
    Taken {
        /// The reference that was asked for.
        reference: String,
        /// The digest of its manifest.
        found: String,
    },
}

/// Pulls what a reference leads to and checks it against its digests.
///
/// # Errors
/// Why not.
pub async fn pull(address: &Address, access: &Access) -> Result<Pulled, OciError> {
    bounded(address, access, pull_now(address, access)).await
}

/// Publishes a policy. A tag that holds the same policy gets the signatures; one that holds another is left alone.
///
/// # Errors
/// Why not.
pub async fn publish(
    address: &Address,
    access: &Access,
    artefact: &Artefact<'_>,
    now: UnixMs,
) -> Result<Published, OciError> {
    bounded(address, access, publish_now(address, access, artefact, now)).await
}

/// Holds work with a registry to its time and to its memory.
async fn bounded<T>(
    address: &Address,
    access: &Access,
    work: impl Future<Output = Result<T, OciError>>,
) -> Result<T, OciError> {
    let reference = || address.text();
    // The component is here twice: in pieces and whole.
    let most = access.max_component.saturating_mul(2).saturating_add(BESIDE);
    tokio::select! {
        done = tokio::time::timeout(WHOLE, work) => done.map_err(|_late| OciError::Late { reference: reference() })?,
        () = grown_by(most) => Err(OciError::Endless { reference: reference(), limit: access.max_component }),
    }
}

/// Resolves when this process has so many bytes more resident than now; never where the system does not tell.
async fn grown_by(most: usize) {
    let Some(before) = resident() else { return std::future::pending().await };
    let mut looks = tokio::time::interval(LOOK);
    while resident().is_none_or(|now| now.saturating_sub(before) <= most) {
        looks.tick().await;
    }
}

fn resident() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').nth(1)?.parse::<usize>().ok()?.saturating_mul(rustix::param::page_size()))
}

async fn pull_now(address: &Address, access: &Access) -> Result<Pulled, OciError> {
    let (client, auth) = connect(address, access)?;
    let (body, digest) = manifest(&client, &auth, address).await?;
    let found = artefact::read(&body).map_err(|message| OciError::Layout { reference: address.text(), message })?;
    let limit = access.max_component;
    let too_large = || OciError::TooLarge { reference: address.text(), what: "component", limit };
    if usize::try_from(found.size).is_ok_and(|size| size > limit) {
        return Err(too_large());
    }
    // By its digest alone: a descriptor may name other places to fetch it from, which nobody asked for.
    let stream = client.pull_blob_stream(&address.0, found.layer.as_str()).await;
    let mut stream = stream.map_err(|source| OciError::Registry { reference: address.text(), source })?;
    let mut component = Vec::new();
    let failed =
        |source| OciError::Registry { reference: address.text(), source: OciDistributionError::IoError(source) };
    while let Some(piece) = stream.try_next().await.map_err(failed)? {
        if component.len() + piece.len() > limit {
            return Err(too_large());
        }
        component.extend_from_slice(&piece);
    }
    same_digest(address, &found.layer, &component)?;
    let hex = found.layer.trim_start_matches("sha256:");
    if let Some(other) = found.manifest.as_ref().map(|m| &m.component_sha256).filter(|d| *d != hex) {
        let message = format!("its annotation describes the component {other}, and its layer is {hex}");
        return Err(OciError::Layout { reference: address.text(), message });
    }
    let artefact::Found { manifest, envelope, author, .. } = found;
    Ok(Pulled { component, digest, manifest, envelope, author })
}

async fn publish_now(
    address: &Address,
    access: &Access,
    artefact: &Artefact<'_>,
    now: UnixMs,
) -> Result<Published, OciError> {
    let (client, auth) = connect(address, access)?;
    let registry = |source| OciError::Registry { reference: address.text(), source };
    match manifest(&client, &auth, address).await {
        Ok((body, found)) => {
            let same = artefact::read(&body).is_ok_and(|there| there.manifest.as_ref() == Some(artefact.manifest));
            if !same {
                return Err(OciError::Taken { reference: address.text(), found });
            }
        }
        Err(OciError::Missing { .. }) => {}
        Err(error) => return Err(error),
    }
    let (manifest, config) =
        artefact.write(now).map_err(|message| OciError::Layout { reference: address.text(), message })?;
    let layer = sha256(artefact.component);
    client.push_blob(&address.0, artefact.component.to_vec(), &layer).await.map_err(registry)?;
    client.push_blob(&address.0, config.clone(), &sha256(&config)).await.map_err(registry)?;
    let digest = sha256(&manifest);
    let content_type = HeaderValue::from_static(OCI_IMAGE_MEDIA_TYPE);
    client.push_manifest_raw(&address.0, manifest, content_type).await.map_err(registry)?;
    Ok(Published { reference: address.text(), digest })
}

fn connect(address: &Address, access: &Access) -> Result<(Client, RegistryAuth), OciError> {
    // The provider is chosen for the whole process; that somebody has chosen it before is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let plain = access.insecure || address.is_local();
    let config = ClientConfig {
        protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(CONNECT),
        read_timeout: Some(READ),
        // An index of several platforms is not what a policy is.
        platform_resolver: None,
        ..ClientConfig::default()
    };
    let client = Client::try_from(config).map_err(OciError::Client)?;
    let auth = match &access.credentials {
        Some((user, password)) => RegistryAuth::Basic(user.clone(), password.clone()),
        None => RegistryAuth::Anonymous,
    };
    Ok((client, auth))
}

/// The manifest that a reference leads to, with its digest.
async fn manifest(client: &Client, auth: &RegistryAuth, address: &Address) -> Result<(Vec<u8>, String), OciError> {
    let pulled = client.pull_manifest_raw(&address.0, auth, &[OCI_IMAGE_MEDIA_TYPE]).await;
    let (body, _said) = pulled.map_err(|source| {
        let reference = address.text();
        if is_missing(&source) { OciError::Missing { reference } } else { OciError::Registry { reference, source } }
    })?;
    if body.len() > MAX_MANIFEST {
        return Err(OciError::TooLarge { reference: address.text(), what: "manifest", limit: MAX_MANIFEST });
    }
    if let Some(wanted) = address.0.digest() {
        same_digest(address, wanted, &body)?;
    }
    let digest = sha256(&body);
    Ok((body.to_vec(), digest))
}

fn is_missing(error: &OciDistributionError) -> bool {
    let unknown = [OciErrorCode::ManifestUnknown, OciErrorCode::NameUnknown, OciErrorCode::NotFound];
    if let OciDistributionError::RegistryError { envelope, .. } = error {
        return envelope.errors.iter().any(|e| unknown.contains(&e.code));
    }
    matches!(error, OciDistributionError::ServerError { code: 404, .. })
}

fn same_digest(address: &Address, wanted: &str, bytes: &[u8]) -> Result<(), OciError> {
    let found = sha256(bytes);
    if found == wanted {
        return Ok(());
    }
    Err(OciError::Tampered { reference: address.text(), wanted: wanted.to_owned(), found })
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
