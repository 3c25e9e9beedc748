//! Runs one case: admits the policy with the case's settings, asks step by step, twice, and holds answers against
//! expectations and snapshot.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    CasesError,
    answer::Answer,
    ask::{Asker, Given},
    coverage::Seen,
    expect::{self, Mismatch, Mismatches},
    expect_format::{Expect, ExpectRefusal},
    expect_plan,
    format::Step,
    purity,
    purity::Again,
    read::Case,
    report::{CaseReport, Failure, What},
    scene::Scene,
    snapshot::{self, Held},
};
use cutover_policy_host::{
    PolicyError,
    bundle::Bundle,
    engine::{Compiled, Engine, Policy},
};

/// What all cases of a bundle share.
pub(super) struct Runner<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) compiled: Compiled,
    pub(super) bundle: &'a Bundle,
    pub(super) components: &'a Path,
    pub(super) never: &'a BTreeSet<String>,
    pub(super) update: bool,
    pub(super) seen: Seen,
}

/// A sequence that was asked: which step and repetition each answer belongs to.
pub(super) type Asked = Vec<(Place, Given)>;

/// Step and repetition, from 1.
pub(super) type Place = (usize, u32);

/// Whether the answers of a case are held against a snapshot.
pub(super) fn has_snapshot(case: &Case) -> bool {
    let requests_expect = |step: &Step| {
        step.requests.iter().flatten().any(|r| r.pool.is_some() || r.reason.is_some() || r.mirror.is_some())
    };
    let expects = |step: &Step| step.expect.is_some() || step.until.is_some() || requests_expect(step);
    case.refusal.is_none() && (case.snapshot || !case.steps.iter().any(expects))
}

impl Runner<'_> {
    pub(super) fn run(&mut self, case: &Case) -> Result<CaseReport, CasesError> {
        let mut report = CaseReport::new(case);
        // The same rule as in a host's configuration: settings of the case over those of the bundle, scripts included.
        let bundle = Bundle::read(&self.bundle.folder, self.components, &case.settings).map_err(CasesError::Bundle)?;
        let admitted = Policy::admit(self.engine, self.compiled.clone(), bundle.kind, &bundle.settings);
        match (admitted, &case.refusal) {
            (Ok(_), Some(_)) => report.fail(None, What::Admitted),
            (Err(error), Some(expected)) => {
                let wrong = refusal(expected, &error);
                if !wrong.is_empty() {
                    report.fail(None, What::Expectation(wrong));
                }
            }
            (Err(error), None) => report.fail(None, What::refused(&error)),
            (Ok(policy), None) => self.ask(case, &Arc::new(policy), &mut report)?,
        }
        Ok(report)
    }

    fn ask(&mut self, case: &Case, policy: &Arc<Policy>, report: &mut CaseReport) -> Result<(), CasesError> {
        let asked = sequence(case, policy, Asker::Fresh(policy), Some(&mut report.failures));
        for ((step, repetition), given) in &asked {
            report.asked += 1;
            report.fuel = report.fuel.saturating_add(given.fuel);
            report.took += given.took;
            if let Ok(answer) = &given.answer {
                self.seen.add(answer);
                if let Some(what) = self.undeclared(answer) {
                    report.fail(Some((*step, *repetition)), what);
                }
            }
        }
        report.answers = collapsed(&asked);
        let again = sequence(case, policy, Asker::Fresh(policy), None);
        let kept = || sequence(case, policy, Asker::Kept(Box::new(policy.warm())), None);
        let impure = purity::differ(&asked, &again, Again::Fresh);
        report.failures.extend(impure.or_else(|| purity::differ(&asked, &kept(), Again::Kept)));
        // What was cut short by a failure is not held against a snapshot, and never becomes one.
        if has_snapshot(case) && report.failures.is_empty() {
            let path = snapshot::path(&self.bundle.folder, &case.file, &case.name);
            match snapshot::hold(&path, &report.answers, self.update)? {
                Held::Same => {}
                Held::Written => report.written = Some(path),
                Held::Missing(path) => report.fail(None, What::SnapshotMissing { path }),
                Held::Differs(path, diff) => report.fail(None, What::SnapshotDiffers { path, diff }),
            }
        }
        Ok(())
    }

    fn undeclared(&self, answer: &Answer) -> Option<What> {
        let undeclared = |rule: &&str| !self.bundle.findings.iter().any(|declared| declared == rule);
        let mut rules: Vec<_> = answer.findings().iter().map(|f| f.rule.as_str()).filter(undeclared).collect();
        rules.sort_unstable();
        rules.dedup();
        if !rules.is_empty() {
            return Some(What::Undeclared { rules: rules.into_iter().map(str::to_owned).collect() });
        }
        let given = answer.names().into_iter().find(|name| self.never.contains(*name))?;
        Some(What::Never { answer: given.to_owned() })
    }
}

