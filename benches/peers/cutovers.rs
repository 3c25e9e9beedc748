//! Cutover's three ways: a plan that the host executes, and `decide` of a Rust guest and of a script.

use std::sync::Arc;

use cutover_policy_host::{engine::{Engine, Policy}, installed::InstalledPolicy, route::{Control, Published, Router}};
use cutover_model::{port::{Condition, Kind, Plan, Rule, Target, Test}, request::{Attributes as _, PoolId, Ppm}};
use cutover_contract::frame;

use crate::{
    Ask, Shown,
    fixtures::{SALT, SHARE, bundled, engine, policy, situation},
    position,
};

/// The rule of the plan, and the share that the plan gives all others.
pub(crate) fn plan() -> Ask {
    let ring = Condition {
        attribute: "header:x-beta".into(),
        test: Test::OneOf(["beta", "internal"].map(String::from).into()),
    };
    let plan = Plan {
        rules: vec![Rule { name: "beta-ring".into(), conditions: vec![ring], target: Target::V2 }],
        otherwise: Target::Share,
        sticky: "session".into(),
        salt: SALT.into(),
        share: Ppm::new(SHARE),
        shadow_share: Ppm::ZERO,
        shadow_operations: Vec::new(),
    };
    routed(Published { plan, v2_serves: true, most: Ppm::ALL, decider: None, control: Control::default() }, None)
}

/// The router asks for what the guest wants, which is one attribute; eight are packed as the router does it.
pub(crate) fn decide_in_rust(shown: Shown) -> Ask {
    let engine = engine();
    let guest = policy(&engine, Kind::Routing, "ring-decide", "{}");
    match shown {
        Shown::Rule => decided(guest, engine),
        Shown::Eight => {
            let attributes: Vec<_> = shown.attributes().into_iter().map(|(_, attribute)| attribute).collect();
            Box::new(move |request| {
                let mut packed = Vec::with_capacity(256);
                let values = attributes.iter().map(|attribute| request.attribute(attribute));
                frame::pack(&mut packed, position(request), SHARE, values);
                guest.decide(&packed).unwrap() == Target::V2
            })
        }
    }
}

/// Scripts are shown fourteen attributes, whatever they read.
pub(crate) fn decide_in_rhai() -> Ask {
    let engine = engine();
    decided(bundled(&engine, "benches/ring-rhai"), engine)
}

fn decided(policy: Policy, engine: Arc<Engine>) -> Ask {
    let plan = policy.make_plan(&situation(), b"").answer.unwrap();
    let decider = Some(Arc::new(InstalledPolicy::of(Arc::new(policy))));
    routed(Published { plan, v2_serves: true, most: Ppm::ALL, decider, control: Control::default() }, Some(engine))
}

fn routed(published: Published, engine: Option<Arc<Engine>>) -> Ask {
    let router = Router::closed();
    router.publish(published);
    Box::new(move |request| {
        // An engine that is gone does not stop what runs away.
        let _alive = &engine;
        let route = router.route(request);
        assert!(route.error.is_none(), "{:?}", route.error);
        route.pool == PoolId::V2
    })
}
