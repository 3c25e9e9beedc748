//! Executes a routing plan: rules in order, then the sticky hash against the share, then whether to mirror.
//!
//! Nothing here asks a policy anything, but for the requests that the plan itself sends to `decide`. **Invariant**: V2 is
//! chosen only if the plan was published with [`Published::v2_serves`]; a failing policy means V1.

mod choice;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use arc_swap::ArcSwap;
use cutover_contract::{frame, share};

pub use self::choice::{Callers, Choice, Key};
use crate::{PolicyError, ask::PolicyPort, installed::InstalledPolicy};
use cutover_model::{
    clock::{self, UnixMs},
    port::{Condition, Plan, Target, Test},
    request::{Attribute, Attributes, PoolId, Ppm, Reason},
};

/// A plan and what goes with it, as `act` publishes it.
#[derive(Debug, Clone)]
pub struct Published {
    /// The plan that a routing policy made, after the host's checks.
    pub plan: Plan,
    /// Whether V2 is there to serve and to be mirrored to.
    pub v2_serves: bool,
    /// The most that V2 may have of the sessions where the migration stands, whatever a rule says; nothing before the ramp and
    /// while it is paused.
    pub most: Ppm,
    /// The policy that made the plan, if it wants to be asked per request.
    pub decider: Option<Arc<InstalledPolicy>>,
    /// What is kept of V1 to hold V2 against.
    pub control: Control,
}

/// What is kept of V1 to hold V2 against when V2 gets nearly everything. Nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Control {
    /// The share of sessions whose reads V1 is asked, too, when V2 answers them. All reads of a session are, or none.
    pub mirror_back: Ppm,
    /// V2's share from which on that is so.
    pub mirror_back_from: Ppm,
    /// The share of sessions that stays on V1 whatever V2's share is, unless a rule of the plan says otherwise.
    pub holdback: Ppm,
}

/// One of so many requests that `decide` is asked about is handed out for the log.
const SAMPLE: u32 = 1_000;

/// What chose a request's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The caller chose the pool.
    Caller,
    /// A rule of the plan.
    Rule,
    /// The share, or that V2 is closed to it.
    Share,
}

/// Where a request goes, and why.
#[derive(Debug, Clone)]
pub struct Route {
    /// The pool that answers.
    pub pool: PoolId,
    /// A rule's name, or `share`, `otherwise`, `stays`, `holdback`, `v2-closed`, `policy-failed`, `override-v1` or
    /// `override-v2`.
    pub reason: Reason,
    /// Whether the request is mirrored to the other pool.
    pub mirror: bool,
    /// What chose the pool.
    pub by: By,
    /// Whether it is no evidence, as it went where it did by what its caller sent.
    pub apart: bool,
    /// What went wrong while asking `decide`, if anything did, and who was asked.
    pub error: Option<Undecided>,
    /// What `decide` was asked and what it said, for a sample of the requests.
    pub sampled: Option<Box<Sampled>>,
}

/// Why `decide` has no answer, and who was asked, if anybody was in charge.
pub type Undecided = (PolicyError, Option<Arc<dyn PolicyPort>>);

/// One question to `decide`.
#[derive(Debug, Clone)]
pub struct Sampled {
    /// The policy that decided.
    pub installed: Arc<InstalledPolicy>,
    /// The question, as it was encoded for the policy.
    pub frame: Vec<u8>,
    /// Where the policy sent the request.
    pub target: Target,
}

/// Holds the plan in force; readers never wait.
#[derive(Debug)]
pub struct Router {
    compiled: ArcSwap<Compiled>,
    callers: Arc<Callers>,
}

