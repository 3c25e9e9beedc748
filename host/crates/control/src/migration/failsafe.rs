//! What the host does by itself when no policy would notice a bad V2: when the judge, the store or the stages policy is
//! lost, or when V2 fails everything that V1 does not.
//!
//! It asks no policy, and is pure: facts go in each second, and what people are to be told and what is to be done come
//! out. **Invariant**: nothing in here ever raises V2's share. A loss counts while V2 has callers, from when both
//! began, in time that the host was up. People are told at once; what is configured is done when the loss has lasted as
//! long as configured, and only while the flag `auto_rollback` is on and V1 can take the callers.

mod outage;

use std::{fmt, time::Duration};

use serde::Serialize;

pub use self::outage::Limits as OutageLimits;
use self::outage::Outage;
use cutover_model::{
    clock::Mono,
    facts::{Batch, Finding},
};

/// What is done about a loss that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Everything back to V1.
    Rollback,
    /// Back to the share of the stage before; from the first stage, everything back to V1.
    Retreat,
    /// The share stays, and only a person lets it move again.
    Pause,
    /// People are told, and nothing else.
    None,
}

/// After what time the host acts by itself, and what it does then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long V2 may have callers without a verdict.
    pub no_verdict: Duration,
    /// How long V2 may have callers without a record that the store took.
    pub no_record: Duration,
    /// What is done then.
    pub action: Action,
    /// How long there may be no stages policy that answers.
    pub no_stages: Duration,
    /// What is done then.
    pub no_stages_action: Action,
    /// When V2 counts as out; never, if there is none.
    pub outage: Option<OutageLimits>,
}

impl Default for Settings {
    /// Rolls back after two minutes without a judge or a store. A stages policy that is gone raises nothing, and the judge
    /// still watches: people are told, and the share stays.
    fn default() -> Self {
        let two_minutes = Duration::from_mins(2);
        Self {
            no_verdict: two_minutes,
            no_record: two_minutes,
            action: Action::Rollback,
            no_stages: two_minutes,
            no_stages_action: Action::None,
            outage: Some(OutageLimits::default()),
        }
    }
}

/// What can be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Thing {
    /// The rollback policy gives no verdict.
    Judge,
    /// The store takes no records.
    Store,
    /// The stages policy does not answer.
    Stages,
    /// V2 fails every call.
    V2,
}

/// Something that is wrong now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Since when it is wrong, in up-time of the host.
    pub since: Mono,
    /// What it is, as the end of a sentence: `the rollback policy trapped`.
    pub why: String,
}

/// What is known in one second.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Whether callers may get V2.
    pub serves: bool,
    /// Why there is no verdict; `None` if there is one.
    pub judge: Option<Fault>,
    /// Why there is no record; `None` if there is one.
    pub store: Option<Fault>,
    /// Why no stages policy answers; only while one is wanted.
    pub stages: Option<Fault>,
    /// Why nothing may be done now, such as a flag that is off: people have taken over.
    pub held_back: Option<&'static str>,
    /// Whether there is a stage to pause: not in `complete`, and not while it is paused.
    pub can_pause: bool,
    /// The calls of this second.
    pub batch: &'a Batch,
}

/// What the facts of a second lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// People are to be told.
    Alarm {
        /// The name of the event, such as `judge-lost`.
        event: &'static str,
        /// `critical`, or `info` when it is over.
        severity: &'static str,
        /// One sentence for people.
        message: String,
        /// What it rests on.
        findings: Vec<Finding>,
    },
    /// The host is to do something.
    Act {
        /// What is to be done.
        action: Action,
        /// What it rests on.
        findings: Vec<Finding>,
    },
}

/// A loss as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The thing that is lost.
    pub lost: Thing,
    /// What is wrong with it, as the end of a sentence.
    pub why: String,
    /// For how long, in milliseconds, while V2 had callers.
    pub for_ms: u64,
    /// What is done about it.
    pub action: Action,
    /// In how many milliseconds; 0 if it is overdue, none if nothing is.
    pub acts_in_ms: Option<u64>,
    /// Why it is not done when it is due.
    pub held_back: Option<&'static str>,
}

