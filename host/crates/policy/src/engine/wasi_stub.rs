//! The stand-in for WASI: what the tools of some languages cannot help importing, closed and deterministic.
//!
//! Off unless a bundle says `wasi_stub = true`. It has no way out: clocks stand at zero, randomness is the same sequence for
//! every instance, there are no arguments, variables, files or terminals, standard input is at its end, and what is written
//! goes nowhere. Time never passes, so whoever waits has waited. Everything else of these interfaces traps, and every
//! interface beyond them is still refused by name. Nothing of `wasmtime-wasi` is in here, nor in the host.
//!
//! Functions and their types: the WIT packages `wasi:cli`, `wasi:clocks`, `wasi:filesystem`, `wasi:io` and `wasi:random`,
//! versions 0.2.

use wasmtime::{
    Error, StoreContextMut,
    component::{
        Component, ComponentNamedList, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType,
        WasmList, types::ComponentItem,
    },
};

use super::guest::State;
use crate::wasi::offers;

/// Bytes that may be written at once. What is written is not even read, so any number would do.
const WRITABLE: u64 = 64 << 10;

/// Random bytes that may be had at once: the host makes them before the guest's memory is asked whether it has room.
const MOST_RANDOM: u64 = 64 << 10;

/// What a guest would have to be told that must not know the time: the clocks' finest step.
const RESOLUTION_NS: u32 = 1;

/// A guest called something that is not stood in for.
#[derive(Debug, thiserror::Error)]
#[error("it called `{0}`, which the stand-in for WASI does not have")]
pub(super) struct NotOffered(String);

/// The state of an instance's randomness. All instances begin alike.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Chance(u64);

/// Host types of the resources. Handles are all there is of them: none has a state.
struct IoError;
struct Pollable;
struct Input;
struct Output;
struct Nothing;

/// `stream-error`. Streams of the stand-in never fail, they end.
#[derive(ComponentType, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[expect(dead_code, reason = "the type has this case")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

/// `datetime`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

impl Chance {
    /// `SplitMix64` (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn bytes(&mut self, wanted: u64) -> Option<Vec<u8>> {
        let wanted = usize::try_from(wanted.min(MOST_RANDOM + 1)).ok()?;
        let enough = wanted as u64 <= MOST_RANDOM;
        enough.then(|| std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(wanted).collect())
    }
}

/// Defines what the component imports of these interfaces, and nothing else.
pub(super) fn define(linker: &mut Linker<State>, component: &Component) -> Result<(), Error> {
    let engine = component.engine().clone();
    for (import, item) in component.component_type().imports(&engine).filter(|(import, _)| offers(import)) {
        // Anything but an instance under such a name is left undefined, and so refused.
        let ComponentItem::ComponentInstance(ty) = item.ty else { continue };
        let mut instance = linker.instance(import)?;
        for (name, item) in ty.exports(&engine) {
            match item.ty {
                ComponentItem::ComponentFunc(_) => function(&mut instance, import, name)?,
                ComponentItem::Resource(_) => instance.resource(name, resource(name), |_, _| Ok(()))?,
                ComponentItem::CoreFunc(_)
                | ComponentItem::Module(_)
                | ComponentItem::Component(_)
                | ComponentItem::ComponentInstance(_)
                | ComponentItem::Type(_) => {}
            }
        }
    }
    Ok(())
}

/// The type of a resource, which is the same wherever it is named.
fn resource(name: &str) -> ResourceType {
    match name {
        "error" => ResourceType::host::<IoError>(),
        "pollable" => ResourceType::host::<Pollable>(),
        "input-stream" => ResourceType::host::<Input>(),
        "output-stream" => ResourceType::host::<Output>(),
        _ => ResourceType::host::<Nothing>(),
    }
}

