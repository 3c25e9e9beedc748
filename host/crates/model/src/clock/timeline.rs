//! The time that decisions rest on: monotonic time that the host was up, written as wall time.
//!
//! Soaks, windows and patience must not depend on a wall clock that somebody sets, and a policy that adds up batches must
//! never see time go back. So each migration has a timeline, and everything that a policy sees comes from it. Its laws,
//! each held by a property test, whatever the wall clock does:
//!
//! 1. It never goes back while policies are asked. Only where nobody is asked (a host that starts, a migration that
//!    prepares), and if it is more than [`AHEAD`] ahead of the wall clock, is it mended; whoever remembers times from the
//!    future then begins afresh.
//! 2. Within a stage the difference of two moments is the time that the host ran between them. Downtime of the host
//!    and of the machine is no soak, and neither is a time in which the host was stopped: it looks at the clocks each
//!    second, and of what is between two looks [`MOST`] counts.
//! 3. Where a stage begins, it catches up with a wall clock that is ahead and has not stepped for [`STEADY`]: so policies
//!    that go by the hour of day are late by the host's downtime within the stage at most, and by [`BEHIND`].
//!
//! What the wall clock says is for people: records of decisions, notices, the log.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{Mono, Reading, UnixMs, Wall};

/// How far the timeline may be ahead of the wall clock when a host starts: clocks are corrected by seconds all the time,
/// and what policies remember is worth more than these.
pub const AHEAD: Duration = Duration::from_mins(5);

/// How far the timeline may stay behind the wall clock when a host starts within a stage. Beyond it the host was down for
/// so long that a stage's evidence is old, and an hour of day that is wrong is the greater harm.
pub const BEHIND: Duration = Duration::from_hours(1);

/// How long the wall clock must not have stepped to be believed: steps are often followed by one back.
pub const STEADY: Duration = Duration::from_mins(10);

/// The most that counts between two looks, which are made once a second: a machine that is busy delays them, and a host that
/// was stopped, or got no processor, saw nothing in the rest, and nothing of it is soak or guilt.
pub const MOST: Duration = Duration::from_secs(5);

/// Less than this is not told from a clock that is slewed, or from a thread that had to wait.
const STEP: i64 = 100;

/// See the module.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// What it showed
    base: UnixMs,
    /// at this moment, on the clock of `up`.
    at: Mono,
    /// Both clocks when they were read last.
    last: Reading,
    /// The monotonic clock without the time in which the host did not run, then.
    up: Mono,
    /// When the wall clock stepped last.
    stepped: Option<Mono>,
}

/// A moment to go on from: what the timeline is to show at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// What it is to show
    pub show: UnixMs,
    /// at this moment, on the clock of [`Timeline::up`].
    pub at: Mono,
}

/// What a look at the clocks shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looked {
    /// The milliseconds that the wall clock has stepped by since the last look, if it has.
    pub stepped_ms: Option<i64>,
    /// How long the host did not run since then, beyond what counts.
    pub gap: Option<Duration>,
}

/// What the store knows of a migration's time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// When the phase or stage began.
    pub since: UnixMs,
    /// Whether policies are asked in it.
    pub is_judged: bool,
    /// The moment of the last check on record, and when its stage had begun.
    pub last_check: Option<(UnixMs, UnixMs)>,
}

/// A timeline that goes on where another host, or this one before it was stopped, left off.
#[derive(Debug, Clone)]
pub struct Resumed {
    /// The timeline, from where it goes on.
    pub timeline: Timeline,
    /// When the phase or stage began, on it.
    pub since: UnixMs,
    /// What had to be mended.
    pub mended: Option<Mended>,
}

/// Why a timeline does not go on where it left off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// What was recorded lies in the future: the wall clock was ahead then, or is behind now.
    Future(Duration),
    /// The host was down for long, or the wall clock has been set forward.
    Past(Duration),
}

