// Rolls back when V2 spends its error budget too fast: the alert on several windows and burn rates of the Site Reliability
// Workbook (chapter 5, "Alerting on SLOs"), made a verdict.
//
// An objective of 99.9 % leaves a budget of 0.1 % of the calls. Who spends it at a burn rate of 1 has spent it all at the end
// of the period; at 14.4 two percent of a month's budget are gone within an hour. A rule speaks when both its windows burn
// faster than it allows: the long one says that it matters, the short one that it is still going on.

import { answering, define, finding, recall, remember, shown, times } from "../sdk/index.js";
import { add, begin, totals } from "./memory.js";
import { settings } from "./settings.js";

const PPM = 1_000_000;

const me = define({
  name: "burn-rate",
  version: "0.1.0",
  summary: "rolls back when V2 spends its error budget too fast, in a long and a short window at once",
  settings,
});

export const policy = me.policy;

export const rollback = {
  judge: answering((check, bytes) => {
    const wanted = me.settings();
    const memory = begin(recall(bytes, undefined), check);
    const spans = wanted.rules.flatMap((rule) => [rule.long, rule.short]);
    add(memory, check, [...new Set(spans)], wanted.slow_after);
    const { verdict, findings } = judge(wanted, memory, check.nowMs);
    return { verdict, findings, evidence: 0, memory: remember(memory) };
  }),
};

/** The gravest of what the rules say, or `hold` if V2 had too few calls of late to say anything. */
function judge(wanted, memory, now) {
  const findings = [];
  for (const rule of wanted.rules) {
    const spoke = ask(rule, wanted, totals(memory, rule.long, now), totals(memory, rule.short, now));
    if (spoke !== undefined) findings.push(spoke);
  }
  for (const verdict of ["roll-back", "warn"]) {
    const grave = findings.filter((spoke) => spoke.verdict === verdict);
    if (grave.length > 0) return { verdict, findings: findings.map((spoke) => spoke.finding) };
  }
  const latest = Math.min(...wanted.rules.map((rule) => rule.long));
  const { calls } = totals(memory, latest, now).v2;
  if (calls >= wanted.min_requests) return { verdict: "healthy", findings: [] };
  const note = `V2 answered ${calls} of the ${wanted.min_requests} calls in ${shown(latest)} that a verdict needs`;
  return { verdict: "hold", findings: [finding("too-little-data", calls, wanted.min_requests, "count", note)] };
}

/** What one rule says; undefined if nothing. */
function ask(rule, wanted, long, short) {
  if (long.v2.calls < wanted.min_requests) return undefined;
  const burns = (pool) => Math.min(burn(long[pool], wanted.objective), burn(short[pool], wanted.objective));
  const [v1, v2] = [burns("v1"), burns("v2")];
  if (!(v2 > rule.burn)) return undefined;
  const windows = `in ${shown(rule.long)} and in ${shown(rule.short)}`;
  const note = `V2 spends its error budget at ${times(v2)} ${windows}; ${times(rule.burn)} is allowed`;
  if (wanted.spare_shared && v1 > rule.burn) {
    const shared = `${note}, but V1 spends at ${times(v1)} too: not V2's fault alone`;
    return { verdict: "warn", finding: finding("shared-incident", v2, rule.burn, "ratio-ppm", shared) };
  }
  return { verdict: rule.then, finding: finding("burn-rate", v2, rule.burn, "ratio-ppm", note) };
}

/** How fast the budget is spent, as a ratio in parts per million: 1 000 000 spends just all of it. 0 without calls. */
function burn({ calls, bad }, objective) {
  return calls === 0 ? 0 : (bad / calls / (PPM - objective)) * PPM * PPM;
}
