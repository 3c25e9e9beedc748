use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, json};

use super::*;
use crate::{
    dsse,
    keys::{
        private,
        tests::{private_pem, public_line},
    },
    release::Provenance,
    sign::{SignError, sign},
};
use cutover_model::{clock::UnixMs, port::Kind};

const ALICE: u8 = 1;
const BOB: u8 = 2;
const CAROL: u8 = 3;
const MALLORY: u8 = 66;

fn manifest() -> Manifest {
    Manifest {
        name: "thresholds".into(),
        version: "1.2.0".into(),
        kind: Kind::Rollback,
        component_sha256: "ab".repeat(32),
        contract: "0.1.0".into(),
        settings_schema_sha256: "cd".repeat(32),
        settings: Map::from_iter([("min_requests".into(), json!(100))]),
        script: None,
        wasi_stub: false,
    }
}

fn signed_by(secrets: &[u8], manifest: &Manifest) -> Envelope {
    let signers: Vec<_> = secrets.iter().map(|s| private(&private_pem(*s)).unwrap()).collect();
    sign(manifest, &signers, None).unwrap()
}

fn release(manifest: Manifest, envelope: Option<Envelope>) -> Release {
    Release {
        manifest,
        summary: String::new(),
        author: "alice".into(),
        reason: "because".into(),
        actor: "alice".into(),
        at: UnixMs(0),
        provenance: Provenance::File { path: "thresholds.wasm".into() },
        envelope,
    }
}

/// Alice, Bob and Carol, of whom `required` must sign.
fn trust(required: usize) -> Trust {
    let keys = [("alice", ALICE), ("bob", BOB), ("carol", CAROL)];
    Trust::listed(keys.iter().map(|(n, s)| TrustedKey::new(n, &public_line(*s)).unwrap()).collect(), required)
}

fn verdict(required: usize, manifest: Manifest, envelope: Option<Envelope>) -> Result<(), Refused> {
    trust(required).verify(&release(manifest, envelope))
}

#[test]
fn without_listed_keys_everything_is_accepted() {
    assert_eq!(Trust::default().verify(&release(manifest(), None)), Ok(()));
}

#[test]
fn enough_listed_keys_in_one_envelope_are_accepted() {
    let envelope = signed_by(&[BOB, CAROL, MALLORY], &manifest());
    assert_eq!(verdict(2, manifest(), Some(envelope.clone())), Ok(()));
    let refused = verdict(3, manifest(), Some(envelope));
    assert_eq!(refused, Err(Refused::TooFew { by: vec!["bob".into(), "carol".into()], required: 3 }));
}

#[test]
fn unsigned_is_refused() {
    let unsigned = Refused::Unsigned { required: 2, listed: 3 };
    assert_eq!(verdict(2, manifest(), None), Err(unsigned.clone()));
    let empty = Envelope { signatures: Vec::new(), ..signed_by(&[ALICE], &manifest()) };
    assert_eq!(verdict(2, manifest(), Some(empty)), Err(unsigned));
}

#[test]
fn strangers_are_refused() {
    let envelope = signed_by(&[MALLORY], &manifest());
    assert_eq!(verdict(1, manifest(), Some(envelope)), Err(Refused::UnknownKeys { listed: 3 }));
}

#[test]
fn a_stranger_who_claims_the_id_of_a_listed_key_is_refused_by_that_name() {
    let mut envelope = signed_by(&[MALLORY], &manifest());
    envelope.signatures[0].keyid = signed_by(&[ALICE], &manifest()).signatures[0].keyid.clone();
    assert_eq!(verdict(1, manifest(), Some(envelope)), Err(Refused::WrongSignature { keys: vec!["alice".into()] }));
}

#[test]
fn one_key_counts_once_however_often_and_under_whatever_id_it_signs() {
    let mut envelope = signed_by(&[ALICE], &manifest());
    let mut again = envelope.signatures[0].clone();
    again.keyid = Some(trust(2).0.unwrap().keys[1].key.id.clone());
    envelope.signatures.extend([again, envelope.signatures[0].clone()]);
    assert_eq!(verdict(2, manifest(), Some(envelope)), Err(Refused::TooFew { by: vec!["alice".into()], required: 2 }));
}

