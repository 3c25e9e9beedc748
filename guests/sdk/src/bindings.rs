//! What `wit_bindgen` makes of `wit/`: one world for each interface, so that a guest exports just those it implements.
#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "generated"
)]

macro_rules! world {
    ($name:ident, $world:literal, $inline:literal, { $($with:tt)* }) => {
        pub mod $name {
            wit_bindgen::generate!({
                path: "../../wit",
                inline: $inline,
                world: $world,
                with: { $($with)* },
                additional_derives: [PartialEq],
                pub_export_macro: true,
                generate_unused_types: true,
            });
        }
    };
}

world!(policy, "cutover:sdk/policy-guest",
    "package cutover:sdk; world policy-guest { import cutover:policy/types@0.1.0; export cutover:policy/policy@0.1.0; }",
    { "cutover:policy/types@0.1.0": generate });
world!(routing, "cutover:sdk/routing-guest",
    "package cutover:sdk; world routing-guest { export cutover:policy/routing@0.1.0; }",
    { "cutover:policy/types@0.1.0": crate::bindings::policy::cutover::policy::types });
world!(
    decide,
    "cutover:sdk/decide-guest",
    "package cutover:sdk; world decide-guest { export cutover:policy/decide@0.1.0; }",
    {}
);
world!(stages, "cutover:sdk/stages-guest",
    "package cutover:sdk; world stages-guest { export cutover:policy/stages@0.1.0; }",
    { "cutover:policy/types@0.1.0": crate::bindings::policy::cutover::policy::types });
world!(rollback, "cutover:sdk/rollback-guest",
    "package cutover:sdk; world rollback-guest { export cutover:policy/rollback@0.1.0; }",
    { "cutover:policy/types@0.1.0": crate::bindings::policy::cutover::policy::types });
world!(
    comparison,
    "cutover:sdk/comparison-guest",
    "package cutover:sdk; world comparison-guest { export cutover:policy/comparison@0.1.0; }",
    {}
);
world!(
    adapter,
    "cutover:sdk/adapter-guest",
    "package cutover:sdk; world adapter-guest { export cutover:policy/adapter@0.1.0; }",
    {}
);
