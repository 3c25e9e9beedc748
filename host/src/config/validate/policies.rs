//! Who is to be in charge of what.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::At;
use crate::{
    config::{Bundles, bundle::Bundle, raw},
    policy::port::Kind,
};

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
