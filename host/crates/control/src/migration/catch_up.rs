//! Shows a new policy the checks that it would have seen, without holding up anything.
//!
//! In rounds, off the controller's path: first what the store has of the stage, then what came meanwhile, which is less
//! each time. The last few checks are shown while no new check is made; orders are taken all along. A new policy that is
//! slower than checks come never gets there, and is refused.

use std::{sync::Arc, time::Duration};

use super::{
    controller::Controller,
    effects::BackgroundEvent,
    handle::{Code, Declined},
};
use crate::migration::install::PendingInstall;
use cutover_model::{
    causes::chain,
    clock::{self, UnixMs},
    port::{Check, Verdict},
};
use cutover_policy_host::{PolicyError, ask::PolicyPort, catch_up::CatchUp, history::Recorded};
use cutover_store::Store;

/// Checks that are read from the store at once.
const PAGE: u32 = 500;

/// Failures after which a catch-up ends: a policy that loops would take its whole time limit for each check.
const ENOUGH_FAILURES: u64 = 3;

/// Rounds with no fewer checks to show than the one before; then a new policy is too slow.
const LOST_ROUNDS: u32 = 2;

/// Checks that may be shown while no new one is made: at their time limit they delay it by a second.
const LAST: usize = 4;

/// How often it is said that a start takes long.
const TELL_EACH: Duration = Duration::from_secs(2);

/// A policy that is being shown what it would have seen.
#[derive(Debug)]
pub struct PendingCatchUp {
    /// Where it is to be put.
    pub(super) installing: PendingInstall,
    /// Who is shown; nobody, if there is nothing to show.
    pub(super) policy: Option<Arc<dyn PolicyPort>>,
    /// How it did so far.
    pub(super) catch_up: CatchUp,
    /// It has seen what came before this.
    pub(super) from: UnixMs,
    /// How much of the store each round was about, in milliseconds.
    stored: Pace,
    /// How many checks at hand each round was about.
    at_hand: Pace,
    /// Whether checks wait for it.
    last: bool,
    shown_for: Duration,
    /// From here on batches are shown again to whoever judges, because nobody answered yet what was asked of them.
    owed_from: Option<UnixMs>,
}

/// Who is to be shown checks, and what it knows already.
pub(super) struct CatchUpStart {
    /// Nobody, if there is nothing to show.
    pub policy: Option<Arc<dyn PolicyPort>>,
    /// What the policy remembers after the last check that it was shown.
    pub memory: Vec<u8>,
    /// It has seen what came before this.
    pub from: UnixMs,
}

/// Whether there is less to show in each round than in the one before.
#[derive(Debug, Default)]
struct Pace {
    before: Option<u64>,
    lost_rounds: u32,
}

impl Pace {
    const fn has_begun(&self) -> bool {
        self.before.is_some()
    }

    /// Takes the next round; true if there were too many that got nowhere.
    fn is_lost(&mut self, to_show: u64) -> bool {
        self.lost_rounds += u32::from(self.before.replace(to_show).is_some_and(|before| to_show >= before));
        self.lost_rounds >= LOST_ROUNDS
    }
}

/// A check, and the verdict that was in force.
type Shown = (Check, Option<Verdict>);

/// What a new policy is to see next.
enum Round {
    /// What the store has until before a moment.
    Stored(UnixMs),
    /// These checks, which were made while the ones before them were shown.
    Missed(Vec<Shown>),
    /// These, while no new check is made.
    Last(Vec<Shown>),
    /// The first that there will be at hand, when it is answered.
    UnderWay,
    /// It has seen everything.
    Done,
    /// It never will, and why.
    TooSlow(String),
}

impl PendingCatchUp {
    /// One that was shown nothing yet.
    pub(super) fn new(installing: PendingInstall, CatchUpStart { policy, memory, from }: CatchUpStart) -> Self {
        let catch_up = CatchUp::new(memory);
        Self {
            installing,
            policy,
            catch_up,
            from,
            stored: Pace::default(),
            at_hand: Pace::default(),
            last: false,
            shown_for: Duration::ZERO,
            owed_from: None,
        }
    }

    /// Whether a check is still to be answered: the new policy gets its batches with its first question.
    fn is_owed(&self, check: &Check, verdict: Option<Verdict>) -> bool {
        let last = check.batches.last().map(|batch| batch.start_ms);
        verdict.is_none() && self.owed_from.zip(last).is_some_and(|(from, last)| last >= from)
    }

