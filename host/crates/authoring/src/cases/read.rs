//! Reads the case files of a bundle, and says everything that is wrong with them at once.

use std::{collections::BTreeSet, path::Path};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    CasesError,
    format::{self, ExpectRefusal, File, Start, Step},
    meaning,
};
use cutover_model::port::Kind;
use cutover_policy_host::bundle::{
    MAX_TEXT,
    files::{FileError, Folder},
};

/// A case that was read.
#[derive(Debug)]
pub(super) struct Case {
    /// The name of the file that has it.
    pub(super) file: String,
    pub(super) name: String,
    pub(super) settings: toml::Table,
    pub(super) start: Start,
    pub(super) steps: Vec<Step>,
    pub(super) refusal: Option<ExpectRefusal>,
    pub(super) snapshot: bool,
    pub(super) obey: bool,
}

/// All cases of a bundle.
#[derive(Debug, Default)]
pub(super) struct Cases {
    pub(super) all: Vec<Case>,
    /// Answers that the policy never gives.
    pub(super) never: BTreeSet<String>,
}

/// More repetitions of one step are a slip.
const MAX_REPEAT: u32 = 100_000;

/// Where something is, for errors; and what is wrong.
struct Problems<'a> {
    file: &'a Path,
    found: Vec<String>,
}

/// Reads `cases/` of a bundle; no cases if there is no such folder.
///
/// # Errors
/// What cannot be read, and everything that is wrong with what can.
pub(super) fn cases(folder: &Path, kind: Kind) -> Result<Cases, CasesError> {
    let (mut cases, mut found) = (Cases::default(), Vec::new());
    let wrong =
        |path: &Path, error: FileError| CasesError::Read { path: path.display().to_string(), source: error.into() };
    let inside = folder.join("cases");
    let opened = match Folder::open(folder).and_then(|folder| folder.below(Path::new("cases"))) {
        Err(error) if error.is_missing() => return Ok(cases),
        opened => opened.map_err(|e| wrong(&inside, e))?,
    };
    let mut names = opened.names().map_err(|e| wrong(&inside, e))?;
    names.retain(|name| notation(name).is_some());
    names.sort();
    for name in names {
        let path = inside.join(&name);
        let text = opened.text(&name, MAX_TEXT).map_err(|e| wrong(&path, e))?;
        let mut problems = Problems { file: &path, found: Vec::new() };
        if let Some(file) = problems.file(&text) {
            problems.cases(file, kind, &mut cases);
        }
        found.append(&mut problems.found);
    }
    if found.is_empty() { Ok(cases) } else { Err(CasesError::Format { problems: found }) }
}

#[derive(Clone, Copy)]
enum Notation {
    Toml,
    Yaml,
}

fn notation(path: &Path) -> Option<Notation> {
    match path.extension()?.to_str()? {
        "toml" => Some(Notation::Toml),
        "yaml" | "yml" => Some(Notation::Yaml),
        _ => None,
    }
}

