//! Is a policy a pure function? The same sequence again must have the same answers, memory and cost.

use super::{
    report::{Failure, What},
    run::{Asked, Place},
};
use cutover_policy_host::PolicyError;

/// How a sequence was asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// On fresh instances, like the first time.
    Fresh,
    /// On one that was kept from question to question. Fuel is left out: configuring an instance is a part of it only
    /// where the instance is fresh.
    Kept,
}

/// Where two runs of one sequence differ first. A question that ran out of time was cut short by a clock, so its fuel
/// says nothing.
pub(super) fn differ(first: &Asked, second: &Asked, again: Again) -> Option<Failure> {
    let differs = |what: &str, place: Option<Place>, first: String, second: String| {
        let what = match again {
            Again::Fresh => what.to_owned(),
            Again::Kept => format!("{what} on an instance that was kept"),
        };
        Some(Failure { place, what: What::Impure { what, first, second } })
    };
    for ((place, one), (_, two)) in first.iter().zip(second) {
        let place = Some(*place);
        let (said, said_again) = (one.shown(), two.shown());
        if said != said_again {
            return differs("answer", place, said.to_string(), said_again.to_string());
        }
        if one.memory != two.memory {
            let [one, two] = [one, two].map(|given| String::from_utf8_lossy(&given.memory).into_owned());
            return differs("memory", place, one, two);
        }
        let timed = matches!(one.answer, Err(PolicyError::Deadline { .. }));
        if one.fuel != two.fuel && !timed && again == Again::Fresh {
            return differs("fuel", place, one.fuel.to_string(), two.fuel.to_string());
        }
    }
    // A sequence ends early only where an answer is another.
    let counts = [first, second].map(|asked| asked.len().to_string());
    let [one, two] = counts;
    if one == two { None } else { differs("number of answers", None, one, two) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cases::{answer::Answer, ask::Given};
    use cutover_model::port::{Judgement, Verdict};

    fn asked(verdict: Verdict, memory: &str, fuel: u64) -> Asked {
        let judgement = Judgement { verdict, findings: Vec::new(), evidence: 0 };
        let answer = Ok(Answer::Judgement(judgement));
        vec![((2, 1), Given { answer, memory: memory.into(), fuel, took: Duration::ZERO })]
    }

    fn what(second: &Asked, again: Again) -> Option<String> {
        let failure = differ(&asked(Verdict::Hold, "m", 5), second, again)?;
        assert!(second.is_empty() || failure.place == Some((2, 1)));
        Some(failure.what.to_string())
    }

    #[test]
    fn the_same_again_is_pure() {
        assert_eq!(what(&asked(Verdict::Hold, "m", 5), Again::Fresh), None);
        assert_eq!(what(&asked(Verdict::Hold, "m", 9), Again::Kept), None);
        let late = || {
            let mut asked = asked(Verdict::Hold, "", 5);
            asked[0].1.answer = Err(PolicyError::Deadline { limit_ms: 1, setting: "time" });
            asked
        };
        let mut later = late();
        later[0].1.fuel = 7;
        assert_eq!(differ(&late(), &later, Again::Fresh), None);
    }

    #[test]
    fn what_differs_is_shown() {
        let answer = what(&asked(Verdict::Warn, "m", 5), Again::Kept).unwrap();
        assert!(answer.contains("another answer on an instance that was kept"), "{answer}");
        assert!(answer.contains("- {") && answer.contains("hold") && answer.contains("warn"), "{answer}");
        let memory = what(&asked(Verdict::Hold, "other", 5), Again::Fresh).unwrap();
        assert!(memory.contains("another memory") && memory.contains("- m\n+ other"), "{memory}");
        let fuel = what(&asked(Verdict::Hold, "m", 6), Again::Fresh).unwrap();
        assert!(fuel.contains("another fuel") && fuel.contains("- 5\n+ 6"), "{fuel}");
        assert!(what(&Asked::new(), Again::Fresh).unwrap().contains("another number of answers"));
    }
}
