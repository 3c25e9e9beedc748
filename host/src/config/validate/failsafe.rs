//! `[migrations.NAME.failsafe]`.

use std::time::Duration;

use super::At;
use crate::{
    config::raw,
    migration::failsafe::{Action, OutageLimits, Settings},
    request::Ppm,
};

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
        let span = at.duration(text, "1s", "1d");
        if span < check_interval * 2 {
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