    /// Shows the checks that the store has until before `to`.
    async fn show_stored(&mut self, store: &Store, migration: &str, policy: &Arc<dyn PolicyPort>, to: UnixMs) {
        let mut stored = StoredChecks::new(store, migration, (self.from, to));
        while self.catch_up.failed < ENOUGH_FAILURES {
            let Some(page) = stored.page().await else { break };
            self.show(policy, page).await;
        }
        self.from = to;
    }

    /// Whether it has failed all that it was shown, and need not be put in charge.
    const fn fails_all(&self) -> bool {
        let CatchUp { checks, failed, .. } = &self.catch_up;
        self.installing.can_wait() && *failed > 0 && *failed == *checks
    }

    async fn show(&mut self, policy: &Arc<dyn PolicyPort>, mut checks: Vec<Shown>) {
        let until = checks.last().map(|(check, _)| check.now_ms);
        checks.retain(|(check, verdict)| !self.is_owed(check, *verdict));
        self.catch_up = shown(policy, self.catch_up.clone(), checks).await;
        self.from = until.map_or(self.from, |until| UnixMs(until.0 + 1));
    }
}

/// The checks of a span that the store has, a page at a time.
struct StoredChecks<'a> {
    store: &'a Store,
    migration: &'a str,
    span: (UnixMs, UnixMs),
    after: i64,
}

impl<'a> StoredChecks<'a> {
    const fn new(store: &'a Store, migration: &'a str, span: (UnixMs, UnixMs)) -> Self {
        Self { store, migration, span, after: 0 }
    }

    /// The next ones; none when there are no more, or when they cannot be read.
    async fn page(&mut self) -> Option<Vec<Shown>> {
        let Self { store, migration, span: (from, to), after } = self;
        let page = match store.checks(migration, *from, *to, *after, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(migration, "recorded checks cannot be replayed: {}", chain(&error));
                return None;
            }
        };
        *after = page.last()?.id;
        let readable = page.into_iter().filter_map(|stored| match stored.read() {
            Ok(Recorded { check, verdict, .. }) => Some((check, verdict)),
            Err(error) => {
                tracing::error!(%error, "a recorded check cannot be read");
                None
            }
        });
        Some(readable.collect())
    }
}

/// Shows a policy checks, on a thread that may be held up.
async fn shown(policy: &Arc<dyn PolicyPort>, mut catch_up: CatchUp, checks: Vec<Shown>) -> CatchUp {
    let (policy, before) = (Arc::clone(policy), catch_up.clone());
    let shown = tokio::task::spawn_blocking(move || {
        let mut warm = policy.kept();
        for (check, verdict) in checks {
            catch_up.show(policy.kind(), &mut *warm, &check, verdict);
            if catch_up.failed >= ENOUGH_FAILURES {
                break;
            }
        }
        catch_up
    });
    shown.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a catch-up panicked");
        before
    })
}

/// What a policy remembers that takes charge while a host starts: that of the checks that the store has of the phase or
/// stage, as if it had been activated while the host ran. A stages policy would otherwise forget pairs that differ, and a
/// judge what it has seen of V1.
pub async fn caught_up(store: &Store, migration: &str, policy: &Arc<dyn PolicyPort>, since: UnixMs) -> CatchUp {
    let mut catch_up = CatchUp::new(Vec::new());
    let (started, mut told) = (clock::mono(), Duration::ZERO);
    let mut stored = StoredChecks::new(store, migration, (since, UnixMs(u64::MAX)));
    while catch_up.failed < ENOUGH_FAILURES && CatchUp::is_for(policy.kind()) {
        let Some(page) = stored.page().await else { break };
        catch_up = shown(policy, catch_up, page).await;
        if clock::mono().since(started) >= told + TELL_EACH {
            told = clock::mono().since(started);
            tracing::info!(migration, kind = %policy.kind(), checks = catch_up.checks, "a new policy is shown recorded checks");
        }
    }
    catch_up
}

impl Controller {
    /// Shows a new policy what comes next, or installs it.
    pub(super) async fn catch_up(&mut self, mut pending: PendingCatchUp) {
        if std::mem::take(&mut pending.last) {
            self.installs.last_looks -= 1;
            return if pending.fails_all() { self.turn_away(pending) } else { self.install_now(pending).await };
        }
        let Some(policy) = pending.policy.clone() else { return self.install_between_checks(pending).await };
        match self.round(&mut pending) {
            Round::Done | Round::Last(_) | Round::UnderWay if pending.fails_all() => self.turn_away(pending),
            Round::Done => self.install_between_checks(pending).await,
            Round::TooSlow(why) => {
                self.refuse(pending.installing, Declined::new(Code::Busy, format!("nothing was changed: {why}")));
            }
            // The check under way comes first: it is one that the new policy has to see.
            Round::Last(_) if self.questions.asking => self.installs.waiting.push(pending),
            Round::UnderWay => self.installs.waiting.push(pending),
            Round::Last(checks) => {
                pending.last = true;
                self.installs.last_looks += 1;
                self.show_off_path(pending, policy, Round::Last(checks));
            }
            round @ (Round::Stored(_) | Round::Missed(_)) => self.show_off_path(pending, policy, round),
        }
    }