fn function(instance: &mut LinkerInstance<'_, State>, import: &str, name: &str) -> Result<(), Error> {
    let interface = import.split_once('@').map_or(import, |(interface, _)| interface);
    match (interface.trim_start_matches("wasi:"), name) {
        ("cli/environment" | "cli/exit", _) => cli(instance, import, name),
        ("cli/stdin", "get-stdin") => answer(instance, name, |_, ()| Resource::<Input>::new_own(0)),
        ("cli/stdout", "get-stdout") | ("cli/stderr", "get-stderr") => {
            answer(instance, name, |_, ()| Resource::<Output>::new_own(0))
        }
        ("cli/terminal-stdin", "get-terminal-stdin")
        | ("cli/terminal-stdout", "get-terminal-stdout")
        | ("cli/terminal-stderr", "get-terminal-stderr") => answer(instance, name, |_, ()| None::<Resource<Nothing>>),
        ("clocks/monotonic-clock" | "clocks/wall-clock", _) => clocks(instance, import, name),
        ("filesystem/preopens", "get-directories") => {
            answer(instance, name, |_, ()| Vec::<(Resource<Nothing>, String)>::new())
        }
        ("io/poll", _) => poll(instance, import, name),
        ("io/streams", _) => streams(instance, import, name),
        (interface, _) if interface.starts_with("random/") => random(instance, import, name),
        _ => trap(instance, import, name),
    }
}

fn cli(instance: &mut LinkerInstance<'_, State>, import: &str, name: &str) -> Result<(), Error> {
    match name {
        "get-environment" => answer(instance, name, |_, ()| Vec::<(String, String)>::new()),
        "get-arguments" => answer(instance, name, |_, ()| Vec::<String>::new()),
        "initial-cwd" => answer(instance, name, |_, ()| None::<String>),
        _ => trap(instance, import, name),
    }
}

fn clocks(instance: &mut LinkerInstance<'_, State>, import: &str, name: &str) -> Result<(), Error> {
    let wall = import.starts_with("wasi:clocks/wall-clock@");
    match name {
        "now" if wall => answer(instance, name, |_, ()| Datetime { seconds: 0, nanoseconds: 0 }),
        "resolution" if wall => answer(instance, name, |_, ()| Datetime { seconds: 0, nanoseconds: RESOLUTION_NS }),
        "now" => answer(instance, name, |_, ()| 0_u64),
        "resolution" => answer(instance, name, |_, ()| u64::from(RESOLUTION_NS)),
        "subscribe-instant" | "subscribe-duration" => {
            answer(instance, name, |_, (_when,): (u64,)| Resource::<Pollable>::new_own(0))
        }
        _ => trap(instance, import, name),
    }
}

fn poll(instance: &mut LinkerInstance<'_, State>, import: &str, name: &str) -> Result<(), Error> {
    match name {
        "poll" => answer(instance, name, |_, (all,): (WasmList<Resource<Pollable>>,)| {
            (0_u32..).take(all.len()).collect::<Vec<_>>()
        }),
        "[method]pollable.ready" => answer(instance, name, |_, (_this,): (Resource<Pollable>,)| true),
        "[method]pollable.block" => instance.func_wrap(name, |_, (_this,): (Resource<Pollable>,)| Ok(())),
        _ => trap(instance, import, name),
    }
}