/// How long things have been lost, and what is to be done about it.
#[derive(Debug)]
pub struct Failsafe {
    watches: [Watch; 3],
    outage: Option<Outage>,
    /// Since when V2 has callers.
    serves_since: Option<Mono>,
    held_back: Option<&'static str>,
}

/// How long one thing may be lost, and how long it is.
#[derive(Debug)]
struct Watch {
    thing: Thing,
    patience: Duration,
    action: Action,
    loss: Option<Loss>,
    /// When people were told of a loss last.
    told: Option<Mono>,
}

#[derive(Debug)]
struct Loss {
    since: Mono,
    why: String,
    /// Whether people were told of this loss.
    told: bool,
    /// When it is due; later than the first time, if something was done and it was still lost.
    due: Mono,
    /// Whether people were told that nothing is done.
    said_why_not: bool,
}

impl Thing {
    /// As it is written in JSON and in labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Judge => "judge",
            Self::Store => "store",
            Self::Stages => "stages",
            Self::V2 => "v2",
        }
    }

    /// The rule in findings, and the event of notices.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Judge => "judge-lost",
            Self::Store => "store-lost",
            Self::Stages => "stages-lost",
            Self::V2 => "v2-outage",
        }
    }

    const fn back(self) -> &'static str {
        match self {
            Self::Judge => "judge-back",
            Self::Store => "store-back",
            Self::Stages => "stages-back",
            Self::V2 => "v2-back",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Judge => "nobody judges V2",
            Self::Store => "the store takes no records",
            Self::Stages => "no stages policy answers",
            Self::V2 => "V2 fails everything",
        }
    }
}

