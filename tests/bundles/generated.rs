//! Folders that nobody would lay out, made by chance from fixed seeds: read within a moment, never past their limits, and
//! without a word of what they lead to. What can be read goes on to the sandbox, which admits it or says why not.
//!
//! `CUTOVER_GENERATED=2500` makes so many instead of some hundred: then 500 at least can be read, and are taken to the
//! sandbox.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use cutover_model::port::Kind;
use cutover_policy_host::{
    admission::admit_bundle,
    bundle::{Bundle, files::Folder},
    engine::{Engine, Limits},
};
use rustix::fs::{CWD, FileType, Mode, makedev, mkfifoat, mknodat};
use tempfile::TempDir;

use crate::{
    harness::components,
    hostile::contract::{Export, Guest},
};

/// Folders in a usual run.
const USUAL: u64 = 120;

/// What no message may show.
const SECRET: &str = "hunter2 = 'this is the secret'\n";

/// A comment of a `policy.toml`, so that some changed bits change nothing.
const MARK: &str = "a comment that is long enough to be hit by chance now and then";

/// The largest component.
const LIMIT: usize = 1 << 20;

/// Splitmix64 (Steele, Lea and Flood 2014): enough to choose by.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// What a folder has that is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Odd {
    /// Something else lies in the place of one of its files.
    File(&'static str),
    /// Its `policy.toml` says something strange.
    Name,
    Kind,
    Guest,
    Path,
    Script,
    /// Much else lies there: links, pipes, sockets, devices, deep trees.
    Beside,
}

const ODD: [Odd; 12] = [
    Odd::File("policy.toml"),
    Odd::File("policy.wasm"),
    Odd::File("policy.wasm"),
    Odd::File("policy.wasm"),
    Odd::File("policy.rhai"),
    Odd::File("policy.sig.json"),
    Odd::Name,
    Odd::Kind,
    Odd::Guest,
    Odd::Path,
    Odd::Script,
    Odd::Beside,
];

/// Lays something at a path that is to be a file.
fn lay(chance: &mut Chance, at: &Path, good: &[u8], secret: &Path) {
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    drop(fs::remove_file(at));
    match chance.below(12) {
        0 => drop(mkfifoat(CWD, at, Mode::RUSR | Mode::WUSR)),
        1 => drop(symlink(secret, at)),
        2 => drop(symlink(chance.one(&["/dev/zero", "/dev/random", "/proc/kmsg", "/proc/self/mem", ".", "loop"]), at)),
        3 => drop(fs::create_dir_all(at.join("in"))),
        4 => drop(UnixListener::bind(at)),
        // For whoever may make devices.
        5 => drop(mknodat(CWD, at, FileType::CharacterDevice, Mode::RUSR, makedev(1, 5))),
        6 => File::create(at).unwrap().set_len(chance.one(&[0, 1 << 20, (1 << 20) + 1, 1 << 40])).unwrap(),
        7 => drop(fs::write(at, vec![chance.one(b"a\0\xff[\n="); chance.one(&[0, 10, 100_000, 2_000_000])])),
        _ => {
            let mut bytes = good.to_vec();
            for _ in 0..=chance.below(8) {
                let (place, bit) = (chance.below(bytes.len()), chance.below(8));
                bytes[place] ^= 1 << bit;
            }
            bytes.truncate(bytes.len() - chance.below(bytes.len()) * usize::from(chance.below(3) == 0));
            drop(fs::write(at, bytes));
        }
    }
}

/// What nobody reads, or should not.
fn beside(chance: &mut Chance, bundle: &Path, secret: &Path) {
    for n in 0..chance.one(&[1, 20, 200]) {
        lay(chance, &bundle.join(format!("more/{n}")), b"more", secret);
    }
    fs::create_dir_all(bundle.join("deep/".repeat(chance.one(&[1, 20, 200])))).unwrap();
    drop(symlink(bundle, bundle.join("in")));
}

fn manifest(chance: &mut Chance, odd: &[Odd], kind: Kind) -> String {
    let is = |what| odd.contains(&what);
    let name = if is(Odd::Name) { chance.one(&["stränge", "a\\u0007b", "a\\nb", "", "../x"]) } else { "strange" };
    let kind = if is(Odd::Kind) { chance.one(&["judge", "stages", "", "\\u202e"]) } else { kind.name() };
    let deep = "d/".repeat(chance.one(&[15, 16, 17, 200])) + "policy.wasm";
    let paths = ["../secret", "/etc/passwd", "./policy.wasm", "", "in", "in/policy.wasm", deep.as_str()];
    let path = if is(Odd::Path) { chance.one(&paths) } else { "policy.wasm" };
    let what = if is(Odd::Guest) {
        format!("guest = \"{}\"", chance.one(&["rhai", "exact-compare", "../secret", "/dev/zero", "", "x\\u202ey"]))
    } else {
        format!("component = \"{path}\"")
    };
    let script = chance.one(&["script = \"../secret\"", "script = \"in\"", "script = \"policy.rhai\""]);
    let script = if is(Odd::Script) { script } else { "" };
    format!("name = \"{name}\"\nversion = \"1.0.0\"\nkind = \"{kind}\"\n{what}\n{script}\n# {MARK}\n")
}

