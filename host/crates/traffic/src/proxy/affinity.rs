//! The host's own session cookie: callers stay with the pool that they came to first.
//!
//! If a service hands out its session cookie itself, the request that brings that cookie back is the first to have a
//! key: the one before would be routed by its id and the next by the cookie, maybe to the other pool. So the host sets
//! a cookie with its first answer, and the id in it is the session from then on. A caller that had a key before keeps
//! its place: the id is derived from that key, and later changes of the key do not matter. The cookie is signed, so no
//! caller can pick an id that goes to V2.
//!
//! The value is `ID.BEGUN.ISSUED.POOL.MAC`: 32 hexadecimal digits, two moments in seconds since the Unix epoch, `1` or
//! `2`, and the first 16 bytes of an HMAC-SHA256 over the cookie's name and what comes before, in base64url.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::message::Fields;
use cutover_model::{
    clock::UnixMs,
    request::{Home, PoolId},
};

/// Bytes of the signature.
const MAC: usize = 16;

/// Digits of an id.
const ID: usize = 32;

/// How long a cookie counts that has no lifetime: browsers keep none for longer (RFC 6265bis, 5.5).
const LONGEST: u64 = 400 * 24 * 3_600;

/// How the cookie is set, `[migrations.NAME.session_cookie]`.
#[derive(Clone)]
pub struct SessionCookie {
    /// The cookie's name, which is signed as well.
    pub name: String,
    /// What it is signed with.
    pub key: [u8; 64],
    /// What it was signed with before, newest first: such a cookie is taken, and signed again.
    pub previous: Vec<[u8; 64]>,
    /// How long it lasts; until the browser is closed if there is none.
    pub lifetime: Option<Duration>,
    /// What is said after the value, but for `Max-Age` and `Secure`.
    pub attributes: String,
    /// Whether it is `Secure`; as the request came if nothing is said.
    pub secure: Option<bool>,
    /// Whether sessions stay with V1 if they began there, until V2 has all of them.
    pub stays: bool,
}

/// What a request's cookie says, or that of its answer will say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// The session's id: 32 hexadecimal digits.
    pub id: String,
    /// Whether no cookie came.
    pub is_new: bool,
    /// Whether the session was known before by a key of the service.
    pub is_known: bool,
    pool: PoolId,
    /// When it came to that pool, in seconds since the Unix epoch.
    begun: u64,
    /// When the cookie was set last.
    issued: u64,
    /// Whether it is signed with a key from before.
    is_outdated: bool,
}

impl std::fmt::Debug for SessionCookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionCookie").field("name", &self.name).field("stays", &self.stays).finish_non_exhaustive()
    }
}

impl SessionCookie {
    /// The session of a request: that of its cookie, or a new one. `known` is the key that the service gave it, `draw` what a
    /// new id is made of otherwise.
    pub fn visit(&self, fields: &Fields, known: Option<&str>, now: UnixMs, draw: impl FnOnce() -> u128) -> Visit {
        let now = now.0 / 1_000;
        let values = fields.texts("cookie").flat_map(|text| text.split(';'));
        let mut values = values.filter_map(|pair| pair.trim().split_once('=')).filter(|(name, _)| *name == self.name);
        if let Some(visit) = values.find_map(|(_, value)| self.read(value.trim_matches('"'), now)) {
            return visit;
        }
        let id = match known {
            None => draw(),
            Some(known) => {
                let mac = mac(&self.key, "session", known).finalize().into_bytes();
                mac.iter().take(16).fold(0, |id, byte| (id << 8) | u128::from(*byte))
            }
        };
        let is_known = known.is_some();
        Visit {
            id: format!("{id:032x}"),
            is_new: true,
            is_known,
            pool: PoolId::V1,
            begun: now,
            issued: now,
            is_outdated: false,
        }
    }

