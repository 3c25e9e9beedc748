//! Who may choose a pool, and whose choices are evidence.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{At, raw};
use cutover_model::request::Attribute;
use cutover_policy_host::route::{Callers, Choice, Key};

/// The shortest key: what is shorter can be guessed.
const LEAST: usize = 16;

/// The longest key, in bytes.
const MOST: u64 = 4_096;

/// Both.
pub(super) fn of(at: &mut At<'_>, choice: Option<raw::Override>, rules: Vec<String>, base: &Path) -> Callers {
    Callers {
        choice: choice.and_then(|choice| self::choice(&mut at.field("override"), choice, base)),
        evidence: self::rules(&mut at.field("evidence_rules"), rules),
    }
}

/// `[migrations.NAME.override]`.
fn choice(at: &mut At<'_>, raw: raw::Override, base: &Path) -> Option<Choice> {
    let Some(header @ Attribute::Header(_)) = Attribute::parse(&format!("header:{}", raw.header.to_lowercase())) else {
        at.field("header").wrong("is no name of a header; leave it out for `x-cutover-pool`");
        return None;
    };
    let key = match (raw.key_file, raw.anyone) {
        (Some(file), false) => Some(Key::of(&key(&mut at.field("key_file"), &base.join(file))?)),
        (None, true) => None,
        (Some(_), true) => {
            at.wrong(
                "has both `key_file` and `anyone`; a key keeps out those who do not have it, `anyone` lets them in",
            );
            return None;
        }
        (None, false) => {
            at.wrong(
                "says nobody who may choose; set `key_file = \"FILE\"`, whose content callers send as `x-cutover-key`, or \
                 `anyone = true` where only testers can reach the host",
            );
            return None;
        }
    };
    Some(Choice { header, key, testers: raw.testers, evidence: raw.evidence })
}

/// `evidence_rules`.
fn rules(at: &mut At<'_>, rules: Vec<String>) -> Vec<String> {
    for rule in &rules {
        let fits = (1..=64).contains(&rule.len())
            && rule.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits {
            at.wrong(&format!("has `{rule}`, which is no name of a rule; they are 1 to 64 characters of `a-z 0-9 -`"));
        }
    }
    rules
}

/// The key in a file: its line.
pub(super) fn key(at: &mut At<'_>, file: &PathBuf) -> Option<String> {
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(MOST).read_to_string(&mut text));
    let key = text.trim();
    match read {
        Err(error) => at.wrong(&format!("cannot be read: {error}")),
        Ok(_) if key.len() < LEAST || key.contains(|c: char| c.is_control()) => {
            at.wrong("has to have one line of 16 characters or more; `openssl rand -hex 32` makes one");
        }
        Ok(_) => return Some(key.to_owned()),
    }
    None
}
