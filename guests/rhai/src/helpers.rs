//! Functions that scripts call by name. Each is here because a script would be wrong, slow or long-winded without it.

mod answers;
mod compare;
mod documents;
mod lists;
pub(crate) mod numbers;
mod odds;
mod pattern;
mod time;
mod typed;
pub(crate) mod units;

use rhai::Engine;

use crate::values::{self, window::Windows};

pub(crate) fn register(engine: &mut Engine, windows: &Windows) {
    compare::register(engine);
    answers::register(engine);
    documents::register(engine);
    lists::register(engine);
    numbers::register(engine);
    odds::register(engine);
    pattern::register(engine);
    time::register(engine);
    typed::register(engine);
    units::register(engine);
    values::register(engine);
    values::window::register_windows(engine, windows);
}