    /// The cookie described for people: with another key, or another rule to stay, sessions go elsewhere. The oldest key that
    /// is taken stands for all: whoever has a cookie of it keeps the place.
    pub fn described(&self) -> String {
        let key = Sha256::digest(self.previous.last().unwrap_or(&self.key));
        let [a, b, c, ..] = <[u8; 32]>::from(key);
        let stay = if self.stays { "creator" } else { "share" };
        format!("the host's cookie `{}` (key {a:02x}{b:02x}{c:02x}, stay {stay})", self.name)
    }

    /// Where a session stays, if sessions do.
    pub fn home(&self, visit: &Visit) -> Option<Home> {
        let begun = UnixMs(visit.begun.saturating_mul(1_000));
        (self.stays && !visit.is_new).then_some(Home { pool: visit.pool, begun })
    }

    /// Takes the cookie out of a request: it is the host's alone.
    pub fn strip(&self, fields: &mut Fields) {
        let is_own = |pair: &str| pair.trim().split_once('=').is_some_and(|(name, _)| name == self.name);
        if !fields.texts("cookie").any(|text| text.split(';').any(is_own)) {
            return;
        }
        let kept: Vec<_> =
            fields.texts("cookie").flat_map(|text| text.split(';')).filter(|pair| !is_own(pair)).collect();
        let kept = kept.iter().map(|pair| pair.trim()).filter(|pair| !pair.is_empty()).collect::<Vec<_>>().join("; ");
        fields.remove("cookie");
        if !kept.is_empty() {
            fields.add("cookie", kept);
        }
    }

    /// What `Set-Cookie` says with an answer of a pool, if it has to be said: to who is new, to a session that now is
    /// another pool's, and again before the cookie ends or after the key was replaced.
    pub fn set(&self, visit: &Visit, pool: PoolId, now: UnixMs, is_tls: bool) -> Option<String> {
        let now = now.0 / 1_000;
        let moved = self.stays && !visit.is_new && visit.pool != pool;
        let is_old = self.lifetime.is_some_and(|span| now.saturating_sub(visit.issued) > span.as_secs() / 2);
        if !(visit.is_new || moved || is_old || visit.is_outdated) {
            return None;
        }
        let begun = if visit.is_new || moved { now } else { visit.begun };
        let number = if pool == PoolId::V1 { 1 } else { 2 };
        let value = format!("{}.{begun}.{now}.{number}", visit.id);
        let mac = self.sign(&value);
        let age = self.lifetime.map(|span| format!("; Max-Age={}", span.as_secs())).unwrap_or_default();
        let secure = if self.secure.unwrap_or(is_tls) { "; Secure" } else { "" };
        Some(format!("{}={value}.{mac}{age}{}{secure}", self.name, self.attributes))
    }

    /// What a cookie says, if the host has signed it and it is not over.
    fn read(&self, value: &str, now: u64) -> Option<Visit> {
        let (said, mac) = value.rsplit_once('.')?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok().filter(|mac| mac.len() == MAC)?;
        let is_by = |key: &[u8; 64]| self::mac(key, &self.name, said).verify_truncated_left(&mac).is_ok();
        let is_outdated = !is_by(&self.key);
        if is_outdated && !self.previous.iter().any(is_by) {
            return None;
        }
        let mut parts = said.split('.');
        let (id, begun, issued) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let pool = match parts.next()? {
            "1" => PoolId::V1,
            "2" => PoolId::V2,
            _ => return None,
        };
        let lasts = self.lifetime.map_or(LONGEST, |span| span.as_secs());
        let is_whole = id.len() == ID && parts.next().is_none() && now.saturating_sub(issued) <= lasts;
        is_whole.then(|| Visit { id: id.to_owned(), is_new: false, is_known: true, pool, begun, issued, is_outdated })
    }

    fn sign(&self, value: &str) -> String {
        let mac = mac(&self.key, &self.name, value).finalize().into_bytes();
        URL_SAFE_NO_PAD.encode(mac.get(..MAC).unwrap_or_default())
    }
}

