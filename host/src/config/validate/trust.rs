//! Whose policies are accepted: keys that can be used, each once, and a number of them that can sign.

use super::{At, raw};
use cutover_policy_host::trust::{Trust, TrustedKey};

/// Keys that may be listed: each is tried with every signature of a policy.
const MAX_KEYS: usize = 64;

pub(super) fn trust(at: &mut At<'_>, raw: Option<raw::PolicyTrust>) -> Trust {
    let Some(raw) = raw else { return Trust::default() };
    let listed = raw.keys.len();
    if !(1..=MAX_KEYS).contains(&listed) {
        at.field("keys")
            .wrong(&format!("has {listed} keys; list between 1 and {MAX_KEYS}, or remove `host.policy_trust`"));
    }
    let required = raw.required.unwrap_or(listed);
    if listed > 0 && !(1..=listed).contains(&required) {
        at.field("required").wrong(&format!("is {required}; it must be between 1 and {listed}, the number of keys"));
    }
    let mut keys: Vec<TrustedKey> = Vec::new();
    for (n, raw::PolicyKey { name, public_key }) in raw.keys.into_iter().enumerate() {
        let mut at = at.field(&format!("keys[{n}]"));
        if name.trim().is_empty() || name.len() > 64 {
            at.field("name").wrong("must have 1 to 64 characters: say whose key it is");
        }
        match TrustedKey::new(&name, &public_key) {
            Ok(key) => match keys.iter().find(|other| other.id() == key.id() || other.name == key.name) {
                Some(other) if other.id() == key.id() => {
                    at.field("public_key").wrong(&format!("is the key of `{}` again; a key counts once", other.name));
                }
                Some(_) => at.field("name").wrong(&format!("is `{name}` again; give each key a name of its own")),
                None => keys.push(key),
            },
            Err(error) => at.field("public_key").wrong(&error.to_string()),
        }
    }
    Trust::listed(keys, required)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, ConfigError};

    const ALICE: &str = "MCowBQYDK2VwAyEA7Ily8zxRN0ZINQD/GrkUMrwmYR+WTGP02AOQEcmqmis=";
    const BOB: &str = "MCowBQYDK2VwAyEAIGBQtLB1C0Ao2oESY/mqtdRpmUsXfe6ayE/Dhn40FqE=";

    /// The problems with `host.policy_trust`.
    fn problems(trust: &str) -> Vec<String> {
        match Config::parse(&format!("[host.policy_trust]\n{trust}"), Path::new("."), &[]) {
            Err(ConfigError::Problems { problems, .. }) => {
                problems.iter().filter(|p| p.path.starts_with("host.policy_trust")).map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn key(name: &str, key: &str) -> String {
        format!("{{ name = '{name}', public_key = '{key}' }}")
    }

    #[test]
    fn keys_that_openssl_wrote_can_be_listed() {
        let (alice, bob) = (key("alice", ALICE), key("bob", BOB));
        assert_eq!(problems(&format!("keys = [{alice}, {bob}]\nrequired = 2")), Vec::<String>::new());
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{ALICE}\n-----END PUBLIC KEY-----\n");
        let pem = format!("required = 1\n[[host.policy_trust.keys]]\nname = 'alice'\npublic_key = \"\"\"\n{pem}\"\"\"");
        assert_eq!(problems(&pem), Vec::<String>::new());
    }

    #[test]
    fn keys_that_cannot_be_counted_are_refused() {
        let (alice, bob) = (key("alice", ALICE), key("bob", BOB));
        for (trust, words) in [
            ("keys = []".to_owned(), "`host.policy_trust.keys` has 0 keys"),
            (
                format!("keys = [{alice}]\nrequired = 0"),
                "`host.policy_trust.required` is 0; it must be between 1 and 1",
            ),
            (format!("keys = [{alice}]\nrequired = 2"), "`host.policy_trust.required` is 2"),
            (
                format!("keys = [{alice}, {}]", key("bob", ALICE)),
                "`host.policy_trust.keys[1].public_key` is the key of `alice` again",
            ),
            (format!("keys = [{bob}, {}]", key("bob", ALICE)), "`host.policy_trust.keys[1].name` is `bob` again"),
            (
                format!("keys = [{}]", key("alice", "AAAA")),
                "`host.policy_trust.keys[0].public_key` is not an ed25519 public key",
            ),
            (format!("keys = [{}]", key("", ALICE)), "`host.policy_trust.keys[0].name` must have"),
        ] {
            let problems = problems(&trust);
            assert!(matches!(problems.as_slice(), [one] if one.starts_with(words)), "{trust}: {problems:?}");
        }
    }
}
