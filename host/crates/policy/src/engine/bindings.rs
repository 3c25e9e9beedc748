//! What `bindgen!` makes of `wit/`: one world for each interface, so that the host can offer what a guest exports and
//! need not ask for what it does not. Private to the engine.
#![allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    reason = "generated"
)]

macro_rules! world {
    ($module:ident, $world:literal, $inline:literal, { $($with:tt)* }) => {
        pub mod $module {
            wasmtime::component::bindgen!({
                path: "../../../wit",
                inline: $inline,
                world: $world,
                with: { $($with)* },
            });
        }
    };
}

world!(
    policy,
    "cutover:host/policy-host",
    "package cutover:host; world policy-host { import cutover:policy/types@0.1.0; export cutover:policy/policy@0.1.0; }",
    {}
);
world!(routing, "cutover:host/routing-host",
    "package cutover:host; world routing-host { export cutover:policy/routing@0.1.0; }",
    { "cutover:policy/types@0.1.0": crate::engine::bindings::policy::cutover::policy::types });
world!(
    decide,
    "cutover:host/decide-host",
    "package cutover:host; world decide-host { export cutover:policy/decide@0.1.0; }",
    {}
);
world!(stages, "cutover:host/stages-host",
    "package cutover:host; world stages-host { export cutover:policy/stages@0.1.0; }",
    { "cutover:policy/types@0.1.0": crate::engine::bindings::policy::cutover::policy::types });
world!(rollback, "cutover:host/rollback-host",
    "package cutover:host; world rollback-host { export cutover:policy/rollback@0.1.0; }",
    { "cutover:policy/types@0.1.0": crate::engine::bindings::policy::cutover::policy::types });
world!(
    comparison,
    "cutover:host/comparison-host",
    "package cutover:host; world comparison-host { export cutover:policy/comparison@0.1.0; }",
    {}
);
world!(
    adapter,
    "cutover:host/adapter-host",
    "package cutover:host; world adapter-host { export cutover:policy/adapter@0.1.0; }",
    {}
);
