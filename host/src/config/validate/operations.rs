//! Which operations callers may call, and of which class each is.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use super::{At, failed, is_name, pool};
use crate::config::{OperationsConfig, raw};
use cutover_model::request::{Class, PoolId};
use cutover_traffic::{dispatch::Operation, observe::Failed, pool::PoolSpec};

pub(super) fn operations(
    at: &mut At<'_>,
    name: &str,
    (raw, failed): (BTreeMap<String, raw::Operation>, &Arc<Failed>),
    (v1, v2): (Option<raw::Workers>, raw::Workers),
    base: &Path,
) -> OperationsConfig {
    if raw.is_empty() {
        at.field("operations").wrong("has no operation; add a `[migrations.NAME.operations.OPERATION]`");
    }
    let names = v2_names(&mut at.field("operations"), &raw);
    let operations = raw.into_iter().map(|(operation, raw)| {
        let checked = self::operation(&mut at.field("operations").field(&operation), &operation, raw, failed);
        (Arc::<str>::from(operation), checked)
    });
    let operations = operations.collect();
    let v1 = v1.map(|v1| pool(&mut at.field("v1"), name, PoolId::V1, v1, base));
    let v2 = PoolSpec { names, ..pool(&mut at.field("v2"), name, PoolId::V2, v2, base) };
    let v1 = v1.unwrap_or_else(|| PoolSpec {
        label: format!("{name}/{}", PoolId::V1),
        id: PoolId::V1,
        is_absent: true,
        ..v2.clone()
    });
    OperationsConfig { operations, v1, v2 }
}

fn operation(at: &mut At<'_>, name: &str, raw: raw::Operation, failed: &Arc<Failed>) -> Operation {
    if !is_operation(name) {
        at.wrong("is not an operation's name; use 1 to 64 characters of `a-z A-Z 0-9 _ - .`");
    }
    if raw.class != Class::Replicate && (raw.key.is_some() || raw.removes) {
        at.field("key").wrong("and `removes` belong to the class `replicate`; remove them or change the class");
    }
    if raw.removes && raw.key.is_none() {
        at.field("removes").wrong("needs a `key` that names what is removed");
    }
    if raw.path.is_some() || !raw.methods.is_empty() || !raw.query.is_empty() {
        at.field("path").wrong("and `methods` and `query` are for HTTP services; remove them");
    }
    for (field, is_set) in [("headers", raw.headers.is_some()), ("rate_limit", raw.rate_limit.is_some())] {
        if is_set {
            at.field(field).wrong("is for HTTP services; remove it");
        }
    }
    let own = raw.failed.as_ref().map(|raw| Arc::new(failed::workers(&mut at.field("failed"), raw)));
    let failed = own.unwrap_or_else(|| Arc::clone(failed));
    let deadline = own_deadline(at, raw.deadline.as_deref());
    Operation { class: raw.class, deadline, key: raw.key, removes: raw.removes, failed }
}

/// What V2 calls operations, where an adapter translates calls. A name that is an operation's already must be of one of its
/// class: a read that became a deletion would be repeated and mirrored as a read is.
fn v2_names(at: &mut At<'_>, raw: &BTreeMap<String, raw::Operation>) -> Arc<BTreeMap<Arc<str>, Arc<str>>> {
    let mut names = BTreeMap::new();
    for (operation, own) in raw {
        let Some(name) = &own.v2_name else { continue };
        let mut at = at.field(operation);
        let mut at = at.field("v2_name");
        if !is_operation(name) {
            at.wrong("is not an operation's name; use 1 to 64 characters of `a-z A-Z 0-9 _ - .`");
        }
        if let Some(other) = raw.get(name).filter(|other| other.class != own.class) {
            let (class, others) = (own.class, other.class);
            at.wrong(&format!(
                "is `{name}`, which is an operation of the class `{others}`, and `{operation}` is of the class `{class}`; an \
                 adapter keeps an operation's class"
            ));
        }
        names.insert(Arc::from(operation.as_str()), Arc::from(name.as_str()));
    }
    names.into()
}

fn is_operation(name: &str) -> bool {
    is_name(name, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

/// How long callers of an operation wait, if it says so itself.
pub(super) fn own_deadline(at: &mut At<'_>, raw: Option<&str>) -> Option<Duration> {
    raw.map(|text| at.field("deadline").duration(text, "1ms", "1h"))
}
