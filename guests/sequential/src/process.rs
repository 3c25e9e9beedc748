//! Evidence against V2 that may be looked at as often as one likes: an e-process.
//!
//! **One table.** If V2's odds of a bad unit are at most r0 times V1's, then L = P(x2; r) / P(x2; r0) has a mean of at
//! most 1 for every r > r0 (likelihood ratios of this family are monotone). A bet of 1 on L is fair or worse.
//!
//! **Unknown effect and start.** A [`Fund`] is spread over a grid of effects r, and over the moments at which V2 may
//! have become worse: half is bet at once, and a part 1/(planned + n) of the cash that is left at the n-th table. That
//! is a prior which is nearly uniform over the planned tables and has a tail beyond them, so that it never runs out.
//! Unspent cash stays cash, and only tables that can tell something spend. For each effect:
//! `bet <- (bet + spent * weight) * L`.
//!
//! **Several operations.** Half of a metric's wealth goes to one fund that bets on all operations at once (the product
//! of their L: a stratified test with a common odds ratio), for faults of all of V2. The other half is spread evenly
//! over the operations, for faults of one. An operation that appears later is staked by the others, each of which hands
//! over the same part of what it has *then*. Money only moves, by a rule that looks at nothing but which operations
//! have been called, so the sum stays an e-process, and nothing that was learnt is lost.
//!
//! **The promise** (Ville's inequality): the wealth of a fair game that starts at 1 ever reaches 1/alpha with a
//! probability of at most alpha, however often it is looked at and whatever is done because of it.

use cutover_policy::hypergeometric::{Table, real};
use cutover_policy::memory::{Fields, Packed, Text};
use cutover_policy::packed;
use serde::{Deserialize, Serialize};

use crate::run::Run;

/// Operations with a bet of their own for each metric; later ones count in the common bet only. It bounds memory.
const MOST_OPERATIONS: usize = 16;

/// The part of a new fund that is bet at once.
const AT_ONCE: f64 = 0.5;

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
    /// Bets on one table for each operation, ascending by name, counted from `start_ms` on.
    pub fn play(&mut self, game: &Game, tables: &[(&str, Table)], start_ms: u64) {
        let mut common = vec![1.0; game.effects.len()];
        let mut run = Table::default();
        let (mut informs, mut expected) = (false, 0.0);
        for &(operation, table) in tables.iter().filter(|(_, t)| t.n1 > 0 && t.n2 > 0) {
            self.welcome(operation);
            let ratios = game.ratios(&table);
            expected += table.expected(game.r0);
            run = run.plus(&table);
            if let Some((_, fund)) = self.each.iter_mut().find(|(name, _)| name == operation) {
                fund.run.add(&table, table.expected(game.r0), start_ms);
                if table.informs() {
                    fund.play(game, &ratios);
                }
            }
            informs |= table.informs();
            for (product, ratio) in common.iter_mut().zip(&ratios) {
                *product *= ratio;
            }
        }
        self.all.run.add(&run, expected, start_ms);
        if informs {
            self.all.play(game, &common);
        }
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
        match one.filter(|(_, fund)| fund.wealth() > self.all.wealth()) {
            Some((name, fund)) => Suspicion { operation: Some(name), run: fund.run },
            None => Suspicion { operation: None, run: self.all.run },
        }
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

/// A fund as plain JSON, which it was before it was packed.
#[derive(Debug, Deserialize)]
pub struct PlainFund {
    bets: Vec<f64>,
    cash: f64,
    played: u64,
    run: Run,
}

impl From<PlainFund> for Fund {
    fn from(PlainFund { bets, cash, played, run }: PlainFund) -> Self {
        Self { bets, cash, played, run }
    }
}

impl Packed for Fund {
    type Plain = PlainFund;

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

impl Fund {
    fn of(cash: f64) -> Self {
        Self { cash, ..Self::default() }
    }

    fn wealth(&self) -> f64 {
        self.bets.iter().fold(self.cash, |sum, bet| sum + bet)
    }

    fn scale(&mut self, by: f64) {
        self.cash *= by;
        self.bets.iter_mut().for_each(|bet| *bet *= by);
    }

    /// `ratios` has one likelihood ratio for each effect.
    fn play(&mut self, game: &Game, ratios: &[f64]) {
        self.bets.resize(game.effects.len(), 0.0);
        let part = if self.played == 0 { AT_ONCE } else { 1.0 / (game.planned + real(self.played)) };
        let spent = self.cash * part;
        self.cash -= spent;
        self.played += 1;
        for ((bet, ratio), (_, weight)) in self.bets.iter_mut().zip(ratios).zip(&game.effects) {
            *bet = ((*bet + spent * weight) * ratio.min(game.most_per_table)).min(MOST);
        }
    }
}

impl Game {
    fn ratios(&self, table: &Table) -> Vec<f64> {
        if !table.informs() {
            return vec![1.0; self.effects.len()];
        }
        let null = table.ln_probability(self.r0);
        self.effects.iter().map(|&(r, _)| libm::exp(table.ln_probability(r) - null)).collect()
    }
}

#[cfg(test)]
mod tests;
