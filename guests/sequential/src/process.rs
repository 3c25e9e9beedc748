//! Evidence against V2 that may be looked at as often as one likes: an e-process.
//!
//! **One table.** If V2's odds of a bad unit are at most r0 times V1's, then L = P(x2; r) / P(x2; r0) has a mean of at
//! most 1 for every r > r0 (likelihood ratios of this family are monotone). A bet of 1 on L is fair or worse. Where
//! there is no V1 to compare with, V2 is held against a rate, and L is the ratio of binomial likelihoods.
//!
//! **Unknown effect and start.** A [`Fund`] is spread over a grid of effects r, and over the moments at which V2 may
//! have become worse: seven tenths are bet at once, because most faults are there from the stage's first call, and a
//! part 1/(planned + n) of the cash that is left at the n-th table. That is a prior which is nearly uniform over the
//! planned tables and has a tail beyond them, so that it never runs out. Unspent cash stays cash, and only tables that
//! can tell something spend. For each effect: `bet <- (bet + spent * weight) * L`.
//!
//! **Tempering.** Where bad units come in clusters, L counts one cause many times. L to the power of 1/m is an e-value
//! for m units that depend on each other in any way (Hölder), so what is known of clusters before a table, from others
//! ([`Dispersion`]) or from sessions, divides the logarithm. A power below 1 of an e-value is one (Jensen).
//!
//! **Several operations.** Half of a metric's wealth goes to one fund that bets on all operations at once (the product
//! of their L: a stratified test with a common odds ratio), for faults of all of V2. The other half is spread evenly
//! over the operations, for faults of one. An operation that appears later is staked by the others, each of which hands
//! over the same part of what it has *then*. Money only moves, by a rule that looks at nothing but which operations
//! have been called, so the sum stays an e-process, and nothing that was learnt is lost.
//!
//! **The promise** (Ville's inequality): the wealth of a fair game that starts at 1 ever reaches 1/alpha with a
//! probability of at most alpha, however often it is looked at and whatever is done because of it.
//!
//! Ratios are kept as logarithms until they are cut: a table of 65 536 bad units has ratios beyond any double.

use cutover_policy::{
    hypergeometric::{Table, real},
    memory::{Fields, Packed, Text},
    packed,
};
use serde::{Deserialize, Serialize};

use crate::{dispersion::Dispersion, run::Run};

/// Operations with a bet of their own for each metric; later ones count in the common bet only. It bounds memory.
const MOST_OPERATIONS: usize = 16;

/// The part of a new fund that is bet at once.
const AT_ONCE: f64 = 0.7;

/// Wealth is cut here, so that it stays a number.
const MOST: f64 = 1e100;

/// What is bet on, fixed by the settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Game {
    /// The largest odds ratio of a V2 that is good enough.
    pub r0: f64,
    /// Odds ratios that are bet on, ascending, all above `r0`; each with its part of a bet. The parts add up to 1.
    pub effects: Vec<(f64, f64)>,
    /// Tables that are planned for.
    pub planned: f64,
    /// The most that one bet is multiplied by at one table. A burst that hits one pool within one span is one event,
    /// however many units it hits; with this it cannot decide alone. A cut likelihood ratio is still an e-value.
    pub most_per_table: f64,
    /// The most that a fund can have.
    pub most: f64,
}

/// What is bet on within one span and operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Units {
    /// V2 beside V1.
    Beside(Table),
    /// V2 alone.
    Alone {
        /// Its units.
        n: u64,
        /// The bad ones.
        x: u64,
        /// The rate of bad ones that is good enough, above 0 and below 1.
        rate: f64,
    },
}

/// The units of an operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The operation, or another name for what is counted.
    pub name: String,
    /// Its units.
    pub units: Units,
}

/// A wealth of bets and cash.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fund {
    /// One for each effect.
    bets: Vec<f64>,
    cash: f64,
    /// Tables that it has bet on.
    played: u64,
    /// For people.
    run: Run,
}

