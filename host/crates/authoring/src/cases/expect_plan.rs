//! Holds plans, and where the router sends requests by them, against expectations.

use super::{
    ask::Mirrored,
    expect::{Mismatch, Mismatches, listed},
    expect_format::Expect,
    format::target,
};
use cutover_model::port::{Plan, Rule};
use cutover_policy_host::route::Route;

/// Requests say what they expect themselves, whether or not their step does.
pub(super) fn compare_routes(routes: &[(Mirrored, Route)]) -> Vec<Mismatch> {
    let mut wrong = Mismatches::default();
    for (n, (expected, route)) in routes.iter().enumerate() {
        let field = |name: &str| format!("requests[{n}].{name}");
        let actual = || route.error.as_ref().map_or_else(String::new, |(e, _)| format!(", for `decide` {e}"));
        if let Some(pool) = expected.pool.filter(|&pool| pool != route.pool) {
            wrong.differ(&field("pool"), pool.name(), format!("{}{}", route.pool.name(), actual()));
        }
        if let Some(reason) = expected.reason.as_deref().filter(|&reason| *reason != *route.reason) {
            wrong.differ(&field("reason"), reason, format!("{}{}", route.reason, actual()));
        }
        wrong.same(&field("mirror"), expected.mirror, route.mirror);
    }
    wrong.0
}

pub(super) fn compare_plan(expect: &Expect, plan: &Plan, wrong: &mut Mismatches) {
    wrong.same("otherwise", expect.otherwise.map(target), target(plan.otherwise));
    wrong.same("share", expect.share.map(|s| s.0), plan.share);
    wrong.same("shadow_share", expect.shadow_share.map(|s| s.0), plan.shadow_share);
    wrong.same(
        "shadow_operations",
        expect.shadow_operations.as_ref().map(|names| names.join(", ")),
        plan.shadow_operations.join(", "),
    );
    wrong.same("sticky", expect.sticky.as_deref(), &plan.sticky);
    wrong.same("salt", expect.salt.as_deref(), &plan.salt);
    let Some(rules) = &expect.rules else { return };
    let attributes = |rule: &Rule| -> Vec<String> { rule.conditions.iter().map(|c| c.attribute.clone()).collect() };
    let all = rules.len() == plan.rules.len()
        && rules.iter().zip(&plan.rules).all(|(expected, rule)| {
            expected.name == rule.name
                && expected.target.is_none_or(|t| t == rule.target)
                && expected.attributes.as_ref().is_none_or(|a| *a == attributes(rule))
        });
    if !all {
        let expected: Vec<_> = rules
            .iter()
            .map(|r| {
                let to = r.target.map_or_else(String::new, |t| format!(" to {}", target(t)));
                let on = r.attributes.as_ref().map_or_else(String::new, |a| format!(" on {}", a.join(", ")));
                format!("{}{to}{on}", r.name)
            })
            .collect();
        let line = |r: &Rule| format!("{} to {} on {}", r.name, target(r.target), attributes(r).join(", "));
        wrong.differ("rules", listed(&expected), listed(&plan.rules.iter().map(line).collect::<Vec<_>>()));
    }
}
