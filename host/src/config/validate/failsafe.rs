//! `[migrations.NAME.failsafe]`.

use std::time::Duration;

use super::At;
use crate::config::raw;
use cutover_control::migration::failsafe::{Action, OutageLimits, Settings};
use cutover_model::request::Ppm;

/// What may be done about a loss.
const ACTIONS: [Action; 4] = [Action::Rollback, Action::Retreat, Action::Pause, Action::None];

pub(super) fn settings(at: &mut At<'_>, raw: &raw::failsafe::Failsafe, check_interval: Duration) -> Settings {
    let default = Settings::default();
    let spans = [
        ("no_verdict", &raw.no_verdict, default.no_verdict),
        ("no_record", &raw.no_record, default.no_record),
        ("no_stages", &raw.no_stages, default.no_stages),
    ];
    let [no_verdict, no_record, no_stages] = spans.map(|(field, text, default)| {
        let mut at = at.field(field);
        let Some(text) = text else { return default };
        let (known, span) = (at.problems.len(), at.duration(text, "1s", "1d"));
        if at.problems.len() == known && span < check_interval * 2 {
            at.wrong(&format!(
                "is `{text}`; it must be two `check_interval`s at least, or one bad answer is a lost policy"
            ));
        }
        span
    });
    let actions = [
        ("action", &raw.action, default.action),
        ("no_stages_action", &raw.no_stages_action, default.no_stages_action),
    ];
    let [action, no_stages_action] = actions.map(|(field, text, default)| {
        text.as_ref().map_or(default, |text| action(&mut at.field(field), text, &ACTIONS))
    });
    Settings {
        no_verdict,
        no_record,
        action,
        no_stages,
        no_stages_action,
        outage: outage(&mut at.field("outage"), &raw.outage),
    }
}

fn action(at: &mut At<'_>, text: &str, allowed: &[Action]) -> Action {
    allowed.iter().copied().find(|action| action.name() == text).unwrap_or_else(|| {
        let names: Vec<_> = allowed.iter().map(|action| format!("`{action}`")).collect();
        at.wrong(&format!("is `{text}`; it must be one of {}", names.join(", ")));
        Action::Rollback
    })
}

fn outage(at: &mut At<'_>, raw: &raw::failsafe::Outage) -> Option<OutageLimits> {
    let action = action(&mut at.field("action"), &raw.action, &[Action::Rollback, Action::None]);
    let mut count = |field: &str, number: u64| {
        if !(1..=1_000_000).contains(&number) {
            at.field(field).wrong(&format!("is {number}; it must be between 1 and 1000000"));
        }
        number
    };
    let (calls, sessions) = (count("calls", raw.calls), count("sessions", raw.sessions));
    if !(1..=100).contains(&raw.v1_errors) {
        at.field("v1_errors").wrong("is a percentage; it must be between 1 and 100");
    }
    let lasts = at.field("lasts").duration(&raw.lasts, "1s", "1h");
    let v1_errors = Ppm::new(raw.v1_errors.saturating_mul(10_000));
    (action == Action::Rollback).then_some(OutageLimits { calls, sessions, lasts, v1_errors })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, check_interval: Duration) -> (Settings, Vec<String>) {
        let raw = toml::from_str(text).unwrap();
        let mut problems = Vec::new();
        let settings = settings(&mut At { path: "failsafe".into(), problems: &mut problems }, &raw, check_interval);
        (settings, problems.iter().map(ToString::to_string).collect())
    }

    const FIVE_SECONDS: Duration = Duration::from_secs(5);

    #[test]
    fn nothing_means_the_defaults_however_rarely_policies_are_asked() {
        for check_interval in [FIVE_SECONDS, Duration::from_hours(1)] {
            assert_eq!(read("", check_interval), (Settings::default(), Vec::new()));
        }
    }

    #[test]
    fn what_is_said_is_taken_and_none_has_to_be_said() {
        let (settings, problems) = read(
            "no_verdict = '30s'\naction = 'retreat'\nno_stages_action = 'pause'\noutage = { action = 'none' }",
            FIVE_SECONDS,
        );
        assert_eq!(problems, [""; 0]);
        let expected = Settings {
            no_verdict: Duration::from_secs(30),
            action: Action::Retreat,
            no_stages_action: Action::Pause,
            outage: None,
            ..Settings::default()
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let text = "no_verdict = '9s'\nno_record = 'soon'\naction = 'alarm'\n\
                    outage = { action = 'pause', calls = 0, v1_errors = 101, lasts = '0s' }";
        let (_, problems) = read(text, FIVE_SECONDS);
        let paths: Vec<_> = problems.iter().filter_map(|problem| problem.split('`').nth(1)).collect();
        let expected = ["no_verdict", "no_record", "action", "outage.action", "outage.calls"];
        let expected: Vec<_> = expected.iter().chain(&["outage.v1_errors", "outage.lasts"]).collect();
        let expected: Vec<_> = expected.iter().map(|path| format!("failsafe.{path}")).collect();
        assert_eq!(paths, expected);
        assert!(problems[2].contains("`rollback`, `retreat`, `pause`, `none`"), "{problems:?}");
    }
}