fn streams(instance: &mut LinkerInstance<'_, State>, import: &str, name: &str) -> Result<(), Error> {
    type In<T> = (Resource<Input>, T);
    type Out<T> = (Resource<Output>, T);
    match name.trim_start_matches("[method]") {
        "input-stream.read" | "input-stream.blocking-read" => {
            answer(instance, name, |_, _: In<u64>| Err::<Vec<u8>, _>(StreamError::Closed))
        }
        "input-stream.skip" | "input-stream.blocking-skip" => {
            answer(instance, name, |_, _: In<u64>| Err::<u64, _>(StreamError::Closed))
        }
        "input-stream.subscribe" => {
            answer(instance, name, |_, (_this,): (Resource<Input>,)| Resource::<Pollable>::new_own(0))
        }
        "output-stream.check-write" => {
            answer(instance, name, |_, (_this,): (Resource<Output>,)| Ok::<_, StreamError>(WRITABLE))
        }
        "output-stream.write" | "output-stream.blocking-write-and-flush" => {
            answer(instance, name, |_, _: Out<WasmList<u8>>| Ok::<(), StreamError>(()))
        }
        "output-stream.flush" | "output-stream.blocking-flush" => {
            answer(instance, name, |_, (_this,): (Resource<Output>,)| Ok::<(), StreamError>(()))
        }
        "output-stream.write-zeroes" | "output-stream.blocking-write-zeroes-and-flush" => {
            answer(instance, name, |_, _: Out<u64>| Ok::<(), StreamError>(()))
        }
        "output-stream.splice" | "output-stream.blocking-splice" => {
            answer(instance, name, |_, _: (Resource<Output>, Resource<Input>, u64)| Err::<u64, _>(StreamError::Closed))
        }
        "output-stream.subscribe" => {
            answer(instance, name, |_, (_this,): (Resource<Output>,)| Resource::<Pollable>::new_own(0))
        }
        _ => trap(instance, import, name),
    }
}

fn random(instance: &mut LinkerInstance<'_, State>, import: &str, name: &str) -> Result<(), Error> {
    match name {
        "get-random-bytes" | "get-insecure-random-bytes" => {
            let called = format!("{import}#{name} for more than {MOST_RANDOM} bytes");
            instance.func_wrap(name, move |mut store: StoreContextMut<'_, State>, (wanted,): (u64,)| {
                let bytes = store.data_mut().chance.bytes(wanted);
                bytes.map(|bytes| (bytes,)).ok_or_else(|| Error::new(NotOffered(called.clone())))
            })
        }
        "get-random-u64" | "get-insecure-random-u64" => answer(instance, name, |state, ()| state.chance.next()),
        "insecure-seed" => answer(instance, name, |state, ()| (state.chance.next(), state.chance.next())),
        _ => trap(instance, import, name),
    }
}

fn answer<P, R>(
    instance: &mut LinkerInstance<'_, State>,
    name: &str,
    says: impl Fn(&mut State, P) -> R + Send + Sync + 'static,
) -> Result<(), Error>
where
    P: ComponentNamedList + Lift + 'static,
    R: ComponentType + Lower + 'static,
{
    instance
        .func_wrap(name, move |mut store: StoreContextMut<'_, State>, given: P| Ok((says(store.data_mut(), given),)))
}

fn trap(instance: &mut LinkerInstance<'_, State>, import: &str, name: &str) -> Result<(), Error> {
    let called = format!("{import}#{name}");
    instance.func_new(name, move |_, _, _, _| Err(Error::new(NotOffered(called.clone()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_closed() {
        for import in ["wasi:io/poll@0.2.0", "wasi:cli/exit@0.2.12", "wasi:random/insecure-seed@0.2.9"] {
            assert!(offers(import), "{import}");
        }
        for import in [
            "wasi:io/poll",
            "wasi:io/poll@0.2",
            "wasi:io/poll@0.2.0-rc",
            "wasi:io/poll@0.3.0",
            "wasi:http/types@0.2.0",
            "wasi:sockets/tcp@0.2.0",
            "wasi:filesystem/other@0.2.0",
            "acme:io/poll@0.2.0",
        ] {
            assert!(!offers(import), "{import}");
        }
    }

    #[test]
    fn randomness_is_that_of_splitmix64_from_zero_and_bounded() {
        // The first value of the published algorithm for the seed 0.
        assert_eq!(Chance::default().next(), 0xe220_a839_7b1d_cdaf);
        let mut chance = Chance::default();
        let bytes = chance.bytes(12).unwrap();
        assert_eq!(bytes[..8], 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
        assert_eq!((bytes.len(), chance.bytes(MOST_RANDOM).map(|b| b.len())), (12, Some(65_536)));
        assert_eq!((chance.bytes(MOST_RANDOM + 1), chance.bytes(u64::MAX)), (None, None));
    }
}
