//! What V1 was like, by operation and hour of the day: how many of its units failed, and its p99.
//!
//! It is what V2 is held against when there is no V1 to compare with: at a share of 100 %, for operations that only V2
//! is called for, and for harm that both pools share. Hours of the day are UTC; an hour that was not seen is taken to
//! be as all others together, with the longest p99 of them.
//!
//! What belongs to an hour is added when the hour, or the stage, is over, and not if both pools failed far more than
//! before in it: so a V2 that ruins V1 does not raise what it is held against.

use cutover_policy::{
    hypergeometric::real,
    memory::{Fields, Text},
};

/// Units that the rate of an hour is taken from, at least; and of a whole day.
const OF_AN_HOUR: u64 = 2_000;
const OF_A_DAY: u64 = 200;

/// Counts of an hour are halved beyond this, so that it forgets.
const MOST: u64 = 1 << 24;

const HOUR_MS: u64 = 3_600_000;

/// One operation of V1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hours {
    /// Hours of the day as they are stored; read when one is over.
    past: String,
    /// The hour since 1970 that is counted.
    hour: u64,
    now: Hour,
    /// What is known of this hour of the day.
    known: Known,
    /// Units of V1 and those that failed that are no measure of an hour or a day: of a V1 that had few, or of the last hour
    /// that is not remembered. Better than nothing, where nothing else is known.
    lately: [u64; 2],
    /// The same of the hours and stages just over, of which half is forgotten with each hour. Not those in which both pools
    /// were ill.
    recent: [u64; 2],
}

/// V1's units, those that failed, and its p99 in microseconds, 0 if it is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Hour {
    units: u64,
    errors: u64,
    p99_us: u64,
}

/// What V2 can be held against.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Known {
    /// V1's rate of failed units.
    pub rate: Option<f64>,
    /// Its p99 in microseconds.
    pub p99_us: Option<u64>,
}

impl Hours {
    /// Goes on to the hour of `now_ms`. What was counted is kept unless it was `ill`.
    pub fn arrive(&mut self, now_ms: u64, ends: bool, ill: bool) {
        let hour = now_ms / HOUR_MS;
        if hour == self.hour && !ends {
            return;
        }
        let mut all = self.read();
        let now = std::mem::take(&mut self.now);
        let added = if ill { [0, 0] } else { [now.units, now.errors] };
        let hours = hour.saturating_sub(self.hour).min(63);
        self.recent = [0, 1].map(|i: usize| {
            let of = |pair: [u64; 2]| pair.get(i).copied().unwrap_or(0);
            of(self.recent).saturating_add(of(added)) >> hours
        });
        if let Some(past) = all.get_mut(of_the_day(self.hour)).filter(|_| !ill) {
            past.units = past.units.saturating_add(now.units);
            past.errors = past.errors.saturating_add(now.errors);
            while past.units > MOST {
                (past.units, past.errors) = (past.units / 2, past.errors / 2);
            }
            if now.p99_us > 0 {
                past.p99_us = now.p99_us;
            }
        }
        self.hour = hour;
        self.known = know(&all, of_the_day(hour));
        self.lately = match self.known.rate {
            Some(_) => [0, 0],
            None if ill && now.units > 0 => [now.units, now.errors],
            None if ill => self.lately,
            None => sums(&all),
        };
        self.past = write(&all);
    }

    /// Counts V1's units.
    pub fn add(&mut self, [units, errors]: [u64; 2]) {
        self.now.units = self.now.units.saturating_add(units);
        self.now.errors = self.now.errors.saturating_add(errors.min(units));
    }

    /// Keeps a p99, the longest of the hour.
    pub fn add_p99(&mut self, p99_us: u64) {
        self.now.p99_us = self.now.p99_us.max(p99_us);
    }

    /// What is known of this hour of the day, from before it, or of the others.
    #[must_use]
    pub const fn known(&self) -> &Known {
        &self.known
    }

    /// The rate of failed units that V1 is taken to have had just before it was gone: the one that is known; or what it had
    /// in the hour under way and just before it, where that is more beyond chance, and both pools are not `ill` in it. Where
    /// none is known, the objective, or what little was seen of V1, if that is more.
    #[must_use]
    pub fn had(&self, objective: f64, ill: bool) -> f64 {
        let Hour { units, errors, .. } = self.now;
        if let Some(rate) = self.known.rate {
            let [before, failed] = self.recent;
            let (units, errors) = (units.saturating_add(before), errors.saturating_add(failed));
            let sure = real(errors) - 2.0 * libm::sqrt(real(errors));
            return if !ill && sure > rate * real(units) { rate.max(widened(units, errors)) } else { rate };
        }
        let [more_units, more_errors] = self.lately;
        objective.max(suspected(units.saturating_add(more_units), errors.saturating_add(more_errors)))
    }