/// The funds of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Portfolio {
    /// Bets on all operations at once.
    all: Fund,
    /// Bets on one each, in the order in which they appeared.
    each: Vec<(String, Fund)>,
    /// The half for operations while there is none.
    idle: f64,
}

/// The fund that made most of the wealth: the operation if it is one, and its run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Suspicion<'a> {
    /// The operation; none for all.
    pub operation: Option<&'a str>,
    /// The counts.
    pub run: Run,
}

impl Default for Portfolio {
    fn default() -> Self {
        Self { all: Fund::of(0.5), each: Vec::new(), idle: 0.5 }
    }
}

impl Portfolio {
    /// Bets on one span's entries, ascending by name, counted from `start_ms` on. `power` is what logarithms are
    /// multiplied with. The answer is the evidence in this span alone, before anything is cut.
    pub fn play(&mut self, game: &Game, entries: &[Entry], power: f64, start_ms: u64) -> f64 {
        let mut common = vec![0.0; game.effects.len()];
        let mut sums = Run::default();
        let (mut informs, mut expected) = (false, 0.0);
        for Entry { name, units } in entries.iter().filter(|entry| entry.units.count()) {
            self.welcome(name);
            let expects = units.expected(game.r0);
            expected += expects;
            sums.plus(units);
            let ratios = units.informs().then(|| game.ln_ratios(units, power));
            if let Some((_, fund)) = self.each.iter_mut().find(|(known, _)| known == name) {
                fund.run.add(&Run::of(units), expects, start_ms);
                if let Some(ratios) = &ratios {
                    fund.play(game, ratios);
                }
            }
            if let Some(ratios) = ratios {
                informs = true;
                common.iter_mut().zip(ratios).for_each(|(sum, ratio)| *sum += ratio);
            }
        }
        self.all.run.add(&sums, expected, start_ms);
        if !informs {
            return 1.0;
        }
        self.all.play(game, &common);
        common.iter().zip(&game.effects).map(|(ratio, (_, part))| part * libm::exp(ratio.min(MOST_LN))).sum()
    }

    /// The evidence: 1 at first.
    #[must_use]
    pub fn wealth(&self) -> f64 {
        self.each.iter().fold(self.idle + self.all.wealth(), |sum, (_, fund)| sum + fund.wealth())
    }

    /// Where it comes from.
    #[must_use]
    pub fn suspicion(&self) -> Suspicion<'_> {
        // One operation alone bets just as all do: nothing to tell apart.
        let one = self.each.iter().filter(|_| self.each.len() > 1).max_by(|a, b| a.1.wealth().total_cmp(&b.1.wealth()));
        if let Some((name, fund)) = one.filter(|(_, fund)| fund.wealth() > self.all.wealth()) {
            return Suspicion { operation: Some(name), run: fund.run };
        }
        let only = self.each.first().filter(|_| self.each.len() == 1);
        Suspicion { operation: only.map(|(name, _)| name.as_str()), run: self.all.run }
    }

    /// Stakes an operation that is new: the others hand over evenly, so that each has had its part.
    fn welcome(&mut self, operation: &str) {
        if self.each.len() >= MOST_OPERATIONS || self.each.iter().any(|(name, _)| name == operation) {
            return;
        }
        let known = real(self.each.len() as u64);
        let kept = known / (known + 1.0);
        let stake = self.each.iter().map(|(_, fund)| fund.wealth()).sum::<f64>() * (1.0 - kept) + self.idle;
        self.idle = 0.0;
        for (_, fund) in &mut self.each {
            fund.scale(kept);
        }
        self.each.push((operation.to_owned(), Fund::of(stake)));
    }
}

/// A logarithm beyond which an exponential is no double.
pub(crate) const MOST_LN: f64 = 700.0;

