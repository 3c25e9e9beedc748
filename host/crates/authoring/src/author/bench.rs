//! What a policy costs: each of its functions, asked as the host asks it and on an instance of its own.
//!
//! The host asks most questions of fresh instances, so that what a question costs includes an instance and its settings;
//! `decide` is asked of a warm one. Fuel is the same on every machine and in every run; times are not.

use std::time::Duration;

use serde::Serialize;

use super::workload::{Question, Step};
use cutover_model::{
    clock,
    port::{Kind, Target},
};
use cutover_policy_host::{
    PolicyError,
    ask::Asked,
    engine::{Policy, WarmPolicy},
};

mod budget;

pub use budget::{Breach, Budget, bytes, span};

/// Calls before anything is measured.
const WARM_UP: usize = 20;

/// Numbers of many calls. The quantiles are by nearest rank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// The mean, rounded down; 0 if there was no call.
    pub mean: u64,
    /// The median; 0 if there was no call.
    pub p50: u64,
    /// The 99th percentile; 0 if there was no call.
    pub p99: u64,
    /// The largest; 0 if there was no call.
    pub max: u64,
}

/// What one function costs.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// The function, as the contract names it.
    pub function: &'static str,
    /// Whether the host asks it on a fresh instance each time.
    pub fresh: bool,
    /// Calls that were measured.
    pub calls: usize,
    /// Units of fuel, as the host asks; for a fresh instance with configuration, as the log has it.
    pub fuel: Spread,
    /// Nanoseconds, as the host asks; for a fresh instance with instantiation and configuration.
    pub nanos: Spread,
    /// Units of fuel of the question alone.
    pub alone_fuel: Spread,
    /// Nanoseconds of the question alone.
    pub alone_nanos: Spread,
    /// The most linear memory that an instance had, in bytes.
    pub memory_bytes: usize,
    /// The most that the policy wanted to remember, in bytes.
    pub remembered_bytes: usize,
    /// The longest answer: bytes of its JSON, or of its bodies.
    pub answer_bytes: usize,
    /// Questions that it answered with an error of its own.
    pub said_errors: usize,
}

/// Why a policy cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A question failed. An error that the policy itself answers with counts only if every question got one.
    #[error("to question {at} of `{function}` the policy {error}")]
    Failed {
        /// The function that was asked, as the contract names it.
        function: &'static str,
        /// Which question, from 1.
        at: usize,
        /// Why it did not answer.
        error: PolicyError,
    },
    /// The same question cost different fuel, so the policy is not a pure function.
    #[error(
        "question {at} of `{function}` took {first} units of fuel the first time and {later} later; the same question \
         must cost the same, or the policy cannot be replayed: it depends on something that it was not told"
    )]
    Unsteady {
        /// The function that was asked, as the contract names it.
        function: &'static str,
        /// Which question, from 1.
        at: usize,
        /// Units of fuel that the question cost the first time.
        first: u64,
        /// Units of fuel that it cost when it was asked again.
        later: u64,
    },
}

/// One answer, whatever it was, and what it cost.
struct Answered {
    said: Result<usize, PolicyError>,
    memory: Vec<u8>,
    fuel: u64,
    nanos: u64,
    memory_peak: usize,
}

/// The attributes that `decide` is asked with, if any of these questions leads to a plan that asks for it. An interpreter
/// exports `decide` for every script, and few scripts have one.
pub fn decided_by<'a>(policy: &'a Policy, questions: &[Step]) -> Option<&'a [String]> {
    let asks = |step: &Step| match &step.question {
        Question::MakePlan(situation) => policy.make_plan(situation, &[]).answer.is_ok_and(|plan| {
            let mut targets = plan.rules.iter().map(|rule| rule.target).chain([plan.otherwise]);
            targets.any(|target| target == Target::Decide)
        }),
        Question::Judge(_)
        | Question::Next(_)
        | Question::Decide(_)
        | Question::Compare(_)
        | Question::AdaptCall(_)
        | Question::AdaptReply(..) => false,
    };
    let decides = policy.kind == Kind::Routing && policy.decides() && questions.iter().any(asks);
    decides.then_some(policy.description.attributes.as_slice())
}

