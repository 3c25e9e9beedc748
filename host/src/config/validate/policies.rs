//! Who is to be in charge of what.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::At;
use crate::config::{Bundles, MigrationConfig, raw};
use cutover_model::port::Kind;
use cutover_policy_host::bundle::Bundle;

/// Policies that every migration needs.
const REQUIRED: [Kind; 3] = [Kind::Routing, Kind::Rollback, Kind::Stages];

/// Those of a migration, and those whose bundles cannot be read, if that is no problem here.
pub(super) fn policies(
    at: &mut At<'_>,
    raw: BTreeMap<String, raw::Policy>,
    (base, components, must_be_readable): (&Path, &Path, Bundles),
) -> (BTreeMap<Kind, Bundle>, BTreeMap<Kind, String>) {
    let (mut bundles, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
    let mut named = Vec::new();
    for (kind, policy) in raw {
        let mut at = at.field(&kind);
        let kind = match kind.parse::<Kind>() {
            Ok(kind) => kind,
            Err(error) => {
                at.wrong(&format!("is wrong: {error}"));
                continue;
            }
        };
        named.push(kind);
        let (folder, overrides): (PathBuf, toml::Table) = match policy {
            raw::Policy::Bundle(folder) => (folder, toml::Table::new()),
            raw::Policy::WithSettings(with) => (with.bundle, with.settings),
        };
        match Bundle::read(&base.join(folder), components, &overrides) {
            Ok(bundle) if bundle.kind == kind => drop(bundles.insert(kind, bundle)),
            Ok(bundle) => {
                at.wrong(&format!("names the bundle `{}`, which is a {} policy", bundle.folder.display(), bundle.kind));
            }
            Err(message) if must_be_readable == Bundles::Readable => drop(unreadable.insert(kind, message)),
            Err(message) => at.wrong(&message),
        }
    }
    for kind in REQUIRED.into_iter().filter(|kind| !named.contains(kind)) {
        at.field(kind.name()).wrong("is missing; name a bundle, such as one of those in `policies/`");
    }
    (bundles, unreadable)
}

/// The folders of the bundles of migrations.
pub(super) fn folders_of(migrations: &[MigrationConfig]) -> BTreeSet<PathBuf> {
    let bundles = migrations.iter().flat_map(|migration| migration.policies.values());
    bundles.flat_map(|bundle| spellings(&bundle.folder)).collect()
}

/// Where requests may find bundles, besides the folders of those that are configured.
pub(super) fn folders(at: &mut At<'_>, raw: &[PathBuf], base: &Path) -> Vec<PathBuf> {
    for (n, folder) in raw.iter().enumerate().filter(|(_, folder)| !base.join(folder).is_dir()) {
        at.field_at(n).wrong(&format!("is `{}`, which is not a folder", base.join(folder).display()));
    }
    raw.iter().flat_map(|folder| spellings(&base.join(folder))).collect()
}

/// A path as it was written, from `/`; and as the system has it, without links and `..`.
fn spellings(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    [std::path::absolute(path), path.canonicalize()].into_iter().flatten()
}