#[derive(Debug)]
struct Compiled {
    rules: Vec<CompiledRule>,
    otherwise: Target,
    sticky: Attribute,
    salt: String,
    share: Ppm,
    shadow_share: Ppm,
    /// A migration has a handful of operations: comparing them beats hashing one.
    shadow_operations: Vec<String>,
    v2_serves: bool,
    /// See [`Published::most`].
    most: Ppm,
    /// The share of sessions that V2 gets at most unless a rule says otherwise.
    kept: Ppm,
    callers: Arc<Callers>,
    mirror_back: Ppm,
    /// Another than that of the share, so that it is no matter who came to V2 first.
    mirror_back_salt: String,
    decider: Option<(Arc<InstalledPolicy>, Vec<Attribute>)>,
    decided: AtomicU32,
    /// Since when V2 has callers of the share, if it has.
    since: UnixMs,
}

#[derive(Debug)]
struct CompiledRule {
    name: Arc<str>,
    conditions: Vec<(Attribute, Test)>,
    target: Target,
    apart: bool,
}

impl Router {
    /// Begins with V1 for everything; nobody chooses.
    pub fn closed() -> Self {
        Self::of(Arc::default())
    }

    /// Begins with V1 for everything.
    pub fn of(callers: Arc<Callers>) -> Self {
        Self { compiled: ArcSwap::from_pointee(Compiled::closed(Arc::clone(&callers))), callers }
    }

    /// V1 for everything from now on.
    pub fn close(&self) {
        self.compiled.store(Arc::new(Compiled::closed(Arc::clone(&self.callers))));
    }

    /// Puts a plan in force. Requests that are being routed end on the plan that they began with.
    pub fn publish(&self, published: Published) {
        let before = self.compiled.load();
        let since = if before.has_callers() { before.since } else { clock::unix_ms() };
        self.compiled.store(Arc::new(Compiled::new(published, Arc::clone(&self.callers), since)));
    }

    /// V2's share in the plan in force; zero when V2 does not serve.
    pub fn share(&self) -> Ppm {
        let plan = self.compiled.load();
        if plan.v2_serves { plan.share } else { Ppm::ZERO }
    }

    /// Where a request goes.
    pub fn route(&self, request: &impl Attributes) -> Route {
        self.compiled.load().route(request)
    }
}

impl Compiled {
    fn closed(callers: Arc<Callers>) -> Self {
        let plan = Plan {
            rules: Vec::new(),
            otherwise: Target::V1,
            sticky: "session".into(),
            salt: String::new(),
            share: Ppm::ZERO,
            shadow_share: Ppm::ZERO,
            shadow_operations: Vec::new(),
        };
        let (most, control) = (Ppm::ZERO, Control::default());
        let published = Published { plan, v2_serves: false, most, decider: None, control };
        Self::new(published, callers, UnixMs::default())
    }

    fn new(published: Published, callers: Arc<Callers>, since: UnixMs) -> Self {
        let Published { plan, v2_serves, most, decider, control } = published;
        let is_nearly_all = v2_serves && plan.share > Ppm::ZERO && plan.share >= control.mirror_back_from;
        let kept = Ppm::new(Ppm::ALL.get() - control.holdback.get());
        let apart: Vec<_> = (0..plan.rules.len()).map(|rule| callers.keeps_apart(&plan, rule)).collect();
        let condition = |c: Condition| Some((Attribute::parse(&c.attribute)?, c.test));
        let rules = plan.rules.into_iter().zip(apart).map(|(rule, apart)| CompiledRule {
            name: rule.name.into(),
            conditions: rule.conditions.into_iter().filter_map(condition).collect(),
            target: rule.target,
            apart,
        });
        let decider = decider.map(|installed| {
            // The engine admitted only attributes that parse.
            let wanted = installed.policy.description().attributes.iter().filter_map(|a| Attribute::parse(a)).collect();
            (installed, wanted)
        });
        Self {
            rules: rules.collect(),
            otherwise: plan.otherwise,
            sticky: Attribute::parse(&plan.sticky).unwrap_or(Attribute::Session),
            mirror_back: if is_nearly_all { control.mirror_back } else { Ppm::ZERO },
            mirror_back_salt: format!("mirror-back {}", plan.salt),
            most,
            kept,
            callers,
            salt: plan.salt,
            share: plan.share.min(kept).min(most),
            shadow_share: plan.shadow_share,
            shadow_operations: plan.shadow_operations,
            v2_serves,
            decider,
            decided: AtomicU32::new(0),
            since,
        }
    }

