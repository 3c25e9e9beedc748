//! What a component is, and whether a host would admit it. Everything that is wrong is found at once where that can be,
//! and each problem says how to mend it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use cutover_model::port::Kind;
use cutover_policy_host::{
    PolicyError,
    engine::{Compiled, Engine, Imports, Needs, Policy},
};

/// A component, and how it is to be used.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The bytes of the component.
    pub component: &'a [u8],
    /// The kind that it is meant for; none to try it out as each kind that it answers.
    pub kind: Option<Kind>,
    /// Its settings as a JSON object; `{}` for all defaults.
    pub settings: &'a str,
    /// What it may import.
    pub imports: Imports,
}

/// What a component is, and what keeps a host from admitting it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// The size of the component, in bytes.
    pub bytes: usize,
    /// SHA-256 of the component, lower-case hex.
    pub digest: String,
    /// What it offers and needs; none if it does not compile.
    pub compiled: Option<Shape>,
    /// What it says of itself, as each kind that it was tried out as.
    pub admitted: Vec<Admitted>,
    /// Why a host would not admit it, each with how to mend it.
    pub problems: Vec<String>,
    /// What could be better.
    pub advice: Vec<String>,
}

/// What a component offers and needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shape {
    /// The kinds that it answers.
    pub kinds: Vec<Kind>,
    /// Whether it can be asked per request.
    pub decides: bool,
    /// The versions of the contract that it names.
    pub contracts: Vec<String>,
    /// What it imports: types at the most.
    pub imports: Vec<String>,
    /// The names of all its exports.
    pub exports: Vec<String>,
    /// What an instance of it needs.
    pub needs: Needs,
    /// Bytes of machine code and data that it was compiled to.
    pub image_bytes: usize,
    /// How long that took, in microseconds; none if it was compiled before.
    pub compile_us: Option<u128>,
}

/// A kind for which a host would admit it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Admitted {
    /// The kind that it was tried out as.
    pub kind: Kind,
    /// The name that it gives itself.
    pub name: String,
    /// The version that it gives itself.
    pub version: String,
    /// What it says that it does, in one sentence.
    pub summary: String,
    /// The request attributes that `decide` wants; empty if it is not asked per request.
    pub attributes: Vec<String>,
    /// JSON Schema of its settings; a text, if it is not JSON.
    pub settings_schema: Value,
    /// How long an instance and its settings take, in microseconds.
    pub start_us: u128,
    /// Units of fuel for both.
    pub start_fuel: u64,
    /// Linear memory of an instance once it has its settings, in bytes.
    pub memory_bytes: usize,
    /// The most linear memory that an instance may have, in bytes.
    pub memory_limit: usize,
}

/// Compiles a component, tries it out as each kind that it may be, and says what it is and what is wrong.
pub fn inspect(engine: &Arc<Engine>, subject: &Subject<'_>) -> Report {
    let (bytes, digest) = (subject.component.len(), super::component::digest(subject.component));
    let mut report = Report { bytes, digest, ..Report::default() };
    let compiled = match engine.compile_with(subject.component, subject.imports) {
        Ok(compiled) => compiled,
        Err(error) => {
            report.problems.push(problem(&error));
            return report;
        }
    };
    report.compiled = Some(Shape::from(&compiled));
    if compiled.kinds.is_empty() {
        let exports = compiled.exports.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let exports = if exports.is_empty() { "nothing".to_owned() } else { exports };
        report.problems.push(format!(
            "it answers no kind of question: it exports {exports}; export one of `cutover:policy/{{{}}}`",
            Kind::ALL.map(Kind::name).join(", ")
        ));
    }
    let kinds = subject.kind.map_or_else(|| compiled.kinds.clone(), |kind| vec![kind]);
    for kind in kinds {
        match Policy::admit(engine, compiled.clone(), kind, subject.settings).and_then(|p| Admitted::of(&p)) {
            Ok(admitted) => report.admitted.push(admitted),
            // A component on its own may need settings that only its bundle has.
            Err(error @ PolicyError::Settings { .. }) if subject.kind.is_none() => {
                report.advice.push(format!("as a {kind} policy it {error}; check the bundle that has its settings"));
            }
            Err(error) => report.problems.push(problem(&error)),
        }
    }
    report
}

