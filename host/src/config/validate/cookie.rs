//! The host's own session cookie.

use std::path::Path;

use sha2::{Digest as _, Sha512};

use super::{At, callers, raw};
use cutover_traffic::proxy::{affinity::SessionCookie, head::SessionKey};

/// How many keys from before are taken: each costs a signature for each cookie that is none of the host's.
const MAX_PREVIOUS: usize = 4;

/// `[migrations.NAME.session_cookie]`; `keys` is where the service's own sessions are.
pub(super) fn of(
    at: &mut At<'_>,
    raw: raw::http::SessionCookie,
    keys: &[SessionKey],
    base: &Path,
) -> Option<SessionCookie> {
    let key = callers::key(&mut at.field("key_file"), &base.join(raw.key_file))?;
    at.field("previous_key_files").within(raw.previous_key_files.len(), 0, MAX_PREVIOUS);
    let previous = raw.previous_key_files.iter().take(MAX_PREVIOUS);
    let previous: Vec<_> =
        previous.filter_map(|file| callers::key(&mut at.field("previous_key_files"), &base.join(file))).collect();
    if previous.contains(&key) {
        at.field("previous_key_files").wrong("has the key of `key_file`; that is the one that signs now");
    }
    if !matches!(SessionKey::parse(&format!("cookie:{}", raw.name)), Some(SessionKey::Cookie(_))) || raw.name.len() > 64
    {
        at.field("name").wrong(&format!(
            "is `{}`, which is no name of a cookie; use up to 64 letters, digits, `-` and `_`",
            raw.name
        ));
    }
    if keys.contains(&SessionKey::Cookie(raw.name.clone())) {
        at.field("name").wrong(&format!(
            "is `{}`, which `session` names, too: that is the service's cookie; give the host's another name",
            raw.name
        ));
    }
    let mut attribute = |field: &str, text: &str, is_right: bool, example: &str| {
        if !is_right || text.len() > 256 || text.bytes().any(|b| !b.is_ascii_graphic() || b == b';') {
            at.field(field).wrong(&format!("is `{text}`, which cannot stand in a cookie; write it like `{example}`"));
        }
    };
    attribute("path", &raw.path, raw.path.starts_with('/'), "/shop");
    if let Some(domain) = &raw.domain {
        attribute("domain", domain, !domain.is_empty(), "shop.example.com");
    }
    let same_site = match raw.same_site.as_str() {
        "lax" => "Lax",
        "strict" => "Strict",
        "none" => "None",
        other => {
            at.field("same_site").wrong(&format!("is `{other}`; it must be `lax`, `strict` or `none`"));
            "Lax"
        }
    };
    if same_site == "None" && raw.secure == Some(false) {
        at.field("secure").wrong("is `false`, and browsers refuse `same_site = \"none\"` without it");
    }
    let stays = match raw.stay.as_str() {
        "share" => false,
        "creator" => true,
        other => {
            at.field("stay").wrong(&format!(
                "is `{other}`; it must be `share`, so that sessions move when the share reaches them, or `creator`, so \
                 that those of V1 stay until V2 has all of them"
            ));
            false
        }
    };
    let domain = raw.domain.map(|domain| format!("; Domain={domain}")).unwrap_or_default();
    let attributes = format!("; Path={}{domain}; HttpOnly; SameSite={same_site}", raw.path);
    let lifetime = raw.lifetime.map(|text| at.field("lifetime").duration(&text, "1m", "400d"));
    Some(SessionCookie {
        name: raw.name,
        key: Sha512::digest(key).into(),
        previous: previous.iter().map(|key| Sha512::digest(key).into()).collect(),
        lifetime,
        attributes,
        secure: if same_site == "None" { Some(true) } else { raw.secure },
        stays,
    })
}