impl Timeline {
    /// One that begins with the wall clock.
    pub const fn new(reading: Reading) -> Self {
        Self { base: reading.wall, at: reading.mono, last: reading, up: reading.mono, stepped: None }
    }

    /// Goes on from what the store knows.
    pub fn resume(known: Known, reading: Reading) -> Resumed {
        let Known { since, is_judged, last_check } = known;
        let up = match last_check {
            Some((at, stage)) if stage == since => at.since(since),
            Some(_) | None => Duration::ZERO,
        };
        let last = last_check.map_or(UnixMs(0), |(at, _)| at);
        let reached = if is_judged { last.max(since + up) } else { last };
        let (ahead, behind) = (reached.since(reading.wall), reading.wall.since(reached));
        let (base, mended) = if ahead > AHEAD {
            (reading.wall, Some(Mended::Future(ahead)))
        } else if is_judged && behind <= BEHIND {
            (reached, None)
        } else {
            (reached.max(reading.wall), is_judged.then_some(Mended::Past(behind)))
        };
        let since = match mended {
            Some(_) if is_judged => UnixMs(base.0.saturating_sub(ms(up))),
            Some(_) | None => since.min(base),
        };
        Resumed { timeline: Self { base, ..Self::new(reading) }, since, mended }
    }

    /// What it shows at a moment that is not before the last.
    pub fn now(&self, mono: Mono) -> UnixMs {
        self.base + self.up(mono).since(self.at)
    }

    /// The monotonic clock without the time in which the host did not run. It stands still [`MOST`] after a look.
    pub fn up(&self, mono: Mono) -> Mono {
        self.up + mono.since(self.last.mono).min(MOST)
    }

    /// Looks at both clocks.
    pub fn look(&mut self, reading: Reading) -> Looked {
        let passed = reading.mono.since(self.last.mono);
        self.up = self.up(reading.mono);
        let expected = i64::try_from(self.last.wall.0.saturating_add(ms(passed))).unwrap_or(i64::MAX);
        let by = i64::try_from(reading.wall.0).unwrap_or(i64::MAX).saturating_sub(expected);
        self.last = reading;
        let stepped = by.abs() >= STEP;
        if stepped {
            self.stepped = Some(reading.mono);
        }
        let gap = passed.saturating_sub(MOST);
        Looked { stepped_ms: stepped.then_some(by), gap: (!gap.is_zero()).then_some(gap) }
    }

    /// How many milliseconds it is ahead of the wall clock.
    pub fn ahead_ms(&self, reading: Reading) -> i64 {
        let as_signed = |at: UnixMs| i64::try_from(at.0).unwrap_or(i64::MAX);
        as_signed(self.now(reading.mono)).saturating_sub(as_signed(reading.wall))
    }

    /// From where to go on if a stage begins now. `may_mend` where nobody was asked before: then it may also go back.
    pub fn anchor(&self, reading: Reading, may_mend: bool) -> Anchor {
        let (now, at) = (self.now(reading.mono), self.up(reading.mono));
        let steady = self.stepped.is_none_or(|stepped| reading.mono.since(stepped) >= STEADY);
        let show = match now.since(reading.wall) {
            _ if !steady => now,
            ahead if ahead > AHEAD && may_mend => reading.wall,
            _ => now.max(reading.wall),
        };
        Anchor { show, at }
    }

    /// Goes on from there.
    pub const fn go_on(&mut self, anchor: Anchor) {
        self.base = anchor.show;
        self.at = anchor.at;
    }
}

/// A migration's timeline and the clocks that it is made from, for everybody who asks for the time.
#[derive(Debug, Clone)]
pub struct Clock {
    wall: Wall,
    timeline: Arc<Mutex<Timeline>>,
}

impl Clock {
    /// One that goes on with a timeline.
    pub fn new(wall: Wall, timeline: Timeline) -> Self {
        Self { wall, timeline: Arc::new(Mutex::new(timeline)) }
    }

