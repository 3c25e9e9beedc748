//! The interpreter: what of the language there is, and what a script may use of the machine.
//!
//! The sandbox around this component limits time and memory, too, but all it can say is that they ran out. These limits
//! are set so that they speak first, and say where.

use std::rc::Rc;

use rhai::{
    Dynamic, Engine, EvalAltResult, FLOAT, INT, Module,
    packages::{
        ArithmeticPackage, BasicArrayPackage, BasicFnPackage, BasicIteratorPackage, BasicMapPackage, BasicMathPackage,
        BasicStringPackage, LanguageCorePackage, LogicPackage, MoreStringPackage, Package as _,
    },
};

use crate::{helpers, values::window::Windows};

/// Steps of one question. Measured at some 750 units of fuel each: 0.1 to 0.2 s in the sandbox, less than the 250 ms that
/// a question has.
pub(crate) const MAX_OPERATIONS: u64 = 500_000;

/// Calls of functions within functions. Each takes up to 15 KiB of the native stack of 512 KiB that guests have.
pub(crate) const MAX_CALLS: usize = 24;

/// Bytes of a text.
pub(crate) const MAX_TEXT: usize = 1 << 20;

/// Elements of an array, those of arrays within it included.
pub(crate) const MAX_ARRAY: usize = 50_000;

/// Fields of a map, those of maps within it included.
pub(crate) const MAX_MAP: usize = 10_000;

/// How deeply expressions and blocks nest, at the top level and within functions.
const MAX_DEPTH: usize = 32;

/// Variables at any instant, and functions.
const MAX_NAMES: usize = 256;

/// An interpreter with the helpers; windows that a script asks for live in `windows`.
pub(crate) fn new(windows: &Windows) -> Engine {
    let mut engine = Engine::new_raw();
    LanguageCorePackage::new().register_into_engine(&mut engine);
    ArithmeticPackage::new().register_into_engine(&mut engine);
    BasicStringPackage::new().register_into_engine(&mut engine);
    BasicIteratorPackage::new().register_into_engine(&mut engine);
    BasicFnPackage::new().register_into_engine(&mut engine);
    LogicPackage::new().register_into_engine(&mut engine);
    BasicMathPackage::new().register_into_engine(&mut engine);
    BasicArrayPackage::new().register_into_engine(&mut engine);
    BasicMapPackage::new().register_into_engine(&mut engine);
    MoreStringPackage::new().register_into_engine(&mut engine);
    // There is no time to sleep through, and a sandbox that tried would trap.
    engine.register_fn("sleep", |_: INT| awake()).register_fn("sleep", |_: FLOAT| awake());
    for symbol in ["eval", "import", "export", "print", "debug"] {
        engine.disable_symbol(symbol);
    }
    engine
        .set_max_operations(MAX_OPERATIONS)
        .set_max_call_levels(MAX_CALLS)
        .set_max_string_size(MAX_TEXT)
        .set_max_array_size(MAX_ARRAY)
        .set_max_map_size(MAX_MAP)
        .set_max_expr_depths(MAX_DEPTH, MAX_DEPTH)
        .set_max_variables(MAX_NAMES)
        .set_max_functions(MAX_NAMES)
        // A name that is misspelt is an error, and not a value that compares as false.
        .set_strict_variables(true)
        .set_fail_on_invalid_map_property(true)
        // Built-in operators compare values of different types as false; ours refuse to.
        .set_fast_operators(false)
        .set_optimization_level(rhai::OptimizationLevel::None);
    helpers::register(&mut engine, windows);
    engine
}

/// Lets every function of a script see `settings`.
pub(crate) fn show_settings(engine: &mut Engine, settings: Dynamic) {
    let mut module = Module::new();
    module.set_var("settings", settings.into_read_only());
    engine.register_global_module(Rc::new(module));
}

fn awake() -> Result<(), Box<EvalAltResult>> {
    Err("a policy cannot sleep".into())
}
