//! Compiling costs the policy that is compiled, and is done once: in a process with limits, and kept on disk.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, thread, time::Duration};

use cutover_model::port::Kind;
use cutover_policy_host::{
    PolicyError,
    engine::{Compilations, Engine, Limits, Options, Policy},
};
use tempfile::TempDir;

use super::{check, guest};
use crate::harness::binary;

fn start(limits: &Limits, cache: Option<&Path>) -> Arc<Engine> {
    Engine::start(Options { limits: *limits, compiler: Some(binary()), cache: cache.map(Path::to_owned) }).unwrap()
}

/// What a judge says and costs, in all that can be compared.
fn judged(engine: &Arc<Engine>) -> (String, Vec<u8>, u64, usize) {
    let compiled = engine.compile(&guest("sequential")).unwrap();
    let policy = Policy::admit(engine, compiled, Kind::Rollback, "{}").unwrap();
    let asked = policy.judge(&check(0, 60), &[]);
    (format!("{:?}", asked.answer.unwrap()), asked.memory, asked.fuel, asked.memory_peak)
}

#[test]
fn a_process_compiles_what_this_one_would_have() {
    let here = Engine::new(Limits::default()).unwrap();
    let apart = start(&Limits::default(), None);
    assert_eq!(judged(&here), judged(&apart));
    assert_eq!(apart.compilations().compiled, 1);
}

#[test]
fn a_component_that_does_not_compile_is_refused_with_the_compilers_words() {
    let mut cut = guest("hostile");
    cut.truncate(cut.len() / 2);
    let here = Engine::new(Limits::default()).unwrap().compile(&cut).unwrap_err();
    let apart = start(&Limits::default(), None).compile(&cut).unwrap_err();
    assert_eq!(here, apart);
    assert!(matches!(&apart, PolicyError::Compile { message } if message.contains("out of bounds")), "{apart}");
}

#[test]
fn a_compilation_that_takes_too_long_or_too_much_is_ended_and_costs_one_policy() {
    let component = guest("sequential");
    let slow = start(&Limits { compile_time: Duration::from_millis(1), ..Limits::default() }, None);
    assert_eq!(slow.compile(&component).unwrap_err(), PolicyError::CompileDeadline { limit_ms: 1 });
    let small = start(&Limits { compile_bytes: 1 << 20, ..Limits::default() }, None);
    let died = small.compile(&component).unwrap_err();
    assert!(matches!(died, PolicyError::CompilerDied { .. }), "{died}");
    assert!(died.to_string().contains("host.policy_limits.compile_bytes"), "{died}");
    let gone = Options { compiler: Some("/no/such/program".into()), ..Options::default() };
    let died = Engine::start(gone).unwrap().compile(&component).unwrap_err();
    assert!(died.to_string().contains("`/no/such/program` cannot be started"), "{died}");
}

#[test]
fn many_are_compiled_one_after_the_other_and_too_many_are_refused() {
    let engine = start(&Limits { compilations: 1, ..Limits::default() }, None);
    // Each has a name of its own, so that none is known before.
    let component = |n: u32| wat::parse_str(format!("(component (core module $m{n}))")).unwrap();
    let results = thread::scope(|scope| {
        let asked: Vec<_> = (0..80)
            .map(|n| {
                scope.spawn({
                    let engine = &engine;
                    move || engine.compile(&component(n))
                })
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<_>>()
    });
    let refused = results.iter().filter(|result| matches!(result, Err(PolicyError::CompilerBusy { .. }))).count();
    let compiled = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(refused + compiled, 80, "{results:?}");
    assert!(compiled >= 65, "one is compiled and 64 wait: {compiled}");
}

#[test]
fn a_host_that_starts_again_loads_what_it_compiled_and_answers_the_same() {
    let folder = TempDir::new().unwrap();
    let cache = folder.path().join("policy-cache");
    let (cold, warm) = (start(&Limits::default(), Some(&cache)), start(&Limits::default(), Some(&cache)));
    let first = judged(&cold);
    let none = Compilations { compiled: 0, from_disk: 0, rejected: 0, kept_on_disk: true };
    assert_eq!(cold.compilations(), Compilations { compiled: 1, ..none });
    assert_eq!(judged(&warm), first);
    assert_eq!(warm.compilations(), Compilations { from_disk: 1, ..none });
    // Other limits are no reason to compile again.
    let mut limits = Limits::default();
    limits.rollback.memory_bytes = 16 << 20;
    limits.stack_bytes = 128 << 10;
    let other = start(&limits, Some(&cache));
    assert_eq!((judged(&other), other.compilations().from_disk), (first, 1));
}

#[test]
fn a_cache_in_doubt_is_compiled_again_and_never_an_error() {
    let folder = TempDir::new().unwrap();
    let cache = folder.path().join("policy-cache");
    let first = judged(&start(&Limits::default(), Some(&cache)));
    let artefact = || {
        let mut entries = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.extension().is_some_and(|e| e == "artefact")).unwrap()
    };
    let mut flipped = fs::read(artefact()).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(artefact(), flipped).unwrap();
    let engine = start(&Limits::default(), Some(&cache));
    assert_eq!(judged(&engine), first);
    let counts = engine.compilations();
    assert_eq!((counts.compiled, counts.from_disk, counts.rejected), (1, 0, 1));

    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    let engine = start(&Limits::default(), Some(&cache));
    assert_eq!(judged(&engine), first);
    let counts = engine.compilations();
    assert_eq!((counts.compiled, counts.from_disk, counts.kept_on_disk), (1, 0, false));
}