    fn route(&self, request: &impl Attributes) -> Route {
        if let Some(choice) = &self.callers.choice
            && let Some(pool) = choice.asked(request)
        {
            return self.chosen(choice, pool, request);
        }
        let rule = self.rules.iter().find(|rule| rule.matches(request));
        let (target, named) = rule.map_or((self.otherwise, None), |r| (r.target, Some(&r.name)));
        let apart = rule.is_some_and(|rule| rule.apart);
        let (target, error, sampled) = match target {
            Target::Decide => self.decide(request),
            Target::V1 | Target::V2 | Target::Share => (target, None, None),
        };
        let home = request.home().filter(|home| target == Target::Share && home.pool == PoolId::V1);
        let stays = home.is_some() && self.share < Ppm::ALL && self.is_v2(request);
        // Those who stay are no sample of V1's, nor are those who were there before V2 had anybody.
        let apart = apart || stays || home.is_some_and(|home| self.has_callers() && home.begun < self.since);
        let (pool, fallback) = match target {
            Target::Share if stays => (PoolId::V1, "stays"),
            Target::V2 if named.is_none() && self.is_held_back(request) => (PoolId::V1, "holdback"),
            Target::V2 => (PoolId::V2, "otherwise"),
            Target::Share if self.is_v2(request) => (PoolId::V2, "share"),
            Target::Share => (PoolId::V1, "share"),
            Target::V1 | Target::Decide => (PoolId::V1, "otherwise"),
        };
        let (pool, reason) = match pool {
            PoolId::V2 if !self.may_have(request) => (PoolId::V1, Reason::Word("v2-closed")),
            _ if error.is_some() => (PoolId::V1, Reason::Word("policy-failed")),
            PoolId::V1 | PoolId::V2 => {
                (pool, named.map_or(Reason::Word(fallback), |name| Reason::Rule(Arc::clone(name))))
            }
        };
        let mirror = self.mirrors(pool, request);
        let by = if named.is_some() && target != Target::Share { By::Rule } else { By::Share };
        Route { pool, reason, mirror, by, apart, error, sampled }
    }

    /// A caller that may choose a pool has chosen one.
    fn chosen(&self, choice: &Choice, pool: PoolId, request: &impl Attributes) -> Route {
        let may_have = pool == PoolId::V1 || (choice.testers && self.v2_serves) || self.may_have(request);
        let (pool, reason) = match pool {
            _ if !may_have => (PoolId::V1, "v2-closed"),
            PoolId::V1 => (pool, "override-v1"),
            PoolId::V2 => (pool, "override-v2"),
        };
        let (mirror, apart, reason) = (self.mirrors(pool, request), !choice.evidence, Reason::Word(reason));
        Route { pool, reason, mirror, by: By::Caller, apart, error: None, sampled: None }
    }

    fn has_callers(&self) -> bool {
        self.v2_serves && self.share > Ppm::ZERO
    }

    /// Whether V2 may have a request where the migration stands.
    fn may_have(&self, request: &impl Attributes) -> bool {
        let is_within = |most: Ppm| most == Ppm::ALL || share::is_v2(self.position(request), most.get());
        self.v2_serves && self.most > Ppm::ZERO && is_within(self.most)
    }

    fn mirrors(&self, pool: PoolId, request: &impl Attributes) -> bool {
        match pool {
            PoolId::V1 => self.is_mirrored(request),
            PoolId::V2 => self.is_mirrored_back(request),
        }
    }

