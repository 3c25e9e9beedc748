//! `fn make_plan(situation, memory)` and `fn decide(request)`.

use cutover_policy::{Choice, Condition, Decide, Frame, Plan, Routing, Rule, Situation, Target, Test};
use rhai::Dynamic;

use super::wrong;
use crate::{
    Rhai,
    functions::Function,
    helpers::units,
    script::Memory,
    shape::{self, Shape},
    values,
};

const TARGETS: [(&str, Target); 4] =
    [("v1", Target::V1), ("v2", Target::V2), ("share", Target::Share), ("decide", Target::Decide)];

const CHOICES: [(&str, Choice); 3] = [("v1", Choice::V1), ("v2", Choice::V2), ("share", Choice::Share)];

impl Routing for Rhai {
    type Memory = Memory;

    fn make_plan(&self, situation: &Situation, memory: &mut Memory) -> Result<Plan, String> {
        let shown = values::situation(situation).into();
        let answer = self.0.ask_remembering(Function::MakePlan, vec![shown], memory)?;
        let plan = plan(answer, situation).map_err(wrong(Function::MakePlan))?;
        let mut targets = plan.rules.iter().map(|rule| rule.target).chain([plan.otherwise]);
        if targets.any(|target| target == Target::Decide) && !self.0.has(Function::Decide) {
            return Err("`make_plan` sends requests to \"decide\", and the script has no `fn decide(request)`".into());
        }
        Ok(plan)
    }
}

impl Decide for Rhai {
    /// The contract has no error here. A trap is what the host counts, serves by V1, and reverts a policy for; an answer
    /// that was made up would hide that the script is broken.
    #[expect(clippy::panic, reason = "a panic is a trap, the only error that `decide` has")]
    fn decide(&self, frame: Frame<'_>) -> Choice {
        let request = Dynamic::from(values::request::Request::from(frame));
        let answer = self.0.ask(Function::Decide, vec![request]);
        match answer.and_then(|value| choice(value).map_err(wrong(Function::Decide))) {
            Ok(choice) => choice,
            Err(error) => panic!("{error}"),
        }
    }
}

fn choice(value: Dynamic) -> Result<Choice, String> {
    let word: String = shape::read("answer", value)?;
    shape::word("answer", &word, &CHOICES)
}

/// What a plan leaves out is what the migration says; a plan without rules is one that follows its share.
fn plan(value: Dynamic, situation: &Situation) -> Result<Plan, String> {
    let mut fields = Shape::of("plan", value, "a plan, as `plan(situation)` makes it")?;
    let plan = Plan {
        rules: fields.list("rules", rule)?,
        otherwise: target(&mut fields, "otherwise")?.unwrap_or(Target::Share),
        sticky: fields.optional("sticky")?.unwrap_or_else(|| "session".into()),
        salt: fields.optional("salt")?.unwrap_or_else(|| situation.salt.clone()),
        share: share(&mut fields, "share")?.unwrap_or(situation.share),
        shadow_share: share(&mut fields, "shadow_share")?.unwrap_or_default(),
        shadow_operations: fields.list("shadow_operations", shape::read)?,
    };
    fields.end()?;
    Ok(plan)
}

fn rule(path: &str, value: Dynamic) -> Result<Rule, String> {
    let mut fields = Shape::of(path, value, "a rule, as `rule(name, conditions, target)` makes it")?;
    let rule = Rule {
        name: fields.required("name")?,
        conditions: fields.list("conditions", condition)?,
        target: target(&mut fields, "target")?.ok_or_else(|| format!("`{path}.target` is missing"))?,
    };
    fields.end()?;
    Ok(rule)
}

fn condition(path: &str, value: Dynamic) -> Result<Condition, String> {
    let what = "a condition, as `one_of(attribute, values)`, `prefix(..)`, `present(..)` and `absent(..)` make it";
    let mut fields = Shape::of(path, value, what)?;
    let attribute = fields.required("attribute")?;
    let test: String = fields.required("test")?;
    let test = match test.as_str() {
        "one-of" => Test::OneOf(fields.list("values", shape::read)?),
        "prefix" => Test::Prefix(fields.required("value")?),
        "present" => Test::Present,
        "absent" => Test::Absent,
        _ => return Err(format!("`{path}.test` is \"{test}\"; make {what}")),
    };
    fields.end()?;
    Ok(Condition { attribute, test })
}

fn target(fields: &mut Shape, name: &'static str) -> Result<Option<Target>, String> {
    let path = fields.path_of(name);
    let word: Option<String> = fields.optional(name)?;
    word.map(|word| shape::word(&path, &word, &TARGETS)).transpose()
}

fn share(fields: &mut Shape, name: &'static str) -> Result<Option<u32>, String> {
    let path = fields.path_of(name);
    let share = fields.take(name).as_ref().map(units::share).transpose();
    share.map_err(|e| format!("`{path}` is wrong: {}", units::why(&e)))
}
