//! Where a policy comes from: a bundle's folder, a component on its own, or an OCI registry.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;

use super::Failed;
use crate::{
    config::given,
    oci::{self, Access, Address},
};
use cutover_control::registry::{self, Inspected, Offer};
use cutover_model::{causes::chain, environment, port::Kind};
use cutover_policy_host::{
    bundle::{Bundle, MAX_COMPONENT, files},
    dsse::PrivateKey,
    engine::{Engine, Limits},
    keys,
    release::{Provenance, Settings, check_version},
    sign,
};

/// How sources in OCI registries begin.
const OCI: &str = "oci://";

/// A policy, as people name it on the command line.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// A bundle's folder, a component's file, or `oci://HOST/REPOSITORY:TAG` (or `@sha256:DIGEST`).
    #[arg(value_name = "SOURCE")]
    place: String,
    /// The name of a component that comes without a bundle.
    #[arg(long)]
    name: Option<String>,
    /// The version of a component that comes without a bundle.
    #[arg(long)]
    version: Option<String>,
    /// The kind of a component that comes without a bundle.
    #[arg(long)]
    kind: Option<Kind>,
    #[command(flatten)]
    components: Components,
}

/// Where guests that bundles name are found.
#[derive(Debug, Args)]
pub(super) struct Components {
    /// Where the components are that bundles name as their `guest`. Otherwise the folder of `CUTOVER_COMPONENTS`, or
    /// `components` here or beside the host's binary, or `target/components`.
    #[arg(long = "components", value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Who wrote a policy, and why it is published.
pub(super) struct Because {
    pub(super) author: Option<String>,
    pub(super) reason: String,
}

impl Source {
    /// Reads the policy; from a registry, that takes the network.
    pub(super) fn read(&self, insecure: bool, because: Because) -> Result<Offer, Failed> {
        if self.place.starts_with(OCI) {
            return self.registry(insecure, because);
        }
        let path = Path::new(&self.place);
        let found = fs::metadata(path).map_err(|e| {
            let what = "it is not a bundle's folder, a component's file or `oci://HOST/REPOSITORY:TAG`";
            Failed::usage(format!("cannot read `{}`: {e}; {what}", self.place))
        })?;
        if found.is_dir() {
            self.described("a bundle")?;
            return Self::bundle(path, &self.components, because);
        }
        self.file(path, because)
    }

    /// Reads a bundle as its author wrote it.
    pub(super) fn bundle(folder: &Path, components: &Components, because: Because) -> Result<Offer, Failed> {
        let components = components.folder.clone().unwrap_or_else(|| environment::components(Path::new(".")));
        let bundle = Bundle::read(folder, &components, &toml::Table::new());
        let bundle = bundle.map_err(|e| Failed::usage(format!("the command line {e}")))?;
        let author = because.author.unwrap_or_else(environment::user);
        Ok(Offer::bundled(bundle, &author, &because.reason))
    }

    fn file(&self, file: &Path, because: Because) -> Result<Offer, Failed> {
        let missing = |what| {
            let message = format!("`{}` is a component without a bundle: say what it is with --{what}", self.place);
            Failed::usage(message)
        };
        let component = files::read(file, MAX_COMPONENT).map_err(|e| Failed::usage(format!("`{}` {e}", self.place)))?;
        Ok(Offer {
            name: self.name.clone().ok_or_else(|| missing("name"))?,
            version: self.version.clone().ok_or_else(|| missing("version"))?,
            kind: self.kind.ok_or_else(|| missing("kind"))?,
            component,
            settings: Settings::default(),
            wasi_stub: false,
            author: because.author.unwrap_or_else(environment::user),
            reason: because.reason,
            provenance: Provenance::File { path: absolute(file) },
            envelope: None,
        })
    }

    fn registry(&self, insecure: bool, because: Because) -> Result<Offer, Failed> {
        let address = Address::parse(&self.place).map_err(|e| Failed::usage(chain(&e)))?;
        let access = access(&address, insecure)?;
        let pulled = block_on(oci::pull(&address, &access))?;
        let tag = address.tag().map(ToOwned::to_owned);
        let provenance = Provenance::Oci { reference: self.place.clone(), tag, manifest: pulled.digest };
        let author = because.author.or(pulled.author).unwrap_or_else(environment::user);
        if let Some(manifest) = pulled.manifest {
            self.described("this artefact")?;
            return Ok(Offer {
                settings: manifest.settings(),
                name: manifest.name,
                version: manifest.version,
                kind: manifest.kind,
                component: pulled.component,
                wasi_stub: manifest.wasi_stub,
                author,
                reason: because.reason,
                provenance,
                envelope: pulled.envelope,
            });
        }
        let kind = self.kind.ok_or_else(|| {
            Failed::usage(format!("`{}` does not say what kind of policy it is: say so with --kind", self.place))
        })?;
        let tagged = || address.tag().filter(|tag| check_version(tag).is_ok()).map(ToOwned::to_owned);
        let version = self.version.clone().or_else(tagged).ok_or_else(|| {
            Failed::usage(format!("the tag of `{}` is not a version: say which it is with --version", self.place))
        })?;
        Ok(Offer {
            name: self.name.clone().unwrap_or_else(|| address.last().to_owned()),
            version,
            kind,
            component: pulled.component,
            settings: Settings::default(),
            wasi_stub: false,
            author,
            reason: because.reason,
            provenance,
            envelope: pulled.envelope,
        })
    }

    /// Refuses options that say what the source itself says.
    fn described(&self, what: &str) -> Result<(), Failed> {
        if self.name.is_some() || self.version.is_some() || self.kind.is_some() {
            return Err(Failed::usage(format!(
                "{what} has a name, a version and a kind of its own; leave out --name, --version and --kind"
            )));
        }
        Ok(())
    }
}

/// How to reach a registry, with what Docker's configuration has for it.
pub(super) fn access(address: &Address, insecure: bool) -> Result<Access, Failed> {
    let credentials = given::registry_credentials(address.registry()).map_err(Failed::new)?;
    Ok(Access { credentials, insecure, max_component: Limits::default().component_bytes })
}

/// Compiles a policy on this machine and says what it is, under the limits that hosts have by default.
pub(super) fn inspect(offer: &Offer) -> Result<Inspected, Failed> {
    let engine: Arc<Engine> = Engine::new(Limits::default()).map_err(|e| Failed::new(chain(&e)))?;
    registry::inspect(&engine, offer)
        .map_err(|e| Failed::new(format!("the policy `{}@{}` {e}", offer.name, offer.version)))
}

/// Signs a policy with each of the keys, beside those who have signed it already.
pub(super) fn add_signatures(offer: &mut Offer, inspected: &Inspected, keys: &[PathBuf]) -> Result<(), Failed> {
    if keys.is_empty() {
        return Ok(());
    }
    let signers = keys.iter().map(|file| read_key(file)).collect::<Result<Vec<_>, _>>()?;
    let signed = sign::sign(&inspected.manifest, &signers, offer.envelope.take());
    offer.envelope = Some(signed.map_err(|e| Failed::new(chain(&e)))?);
    Ok(())
}

/// Runs something that takes the network.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, oci::OciError>>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failed::new(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(work).map_err(|e| Failed::new(chain(&e)))
}

fn read_key(file: &Path) -> Result<PrivateKey, Failed> {
    let wrong = |what: String| Failed::usage(format!("the key `{}` {what}", file.display()));
    let pem = fs::read_to_string(file).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    keys::private(&pem).map_err(|e| wrong(e.to_string()))
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_error| path.to_owned()).display().to_string()
}