    /// The p99 that is known, from the hour that is counted if there was none before.
    #[must_use]
    pub fn p99_us(&self) -> Option<u64> {
        self.known.p99_us.or(Some(self.now.p99_us).filter(|us| *us > 0))
    }

    fn read(&self) -> [Hour; 24] {
        let mut all = [Hour::default(); 24];
        for (hour, text) in all.iter_mut().zip(self.past.split(';')) {
            let mut numbers = text.split(' ').map(|number| number.parse().unwrap_or(0));
            let mut next = || numbers.next().unwrap_or(0);
            *hour = Hour { units: next(), errors: next(), p99_us: next() };
        }
        all
    }

    /// Writes it as part of what is remembered.
    pub(crate) fn write(&self, text: &mut Text) {
        let Known { rate, p99_us } = self.known;
        text.raw(&self.past).number(self.hour);
        text.number(self.now.units).number(self.now.errors).number(self.now.p99_us);
        text.doubles(rate.as_slice()).number(p99_us.unwrap_or(0));
        let [units, errors] = self.lately;
        let [recent, failed] = self.recent;
        text.number(units).number(errors).number(recent).number(failed);
    }

    /// Reads it again.
    pub(crate) fn read_from(fields: &mut Fields<'_>) -> Option<Self> {
        let past = fields.raw()?.to_owned();
        let [hour, units, errors, p99_us] = fields.numbers()?;
        let rate = fields.doubles()?.first().copied();
        let known = Known { rate, p99_us: Some(fields.number()?).filter(|us| *us > 0) };
        // That of versions before ends here, or after the next two.
        let lately = if fields.is_over() { [0, 0] } else { fields.numbers()? };
        let recent = if fields.is_over() { [0, 0] } else { fields.numbers()? };
        Some(Self { past, hour, now: Hour { units, errors, p99_us }, known, lately, recent })
    }
}

/// `units errors p99` of each hour; empty where nothing is known of any.
fn write(all: &[Hour; 24]) -> String {
    if *all == [Hour::default(); 24] {
        return String::new();
    }
    let hour = |hour: &Hour| match hour {
        Hour { units: 0, p99_us: 0, .. } => String::new(),
        Hour { units, errors, p99_us } => format!("{units} {errors} {p99_us}"),
    };
    all.iter().map(hour).collect::<Vec<_>>().join(";")
}

fn of_the_day(hour: u64) -> usize {
    usize::try_from(hour % 24).unwrap_or(0)
}

/// Units of a day, and those that failed.
fn sums(all: &[Hour; 24]) -> [u64; 2] {
    all.iter().fold([0, 0], |[units, errors]: [u64; 2], hour| {
        [units.saturating_add(hour.units), errors.saturating_add(hour.errors)]
    })
}

/// A rate as large as it may well be, seen so few: two standard deviations and two units more. Where none of n failed, it
/// is 2/n, and three times that is exceeded by a true rate with a chance of e^-6.
fn widened(units: u64, errors: u64) -> f64 {
    let (units, errors) = (real(units), real(errors));
    ((errors + 2.0 * libm::sqrt(errors) + 2.0) / units).min(1.0)
}

/// The same; 0 where none failed, which of few says nothing.
fn suspected(units: u64, errors: u64) -> f64 {
    if errors > 0 { widened(units, errors) } else { 0.0 }
}