impl Problems<'_> {
    fn say(&mut self, place: &str, what: &str) {
        let file = self.file.display();
        let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
        self.found.push(format!("`{file}`: {place}{what}"));
    }

    fn file(&mut self, text: &str) -> Option<File> {
        let value = match notation(self.file)? {
            Notation::Toml => {
                toml::from_str(text).map(|table| json(toml::Value::Table(table))).map_err(|e| e.to_string())
            }
            Notation::Yaml => serde_saphyr::from_str::<Value>(text).map_err(|e| e.to_string()),
        };
        match value {
            Ok(value) => self.read(value, ""),
            Err(message) => {
                self.say("", &format!("cannot be read: {}", message.trim_end()));
                None
            }
        }
    }

    fn read<T: DeserializeOwned>(&mut self, value: Value, place: &str) -> Option<T> {
        serde_path_to_error::deserialize(value)
            .map_err(|error| {
                let path = error.path().to_string();
                let field = if path == "." { String::new() } else { format!("`{path}`: ") };
                self.say(place, &format!("{field}{}", error.into_inner()));
            })
            .ok()
    }

    fn cases(&mut self, file: File, kind: Kind, cases: &mut Cases) {
        let names = super::coverage::names(kind);
        for never in &file.never {
            if !names.contains(&never.as_str()) {
                let names = names.join(", ");
                self.say("`never`", &format!("a {kind} policy has no answer `{never}`; its answers are {names}"));
            }
        }
        cases.never.extend(file.never);
        let mut known = BTreeSet::new();
        for (n, value) in file.cases.into_iter().enumerate() {
            let name = value.get("name").and_then(Value::as_str).map(str::to_owned);
            let place = name.as_ref().map_or_else(|| format!("case {}", n + 1), |name| format!("case `{name}`"));
            if name.is_some_and(|name| !known.insert(super::snapshot::slug(&name))) {
                self.say(&place, "another case of this file has this name, or one that makes the same file name");
            }
            let before = self.found.len();
            let Some(mut case) = self.read::<format::Case>(value, &place) else { continue };
            let start = Value::Object(laid_over(file.start.clone(), std::mem::take(&mut case.start)));
            self.mean(&start, kind, meaning::START, &format!("{place}, `start`"));
            let start = self.read(start, &format!("{place}, `start`"));
            let written = std::mem::take(&mut case.steps);
            let asks = !written.is_empty();
            let steps: Vec<_> = written
                .into_iter()
                .zip(1..)
                .filter_map(|(s, n)| self.step(s, kind, &format!("{place}, step {n}")))
                .collect();
            let refusal = case.expect.take().and_then(|e| self.read(e, &format!("{place}, `expect`")));
            let settings = laid_over(file.settings.clone(), std::mem::take(&mut case.settings));
            let settings = match toml::Table::try_from(&settings) {
                Ok(settings) => settings,
                Err(error) => {
                    self.say(&format!("{place}, `settings`"), &format!("cannot be settings of a bundle: {error}"));
                    continue;
                }
            };
            self.whole(&case, refusal.as_ref(), asks, kind, &place);
            let (Some(start), true) = (start, self.found.len() == before) else { continue };
            let file = self.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let format::Case { name, snapshot, obey, .. } = case;
            cases.all.push(Case { file, name, settings, start, steps, refusal, snapshot, obey });
        }
    }

    fn whole(&mut self, case: &format::Case, refusal: Option<&ExpectRefusal>, asks: bool, kind: Kind, place: &str) {
        if case.name.trim().is_empty() || case.name.contains(['\n', '\r']) {
            self.say(place, "`name` must be one line, and not empty");
        }
        match (refusal, asks) {
            (Some(_), true) => {
                self.say(place, "a policy that is refused takes no steps; leave out `steps` or `expect`");
            }
            (Some(ExpectRefusal { problems: None, error: None }), false) => {
                self.say(&format!("{place}, `expect`"), "needs `problems` or `error`");
            }
            (None, false) => self.say(place, "has no `steps`"),
            (Some(_), false) if case.snapshot => {
                self.say(place, "a policy that is refused answers nothing; leave out `snapshot` or `expect`");
            }
            _ => {}
        }
        if case.obey && kind != Kind::Stages {
            self.say(place, &format!("`obey` is for stages policies, and this is a {kind} policy"));
        }
    }

    fn step(&mut self, value: Value, kind: Kind, place: &str) -> Option<Step> {
        let before = self.found.len();
        self.mean(&value, kind, meaning::STEP, place);
        for name in ["expect", "until"] {
            if let Some(expect) = value.get(name) {
                self.mean(expect, kind, meaning::EXPECT, &format!("{place}, `{name}`"));
            }
        }
        let step: Step = self.read(value, place)?;
        let repeat = step.repeat.unwrap_or(1);
        if !(1..=MAX_REPEAT).contains(&repeat) {
            self.say(place, &format!("`repeat` is {repeat}, and not between 1 and {MAX_REPEAT}"));
        }
        if step.until.is_some() && step.repeat.is_none() {
            self.say(place, "`until` needs `repeat`, the most times to ask");
        }
        for (one, many, name, names) in [
            (step.batch.is_some(), step.batches.is_some(), "batch", "batches"),
            (step.pair.is_some(), step.pairs.is_some(), "pair", "pairs"),
            (step.wait.is_some(), step.at.is_some(), "wait", "at"),
        ] {
            if one && many {
                self.say(place, &format!("has both `{name}` and `{names}`"));
            }
        }
        self.inputs(&step, kind, place);
        (self.found.len() == before).then_some(step)
    }

    /// Names the fields that exist, and mean nothing to this kind of policy.
    fn mean(&mut self, value: &Value, kind: Kind, fields: meaning::Fields, place: &str) {
        for problem in meaning::misplaced(value, kind, fields) {
            self.say(place, &problem);
        }
    }

    fn inputs(&mut self, step: &Step, kind: Kind, place: &str) {
        let traffic = step.batch.iter().chain(step.batches.iter().flatten());
        let mut seconds = 0_u64;
        for (n, part) in traffic.enumerate() {
            seconds = seconds.saturating_add(part.seconds());
            if let Some(problem) = part.problem() {
                let field = if step.batch.is_some() { "batch".into() } else { format!("batches[{n}]") };
                self.say(&format!("{place}, `{field}`"), &problem);
            }
        }
        if seconds > super::traffic::MAX_SECONDS {
            self.say(place, &format!("has {seconds} batches of a second, more than a check has; use `repeat`"));
        }
        if kind == Kind::Comparison && step.pair.is_none() && step.pairs.is_none() {
            self.say(place, "needs a `pair` or `pairs`");
        }
        if kind == Kind::Adapter && step.call.is_none() {
            self.say(place, "needs a `call`, to which a `reply` may be given");
        }
    }
}

/// TOML as JSON; its times become texts.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(is) => is.into(),
        toml::Value::Datetime(at) => at.to_string().into(),
        toml::Value::Array(all) => all.into_iter().map(json).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, json(value))).collect(),
    }
}

fn laid_over(mut below: Map<String, Value>, above: Map<String, Value>) -> Map<String, Value> {
    below.extend(above);
    below
}