impl From<&Compiled> for Shape {
    fn from(compiled: &Compiled) -> Self {
        Self {
            kinds: compiled.kinds.clone(),
            decides: compiled.decides,
            contracts: compiled.contracts.clone(),
            imports: compiled.imports.clone(),
            exports: compiled.exports.clone(),
            needs: compiled.needs,
            image_bytes: compiled.image_bytes,
            compile_us: Some(compiled.compilation.as_micros()),
        }
    }
}

impl Admitted {
    fn of(policy: &Policy) -> Result<Self, PolicyError> {
        let start = policy.start_up()?;
        let told = &policy.description;
        let schema = &told.settings_schema;
        Ok(Self {
            kind: policy.kind,
            name: told.name.clone(),
            version: told.version.clone(),
            summary: told.summary.clone(),
            attributes: told.attributes.clone(),
            settings_schema: serde_json::from_str(schema).unwrap_or_else(|_text| Value::from(schema.as_str())),
            start_us: (start.instantiation + start.configuration).as_micros(),
            start_fuel: start.fuel,
            memory_bytes: start.memory,
            memory_limit: policy.limits().memory_bytes,
        })
    }
}

/// An error as a problem: what it is, and how to mend it where the error does not say so itself.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other errors say themselves how to mend them")]
pub fn problem(error: &PolicyError) -> String {
    let mend = match error {
        PolicyError::Compile { .. } => "; is the file whole? Build it again with `cutover policy build`",
        PolicyError::WrongType { .. } => "; build it against the `wit/` or the SDK of this host's version",
        PolicyError::MissingKind { .. } => "; export that interface, or mend `kind` in policy.toml",
        PolicyError::MissingInterface { .. } => "; export it, as the SDK's `export!` does",
        PolicyError::Settings { .. } => "; mend `[settings]` in policy.toml",
        PolicyError::Trap { .. } | PolicyError::StackOverflow => {
            "; it did so before it was asked anything: look for a panic in what describes and configures it"
        }
        PolicyError::Malformed { .. } => {
            "; build it with the SDK, or with a tool that follows the component model's ABI"
        }
        _ => "",
    };
    format!("it {error}{mend}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_policy_host::engine::Limits;

    fn report(text: &str) -> Report {
        let engine = Engine::new(Limits::default()).unwrap();
        let component = wat::parse_str(text).unwrap_or_else(|e| panic!("{e}"));
        inspect(&engine, &Subject { component: &component, kind: None, settings: "{}", imports: Imports::None })
    }

    #[test]
    fn each_problem_says_how_to_mend_it() {
        let only = |report: Report| {
            assert_eq!(report.problems.len(), 1, "{report:?}");
            report.problems.into_iter().next().unwrap()
        };
        assert!(only(report("(module)")).contains("turn it into one"));
        let clock = r#"(import "wasi:clocks/monotonic-clock@0.2.0" (instance (export "now" (func (result u64)))))"#;
        let imports = only(report(&format!("(component {clock})")));
        assert!(
            imports.contains("`wasi:clocks/monotonic-clock@0.2.0`") && imports.contains("without WASI"),
            "{imports}"
        );
        let nothing = report("(component)");
        assert_eq!(nothing.compiled.as_ref().map(|c| c.kinds.len()), Some(0));
        assert!(only(nothing).contains("it exports nothing; export one of `cutover:policy/{routing,"));
        let engine = Engine::new(Limits::default()).unwrap();
        let text =
            inspect(&engine, &Subject { component: b"text", kind: None, settings: "{}", imports: Imports::None });
        assert!(only(text).contains("is not WebAssembly"));
    }
}