/// Asks all steps. `failures` is where what fails is written; without it, nothing is held against anything. A step that
/// fails ends the sequence, because what comes after it rests on it.
fn sequence(case: &Case, policy: &Arc<Policy>, mut whom: Asker<'_>, mut failures: Option<&mut Vec<Failure>>) -> Asked {
    let (mut scene, mut asked) = (Scene::new(&case.start), Asked::new());
    for (number, step) in (1..).zip(&case.steps) {
        if let Err(message) = scene.enter(step) {
            if let Some(failures) = failures.as_deref_mut() {
                failures.push(Failure { place: Some((number, 1)), what: What::Step { message } });
            }
            return asked;
        }
        let repeat = step.repeat.unwrap_or(1);
        let mut last = Vec::new();
        for repetition in 1..=repeat {
            let Some(question) = scene.question(policy.kind, step) else { return asked };
            let given = question.ask(&mut whom, policy, &scene.memory);
            let (wrong, until) = holds(step, &given);
            if given.answer.is_ok() {
                scene.memory.clone_from(&given.memory);
            }
            if let (true, Ok(Answer::Move(next))) = (case.obey, &given.answer) {
                scene.obey(next.action);
            }
            asked.push(((number, repetition), given));
            if !wrong.is_empty() {
                if let Some(failures) = failures {
                    failures.push(Failure { place: Some((number, repetition)), what: What::Expectation(wrong) });
                }
                return asked;
            }
            match until {
                None => {}
                Some(missing) if missing.is_empty() => {
                    last = missing;
                    break;
                }
                Some(missing) => last = missing,
            }
        }
        if !last.is_empty() {
            if let Some(failures) = failures {
                failures.push(Failure { place: Some((number, repeat)), what: What::NeverBecame(last) });
            }
            return asked;
        }
    }
    asked
}

/// What is wrong with an answer, and, with `until`, what is missing for the step to end.
fn holds(step: &Step, given: &Given) -> (Vec<Mismatch>, Option<Vec<Mismatch>>) {
    let none = Expect::default();
    let awaits_error = step.until.as_ref().is_some_and(|until| until.error.is_some());
    let mut wrong = match &step.expect {
        None if awaits_error => Vec::new(),
        expect => expect::compare(expect.as_ref().unwrap_or(&none), &given.answer),
    };
    if let Ok(Answer::Plan(_, routes)) = &given.answer {
        wrong.extend(expect_plan::compare_routes(routes));
    }
    (wrong, step.until.as_ref().map(|until| expect::compare(until, &given.answer)))
}

/// What is not as expected of a policy that was refused.
fn refusal(expected: &ExpectRefusal, error: &PolicyError) -> Vec<Mismatch> {
    let mut wrong = Mismatches::default();
    if let Some(expected) = &expected.error {
        expect::compare_error(expected, error, &mut wrong);
    }
    if let Some(problems) = &expected.problems {
        expect::compare_problems(problems, error, &mut wrong);
    }
    wrong.0
}

/// Answers step by step; those of one step that are equal and in a row are shown once.
fn collapsed(asked: &Asked) -> Vec<Value> {
    let mut shown: Vec<(usize, u32, Value)> = Vec::new();
    for ((step, _), given) in asked {
        let answer = given.shown();
        match shown.last_mut() {
            Some((of, times, before)) if of == step && *before == answer => *times += 1,
            _ => shown.push((*step, 1, answer)),
        }
    }
    let with = |(step, times, answer)| json!({ "step": step, "times": times, "answer": answer });
    shown.into_iter().map(with).collect()
}

impl CaseReport {
    fn new(case: &Case) -> Self {
        Self {
            file: case.file.clone(),
            name: case.name.clone(),
            asked: 0,
            fuel: 0,
            took: Duration::ZERO,
            failures: Vec::new(),
            answers: Vec::new(),
            written: None,
        }
    }

    fn fail(&mut self, place: Option<Place>, what: What) {
        self.failures.push(Failure { place, what });
    }
}