/// Asks questions of one function, over and over and in their order, `calls` times in all.
///
/// # Errors
/// Why it cannot be measured.
pub fn measure(policy: &Policy, questions: &[Step], calls: usize) -> Result<Cost, BenchError> {
    let function = questions.first().map_or("", |step| step.question.function());
    let fresh = function != "decide";
    let mut kept = policy.warm();
    run(questions, WARM_UP.min(calls), |question, memory| alone(&mut kept, question, memory))?;
    let alone = run(questions, calls, |question, memory| alone(&mut kept, question, memory))?;
    // Some questions are there to be refused; a policy that refuses them all is broken.
    if alone.iter().all(|a| a.said.is_err())
        && let Some(Err(error)) = alone.first().map(|a| &a.said)
    {
        return Err(BenchError::Failed { function, at: 1, error: error.clone() });
    }
    let asked = if fresh {
        let asked = run(questions, calls, |question, memory| as_host(policy, question, memory))?;
        steady(questions, &asked)?;
        asked
    } else {
        run(questions, calls, |question, memory| per_request(policy, &mut kept, question, memory))?
    };
    let largest = |of: fn(&Answered) -> usize| asked.iter().map(of).max().unwrap_or(0);
    Ok(Cost {
        function,
        fresh,
        calls,
        fuel: Spread::of(asked.iter().map(|a| a.fuel)),
        nanos: Spread::of(asked.iter().map(|a| a.nanos)),
        alone_fuel: Spread::of(alone.iter().map(|a| a.fuel)),
        alone_nanos: Spread::of(alone.iter().map(|a| a.nanos)),
        memory_bytes: largest(|a| a.memory_peak),
        remembered_bytes: largest(|a| a.memory.len()),
        answer_bytes: largest(|a| *a.said.as_ref().unwrap_or(&0)),
        said_errors: asked.iter().filter(|a| a.said.is_err()).count(),
    })
}

/// Asks questions in their order, over and over.
fn run(
    questions: &[Step],
    calls: usize,
    mut ask: impl FnMut(&Question, &[u8]) -> Answered,
) -> Result<Vec<Answered>, BenchError> {
    let mut all: Vec<Answered> = Vec::with_capacity(calls);
    let order = questions.iter().enumerate().cycle().take(calls);
    let mut memory = Vec::new();
    for (at, Step { question, begins_with }) in order {
        if let Some(first) = begins_with {
            memory.clone_from(first);
        }
        let answered = ask(question, &memory);
        let (function, number) = (question.function(), at + 1);
        if answered.said.is_ok() {
            memory.clone_from(&answered.memory);
        }
        if let Err(error) = &answered.said
            && !matches!(error, PolicyError::Said { .. })
        {
            return Err(BenchError::Failed { function, at: number, error: error.clone() });
        }
        all.push(answered);
    }
    Ok(all)
}

/// Holds the fuel of each question against what it was the first time. Only of fresh instances: what a kept one has done
/// before, such as growing a table, it need not do again.
fn steady(questions: &[Step], asked: &[Answered]) -> Result<(), BenchError> {
    let later = asked.iter().skip(questions.len());
    let mut pairs = questions.iter().zip(asked).cycle().zip(later).zip((1..=questions.len()).cycle());
    let differ = pairs.find(|(((_, first), later), _)| first.fuel != later.fuel);
    differ.map_or(Ok(()), |(((step, first), later), at)| {
        let function = step.question.function();
        Err(BenchError::Unsteady { function, at, first: first.fuel, later: later.fuel })
    })
}

fn as_host(policy: &Policy, question: &Question, memory: &[u8]) -> Answered {
    match question {
        Question::Judge(check) => policy.judge(check, memory).into(),
        Question::Next(progress) => policy.next(progress, memory).into(),
        Question::MakePlan(situation) => policy.make_plan(situation, memory).into(),
        Question::Decide(frame) => policy.decide_fresh(frame).into(),
        Question::Compare(pairs) => policy.compare(pairs).into(),
        Question::AdaptCall(call) => sized(policy.adapt_call(call), |call| call.body.len()),
        Question::AdaptReply(call, reply) => sized(policy.adapt_reply(call, reply.clone()), |reply| reply.body.len()),
    }
}

