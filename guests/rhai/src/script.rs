//! A script that was compiled and took its settings, and how it is asked.

use rhai::{AST, CallFnOptions, Dynamic, Engine, EvalAltResult, Scope};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use cutover_policy::{Problem, problem};

use crate::{
    Settings, engine, failure,
    functions::{Function, Kind},
    json, shape,
    values::window::{Kept, Windows},
};

/// See the module.
pub(crate) struct Script {
    engine: Engine,
    ast: AST,
    windows: Windows,
}

/// What a script remembers between questions.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What it put into `memory`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    memory: Map<String, Value>,
    /// The windows that it asked for.
    #[serde(skip_serializing_if = "Kept::is_empty")]
    windows: Kept,
}

impl Script {
    /// Compiles, checks the functions, and lets the script look at its settings.
    pub(crate) fn configure(settings: &Settings) -> Result<Self, Vec<Problem>> {
        let wrong = |what: String| vec![problem("script", what)];
        let windows = Windows::default();
        let engine = engine::new(&windows);
        let mut names = Scope::new();
        // The name alone: what it stands for comes when the settings were looked at.
        names.push("settings", ());
        let ast = engine.compile_with_scope(&names, &settings.script);
        let ast =
            ast.map_err(|e| wrong(format!("does not compile {}", failure::of_compiling(&e, &settings.script))))?;
        let mut script = Self { engine, ast, windows };
        script.check_functions(settings.kind).map_err(wrong)?;
        let given = Dynamic::from_map(json::map(settings.settings.clone()));
        engine::show_settings(&mut script.engine, given.clone());
        script.run_top_level().map_err(wrong)?;
        if script.parameters(Function::Configure).is_some() {
            let answer = script.call(Function::Configure, vec![given]).map_err(|e| problems_thrown(&e))?;
            if answer.is_map() {
                engine::show_settings(&mut script.engine, answer);
            } else if !answer.is_unit() {
                let problems =
                    problems(answer).map_err(|e| wrong(format!("has a `configure` that answers wrongly: {e}")))?;
                if !problems.is_empty() {
                    return Err(problems);
                }
            }
        }
        Ok(script)
    }

    /// Whether the script has a function.
    pub(crate) fn has(&self, function: Function) -> bool {
        self.parameters(function).is_some()
    }

    /// Asks one question; the error is a sentence for people.
    pub(crate) fn ask(&self, function: Function, arguments: Vec<Dynamic>) -> Result<Dynamic, String> {
        self.call(function, arguments).map_err(|e| format!("`{}` fails {}", function.name(), failure::of_running(&e)))
    }

    /// Asks one question and lets the script remember. The memory is its last argument, and seen by reference.
    pub(crate) fn ask_remembering(
        &self,
        function: Function,
        mut arguments: Vec<Dynamic>,
        memory: &mut Memory,
    ) -> Result<Dynamic, String> {
        self.windows.load(std::mem::take(&mut memory.windows));
        let map = Dynamic::from_map(json::map(std::mem::take(&mut memory.memory))).into_shared();
        arguments.push(map.clone());
        let answer = self.ask(function, arguments);
        memory.windows = self.windows.take();
        let answer = answer?;
        let map = map.flatten();
        let found = shape::type_name(&map);
        let map = map
            .try_cast()
            .ok_or_else(|| format!("`{}` leaves a memory that is {found}, and has to be a map", function.name()))?;
        memory.memory = json::object("memory", &map)
            .map_err(|e| format!("`{}` leaves a memory that cannot be kept: {e}", function.name()))?;
        Ok(answer)
    }

    fn call(&self, function: Function, mut arguments: Vec<Dynamic>) -> Result<Dynamic, Box<EvalAltResult>> {
        let Some(parameters) = self.parameters(function) else {
            let signature = function.signature();
            return Err(format!("the script has no `fn {signature}`; add it, or use the script as another kind").into());
        };
        arguments.truncate(parameters);
        // The top level is run first, because constants of the script live as long as a call.
        let options = CallFnOptions::new().eval_ast(true);
        let mut scope = Scope::new();
        self.engine.call_fn_with_options(options, &mut scope, &self.ast, function.name(), arguments)
    }

    /// How many parameters the script takes; the most, if it has several of a name.
    fn parameters(&self, function: Function) -> Option<usize> {
        let own = self.ast.iter_functions().filter(|f| f.name == function.name());
        own.map(|f| f.params.len()).filter(|n| (function.needed()..=function.parameters().len()).contains(n)).max()
    }

    fn check_functions(&self, kind: Option<Kind>) -> Result<(), String> {
        for function in Function::ALL {
            let mut own = self.ast.iter_functions().filter(|f| f.name == function.name());
            if let Some(wrong) = own.next()
                && !self.has(function)
            {
                let (name, n) = (function.name(), wrong.params.len());
                return Err(format!("has a `{name}` with {n} parameters; it is called as `{}`", function.signature()));
            }
        }
        let has_all = |kind: &Kind| kind.functions().iter().all(|f| self.has(*f));
        let missing = |kind: Kind| {
            let missing: Vec<_> = kind.functions().iter().filter(|f| !self.has(**f)).map(|f| needs(*f)).collect();
            format!("is no {} policy: it has no {}", kind.name(), missing.join(" and no "))
        };
        match kind {
            Some(kind) if !has_all(&kind) => Err(missing(kind)),
            None if !Kind::ALL.iter().any(has_all) => {
                // Half of a kind says which one is meant.
                let meant = Kind::ALL.into_iter().find(|kind| kind.functions().iter().any(|f| self.has(*f)));
                Err(meant.map_or_else(no_kind, missing))
            }
            _ => Ok(()),
        }
    }

    fn run_top_level(&self) -> Result<(), String> {
        let run = self.engine.run_ast(&self.ast);
        run.map_err(|e| format!("fails at its top level {}", failure::of_running(&e)))
    }
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let functions: Vec<_> = Function::ALL.into_iter().filter(|function| self.has(*function)).collect();
        f.debug_struct("Script").field("functions", &functions).finish_non_exhaustive()
    }
}

fn needs(function: Function) -> String {
    format!("`fn {}`", function.signature())
}

fn no_kind() -> String {
    let kinds = Kind::ALL.map(|kind| {
        let functions: Vec<_> = kind.functions().iter().map(|f| needs(*f)).collect();
        format!("{} for {}", functions.join(" and "), kind.name())
    });
    format!("has none of the functions that make a policy: {}", kinds.join(", "))
}

/// A list of problems, or one; paths are those within the whole settings.
fn problems(answer: Dynamic) -> Result<Vec<Problem>, String> {
    shape::list("problems", answer, |path, value| {
        let mut fields = shape::Shape::of(path, value, "a problem, as `problem(path, message)` makes it")?;
        let at: String = fields.optional("path")?.unwrap_or_default();
        let message: String = fields.required("message")?;
        fields.end()?;
        let at = if at.is_empty() { "settings".to_owned() } else { format!("settings.{at}") };
        Ok(problem(at, message))
    })
}

/// `configure` may throw problems; anything else that it throws is a failure of the script.
fn problems_thrown(error: &EvalAltResult) -> Vec<Problem> {
    if let EvalAltResult::ErrorRuntime(value, _) = error.unwrap_inner()
        && (value.is_map() || value.is_array())
        && let Ok(problems) = problems(value.clone())
        && !problems.is_empty()
    {
        return problems;
    }
    vec![problem("script", format!("has a `configure` that fails {}", failure::of_running(error)))]
}
