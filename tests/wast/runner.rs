//! Runs a script: each directive passes or says what is wrong.
//!
//! An instance gets a store of its own, as a policy does. A script of these suites never passes anything from one of its
//! instances to another.

use std::collections::HashMap;

use wasmtime::{
    Store,
    component::{Component, Instance, Linker, Val},
};
use wast::{
    QuoteWat, Wast, WastDirective, WastExecute, WastInvoke, WastRet, Wat,
    parser::{self, ParseBuffer},
    token::Id,
};

use super::values;

/// What became of a directive.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The line on which it begins, from 1.
    pub(super) line: usize,
    /// What it is.
    pub(super) directive: &'static str,
    /// What is wrong.
    pub(super) result: Result<(), String>,
}

struct Runner<'a> {
    engine: &'a wasmtime::Engine,
    /// By name; the last one also without.
    definitions: HashMap<Option<String>, Component>,
    instances: HashMap<Option<String>, Running>,
    /// Under which name the last instance is.
    last: Option<String>,
}

struct Running {
    store: Store<()>,
    instance: Instance,
}

/// Runs all directives of a script.
pub(super) fn run(engine: &wasmtime::Engine, script: &str) -> Vec<Outcome> {
    let buffer = ParseBuffer::new(script).unwrap_or_else(|e| panic!("{e}"));
    let wast: Wast<'_> = parser::parse(&buffer).unwrap_or_else(|e| panic!("{e}"));
    let mut runner = Runner { engine, definitions: HashMap::new(), instances: HashMap::new(), last: None };
    wast.directives
        .into_iter()
        .map(|directive| {
            let (line, _) = directive.span().linecol_in(script);
            let (directive, result) = runner.take(directive);
            Outcome { line: line + 1, directive, result }
        })
        .collect()
}

impl Runner<'_> {
    fn take(&mut self, directive: WastDirective<'_>) -> (&'static str, Result<(), String>) {
        match directive {
            WastDirective::Module(component) => ("component", self.define_and_instantiate(component)),
            WastDirective::ModuleDefinition(component) => ("component definition", self.define(component).map(drop)),
            WastDirective::ModuleInstance { instance, module, .. } => {
                ("component instance", self.instantiate(name(instance), &name(module)))
            }
            WastDirective::Invoke(call) => ("invoke", self.invoke(&call).map(drop)),
            WastDirective::AssertReturn { exec, results, .. } => ("assert_return", self.returns(exec, &results)),
            WastDirective::AssertTrap { exec, message, .. } => ("assert_trap", self.traps(exec, message)),
            WastDirective::AssertInvalid { module, message, .. } => ("assert_invalid", self.refuses(module, message)),
            WastDirective::AssertMalformed { module, message, .. } => {
                ("assert_malformed", self.refuses(module, message))
            }
            other => ("another directive", Err(format!("these suites had no such directive: {other:?}"))),
        }
    }

    fn define(&mut self, mut component: QuoteWat<'_>) -> Result<Option<String>, String> {
        let name = name(component.name());
        let component = self.compile(&component.encode().map_err(|e| e.message())?)?;
        self.definitions.insert(None, component.clone());
        self.definitions.insert(name.clone(), component);
        Ok(name)
    }

    fn define_and_instantiate(&mut self, component: QuoteWat<'_>) -> Result<(), String> {
        let defined = self.define(component);
        if defined.is_err() {
            // What follows is about this one, and not about the one before.
            self.last = None;
            self.instances.remove(&None);
        }
        let name = defined?;
        self.instantiate(name.clone(), &name)
    }

    fn compile(&self, bytes: &[u8]) -> Result<Component, String> {
        Component::new(self.engine, bytes).map_err(|e| format!("{e:#}"))
    }

    fn instantiate(&mut self, name: Option<String>, definition: &Option<String>) -> Result<(), String> {
        // What follows is about this one, also if it cannot be had.
        self.instances.remove(&name);
        self.last.clone_from(&name);
        let component = self.definitions.get(definition).ok_or_else(|| format!("no definition {definition:?}"))?;
        let running = start(self.engine, component)?;
        self.instances.insert(name, running);
        Ok(())
    }

    fn invoke(&mut self, call: &WastInvoke<'_>) -> Result<Vec<Val>, String> {
        let of = call.module.map_or_else(|| self.last.clone(), |id| name(Some(id)));
        let running = self.instances.get_mut(&of).ok_or_else(|| format!("no instance {of:?}"))?;
        let Running { store, instance } = running;
        let function = instance.get_func(&mut *store, call.name).ok_or_else(|| format!("no export `{}`", call.name))?;
        let arguments = call.args.iter().map(values::argument).collect::<Result<Vec<_>, _>>()?;
        let mut results = vec![Val::Bool(false); function.ty(&*store).results().len()];
        fill(store);
        function.call(store, &arguments, &mut results).map_err(|e| format!("{e:#}"))?;
        Ok(results)
    }

    fn execute(&mut self, what: WastExecute<'_>) -> Result<Vec<Val>, String> {
        match what {
            WastExecute::Invoke(call) => self.invoke(&call),
            WastExecute::Wat(mut wat) => {
                let Wat::Component(_) = &wat else { return Err("a core module".into()) };
                let component = self.compile(&wat.encode().map_err(|e| e.message())?)?;
                start(self.engine, &component).map(|_running| Vec::new())
            }
            WastExecute::Get { global, .. } => Err(format!("the global `{global}` of a core module")),
        }
    }

    fn returns(&mut self, what: WastExecute<'_>, wanted: &[WastRet<'_>]) -> Result<(), String> {
        let got = self.execute(what)?;
        if got.len() != wanted.len() {
            return Err(format!("{} results instead of {}: {got:?}", got.len(), wanted.len()));
        }
        wanted.iter().zip(&got).try_for_each(|(wanted, got)| values::same(wanted, got))
    }

    fn traps(&mut self, what: WastExecute<'_>, message: &str) -> Result<(), String> {
        match self.execute(what) {
            Ok(values) => Err(format!("no trap, but {values:?}; wanted {message:?}")),
            Err(why) if why.contains(message) => Ok(()),
            Err(why) => Err(format!("another trap than {message:?}: {why}")),
        }
    }

    fn refuses(&mut self, mut component: QuoteWat<'_>, message: &str) -> Result<(), String> {
        // What the reader of the text refuses is refused.
        let refused = component.encode().map_err(|e| e.message()).and_then(|bytes| self.compile(&bytes));
        match refused {
            Ok(_) => Err(format!("it is accepted; wanted {message:?}")),
            Err(why) if why.contains(message) => Ok(()),
            Err(why) => Err(format!("refused otherwise than with {message:?}: {why}")),
        }
    }
}

fn start(engine: &wasmtime::Engine, component: &Component) -> Result<Running, String> {
    let mut store = Store::new(engine, ());
    fill(&mut store);
    let linker = Linker::new(engine);
    let instance = linker.instantiate(&mut store, component).map_err(|e| format!("{e:#}"))?;
    Ok(Running { store, instance })
}

/// Time and fuel for a call, which no directive comes near.
fn fill(store: &mut Store<()>) {
    store.set_epoch_deadline(10_000);
    store.set_fuel(u64::MAX).unwrap();
}

fn name(id: Option<Id<'_>>) -> Option<String> {
    id.map(|id| id.name().to_owned())
}