    fn decide(&self, request: &impl Attributes) -> (Target, Option<Undecided>, Option<Box<Sampled>>) {
        let Some((installed, wanted)) = &self.decider else {
            let error = PolicyError::nonsense("nobody is in charge whom the plan's `decide` could be asked of");
            return (Target::V1, Some((error, None)), None);
        };
        let mut packed = Vec::with_capacity(256);
        let attributes = wanted.iter().map(|a| request.attribute(a));
        frame::pack(&mut packed, self.position(request), self.share.get(), attributes);
        match installed.policy.decide(&packed) {
            Ok(target) => {
                let sampled = self.decided.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLE);
                let sample = || Box::new(Sampled { installed: Arc::clone(installed), frame: packed, target });
                (target, None, sampled.then(sample))
            }
            Err(error) => (Target::V1, Some((error, Some(Arc::clone(&installed.policy)))), None),
        }
    }

    fn position(&self, request: &impl Attributes) -> u32 {
        share::position(&self.salt, request.attribute(&self.sticky).unwrap_or_else(|| request.id()))
    }

    fn is_v2(&self, request: &impl Attributes) -> bool {
        self.share > Ppm::ZERO && share::is_v2(self.position(request), self.share.get())
    }

    fn is_held_back(&self, request: &impl Attributes) -> bool {
        self.kept < Ppm::ALL && !share::is_v2(self.position(request), self.kept.get())
    }

    fn may_be_mirrored(&self, request: &impl Attributes) -> bool {
        self.shadow_operations.iter().any(|o| o == request.operation())
    }

    /// All reads of a share of sessions, so that V1's side has sessions as V2's has.
    fn is_mirrored_back(&self, request: &impl Attributes) -> bool {
        let key = || request.attribute(&self.sticky).unwrap_or_else(|| request.id());
        self.mirror_back > Ppm::ZERO
            && self.may_be_mirrored(request)
            && share::is_v2(share::position(&self.mirror_back_salt, key()), self.mirror_back.get())
    }

    /// Mirrors a share of requests, not of sessions: each request id is a draw of its own.
    fn is_mirrored(&self, request: &impl Attributes) -> bool {
        self.v2_serves
            && self.shadow_share > Ppm::ZERO
            && self.may_be_mirrored(request)
            && share::is_v2(share::position("shadow", request.id()), self.shadow_share.get())
    }
}