/// Lays out a folder by chance, around a component.
fn folder(chance: &mut Chance, at: &Path, (kind, component): (Kind, &[u8]), secret: &Path) {
    let bundle = at.join("bundle");
    fs::create_dir_all(&bundle).unwrap();
    let odd: Vec<_> = (0..chance.one(&[0, 1, 1, 1, 1, 2, 2, 4])).map(|_| chance.one(&ODD)).collect();
    let text = manifest(chance, &odd, kind);
    let files: [(&str, &[u8]); 3] = [
        ("policy.toml", text.as_bytes()),
        ("policy.wasm", component),
        ("policy.rhai", b"fn judge(check) { healthy() }"),
    ];
    for (name, good) in files {
        fs::write(bundle.join(name), good).unwrap();
        if odd.contains(&Odd::File(name)) {
            lay(chance, &bundle.join(name), good, secret);
        }
    }
    if odd.contains(&Odd::File("policy.sig.json")) {
        lay(chance, &bundle.join("policy.sig.json"), br#"{"payload":"","payloadType":"","signatures":[]}"#, secret);
    }
    if odd.contains(&Odd::Beside) {
        beside(chance, &bundle, secret);
    }
}

/// Components that are shipped, and such as no compiler writes.
fn sound() -> Vec<(Kind, Vec<u8>)> {
    let shipped = |name: &str| fs::read(components().join(name)).unwrap();
    let mut all =
        vec![(Kind::Comparison, shipped("exact-compare.wasm")), (Kind::Routing, shipped("sticky-share.wasm"))];
    let written = Export::ALL.into_iter().map(|export| (export.kind(), Guest::with(export).component()));
    all.extend(written);
    all
}

/// What became of folders.
#[derive(Debug, Default)]
struct Became {
    read: u64,
    admitted: u64,
    refused: BTreeMap<&'static str, u64>,
    unread: u64,
}

#[test]
fn generated_folders_are_read_or_refused_at_once_and_what_is_read_is_admitted_or_refused() {
    let many = std::env::var("CUTOVER_GENERATED").ok().and_then(|many| many.parse().ok()).unwrap_or(USUAL);
    let (engine, sound) = (Engine::new(Limits::default()).unwrap(), sound());
    let mut became = Became::default();
    for seed in 0..many {
        let temp = TempDir::new().unwrap();
        let secret = temp.path().join("secret");
        fs::write(&secret, SECRET).unwrap();
        let chance = &mut Chance(seed);
        let (kind, component) = &sound[chance.below(sound.len())];
        folder(chance, temp.path(), (*kind, component), &secret);
        let (done, outcome) = mpsc::channel();
        let bundle = temp.path().join("bundle");
        // A thread that hangs is left behind, and fails the test.
        thread::spawn(move || {
            let found = Folder::open(&bundle).map_err(|e| e.to_string());
            drop(done.send(found.and_then(|f| Bundle::read_in(&f, &components(), &toml::Table::new(), LIMIT))));
        });
        let found = outcome.recv_timeout(Duration::from_secs(20));
        match found.unwrap_or_else(|e| panic!("seed {seed}: it hangs: {e}")) {
            Ok(bundle) => {
                became.read += 1;
                assert!(bundle.component.len() <= LIMIT && bundle.component != SECRET.as_bytes(), "seed {seed}");
                match admit_bundle(&engine, &bundle) {
                    Ok(_) => became.admitted += 1,
                    Err(error) => {
                        assert!(error.to_string().len() < 64 << 10, "seed {seed}");
                        *became.refused.entry(error.cause()).or_default() += 1;
                    }
                }
            }
            Err(why) => {
                became.unread += 1;
                assert!(!why.contains("the secret") && why.len() < 16 << 10, "seed {seed}: {why}");
            }
        }
    }
    eprintln!("of {many} folders: {became:?}");
    let Became { read, admitted, refused, unread } = &became;
    assert!(*read >= many / 5 && *unread >= many / 4, "{became:?}");
    assert!(*admitted >= many / 10 && refused.values().sum::<u64>() >= many / 30, "{became:?}");
}
