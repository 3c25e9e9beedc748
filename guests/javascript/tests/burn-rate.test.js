import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { policy, rollback } from "../burn-rate/policy.js";

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

const none = { requests: 0, errors: 0, timeouts: 0, failedOver: 0, units: 0, unitErrors: 0, latency: [] };
const calls = (requests, errors, more = {}) => ({ ...none, requests, errors, ...more });

/** A second in which both pools answered; V2 as told. */
function batch(startMs, v2, v1 = calls(1_000, 0), shadow = none) {
  return { startMs, operations: [{ operation: "execute", v1, v2, shadow }] };
}

function check(nowMs, batches, more = {}) {
  return { nowMs, phase: "ramping", stage: 1, share: 100_000, stageStartedMs: 0, batches, ...more };
}

/** Judges minute by minute, as `v2` says, and gives the last answer. */
function minutes(n, v2, v1, memory = new Uint8Array()) {
  let answer;
  for (let minute = 0; minute < n; minute += 1) {
    const at = minute * MINUTE;
    answer = rollback.judge(check(at + SECOND, [batch(at, v2(minute), v1?.(minute))]), memory);
    memory = answer.memory;
  }
  return answer;
}

const rules = (answer) => answer.findings.map((finding) => finding.rule);

beforeEach(() => policy.configure("{}"));

test("no calls are never healthy", () => {
  const answer = rollback.judge(check(0, []), new Uint8Array());
  assert.deepEqual([answer.verdict, rules(answer), answer.evidence], ["hold", ["too-little-data"], 0]);
  assert.equal(rollback.judge(check(SECOND, [batch(0, calls(99, 0))]), new Uint8Array()).verdict, "hold");
});

test("a V2 within its budget is healthy", () => {
  assert.deepEqual(minutes(15, () => calls(1_000, 0)).verdict, "healthy");
  assert.deepEqual(minutes(15, (minute) => calls(1_000, minute % 2)).verdict, "healthy");
});

test("a budget that is spent fast in both windows rolls back, with the ratio", () => {
  const answer = minutes(3, () => calls(1_000, 20));
  assert.equal(answer.verdict, "roll-back");
  assert.deepEqual(answer.findings[0], {
    rule: "burn-rate",
    observed: 20_000_000,
    limit: 14_400_000,
    unit: "ratio-ppm",
    note: "V2 spends its error budget at 20x in 10m and in 1m; 14.4x is allowed",
  });
});

test("a fault that is over is told of for a while, and never rolls back", () => {
  const after = (n) => minutes(n, (minute) => calls(1_000, minute < 3 ? 100 : 0)).verdict;
  assert.deepEqual([after(3), after(10), after(40)], ["roll-back", "warn", "healthy"]);
});

test("a slow leak warns in the long windows alone", () => {
  policy.configure('{ "rules": [{ "long": "10m", "short": "1m", "burn": 6 }, { "long": "2h", "short": "20m", "burn": 1, "then": "warn" }] }');
  const answer = minutes(30, () => calls(1_000, 3));
  assert.deepEqual([answer.verdict, rules(answer)], ["warn", ["burn-rate"]]);
});

test("what V1 suffers too is not held against V2 alone", () => {
  const answer = minutes(3, () => calls(1_000, 100), () => calls(1_000, 90));
  assert.deepEqual([answer.verdict, new Set(rules(answer))], ["warn", new Set(["shared-incident"])]);
  policy.configure('{ "spare_shared": false }');
  assert.equal(minutes(3, () => calls(1_000, 100), () => calls(1_000, 90)).verdict, "roll-back");
});

test("slow calls are bad ones when they are told to be, and a timeout counts once", () => {
  const slow = calls(1_000, 10, { timeouts: 10, latency: [{ index: 100, count: 980 }, { index: 640, count: 20 }] });
  policy.configure('{ "slow_after": "200ms", "objective": "99%" }');
  const answer = minutes(3, () => slow);
  assert.deepEqual([answer.verdict, rules(answer)], ["warn", ["burn-rate"]]);
  assert.equal(answer.findings[0].observed, 2_000_000);
});

test("in the shadow phase mirrored calls are judged", () => {
  const mirrored = batch(0, none, calls(1_000, 0), calls(1_000, 500));
  const answer = rollback.judge(check(SECOND, [mirrored], { phase: "shadow", stage: 0 }), new Uint8Array());
  assert.equal(answer.verdict, "roll-back");
});

test("a V2 that keeps its calls keeps its windows, one that lost them begins afresh", () => {
  const { memory } = minutes(3, () => calls(1_000, 20));
  const later = (more) => rollback.judge(check(3 * MINUTE, [], more), memory).verdict;
  assert.equal(later({ stage: 2 }), "roll-back");
  assert.equal(later({ phase: "paused", stage: 0 }), "roll-back");
  assert.equal(later({ phase: "complete", stage: 0 }), "roll-back");
  assert.equal(later({ stage: 0 }), "hold");
  assert.equal(later({ phase: "shadow", stage: 0 }), "hold");
});

test("hours of memory are small, and how batches are dealt to checks does not matter", () => {
  const all = Array.from({ length: 3_600 }, (_, second) => batch(second * SECOND, calls(50, second % 2)));
  const now = 3_600 * SECOND;
  const atOnce = rollback.judge(check(now, all), new Uint8Array());
  let memory = new Uint8Array();
  for (let i = 0; i < all.length; i += 5) {
    memory = rollback.judge(check((i + 5) * SECOND, all.slice(i, i + 5)), memory).memory;
  }
  assert.deepEqual(memory, atOnce.memory);
  assert.ok(memory.length < 16_384, `${memory.length} bytes`);
});

test("the settings of the bundle are the defaults", async () => {
  const { readFile } = await import("node:fs/promises");
  const bundle = await readFile(new URL("../../../examples/policies/burn-rate/policy.toml", import.meta.url), "utf8");
  const { properties } = JSON.parse(policy.describe().settingsSchema);
  for (const [name, { default: standard }] of Object.entries(properties)) {
    const said = bundle.match(new RegExp(`^${name} = (.*)$`, "m"))?.[1];
    if (name !== "rules") assert.equal(said, JSON.stringify(standard), name);
    const rule = ({ long, short, burn, then }) => `{ long = "${long}", short = "${short}", burn = ${burn}, then = "${then}" }`;
    if (name === "rules") standard.forEach((each) => assert.ok(bundle.includes(rule(each)), rule(each)));
  }
});
