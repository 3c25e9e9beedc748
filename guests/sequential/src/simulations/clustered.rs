//! What comes in clusters: calls of a few sessions, callers that try again, bursts; and long times.

use super::*;

/// Sessions of V2 and V1 that have latencies of their own: levels around 20 ms, spread by `between`; each call differs
/// from its session's level by `within`. They are called 20 times within a minute, or for good.
struct Levels {
    between: f64,
    within: f64,
    lasting: bool,
}

/// A session: whether it is on V2, its level, and the calls that it still makes.
type Session = (bool, f64, u32);

fn levels_batch(
    chance: &mut Chance,
    n: u64,
    rps: f64,
    share: f64,
    levels: &Levels,
    open: &mut Vec<Session>,
    v2_is: f64,
) -> Batch {
    let mut batch = batch(n * CHECK_MS);
    let mut new = [0_u64; 2];
    let births = if levels.lasting { if n == 0 { rps * 20.0 } else { 0.0 } } else { rps / 20.0 * 5.0 };
    for _ in 0..chance.poisson(births) {
        let level = 20_000.0 * libm::exp(levels.between * chance.normal());
        open.push((chance.one_in(share), level, 12));
    }
    let mut histograms = [std::collections::BTreeMap::new(), std::collections::BTreeMap::new()];
    let (mut requests, mut units) = ([0_u64; 2], [0_u64; 2]);
    for (on_v2, level, left) in open.iter_mut() {
        let pool = usize::from(*on_v2);
        new[pool] += u64::from(if levels.lasting { n == 0 } else { *left == 12 });
        let calls = if levels.lasting { u64::from(chance.one_in(0.25)) } else { 2 };
        // 12 spans of 2 calls or so are a session that comes and goes.
        *left -= u32::from(!levels.lasting);
        requests[pool] += calls;
        units[pool] += u64::from(calls > 0);
        for _ in 0..calls {
            let times = if *on_v2 { v2_is } else { 1.0 };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a latency")]
            let us = (*level * times * libm::exp(levels.within * chance.normal())) as u64;
            *histograms[pool].entry(cutover_contract::histogram::index(us)).or_insert(0) += 1;
        }
    }
    open.retain(|(_, _, left)| *left > 0);
    let mut execute = operation("execute");
    for (pool, calls) in [&mut execute.v1, &mut execute.v2].into_iter().enumerate() {
        let latency = histograms[pool].iter().map(|(&index, &count)| LatencyBucket { index, count }).collect();
        *calls = Calls { requests: requests[pool], units: units[pool], latency, ..operation("").v1 };
    }
    batch.operations.push(execute);
    batch.gauges = sessions_gauges(new, [0, 0]);
    batch
}

#[test]
fn sessions_with_levels_of_their_own_raise_no_false_alarm() {
    for (between, within, lasting) in
        [(0.5, 0.5, false), (1.0, 0.5, false), (0.5, 0.3, true), (1.0, 0.5, true), (1.0, 0.3, true)]
    {
        let levels = Levels { between, within, lasting };
        for share in [0.05, 0.25] {
            let what = format!("levels {between}, calls {within}, for good: {lasting}, share {share}");
            false_alarms(&what, runs(if share < 0.1 { 400 } else { 40 }), |policy, chance| {
                let mut open = Vec::new();
                first_roll_back(policy, CHECKS, |n| {
                    (0, 0, levels_batch(chance, n, 100.0, share, &levels, &mut open, 1.0))
                })
            });
        }
    }
}

#[test]
fn slow_sessions_are_found_by_their_number() {
    for (v2_is, lasting) in [(2.0, false), (4.0, false), (10.0, false), (4.0, true), (10.0, true)] {
        let policy = default_policy();
        let levels = Levels { between: 0.5, within: 0.5, lasting };
        let mut delays: Vec<u64> = (0..runs(100))
            .map(|seed| {
                let (chance, mut open) = (&mut Chance(seed ^ 0x1e7e1), Vec::new());
                let each = |n| {
                    (0, 0, levels_batch(chance, n, 100.0, 0.05, &levels, &mut open, if n < 24 { 1.0 } else { v2_is }))
                };
                (first_roll_back(&policy, CHECKS, each).unwrap_or(CHECKS) + 1 - 24) * 5
            })
            .collect();
        delays.sort_unstable();
        report(
            &format!("sessions {v2_is}x slower, for good: {lasting}, share 0.05"),
            &format!("median {} s of 1685", delays[delays.len() / 2]),
        );
    }
}