    /// Leaves everything as it is: the new policy failed all that it was shown.
    fn turn_away(&mut self, pending: PendingCatchUp) {
        let CatchUp { checks, first_failure, .. } = pending.catch_up;
        let error = first_failure.unwrap_or(PolicyError::Said { message: String::new() });
        self.refuse(pending.installing, Declined::pending(checks, &error));
    }

    fn round(&self, pending: &mut PendingCatchUp) -> Round {
        let PendingCatchUp { catch_up, from, shown_for, .. } = pending;
        if catch_up.failed >= ENOUGH_FAILURES {
            return Round::Done;
        }
        let too_slow = || {
            let shown_for = Duration::from_millis(u64::try_from(shown_for.as_millis()).unwrap_or(u64::MAX));
            Round::TooSlow(format!(
                "it cannot catch up with the checks: it was shown {} in {}, and as many came meanwhile; raise \
                 `check_interval`, or use a policy that takes less time",
                catch_up.checks,
                humantime::format_duration(shown_for),
            ))
        };
        // What was recorded in an earlier life of the host, or so long ago that it is not at hand.
        let at_hand = match self.questions.recent.front() {
            Some((check, _)) => check.now_ms,
            None if self.questions.asking => return Round::UnderWay,
            None if pending.stored.has_begun() => return Round::Done,
            None => self.parts.clock.now(),
        };
        if *from < at_hand {
            let is_lost = pending.stored.is_lost(at_hand.0 - from.0);
            return if is_lost { too_slow() } else { Round::Stored(at_hand) };
        }
        let checks: Vec<_> = self.questions.recent.iter().filter(|(check, _)| check.now_ms >= *from).cloned().collect();
        let is_lost = pending.at_hand.is_lost(checks.len() as u64);
        match checks.len() {
            0 => Round::Done,
            n if n <= LAST => Round::Last(checks),
            _ if is_lost => too_slow(),
            _ => Round::Missed(checks),
        }
    }

    fn show_off_path(&self, mut pending: PendingCatchUp, policy: Arc<dyn PolicyPort>, round: Round) {
        let (store, name, settled) = (self.parts.store.clone(), self.parts.name.clone(), self.settled.clone());
        pending.owed_from = self.questions.owed.from;
        self.parts.tasks.spawn(async move {
            let started = clock::mono();
            match round {
                Round::Stored(to) => pending.show_stored(&store, &name, &policy, to).await,
                Round::Missed(checks) | Round::Last(checks) => pending.show(&policy, checks).await,
                Round::UnderWay | Round::Done | Round::TooSlow(_) => {}
            }
            pending.shown_for += clock::mono().since(started);
            // The controller is gone when the host stops.
            drop(settled.send(BackgroundEvent::PendingCatchUp(Box::new(pending))).await);
        });
    }

    /// Waits for the end of the check under way, so that the new policy misses none.
    async fn install_between_checks(&mut self, pending: PendingCatchUp) {
        if self.questions.asking { self.installs.waiting.push(pending) } else { self.install_now(pending).await }
    }

    /// Goes on with those that waited for the end of a check.
    pub(super) async fn go_on(&mut self) {
        for pending in std::mem::take(&mut self.installs.waiting) {
            self.catch_up(pending).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost_at(rounds: &[u64]) -> Option<usize> {
        let mut pace = Pace::default();
        rounds.iter().position(|to_show| pace.is_lost(*to_show))
    }

    #[test]
    fn who_has_less_to_see_each_time_gets_there() {
        assert_eq!(lost_at(&[u64::MAX, 1_000, 500, 499, 3, 0]), None);
        assert_eq!(lost_at(&[100, 128, 90, 60, 4]), None, "one bad moment is none");
    }

    #[test]
    fn who_has_as_much_to_see_each_time_never_does() {
        assert_eq!(lost_at(&[5, 15, 45]), Some(2));
        assert_eq!(lost_at(&[128, 128, 128]), Some(2));
        assert_eq!(lost_at(&[100, 128, 90, 128]), Some(3));
    }
}
