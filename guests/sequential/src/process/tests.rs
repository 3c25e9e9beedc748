use proptest::prelude::*;

use super::*;

fn game() -> Game {
    let effects = [1.5, 4.0, 20.0].map(|r| (r, 1.0 / 3.0)).to_vec();
    Game { r0: 1.0, effects, planned: 5.0, most_per_table: 1e9 }
}

/// All tables with these margins, each with its probability at these odds.
fn outcomes(n1: u64, n2: u64, bad: u64, odds: f64) -> impl Iterator<Item = (Table, f64)> {
    let tables = (bad.saturating_sub(n1)..=bad.min(n2)).map(move |x2| Table { n1, x1: bad - x2, n2, x2 });
    tables.map(move |table| (table, libm::exp(table.ln_probability(odds))))
}

/// The expected wealth after one table of each of these operations, over all their outcomes.
fn expected_wealth(before: &Portfolio, game: &Game, margins: &[(&'static str, u64, u64, u64)], odds: f64) -> f64 {
    let mut worlds: Vec<(Vec<(&str, Table)>, f64)> = vec![(Vec::new(), 1.0)];
    for &(name, n1, n2, bad) in margins {
        let next = worlds.iter().flat_map(|(tables, p)| {
            outcomes(n1, n2, bad, odds).map(move |(table, q)| {
                let tables = tables.iter().copied().chain([(name, table)]).collect::<Vec<_>>();
                (tables, p * q)
            })
        });
        worlds = next.collect();
    }
    let wealth = |tables: &[(&str, Table)]| {
        let mut after = before.clone();
        after.play(game, tables, 0);
        after.wealth()
    };
    worlds.iter().map(|(tables, p)| p * wealth(tables)).sum()
}

#[test]
fn wealth_begins_at_one() {
    assert_eq!(Portfolio::default().wealth().to_bits(), 1.0_f64.to_bits());
}

#[test]
fn wealth_is_fair_at_the_null_and_shrinks_below_it() {
    let mut portfolio = Portfolio::default();
    // A history with all there is: one operation, a second that is staked by it, a third that is new in the next table.
    portfolio.play(&game(), &[("a", Table { n1: 10, x1: 1, n2: 2, x2: 1 })], 0);
    portfolio.play(
        &game(),
        &[("a", Table { n1: 10, x1: 2, n2: 2, x2: 0 }), ("b", Table { n1: 5, x1: 1, n2: 5, x2: 2 })],
        0,
    );
    let margins = [("a", 12, 3, 2), ("b", 6, 4, 3), ("c", 8, 8, 4)];
    let fair = expected_wealth(&portfolio, &game(), &margins, 1.0);
    assert!((fair / portfolio.wealth() - 1.0).abs() < 1e-12, "{fair}");
    for better in [0.01, 0.3, 0.9] {
        assert!(expected_wealth(&portfolio, &game(), &margins, better) < portfolio.wealth());
    }
    assert!(expected_wealth(&portfolio, &game(), &margins, 5.0) > portfolio.wealth());
    let cut = Game { most_per_table: 2.0, ..game() };
    assert!(expected_wealth(&portfolio, &cut, &margins, 1.0) <= portfolio.wealth());
}

#[test]
fn wealth_is_the_mixture_over_effects_and_starts() {
    let (game, tables) =
        (game(), [(9, 1, 3, 2), (20, 0, 4, 1), (11, 2, 2, 1)].map(|(n1, x1, n2, x2)| Table { n1, x1, n2, x2 }));
    let mut portfolio = Portfolio::default();
    let mut cash = 1.0;
    let mut starts = Vec::new();
    for (n, table) in (0_u32..).zip(&tables) {
        portfolio.play(&game, &[("a", *table)], 0);
        let part = if n == 0 { 0.5 } else { 1.0 / (5.0 + f64::from(n)) };
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
        fund.play(&game(), &[0.5; 3]);
    }
    // Half at once; of the rest (1 - 1/6)(1 - 1/7).. = 5/6 * 6/7 * .. * 1003/1004 is left, which telescopes.
    assert!((fund.cash - 0.5 * 5.0 / 1_004.0).abs() < 1e-12, "{}", fund.cash);
}

#[test]
fn newcomers_move_wealth_and_make_none() {
    let mut portfolio = Portfolio::default();
    for (i, name) in (0..40).map(|i| (i, format!("operation-{i:02}"))) {
        let before = portfolio.wealth();
        // One outcome only: nobody wins or loses.
        portfolio.play(&game(), &[(&name, Table { n1: 5, x1: 0, n2: 1, x2: 0 })], 0);
        assert!((portfolio.wealth() - before).abs() < 1e-12);
        if i == 0 {
            portfolio.play(&game(), &[(&name, Table { n1: 50, x1: 1, n2: 5, x2: 2 })], 0);
        }
    }
    assert_eq!(portfolio.each.len(), MOST_OPERATIONS);
    let each: Vec<f64> = portfolio.each.iter().map(|(_, fund)| fund.wealth()).collect();
    assert!(each.iter().all(|wealth| (wealth / each[0] - 1.0).abs() < 1e-9), "{each:?}");
}

#[test]
fn a_suspicion_names_the_operation_that_it_is_about() {
    let (mut one, mut all) = (Portfolio::default(), Portfolio::default());
    let fine = Table { n1: 95, x1: 4, n2: 5, x2: 0 };
    let bad = Table { n1: 95, x1: 0, n2: 5, x2: 2 };
    for _ in 0..4 {
        one.play(&game(), &[("a", fine), ("b", bad)], 7);
        all.play(&game(), &[("a", bad), ("b", bad)], 7);
    }
    assert_eq!((one.suspicion().operation, all.suspicion().operation), (Some("b"), None));
    assert_eq!((one.suspicion().run.x2, one.suspicion().run.since_ms), (8, 7));
}

proptest! {
    #[test]
    fn any_tables_keep_wealth_a_positive_number(
        tables in prop::collection::vec((any::<[u64; 4]>(), 0..3_usize), 1..20)
    ) {
        let mut portfolio = Portfolio::default();
        for ([n1, x1, n2, x2], name) in tables {
            let table = Table::new((n1 >> 40, x1 >> 50), (n2 >> 40, x2 >> 50));
            portfolio.play(&game(), &[(["a", "b", "c"][name], table)], 0);
            prop_assert!(portfolio.wealth().is_finite() && portfolio.wealth() > 0.0);
        }
    }
}