/// Names and what they are signed for cannot run into each other: no name has a zero.
fn mac(key: &[u8; 64], name: &str, value: &str) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256>>::new(key.into());
    mac.update(name.as_bytes());
    mac.update(&[0]);
    mac.update(value.as_bytes());
    mac
}

/// Whether an answer may be kept by caches that serve others: then a cookie of one caller has no place in it (RFC 9111,
/// 5.2.2).
pub fn is_shared(fields: &Fields) -> bool {
    fields.tokens("cache-control").any(|directive| {
        let name = directive.split('=').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("public") || name.eq_ignore_ascii_case("s-maxage")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: UnixMs = UnixMs(1_800_000_000_000);

    fn cookie(lifetime: Option<Duration>) -> SessionCookie {
        SessionCookie {
            name: "route".into(),
            key: [7; 64],
            previous: Vec::new(),
            lifetime,
            attributes: "; Path=/; HttpOnly; SameSite=Lax".into(),
            secure: None,
            stays: true,
        }
    }

    fn fields(cookies: &[&str]) -> Fields {
        let mut fields = Fields::default();
        for text in cookies {
            fields.add("cookie", text);
        }
        fields
    }

    fn later(span: Duration) -> UnixMs {
        UnixMs(NOW.0 + u64::try_from(span.as_millis()).unwrap())
    }

    /// The pair of a `Set-Cookie`.
    fn pair(set: &str) -> String {
        set.split(';').next().unwrap().to_owned()
    }

    #[test]
    fn who_comes_back_with_the_cookie_is_the_same_session_and_is_told_nothing_new() {
        let cookie = cookie(None);
        let first = cookie.visit(&fields(&[]), None, NOW, || 42);
        assert!(first.is_new && !first.is_known);
        let set = cookie.set(&first, PoolId::V2, NOW, false).unwrap();
        assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
        let again = cookie.visit(&fields(&["a=b", &format!("c=d; {}", pair(&set))]), Some("sid"), NOW, || 1);
        assert_eq!((again.id.as_str(), again.is_new, again.pool), (first.id.as_str(), false, PoolId::V2));
        assert_eq!(cookie.set(&again, PoolId::V2, NOW, false), None);
    }

    #[test]
    fn who_had_a_key_keeps_its_place_before_it_has_the_cookie_and_with_it() {
        let cookie = cookie(None);
        let [before, again] = [1, 2].map(|n| cookie.visit(&fields(&[]), Some("abc"), NOW, || n));
        assert_eq!(before.id, again.id);
        let set = cookie.set(&before, PoolId::V1, NOW, true).unwrap();
        let with = cookie.visit(&fields(&[&pair(&set)]), Some("rotated"), NOW, || 3);
        assert_eq!(with.id, before.id);
        assert!(set.ends_with("; Secure") && !before.id.contains("abc"));
    }

    #[test]
    fn a_session_that_moved_is_the_other_pools_from_then_on() {
        let cookie = cookie(None);
        let first = cookie.visit(&fields(&[]), None, NOW, || 42);
        let set = cookie.set(&first, PoolId::V2, NOW, false).unwrap();
        let again = cookie.visit(&fields(&[&pair(&set)]), None, NOW, || 1);
        let soon = later(Duration::from_mins(1));
        let moved = cookie.set(&again, PoolId::V1, soon, false).unwrap();
        let back = cookie.visit(&fields(&[&pair(&moved)]), None, soon, || 1);
        assert_eq!(cookie.home(&back), Some(Home { pool: PoolId::V1, begun: soon }));
        assert_eq!(back.id, first.id);
    }

    #[test]
    fn a_cookie_ends_with_its_lifetime_and_is_renewed_half_way() {
        let hour = Duration::from_hours(1);
        let cookie = cookie(Some(hour));
        let first = cookie.visit(&fields(&[]), None, NOW, || 42);
        let set = cookie.set(&first, PoolId::V1, NOW, false).unwrap();
        assert!(set.contains("; Max-Age=3600;"), "{set}");
        let at = |span| cookie.visit(&fields(&[&pair(&set)]), None, later(span), || 1);
        assert_eq!(cookie.set(&at(hour / 3), PoolId::V1, later(hour / 3), false), None);
        assert!(cookie.set(&at(hour * 2 / 3), PoolId::V1, later(hour * 2 / 3), false).is_some());
        assert!(at(hour * 2).is_new);
    }

    #[test]
    fn a_cookie_of_a_key_from_before_keeps_its_place_and_is_signed_again() {
        let old = cookie(None);
        let first = old.visit(&fields(&[]), None, NOW, || 42);
        let set = old.set(&first, PoolId::V2, NOW, false).unwrap();
        let new = SessionCookie { key: [8; 64], previous: vec![[9; 64], old.key], ..old.clone() };
        let back = new.visit(&fields(&[&pair(&set)]), None, NOW, || 1);
        assert_eq!((back.id.as_str(), back.is_new, back.pool), (first.id.as_str(), false, PoolId::V2));
        let again = new.set(&back, PoolId::V2, NOW, false).unwrap();
        // Once it is signed with the new key, the old one is not needed.
        let alone = SessionCookie { previous: Vec::new(), ..new.clone() };
        let signed = alone.visit(&fields(&[&pair(&again)]), None, NOW, || 1);
        assert_eq!((signed.id.as_str(), signed.pool, signed.begun), (first.id.as_str(), PoolId::V2, back.begun));
        assert_eq!(alone.set(&signed, PoolId::V2, NOW, false), None);
        assert!(
            alone.visit(&fields(&[&pair(&set)]), None, NOW, || 1).is_new,
            "the key from before is not taken any more"
        );
        assert_eq!((new.described(), alone.described() == old.described()), (old.described(), false));
    }

    #[test]
    fn the_cookie_stays_behind_and_others_pass() {
        let cookie = cookie(None);
        let stripped = |cookies: &[&str]| {
            let mut fields = fields(cookies);
            cookie.strip(&mut fields);
            fields.texts("cookie").map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(stripped(&["a=b; route=x; c=d"]), ["a=b; c=d"]);
        assert_eq!(stripped(&["a=b", "c=d"]), ["a=b", "c=d"]);
        assert_eq!(stripped(&["route=x"]), [""; 0]);
        assert_eq!(stripped(&["a=b", "route=x;c=route=y"]), ["a=b; c=route=y"]);
    }

    #[test]
    fn what_caches_share_is_told_apart() {
        let of = |value: &str| {
            let mut fields = Fields::default();
            fields.add("cache-control", value);
            is_shared(&fields)
        };
        assert!(of("max-age=5, Public") && of("s-maxage=5") && !of("private, max-age=3") && !of("no-store"));
    }

    proptest! {
        #[test]
        fn nobody_but_the_host_makes_a_cookie(at in 0_usize..200, byte in 32_u8..127, other in prop::array::uniform32(any::<u8>())) {
            let cookie = cookie(None);
            let first = cookie.visit(&fields(&[]), None, NOW, || 42);
            let set = pair(&cookie.set(&first, PoolId::V1, NOW, false).unwrap());
            let mut edited = set.clone().into_bytes();
            let at = "route=".len() + at % (edited.len() - "route=".len());
            edited[at] = byte;
            let edited = String::from_utf8(edited).unwrap();
            let read = cookie.visit(&fields(&[&edited]), None, NOW, || 1);
            // Base64 has spare bits in its last digit, which are checked; everything else is signed.
            prop_assert_eq!(read.is_new, edited.trim() != set);
            let stranger = SessionCookie { key: [other, other].concat().try_into().unwrap(), ..cookie.clone() };
            let named = SessionCookie { name: "other".into(), ..cookie.clone() };
            prop_assert!(stranger.visit(&fields(&[&set]), None, NOW, || 1).is_new);
            prop_assert!(named.visit(&fields(&[&set.replace("route=", "other=")]), None, NOW, || 1).is_new);
        }
    }
}
