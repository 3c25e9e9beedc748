use proptest::prelude::*;

use super::*;

fn game() -> Game {
    let effects = [1.5, 4.0, 20.0].map(|r| (r, 1.0 / 3.0)).to_vec();
    Game { r0: 1.0, effects, planned: 5.0, most_per_table: 1e9, most: Game::MOST }
}

fn beside(name: &str, table: Table) -> Entry {
    Entry { name: name.to_owned(), units: Units::Beside(table) }
}

fn play(portfolio: &mut Portfolio, game: &Game, tables: &[(&str, Table)]) -> f64 {
    let entries: Vec<_> = tables.iter().map(|&(name, table)| beside(name, table)).collect();
    portfolio.play(game, &entries, 1.0, 0)
}

/// All tables with these margins, each with its probability at these odds.
fn outcomes(n1: u64, n2: u64, bad: u64, odds: f64) -> impl Iterator<Item = (Table, f64)> {
    let tables = (bad.saturating_sub(n1)..=bad.min(n2)).map(move |x2| Table { n1, x1: bad - x2, n2, x2 });
    tables.map(move |table| (table, libm::exp(table.ln_probability(odds))))
}

/// The expected wealth after one table of each of these operations, over all their outcomes.
fn expected_wealth(
    before: &Portfolio,
    game: &Game,
    power: f64,
    margins: &[(&'static str, u64, u64, u64)],
    odds: f64,
) -> f64 {
    let mut worlds: Vec<(Vec<Entry>, f64)> = vec![(Vec::new(), 1.0)];
    for &(name, n1, n2, bad) in margins {
        let next = worlds.iter().flat_map(|(tables, p)| {
            outcomes(n1, n2, bad, odds).map(move |(table, q)| {
                let tables = tables.iter().cloned().chain([beside(name, table)]).collect::<Vec<_>>();
                (tables, p * q)
            })
        });
        worlds = next.collect();
    }
    let wealth = |entries: &[Entry]| {
        let mut after = before.clone();
        after.play(game, entries, power, 0);
        after.wealth()
    };
    worlds.iter().map(|(entries, p)| p * wealth(entries)).sum()
}

#[test]
fn wealth_begins_at_one() {
    assert_eq!(Portfolio::default().wealth().to_bits(), 1.0_f64.to_bits());
}

#[test]
fn wealth_is_fair_at_the_null_and_shrinks_below_it() {
    let mut portfolio = Portfolio::default();
    // A history with all there is: one operation, a second that is staked by it, a third that is new in the next table.
    play(&mut portfolio, &game(), &[("a", Table { n1: 10, x1: 1, n2: 2, x2: 1 })]);
    let two = [("a", Table { n1: 10, x1: 2, n2: 2, x2: 0 }), ("b", Table { n1: 5, x1: 1, n2: 5, x2: 2 })];
    play(&mut portfolio, &game(), &two);
    let margins = [("a", 12, 3, 2), ("b", 6, 4, 3), ("c", 8, 8, 4)];
    let fair = expected_wealth(&portfolio, &game(), 1.0, &margins, 1.0);
    assert!((fair / portfolio.wealth() - 1.0).abs() < 1e-12, "{fair}");
    for better in [0.01, 0.3, 0.9] {
        assert!(expected_wealth(&portfolio, &game(), 1.0, &margins, better) < portfolio.wealth());
    }
    assert!(expected_wealth(&portfolio, &game(), 1.0, &margins, 5.0) > portfolio.wealth());
    let cut = Game { most_per_table: 2.0, ..game() };
    assert!(expected_wealth(&portfolio, &cut, 1.0, &margins, 1.0) <= portfolio.wealth());
    for power in [0.9, 0.5, 0.01] {
        assert!(expected_wealth(&portfolio, &game(), power, &margins, 1.0) <= portfolio.wealth());
    }
}

#[test]
fn wealth_without_v1_is_fair_at_the_rate_and_shrinks_below_it() {
    let after = |x, rate| {
        let mut portfolio = Portfolio::default();
        let units = Units::Alone { n: 4, x, rate };
        portfolio.play(&game(), &[Entry { name: "a".to_owned(), units }], 1.0, 0);
        portfolio.wealth()
    };
    let mean = |truth: f64| -> f64 {
        let choose = [(0, 1.0), (1, 4.0), (2, 6.0), (3, 4.0), (4, 1.0)];
        choose
            .map(|(x, ways)| ways * truth.powi(x) * (1.0 - truth).powi(4 - x) * after(x.unsigned_abs().into(), 0.1))
            .iter()
            .sum()
    };
    assert!((mean(0.1) - 1.0).abs() < 1e-12 && mean(0.01) < 1.0 && mean(0.4) > 1.0);
}

#[test]
fn wealth_is_the_mixture_over_effects_and_starts() {
    let (game, tables) =
        (game(), [(9, 1, 3, 2), (20, 0, 4, 1), (11, 2, 2, 1)].map(|(n1, x1, n2, x2)| Table { n1, x1, n2, x2 }));
    let mut portfolio = Portfolio::default();
    let mut cash = 1.0;
    let mut starts = Vec::new();
    for (n, table) in (0_u32..).zip(&tables) {
        play(&mut portfolio, &game, &[("a", *table)]);
        let part = if n == 0 { AT_ONCE } else { 1.0 / (5.0 + f64::from(n)) };
        starts.push(cash * part);
        cash -= cash * part;
    }
    let mut mixture = cash;
    for (start, weight) in starts.iter().enumerate() {
        for &(r, part) in &game.effects {
            let ln: f64 = tables[start..].iter().map(|t| t.ln_probability(r) - t.ln_probability(1.0)).sum();
            mixture += weight * part * libm::exp(ln);
        }
    }
    assert!((portfolio.wealth() / mixture - 1.0).abs() < 1e-12, "{} is not {mixture}", portfolio.wealth());
}

#[test]
fn cash_never_runs_out() {
    let mut fund = Fund::of(1.0);
    for _ in 0..1_000 {
        fund.play(&game(), &[-0.5; 3]);
    }
    // Most at once; of the rest (1 - 1/6)(1 - 1/7).. = 5/6 * 6/7 * .. * 1003/1004 is left, which telescopes.
    assert!((fund.cash - (1.0 - AT_ONCE) * 5.0 / 1_004.0).abs() < 1e-12, "{}", fund.cash);
}

#[test]
fn newcomers_move_wealth_and_make_none() {
    let mut portfolio = Portfolio::default();
    for (i, name) in (0..40).map(|i| (i, format!("operation-{i:02}"))) {
        let before = portfolio.wealth();
        // One outcome only: nobody wins or loses.
        play(&mut portfolio, &game(), &[(&name, Table { n1: 5, x1: 0, n2: 1, x2: 0 })]);
        assert!((portfolio.wealth() - before).abs() < 1e-12);
        if i == 0 {
            play(&mut portfolio, &game(), &[(&name, Table { n1: 50, x1: 1, n2: 5, x2: 2 })]);
        }
    }
    assert_eq!(portfolio.each.len(), MOST_OPERATIONS);
    let each: Vec<f64> = portfolio.each.iter().map(|(_, fund)| fund.wealth()).collect();
    assert!(each.iter().all(|wealth| (wealth / each[0] - 1.0).abs() < 1e-9), "{each:?}");
}

#[test]
fn a_suspicion_names_the_operation_that_it_is_about() {
    let (mut one, mut all, mut only) = (Portfolio::default(), Portfolio::default(), Portfolio::default());
    let fine = Table { n1: 95, x1: 4, n2: 5, x2: 0 };
    let bad = Table { n1: 95, x1: 0, n2: 5, x2: 2 };
    for _ in 0..4 {
        play(&mut one, &game(), &[("a", fine), ("b", bad)]);
        play(&mut all, &game(), &[("a", bad), ("b", bad)]);
        play(&mut only, &game(), &[("a", bad)]);
    }
    let operations = [one.suspicion().operation, all.suspicion().operation, only.suspicion().operation];
    assert_eq!(operations, [Some("b"), None, Some("a")]);
    assert_eq!((one.suspicion().run.x2, one.suspicion().run.since_ms), (8, 0));
}

#[test]
fn what_would_overflow_says_how_much_and_stays_a_number() {
    let table = Table::new((1 << 20, 0), (1 << 20, 60_000));
    let mut portfolio = Portfolio::default();
    let evident = play(&mut portfolio, &game(), &[("a", table), ("b", Table::new((1 << 20, 60_000), (1 << 20, 0)))]);
    assert!(evident.is_finite() && portfolio.wealth().is_finite());
    assert!(play(&mut portfolio, &game(), &[("a", table)]) > 1e300);
}

proptest! {
    #[test]
    fn any_tables_keep_wealth_a_positive_number(
        tables in prop::collection::vec((any::<[u64; 4]>(), any::<[u32; 4]>(), 0..3_usize), 1..20)
    ) {
        let mut portfolio = Portfolio::default();
        for ([n1, x1, n2, x2], shift, name) in tables {
            // Any order of magnitude.
            let [n1, x1, n2, x2] = [(n1, 0), (x1, 1), (n2, 2), (x2, 3)].map(|(n, i): (u64, usize)| n >> (shift[i] % 64));
            let table = Table::new((n1, x1), (n2, x2));
            let evident = play(&mut portfolio, &game(), &[(["a", "b", "c"][name], table)]);
            prop_assert!(portfolio.wealth().is_finite() && portfolio.wealth() > 0.0);
            prop_assert!(evident.is_finite() && evident >= 0.0);
        }
    }
}