/// Callers whose call fails try again ten times within the second, each time without a session.
#[test]
fn retry_storms_raise_no_false_alarm() {
    for (rps, share, causes) in [(100.0, 0.05, 0.0002), (100.0, 0.05, 0.001), (100.0, 0.25, 0.001), (20.0, 0.05, 0.002)]
    {
        let what = format!("retry storms of 11, {causes} of calls at {rps}/s begin one, share {share}");
        // At a large share V2's first storms often come before V1's, so nobody knows them yet.
        let percent = if share > 0.1 { 5 } else { 1 };
        false_alarms_up_to(percent, &what, runs(4_000), |policy, chance| {
            first_roll_back(policy, CHECKS, |n| {
                let at = Traffic { rps, share, errors: (0.0, 0.0) };
                let mut batch = traffic(chance, n * CHECK_MS, 5.0, at);
                let execute = &mut batch.operations[0];
                for (calls, part) in [(&mut execute.v1, 1.0 - share), (&mut execute.v2, share)] {
                    let storms = 11 * chance.poisson(rps * part * 5.0 * causes);
                    calls.requests += storms;
                    calls.errors += storms;
                    calls.units += storms;
                    calls.unit_errors += storms;
                }
                (0, 0, batch)
            })
        });
    }
}

/// What both use fails for a second every two minutes or so, and reaches V2 a second later than V1: at times in another
/// span.
#[test]
fn bursts_a_second_apart_raise_no_false_alarm() {
    for share in [0.05, 0.25] {
        let what = format!("both fail half of their calls for a second, V2 a second later, share {share}");
        false_alarms(&what, runs(1_000), |policy, chance| {
            let mut late = false;
            first_roll_back(policy, CHECKS, |n| {
                let mut batch = batch(n * CHECK_MS);
                let mut execute = operation("execute");
                let (v1_bursts, straddles) = (chance.one_in(5.0 / 120.0), chance.one_in(0.2));
                let v2_bursts = late || (v1_bursts && !straddles);
                late = v1_bursts && straddles;
                for (pool, part, bursts) in
                    [(&mut execute.v1, 1.0 - share, v1_bursts), (&mut execute.v2, share, v2_bursts)]
                {
                    let errors = if bursts { 0.1 } else { 0.001 };
                    *pool = calls(chance, 100.0 * part * 5.0, errors);
                }
                batch.operations.push(execute);
                (0, 0, batch)
            })
        });
    }
}

#[test]
fn warming_up_raises_no_false_alarm() {
    false_alarms("V2 three times slower for the first 30 s", runs(400), |policy, chance| {
        first_roll_back(policy, 120, |n| {
            (0, 0, timed_batch(chance, n, (95.0, 5.0), 1.0, (1.0, if n < 6 { 3.0 } else { 1.0 })))
        })
    });
}

#[test]
fn a_day_raises_no_false_alarm() {
    false_alarms("24 h at 100/s, share 0.05", if cfg!(debug_assertions) { 1 } else { 100 }, |policy, chance| {
        first_roll_back(policy, 17_280, |n| (0, 0, traffic(chance, n * CHECK_MS, 5.0, QUIET)))
    });
}

/// A session: whether it is on V2, the check at which it is logged out, and whether it was refused since.
type Person = (bool, Option<u64>, bool);

/// Each session calls each of ten operations every ten seconds or so, and is refused everywhere once it is logged out. As
/// the host counts: one that was refused is at risk no more.
fn logged_out_batch(chance: &mut Chance, n: u64, people: &mut [Person]) -> Batch {
    let mut batch = batch(n * CHECK_MS);
    let mut counts = [[[0_u64; 4]; 2]; 10];
    for (on_v2, out, refused) in people {
        for of in counts.iter_mut().filter(|_| chance.one_in(0.5)) {
            let [requests, at_risk, first, all] = &mut of[usize::from(*on_v2)];
            let is_refused = out.is_some_and(|out| n >= out);
            *requests += 1;
            *at_risk += u64::from(!*refused);
            *first += u64::from(is_refused && !*refused);
            *all += u64::from(is_refused);
            *refused |= is_refused;
        }
    }
    for (number, pools) in counts.iter().enumerate() {
        let name = format!("operation-{number}");
        let of = |[requests, ..]: [u64; 4]| Calls { requests, units: requests, ..operation("").v1 };
        batch.operations.push(cutover_policy::OperationCalls {
            v1: of(pools[0]),
            v2: of(pools[1]),
            ..operation(&name)
        });
        for (pool, [_, at_risk, first, all]) in ["v1", "v2"].into_iter().zip(pools) {
            for (what, count) in [("4xx-units", at_risk), ("4xx-first", first), ("4xx", all)] {
                let value = i64::try_from(*count).unwrap();
                batch.gauges.push(Gauge { name: format!("{pool}.{what}{{{name}}}"), value });
            }
        }
    }
    batch.gauges.extend(sessions_gauges([0, 0], [0, 0]));
    batch.gauges.sort_by(|a, b| a.name.cmp(&b.name));
    batch
}

#[test]
fn logged_out_sessions_raise_no_false_alarm() {
    for share in [0.05, 0.25, 0.5] {
        let what = format!("400 sessions, 10 operations, 10 % logged out and refused, share {share}");
        false_alarms(&what, runs(400), |policy, chance| {
            let mut people: Vec<Person> = (0..400)
                .map(|_| {
                    let out = chance.one_in(0.1).then(|| chance.next() % CHECKS);
                    (chance.one_in(share), out, false)
                })
                .collect();
            first_roll_back(policy, CHECKS, |n| (0, 0, logged_out_batch(chance, n, &mut people)))
        });
    }
}