impl Units {
    /// Whether there are any on each side that there is.
    const fn count(&self) -> bool {
        match self {
            Self::Beside(table) => table.n1 > 0 && table.n2 > 0,
            Self::Alone { n, .. } => *n > 0,
        }
    }

    fn informs(&self) -> bool {
        match self {
            Self::Beside(table) => table.informs(),
            Self::Alone { n, .. } => *n > 0,
        }
    }

    /// About how many of V2's units are bad at the edge of what is good enough.
    fn expected(&self, r0: f64) -> f64 {
        match self {
            Self::Beside(table) => table.expected(r0),
            Self::Alone { n, rate, .. } => real(*n) * rate,
        }
    }
}

/// How many times likelier bad units are at `times` the odds of a rate, as a logarithm: the binomial likelihood ratio.
pub fn ln_binomial(n: u64, x: u64, rate: f64, times: f64) -> f64 {
    real(x) * libm::log(times) - real(n) * libm::log1p(rate * (times - 1.0))
}

impl Packed for Fund {
    type Plain = Plain;

    fn write(&self, text: &mut Text) {
        text.doubles(&self.bets).doubles(&[self.cash]).number(self.played);
        self.run.write(text);
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (bets, cash) = (fields.doubles()?, fields.double()?);
        Some(Self { bets, cash, played: fields.number()?, run: Run::read(fields)? })
    }
}

packed!(Fund);

/// There is no plain form.
#[derive(Debug, Deserialize)]
pub enum Plain {}

impl From<Plain> for Fund {
    fn from(plain: Plain) -> Self {
        match plain {}
    }
}

impl Fund {
    /// One that has bet nothing yet.
    #[must_use]
    pub fn of(cash: f64) -> Self {
        Self { cash, ..Self::default() }
    }

    /// Bets and cash.
    #[must_use]
    pub fn wealth(&self) -> f64 {
        self.bets.iter().fold(self.cash, |sum, bet| sum + bet)
    }

    /// For people.
    #[must_use]
    pub const fn run(&self) -> &Run {
        &self.run
    }

    /// Counts for people.
    pub fn count(&mut self, run: &Run, expected: f64, start_ms: u64) {
        self.run.add(run, expected, start_ms);
    }

    fn scale(&mut self, by: f64) {
        self.cash *= by;
        self.bets.iter_mut().for_each(|bet| *bet *= by);
    }

    /// `ratios` has the logarithm of one likelihood ratio for each effect.
    pub fn play(&mut self, game: &Game, ratios: &[f64]) {
        self.bets.resize(game.effects.len(), 0.0);
        let part = if self.played == 0 { AT_ONCE } else { 1.0 / (game.planned + real(self.played)) };
        let spent = self.cash * part;
        self.cash -= spent;
        self.played = self.played.saturating_add(1);
        for ((bet, ratio), (_, weight)) in self.bets.iter_mut().zip(ratios).zip(&game.effects) {
            let ratio = libm::exp(ratio.min(MOST_LN)).min(game.most_per_table);
            *bet = ((*bet + spent * weight) * ratio).min(game.most);
        }
    }
}

impl Game {
    /// The most that a fund has unless it is to forget soon.
    pub const MOST: f64 = MOST;

    fn ln_ratios(&self, units: &Units, power: f64) -> Vec<f64> {
        match *units {
            Units::Beside(table) => {
                let null = table.ln_probability(self.r0);
                self.effects.iter().map(|&(r, _)| power * (table.ln_probability(r) - null)).collect()
            }
            Units::Alone { n, x, rate } => {
                self.effects.iter().map(|&(r, _)| power * ln_binomial(n, x, rate, r / self.r0)).collect()
            }
        }
    }
}

/// Where clusters of bad units are known, what the logarithms of a metric are multiplied with.
#[must_use]
pub fn power(dispersion: &Dispersion) -> f64 {
    1.0 / dispersion.index()
}

#[cfg(test)]
mod tests;