fn know(all: &[Hour; 24], of_the_day: usize) -> Known {
    let own = all.get(of_the_day).copied().unwrap_or_default();
    let [units, errors] = sums(all);
    let own_rate = (own.units >= OF_AN_HOUR).then(|| widened(own.units, own.errors));
    let day = (units >= OF_A_DAY).then(|| widened(units, errors));
    let longest = all.iter().map(|hour| hour.p99_us).max().filter(|us| *us > 0);
    Known { rate: own_rate.or(day), p99_us: Some(own.p99_us).filter(|us| *us > 0).or(longest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(hours: &[(u64, u64, u64)]) -> Hours {
        let mut all = Hours::default();
        for &(hour, units, errors) in hours {
            all.arrive(hour * HOUR_MS, false, false);
            all.add([units, errors]);
            all.add_p99(hour * 1_000);
        }
        all
    }

    #[test]
    fn an_hour_is_known_by_itself_or_from_the_others() {
        let mut hours = seen(&[(3, 4_000, 40), (4, 4_000, 400), (5, 100, 0)]);
        hours.arrive(24 * HOUR_MS + 3 * HOUR_MS, false, false);
        let own = *hours.known();
        assert!((own.rate.unwrap() - widened(4_000, 40)).abs() < 1e-9 && own.p99_us == Some(3_000), "{own:?}");
        hours.arrive(24 * HOUR_MS + 9 * HOUR_MS, false, false);
        let other = *hours.known();
        assert!((other.rate.unwrap() - widened(8_100, 440)).abs() < 1e-9 && other.p99_us == Some(5_000), "{other:?}");
    }

    #[test]
    fn the_hour_that_is_judged_is_not_what_it_is_held_against() {
        let mut hours = seen(&[(3, 4_000, 40), (27, 4_000, 4_000)]);
        assert!(hours.known().rate.unwrap() < 0.014);
        hours.arrive(28 * HOUR_MS, false, true);
        hours.arrive(51 * HOUR_MS, false, false);
        assert!(hours.known().rate.unwrap() < 0.014, "an hour in which both were ill is forgotten");
    }

    #[test]
    fn what_v1_just_had_is_what_v2_alone_is_held_against() {
        let near = |rate: f64, expected: f64| assert!((rate - expected).abs() < 1e-3, "{rate}");
        let hour = |units, errors, ill| {
            let mut hours = seen(&[(3, units, errors)]);
            hours.arrive(4 * HOUR_MS, false, ill);
            hours
        };
        // A third of 180, in the hour under way; and of three.
        near(seen(&[(3, 180, 60)]).had(0.01, false), (60.0 + 15.492 + 2.0) / 180.0);
        near(seen(&[(3, 180, 60)]).had(0.01, true), (60.0 + 15.492 + 2.0) / 180.0);
        near(seen(&[(3, 3, 1)]).had(0.01, false), 1.0);
        near(seen(&[(3, 1_000, 1)]).had(0.01, false), 0.01);
        near(seen(&[(3, 30, 0)]).had(0.01, false), 0.01);
        // Over the hour as well, if they are too few to be remembered, or nobody remembers both being ill.
        near(hour(180, 60, false).had(0.01, false), (60.0 + 15.492 + 2.0) / 180.0);
        near(hour(4_000, 2_000, true).had(0.01, false), (2_000.0 + 89.443 + 2.0) / 4_000.0);
        near(hour(4_000, 2_000, false).had(0.01, false), (2_000.0 + 89.443 + 2.0) / 4_000.0);
        // None of few is not none.
        near(hour(220, 0, false).had(0.01, false), 2.0 / 220.0);
        // Beside what is known, only beyond chance, and not if both are ill.
        let mut known = seen(&[(3, 4_000, 40), (27, 20, 1)]);
        near(known.had(0.01, false), (40.0 + 12.649 + 2.0) / 4_000.0);
        known.add([160, 59]);
        near(known.had(0.01, false), (60.0 + 15.492 + 2.0) / 180.0);
        near(known.had(0.01, true), (40.0 + 12.649 + 2.0) / 4_000.0);
        // Just before the hour, as well, but not for ever.
        let mut begun = seen(&[(3, 4_000, 40), (27, 360, 120)]);
        begun.arrive(28 * HOUR_MS, false, false);
        near(begun.had(0.01, false), (60.0 + 15.492 + 2.0) / 180.0);
        begun.arrive(48 * HOUR_MS, false, false);
        assert!(begun.had(0.01, false) < 0.05);
    }

    #[test]
    fn it_comes_back_as_it_was() {
        let hours = seen(&[(3, u64::MAX, u64::MAX), (4, 4_000, 400), (5, 100, 0)]);
        let mut text = Text::default();
        hours.write(&mut text);
        let text = String::from(text);
        assert_eq!(Hours::read_from(&mut Fields::new(&text)), Some(hours.clone()));
        for fields in [2, 4] {
            let of_before = text.rsplitn(fields + 1, '|').last().unwrap();
            assert!(Hours::read_from(&mut Fields::new(of_before)).is_some());
        }
    }
}