fn alone(kept: &mut WarmPolicy, question: &Question, memory: &[u8]) -> Answered {
    match question {
        Question::Judge(check) => kept.judge(check, memory).into(),
        Question::Next(progress) => kept.next(progress, memory).into(),
        Question::MakePlan(situation) => kept.make_plan(situation, memory).into(),
        Question::Decide(frame) => kept.decide(frame).into(),
        Question::Compare(pairs) => kept.compare(pairs).into(),
        Question::AdaptCall(call) => sized(kept.adapt_call(call), |call| call.body.len()),
        Question::AdaptReply(call, reply) => sized(kept.adapt_reply(call, reply.clone()), |reply| reply.body.len()),
    }
}

/// As a request is decided: the time on the thread's own instance, the fuel on one that tells.
fn per_request(policy: &Policy, kept: &mut WarmPolicy, question: &Question, memory: &[u8]) -> Answered {
    let mut answered = alone(kept, question, memory);
    if let Question::Decide(frame) = question {
        let started = clock::mono();
        let decided = policy.decide(frame);
        answered.nanos = nanos(clock::mono().since(started));
        answered.said = decided.and(answered.said);
    }
    answered
}

fn sized<T>(asked: Asked<T>, size: impl FnOnce(&T) -> usize) -> Answered {
    Answered {
        said: asked.answer.map(|answer| size(&answer)),
        memory: asked.memory,
        fuel: asked.fuel,
        nanos: nanos(asked.took),
        memory_peak: asked.memory_peak,
    }
}

impl<T: Serialize> From<Asked<T>> for Answered {
    fn from(asked: Asked<T>) -> Self {
        sized(asked, |answer| serde_json::to_vec(answer).map_or(0, |json| json.len()))
    }
}

impl Spread {
    fn of(values: impl Iterator<Item = u64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_unstable();
        let count = u64::try_from(values.len()).unwrap_or(u64::MAX);
        let rank = |percent: usize| (values.len() * percent).div_ceil(100).saturating_sub(1);
        let at = |rank: usize| values.get(rank).copied().unwrap_or(0);
        Self {
            mean: values.iter().sum::<u64>().checked_div(count).unwrap_or(0),
            p50: at(rank(50)),
            p99: at(rank(99)),
            max: values.last().copied().unwrap_or(0),
        }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(fuel: u64) -> Answered {
        Answered { said: Ok(1), memory: vec![u8::try_from(fuel % 256).unwrap()], fuel, nanos: 1, memory_peak: 0 }
    }

    fn steps(count: usize) -> Vec<Step> {
        let step = |at| Step { question: Question::Decide(Vec::new()), begins_with: (at == 0).then(Vec::new) };
        (0..count).map(step).collect()
    }

    #[test]
    fn quantiles_are_by_nearest_rank() {
        assert_eq!(Spread::of(1..=100), Spread { mean: 50, p50: 50, p99: 99, max: 100 });
        assert_eq!(Spread::of([7].into_iter()), Spread { mean: 7, p50: 7, p99: 7, max: 7 });
        assert_eq!(Spread::of(std::iter::empty()), Spread::default());
    }

    #[test]
    fn memory_is_handed_on_within_a_round_and_each_round_begins_without() {
        let questions = steps(3);
        let mut seen = Vec::new();
        let asked = run(&questions, 7, |_, memory| {
            seen.push(memory.to_vec());
            answered([10, 11, 12][(seen.len() - 1) % 3])
        });
        assert_eq!(asked.unwrap().len(), 7);
        assert_eq!(seen, [vec![], vec![10], vec![11], vec![], vec![10], vec![11], vec![]]);
    }

    #[test]
    fn fuel_that_differs_for_the_same_question_is_an_error() {
        let differ = |fuel: &[u64]| steady(&steps(2), &fuel.iter().copied().map(answered).collect::<Vec<_>>());
        assert!(differ(&[1, 2, 1, 2, 1]).is_ok() && differ(&[1]).is_ok() && differ(&[]).is_ok());
        let error = differ(&[1, 2, 1, 2, 1, 3]);
        assert!(matches!(error, Err(BenchError::Unsteady { at: 2, first: 2, later: 3, .. })), "{error:?}");
    }
}