    /// The time that decisions rest on.
    pub fn now(&self) -> UnixMs {
        // Under the lock, so that whoever asks later is not told an earlier time.
        let timeline = self.timeline.lock();
        timeline.now(self.wall.mono())
    }

    /// The wall clock's time, for people.
    pub fn wall(&self) -> UnixMs {
        self.wall.now()
    }

    /// Now, for measuring spans.
    pub fn mono(&self) -> Mono {
        self.wall.mono()
    }

    /// See [`Timeline::up`].
    pub fn up(&self) -> Mono {
        let timeline = self.timeline.lock();
        timeline.up(self.wall.mono())
    }

    /// See [`Timeline::look`].
    pub fn look(&self) -> Looked {
        self.timeline.lock().look(self.wall.read())
    }

    /// See [`Timeline::ahead_ms`].
    pub fn ahead_ms(&self) -> i64 {
        self.timeline.lock().ahead_ms(self.wall.read())
    }

    /// See [`Timeline::anchor`].
    pub fn anchor(&self, may_mend: bool) -> Anchor {
        self.timeline.lock().anchor(self.wall.read(), may_mend)
    }

    /// Goes on from an anchor; by how many milliseconds that moves it.
    pub fn go_on(&self, anchor: Anchor) -> i64 {
        let mut timeline = self.timeline.lock();
        let (before, by) = ((timeline.base + anchor.at.since(timeline.at)).0, anchor.show.0);
        timeline.go_on(anchor);
        if by >= before {
            i64::try_from(by - before).unwrap_or(i64::MAX)
        } else {
            i64::try_from(before - by).map_or(i64::MIN, |back| -back)
        }
    }
}

fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400_000;

    fn at(mono_ms: u64, wall: u64) -> Reading {
        Reading { mono: Mono::from_nanos(mono_ms * 1_000_000), wall: UnixMs(wall) }
    }

    /// What a look shows of the wall clock.
    fn step_of(timeline: &mut Timeline, reading: Reading) -> Option<i64> {
        timeline.look(reading).stepped_ms
    }

    fn ms_of(timeline: &Timeline, mono_ms: u64) -> u64 {
        timeline.now(Mono::from_nanos(mono_ms * 1_000_000)).0
    }

    fn judged(since: u64, last_check: Option<(u64, u64)>) -> Known {
        let last_check = last_check.map(|(at, stage)| (UnixMs(at), UnixMs(stage)));
        Known { since: UnixMs(since), is_judged: true, last_check }
    }

    #[test]
    fn an_hour_back_is_seen_and_changes_nothing() {
        let mut timeline = Timeline::new(at(0, 10 * DAY));
        assert_eq!(timeline.look(at(1_000, 10 * DAY + 1_000)), Looked::default());
        assert_eq!(step_of(&mut timeline, at(2_000, 10 * DAY + 2_000 - 3_600_000)), Some(-3_600_000));
        assert_eq!(step_of(&mut timeline, at(3_000, 10 * DAY + 3_000 - 3_600_000)), None, "a step is told once");
        assert_eq!(ms_of(&timeline, 4_000), 10 * DAY + 4_000);
    }

    #[test]
    fn a_stage_catches_up_with_a_wall_clock_that_stands_and_not_with_one_that_just_stepped() {
        let mut timeline = Timeline::new(at(0, DAY));
        let stepped = at(1_000, DAY + 1_000 + 18_000_000);
        assert_eq!(step_of(&mut timeline, stepped), Some(18_000_000));
        assert_eq!(timeline.anchor(stepped, false).show, UnixMs(DAY + 1_000));
        for second in 2..=700 {
            timeline.look(at(second * 1_000, DAY + second * 1_000 + 18_000_000));
        }
        let later = at(700_000, DAY + 700_000 + 18_000_000);
        let anchor = timeline.anchor(later, false);
        assert_eq!(anchor.show, later.wall);
        timeline.go_on(anchor);
        assert_eq!(ms_of(&timeline, 700_500), later.wall.0 + 500);
    }

    #[test]
    fn a_host_that_was_stopped_has_not_been_up_and_its_time_never_goes_back() {
        let mut timeline = Timeline::new(at(0, DAY));
        timeline.look(at(1_000, DAY + 1_000));
        // Somebody asks while nobody looks.
        assert_eq!((ms_of(&timeline, 6_000), ms_of(&timeline, 41_000)), (DAY + 6_000, DAY + 6_000));
        let looked = timeline.look(at(41_000, DAY + 41_000));
        assert_eq!(looked, Looked { stepped_ms: None, gap: Some(Duration::from_secs(35)) });
        assert_eq!(ms_of(&timeline, 41_000), DAY + 6_000);
        assert_eq!(timeline.look(at(42_000, DAY + 42_000)), Looked::default(), "a gap is told once");
        assert_eq!(ms_of(&timeline, 42_000), DAY + 7_000);
        assert_eq!(timeline.up(Mono::from_nanos(42_000_000_000)), Mono::from_nanos(7_000_000_000));
        let anchor = timeline.anchor(at(42_000, DAY + 42_000), false);
        timeline.go_on(anchor);
        assert_eq!(ms_of(&timeline, 43_000), DAY + 43_000, "where a stage begins it catches up");
    }

    #[test]
    fn it_goes_back_only_where_nobody_was_asked() {
        let timeline = Timeline::new(at(0, 2 * DAY));
        let behind = at(1_000, DAY);
        assert_eq!(timeline.anchor(behind, false).show, UnixMs(2 * DAY + 1_000));
        assert_eq!(timeline.anchor(behind, true).show, UnixMs(DAY));
        let hardly = at(1_000, 2 * DAY);
        assert_eq!(timeline.anchor(hardly, true).show, UnixMs(2 * DAY + 1_000), "seconds are not worth it");
    }

    #[test]
    fn a_host_that_was_down_goes_on_with_the_soak_that_it_had() {
        // Forty minutes of soak, then ten minutes down.
        let known = judged(DAY, Some((DAY + 2_400_000, DAY)));
        let resumed = Timeline::resume(known, at(0, DAY + 3_000_000));
        assert_eq!((resumed.since, resumed.mended), (UnixMs(DAY), None));
        assert_eq!(ms_of(&resumed.timeline, 0), DAY + 2_400_000);
        // A check of the stage before counts for nothing.
        let resumed = Timeline::resume(judged(DAY, Some((DAY - 5_000, 7))), at(0, DAY + 60_000));
        assert_eq!(ms_of(&resumed.timeline, 0), DAY);
    }

    #[test]
    fn a_stage_in_the_future_is_mended_and_keeps_its_soak() {
        let future = 30 * DAY;
        let resumed = Timeline::resume(judged(future, None), at(0, DAY));
        assert_eq!((resumed.since, ms_of(&resumed.timeline, 0)), (UnixMs(DAY), DAY));
        assert_eq!(resumed.mended, Some(Mended::Future(Duration::from_millis(29 * DAY))));
        let soaked = Timeline::resume(judged(future, Some((future + 60_000, future))), at(0, DAY));
        assert_eq!((soaked.since, ms_of(&soaked.timeline, 0)), (UnixMs(DAY - 60_000), DAY));
    }

    #[test]
    fn after_a_long_time_down_the_hour_of_day_is_right_and_the_soak_is_kept() {
        let resumed = Timeline::resume(judged(DAY, Some((DAY + 60_000, DAY))), at(0, 2 * DAY));
        assert_eq!((resumed.since, ms_of(&resumed.timeline, 0)), (UnixMs(2 * DAY - 60_000), 2 * DAY));
        assert!(matches!(resumed.mended, Some(Mended::Past(_))));
    }

    /// What may happen to a host.
    #[derive(Debug, Clone)]
    enum Happens {
        /// So many milliseconds pass, and the wall clock is set by so many.
        Passes(u64, i64),
        /// The host does not run for so many milliseconds.
        Stands(u64),
        /// A stage begins, so the clock is anchored anew.
        Begins,
        /// A check is made and recorded.
        Checks,
        /// The host is down for so many milliseconds.
        Restarts(u64),
    }

    fn any() -> impl Strategy<Value = Happens> {
        let step = prop_oneof![4 => Just(0_i64), 1 => -40_000_000_i64..40_000_000, 1 => -200_i64..200];
        prop_oneof![
            4 => (0_u64..2_000_000, step).prop_map(|(ms, by)| Happens::Passes(ms, by)),
            1 => (0_u64..200_000).prop_map(Happens::Stands),
            1 => Just(Happens::Begins),
            3 => Just(Happens::Checks),
            1 => (0_u64..100_000_000).prop_map(Happens::Restarts),
        ]
    }

    proptest! {
        #[test]
        fn whatever_the_wall_clock_does_a_stage_lasts_as_long_as_the_host_is_up(
            history in prop::collection::vec(any(), 1..60)
        ) {
            let (mut mono, mut wall) = (0_u64, 100 * DAY);
            let mut timeline = Timeline::new(at(mono, wall));
            let mut since = timeline.now(Mono::from_nanos(0));
            // What was recorded, and how long the host has been up in the stage: in truth, and as recorded.
            let (mut last_check, mut up, mut recorded) = (None, 0_u64, 0_u64);
            let mut shown = since;
            for happens in history {
                match happens {
                    Happens::Passes(ms, by) => {
                        up += ms;
                        let mut left = ms;
                        while left > 1_000 {
                            (mono, wall, left) = (mono + 1_000, wall + 1_000, left - 1_000);
                            prop_assert_eq!(timeline.look(at(mono, wall)), Looked::default());
                        }
                        mono += left;
                        wall = wall.saturating_add(left).saturating_add_signed(by);
                        let seen = timeline.look(at(mono, wall)).stepped_ms.unwrap_or(0);
                        prop_assert!(seen == by || by.abs() < STEP && seen == 0, "{seen} of {by}");
                    }
                    Happens::Stands(ms) => {
                        (mono, wall) = (mono + ms, wall + ms);
                        let counts = ms.min(5_000);
                        up += counts;
                        let gap = timeline.look(at(mono, wall)).gap.unwrap_or_default();
                        prop_assert_eq!(gap, Duration::from_millis(ms - counts));
                    }
                    Happens::Begins => {
                        let anchor = timeline.anchor(at(mono, wall), false);
                        timeline.go_on(anchor);
                        since = anchor.show;
                        (up, recorded) = (0, 0);
                    }
                    Happens::Checks => {
                        last_check = Some((timeline.now(at(mono, wall).mono), since));
                        recorded = up;
                    }
                    Happens::Restarts(down) => {
                        wall = wall.saturating_add(down);
                        let known = Known { since, is_judged: true, last_check };
                        let resumed = Timeline::resume(known, at(mono, wall));
                        let now = resumed.timeline.now(at(mono, wall).mono);
                        prop_assert!(now.since(UnixMs(wall)) <= AHEAD, "not in the future: {now:?} at {wall}");
                        prop_assert!(UnixMs(wall).since(now) <= BEHIND);
                        let mended = matches!(resumed.mended, Some(Mended::Future(_)));
                        let seen = last_check.map_or(UnixMs(0), |(at, _)| at);
                        prop_assert!(mended || now >= seen, "policies have seen {seen:?}, and now is {now:?}");
                        if resumed.mended.is_some() {
                            // It is on record when the stage now began, and how long it had lasted then.
                            last_check = Some((now, resumed.since));
                        }
                        shown = now;
                        (timeline, since, up) = (resumed.timeline, resumed.since, recorded);
                    }
                }
                let now = timeline.now(at(mono, wall).mono);
                prop_assert!(now >= shown, "it went back: {now:?} after {shown:?}");
                prop_assert_eq!(now.since(since), Duration::from_millis(up));
                shown = now;
            }
        }
    }
}
