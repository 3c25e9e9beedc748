//! From the bytes of a component to a policy that can be asked.

use std::sync::Arc;

use crate::{
    PolicyError,
    bundle::Bundle,
    engine::{Engine, Imports, Policy},
};
use cutover_model::port::Kind;

/// Compiles a component that imports nothing and admits it for a kind with settings.
///
/// # Errors
/// Why it is not admitted.
pub fn admit(engine: &Arc<Engine>, kind: Kind, component: &[u8], settings: &str) -> Result<Policy, PolicyError> {
    admit_with(engine, kind, component, settings, false)
}

/// [`admit`] for a bundle's component, with the imports that the bundle asks for.
///
/// # Errors
/// Why it is not admitted.
pub fn admit_bundle(engine: &Arc<Engine>, bundle: &Bundle) -> Result<Policy, PolicyError> {
    admit_with(engine, bundle.kind, &bundle.component, &bundle.settings, bundle.wasi_stub)
}

/// [`admit`], with a stand-in for WASI if it is asked for.
///
/// # Errors
/// Why it is not admitted.
pub fn admit_with(
    engine: &Arc<Engine>,
    kind: Kind,
    component: &[u8],
    settings: &str,
    wasi_stub: bool,
) -> Result<Policy, PolicyError> {
    Policy::admit(engine, engine.compile_with(component, Imports::of(wasi_stub))?, kind, settings)
}