#[test]
fn whatever_was_changed_after_signing_is_refused_by_its_name() {
    let changed = |change: fn(&mut Manifest)| {
        let mut other = manifest();
        change(&mut other);
        match verdict(2, other, Some(signed_by(&[ALICE, BOB], &manifest()))) {
            Err(Refused::Differs { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(changed(|m| m.name = "other".into()), "name");
    assert_eq!(changed(|m| m.version = "1.3.0".into()), "version");
    assert_eq!(changed(|m| m.kind = Kind::Stages), "kind");
    assert_eq!(changed(|m| m.component_sha256 = "ef".repeat(32)), "component_sha256");
    assert_eq!(changed(|m| m.contract = "0.2.0".into()), "contract");
    assert_eq!(changed(|m| m.settings_schema_sha256 = "ef".repeat(32)), "settings_schema_sha256");
    assert_eq!(changed(|m| drop(m.settings.insert("min_requests".into(), json!(1)))), "settings");
    assert_eq!(changed(|m| m.script = Some("fn judge() {}".into())), "script");
    assert_eq!(changed(|m| m.wasi_stub = true), "wasi_stub");
}

#[test]
fn a_changed_payload_breaks_every_signature() {
    let mut envelope = signed_by(&[ALICE, BOB], &manifest());
    let other = Manifest { version: "9.0.0".into(), ..manifest() };
    envelope.payload = BASE64_STANDARD.encode(serde_json::to_vec(&other).unwrap());
    let refused = verdict(1, other, Some(envelope)).unwrap_err();
    assert_eq!(refused, Refused::WrongSignature { keys: vec!["alice".into(), "bob".into()] });
}

#[test]
fn a_signature_for_something_else_is_refused() {
    let payload = serde_json::to_vec(&manifest()).unwrap();
    let alice = [private(&private_pem(ALICE)).unwrap()];
    let other = dsse::sign("application/vnd.in-toto+json", &payload, &alice);
    let refused = verdict(1, manifest(), Some(other.clone())).unwrap_err();
    assert_eq!(refused.cause(), "wrong-payload-type");
    // Calling it ours breaks the signature, which covers the type.
    let renamed = Envelope { payload_type: PAYLOAD_TYPE.into(), ..other };
    assert_eq!(verdict(1, manifest(), Some(renamed)).unwrap_err().cause(), "wrong-signature");
    let nonsense = dsse::sign(PAYLOAD_TYPE, br#"{"name":"thresholds","surprise":1}"#, &alice);
    assert_eq!(verdict(1, manifest(), Some(nonsense)).unwrap_err().cause(), "malformed-signatures");
}

#[test]
fn before_it_is_compiled_a_policy_is_screened_by_all_but_what_it_says_of_itself() {
    let claimed = Manifest { contract: String::new(), settings_schema_sha256: String::new(), ..manifest() };
    let envelope = signed_by(&[ALICE, BOB], &manifest());
    assert_eq!(trust(2).screen(&claimed, Some(&envelope)), Ok(()));
    let other = Manifest { component_sha256: "00".repeat(32), ..claimed };
    assert_eq!(trust(2).screen(&other, Some(&envelope)).unwrap_err().cause(), "signed-for-another");
}

#[test]
fn a_second_person_signs_what_the_first_has_signed() {
    let first = signed_by(&[ALICE], &manifest());
    let bob = private(&private_pem(BOB)).unwrap();
    let both = sign(&manifest(), std::slice::from_ref(&bob), Some(first.clone())).unwrap();
    assert_eq!(verdict(2, manifest(), Some(both.clone())), Ok(()));
    let again = sign(&manifest(), std::slice::from_ref(&bob), Some(both)).unwrap();
    assert_eq!(again.signatures.len(), 2, "who signs twice is listed once");
    let changed = Manifest { version: "1.3.0".into(), ..manifest() };
    let refused = sign(&changed, std::slice::from_ref(&bob), Some(first)).unwrap_err();
    assert!(matches!(refused, SignError::Other { field: "version", .. }), "{refused:?}");
}