impl CompiledRule {
    fn matches(&self, request: &impl Attributes) -> bool {
        self.conditions.iter().all(|(attribute, test)| {
            let value = request.attribute(attribute);
            match (test, value) {
                (Test::OneOf(values), Some(value)) => values.iter().any(|v| v == value),
                (Test::Prefix(prefix), Some(value)) => value.starts_with(prefix.as_str()),
                (Test::Present, value) => value.is_some(),
                (Test::Absent, value) => value.is_none(),
                (Test::OneOf(_) | Test::Prefix(_), None) => false,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_model::{
        clock::Mono,
        port::Rule,
        request::{Head, Home, Request},
    };

    fn request(session: &str, headers: &[(&str, &str)]) -> Request {
        Request {
            id: "r1".into(),
            operation: "execute".into(),
            session: (!session.is_empty()).then(|| session.into()),
            arguments: Arc::default(),
            deadline: Mono::default(),
            head: Arc::new(Head {
                headers: headers.iter().map(|&(n, v)| (n.into(), v.into())).collect(),
                ..Head::default()
            }),
        }
    }

    fn rule(name: &str, attribute: &str, test: Test, target: Target) -> Rule {
        Rule { name: name.into(), conditions: vec![Condition { attribute: attribute.into(), test }], target }
    }

    fn router(rules: Vec<Rule>, share: u32, v2_serves: bool) -> Router {
        controlled(rules, (Target::Share, share), v2_serves, Control::default())
    }

    fn controlled(rules: Vec<Rule>, (otherwise, share): (Target, u32), v2_serves: bool, control: Control) -> Router {
        let plan = Plan { rules, otherwise, share: Ppm::new(share), ..half_plan() };
        let router = Router::closed();
        router.publish(Published { plan, v2_serves, most: Ppm::ALL, decider: None, control });
        router
    }

    fn half_plan() -> Plan {
        Plan {
            rules: Vec::new(),
            otherwise: Target::Share,
            sticky: "session".into(),
            salt: "m".into(),
            share: Ppm::new(500_000),
            shadow_share: Ppm::ALL,
            shadow_operations: vec!["execute".into()],
        }
    }

    #[test]
    fn the_first_rule_that_matches_wins_over_the_share() {
        let rules = vec![
            rule("ring", "header:x-ring", Test::OneOf(vec!["beta".into()]), Target::V2),
            rule("anyone", "header:x-ring", Test::Present, Target::V1),
        ];
        let router = router(rules, 0, true);
        let beta = router.route(&request("s", &[("x-ring", "beta")]));
        assert_eq!((beta.pool, &*beta.reason, beta.mirror), (PoolId::V2, "ring", false));
        let other = router.route(&request("s", &[("x-ring", "stable")]));
        assert_eq!((other.pool, &*other.reason, other.mirror), (PoolId::V1, "anyone", true));
        assert_eq!(&*router.route(&request("s", &[])).reason, "share");
    }

    #[test]
    fn a_closed_v2_gets_nothing_whatever_the_rules_say() {
        let rules = vec![rule("ring", "session", Test::Prefix("s".into()), Target::V2)];
        let route = router(rules, 1_000_000, false).route(&request("s", &[]));
        assert_eq!((route.pool, &*route.reason, route.mirror), (PoolId::V1, "v2-closed", false));
    }

    #[test]
    fn sessions_go_where_their_position_says() {
        let router = router(Vec::new(), 250_000, true);
        for n in 0..1_000 {
            let session = format!("s{n}");
            let on_v2 = router.route(&request(&session, &[])).pool == PoolId::V2;
            assert_eq!(on_v2, share::position("m", &session) < 250_000);
        }
    }

    #[test]
    fn who_is_held_back_stays_on_v1_whatever_the_share_is_and_is_the_same_all_along() {
        let control = Control { holdback: Ppm::new(20_000), ..Control::default() };
        let forced = rule("ring", "header:x-ring", Test::Present, Target::V2);
        let at = |otherwise, share| controlled(vec![forced.clone()], (otherwise, share), true, control);
        let [whole, most, complete] =
            [at(Target::Share, 1_000_000), at(Target::Share, 990_000), at(Target::V2, 1_000_000)];
        assert_eq!(whole.share(), Ppm::new(980_000));
        let mut held = 0;
        for n in 0..5_000 {
            let session = format!("s{n}");
            let pools = [&whole, &most, &complete].map(|router| router.route(&request(&session, &[])).pool);
            let stays = share::position("m", &session) >= 980_000;
            assert_eq!(pools, [if stays { PoolId::V1 } else { PoolId::V2 }; 3]);
            let early = at(Target::Share, 10_000).route(&request(&session, &[])).pool;
            assert!(!stays || early == PoolId::V1);
            if stays {
                held += 1;
                assert_eq!(&*complete.route(&request(&session, &[])).reason, "holdback");
                assert_eq!(complete.route(&request(&session, &[("x-ring", "1")])).pool, PoolId::V2, "a rule wins");
            }
        }
        assert!((60..140).contains(&held), "{held}");
    }

    #[test]
    fn all_reads_of_some_sessions_are_mirrored_back_once_v2_has_nearly_everything() {
        let control =
            Control { mirror_back: Ppm::new(50_000), mirror_back_from: Ppm::new(900_000), ..Control::default() };
        let at = |share| controlled(Vec::new(), (Target::Share, share), true, control);
        let (before, nearly, closed) =
            (at(899_999), at(900_000), controlled(Vec::new(), (Target::V2, 1_000_000), false, control));
        let mut sampled = 0;
        for n in 0..5_000 {
            let (session, other) =
                (format!("s{n}"), |id: &str| Request { id: id.into(), ..request(&format!("s{n}"), &[]) });
            let ways = ["a", "b", "c"].map(|id| nearly.route(&other(id)));
            if ways[0].pool == PoolId::V1 {
                continue;
            }
            let mirrored = share::position("mirror-back m", &session) < 50_000;
            assert!(ways.iter().all(|way| way.mirror == mirrored), "{session}");
            sampled += u32::from(mirrored);
            let early = before.route(&request(&session, &[]));
            assert!(early.pool == PoolId::V1 || !early.mirror);
            let exclusive = Request { operation: "delete".into(), ..request(&session, &[]) };
            assert!(!nearly.route(&exclusive).mirror, "only what may be mirrored is");
            let way = closed.route(&request(&session, &[]));
            assert_eq!((way.pool, way.mirror), (PoolId::V1, false));
        }
        assert!((150..310).contains(&sampled), "{sampled}");
    }

    #[test]
    fn a_session_of_v1_stays_there_until_v2_has_all_of_them() {
        struct At(Request, Option<Home>);

        impl Attributes for At {
            fn id(&self) -> &str {
                self.0.id()
            }

            fn operation(&self) -> &str {
                self.0.operation()
            }

            fn attribute(&self, attribute: &Attribute) -> Option<&str> {
                self.0.attribute(attribute)
            }

            fn home(&self) -> Option<Home> {
                self.1
            }
        }

        let forced = rule("ring", "header:x-ring", Test::Present, Target::V2);
        let [half, whole, none] = [500_000, 1_000_000, 0].map(|share| router(vec![forced.clone()], share, true));
        let since = half.compiled.load().since;
        let (early, late) = (UnixMs(since.0 - 1), UnixMs(since.0 + 1));
        let home = |pool, begun| Some(Home { pool, begun });
        for n in 0..200 {
            let session = format!("s{n}");
            let at = |home, headers: &[_]| At(request(&session, headers), home);
            let taken = share::position("m", &session) < 500_000;
            let by_share = if taken { PoolId::V2 } else { PoolId::V1 };
            let stays = half.route(&at(home(PoolId::V1, late), &[]));
            assert_eq!((stays.pool, stays.apart), (PoolId::V1, taken), "who stays is no sample");
            assert_eq!(&*stays.reason, if taken { "stays" } else { "share" });
            assert!(half.route(&at(home(PoolId::V1, early), &[])).apart, "who was there before is none either");
            let free = half.route(&at(home(PoolId::V2, early), &[]));
            assert_eq!((free.pool, free.apart), (by_share, false), "V2's go where the share is");
            assert_eq!(half.route(&at(home(PoolId::V1, late), &[("x-ring", "1")])).pool, PoolId::V2, "a rule wins");
            assert_eq!(whole.route(&at(home(PoolId::V1, early), &[])).pool, PoolId::V2);
            assert!(!none.route(&at(home(PoolId::V1, early), &[])).apart, "V2 has nobody yet");
        }
        // Another share of the same ramp does not begin anew.
        let plan = |share| Plan { share: Ppm::new(share), ..half_plan() };
        let published = |share| Published {
            plan: plan(share),
            v2_serves: true,
            most: Ppm::ALL,
            decider: None,
            control: Control::default(),
        };
        half.publish(published(750_000));
        assert_eq!(half.compiled.load().since, since);
        half.publish(published(0));
        half.publish(published(10_000));
        assert!(half.compiled.load().since >= since);
    }

    #[test]
    fn a_plan_that_wants_decide_without_a_decider_keeps_v1_and_says_so() {
        let rules = vec![rule("ask", "operation", Test::Present, Target::Decide)];
        let route = router(rules, 1_000_000, true).route(&request("s", &[]));
        assert_eq!((route.pool, &*route.reason), (PoolId::V1, "policy-failed"));
        assert!(route.error.is_some());
    }
}