impl Action {
    /// As it is written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Retreat => "retreat",
            Self::Pause => "pause",
            Self::None => "none",
        }
    }

    /// What happens, as a sentence about a migration.
    const fn happens(self) -> &'static str {
        match self {
            Self::Rollback => "everything goes back to V1",
            Self::Retreat => "the share goes back by a stage",
            Self::Pause => "the share stays until a person resumes",
            Self::None => "nothing is done, as configured",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Failsafe {
    /// A failsafe that knows of no loss. Whatever is asked once each `check_interval` is lost after two questions at
    /// the earliest.
    pub fn new(settings: &Settings, check_interval: Duration) -> Self {
        let at_least = check_interval.saturating_mul(2);
        let watch = |thing, patience: Duration, action| Watch {
            thing,
            patience: patience.max(at_least),
            action,
            loss: None,
            told: None,
        };
        Self {
            watches: [
                watch(Thing::Judge, settings.no_verdict, settings.action),
                // Nothing but a rollback happens without a record.
                watch(
                    Thing::Store,
                    settings.no_record,
                    match settings.action {
                        Action::Rollback | Action::Retreat => Action::Rollback,
                        Action::Pause | Action::None => Action::None,
                    },
                ),
                watch(Thing::Stages, settings.no_stages, settings.no_stages_action),
            ],
            outage: settings.outage.map(Outage::new),
            serves_since: None,
            held_back: None,
        }
    }

    /// Takes the facts of a second. At most one action comes of them, the last in the list.
    pub fn observe(&mut self, now: Mono, facts: Facts<'_>) -> Vec<Said> {
        self.held_back = facts.held_back;
        let mut said = Vec::new();
        if !facts.serves {
            self.serves_since = None;
            self.watches.iter_mut().for_each(Watch::forget);
            if let Some(outage) = &mut self.outage {
                outage.forget();
            }
            return said;
        }
        let serves_since = *self.serves_since.get_or_insert(now);
        let mut act = None;
        if let Some(outage) = &mut self.outage {
            outage.observe(facts.batch, facts.held_back, &mut said, &mut act);
        }
        let mut faults = [facts.judge, facts.store, facts.stages].into_iter();
        for watch in &mut self.watches {
            let fault = faults.next().flatten().map(|fault| Fault { since: fault.since.max(serves_since), ..fault });
            watch.observe(now, fault, (facts.held_back, facts.can_pause), &mut said, &mut act);
        }
        said.extend(act);
        said
    }

    /// What is lost, with what will happen when.
    pub fn shown(&self, now: Mono) -> Vec<Shown> {
        let outage = self.outage.as_ref().and_then(|outage| outage.shown(self.held_back));
        let lost = |watch: &Watch| {
            let loss = watch.loss.as_ref()?;
            let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            Some(Shown {
                lost: watch.thing,
                why: loss.why.clone(),
                for_ms: ms(now.since(loss.since)),
                action: watch.action,
                acts_in_ms: (watch.action != Action::None).then(|| ms(loss.due.since(now))),
                held_back: self.held_back,
            })
        };
        self.watches.iter().filter_map(lost).chain(outage).collect()
    }
}

impl Watch {
    /// V2 has no callers: nothing is lost that matters.
    fn forget(&mut self) {
        self.loss = None;
    }

    fn observe(
        &mut self,
        now: Mono,
        fault: Option<Fault>,
        (held_back, can_pause): (Option<&'static str>, bool),
        said: &mut Vec<Said>,
        act: &mut Option<Said>,
    ) {
        let Some(fault) = fault else { return self.found(now, said) };
        let (patience, told) = (self.patience, self.told);
        let loss = self.loss.get_or_insert_with(|| Loss {
            since: fault.since,
            why: String::new(),
            told: false,
            due: fault.since + patience,
            said_why_not: false,
        });
        loss.why = fault.why;
        let lasted = now.since(loss.since);
        // What comes and goes is told once, and again when it stays.
        let is_news = told.is_none_or(|at| now.since(at) >= patience) || lasted >= patience / 2;
        if !loss.told && is_news {
            loss.told = true;
            self.told = Some(now);
            let message = self.message(now);
            said.push(self.alarm("critical", message, now));
        }
        let Some(loss) = &mut self.loss else { return };
        if now < loss.due {
            return;
        }
        let why_not = match self.action {
            Action::None => Some("nothing is done, as configured"),
            Action::Pause if !can_pause => Some("nothing is done: there is no stage that could be paused"),
            Action::Rollback | Action::Retreat | Action::Pause => held_back,
        };
        if let Some(why_not) = why_not {
            if !std::mem::replace(&mut loss.said_why_not, true) {
                let message = format!("{} for {}, and {why_not}", self.thing.what(), spoken(lasted));
                said.push(self.alarm("critical", message, now));
            }
        } else if act.is_none() {
            // If that does not end it, the next one is as far away.
            loss.due = now + patience;
            let findings = self.findings(now);
            *act = Some(Said::Act { action: self.action, findings });
        }
    }

    fn found(&mut self, now: Mono, said: &mut Vec<Said>) {
        let Some(loss) = self.loss.take().filter(|loss| loss.told) else { return };
        let message = format!("it is over that {}; it lasted {}", self.thing.what(), spoken(now.since(loss.since)));
        said.push(Said::Alarm { event: self.thing.back(), severity: "info", message, findings: Vec::new() });
    }

    fn alarm(&self, severity: &'static str, message: String, now: Mono) -> Said {
        Said::Alarm { event: self.thing.rule(), severity, message, findings: self.findings(now) }
    }

    fn message(&self, now: Mono) -> String {
        let Some(loss) = &self.loss else { return String::new() };
        let left = spoken(loss.due.since(now));
        let happens = match self.action {
            Action::None => self.action.happens().to_owned(),
            action @ (Action::Rollback | Action::Retreat | Action::Pause) => {
                format!("if that lasts, {} in {left}", action.happens())
            }
        };
        format!("{} while V2 has callers: {}; {happens}", self.thing.what(), loss.why)
    }

    fn findings(&self, now: Mono) -> Vec<Finding> {
        let Some(loss) = &self.loss else { return Vec::new() };
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let lasted = now.since(loss.since);
        let note = format!(
            "{} for {} while V2 has callers, {} are enough: {}",
            self.thing.what(),
            spoken(lasted),
            spoken(self.patience),
            loss.why
        );
        let (rule, unit) = (self.thing.rule().into(), "ms".into());
        vec![Finding { rule, observed: ms(lasted), limit: ms(self.patience), unit, note }]
    }
}

/// A span to the second, or to the millisecond below ten of them.
fn spoken(span: Duration) -> String {
    let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let rounded = if ms < 10_000 { ms } else { ms / 1_000 * 1_000 };
    humantime::format_duration(Duration::from_millis(rounded)).to_string()
}

#[cfg(test)]
mod tests;
