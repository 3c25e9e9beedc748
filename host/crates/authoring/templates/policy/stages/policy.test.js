import assert from "node:assert/strict";
import { test } from "node:test";

import { policy, stages } from "./policy.js";

policy.configure("{}");

function next(nowMs, stage, requests, forced = false) {
  const batches = [{ operations: [{ operation: "execute", v2: { requests } }] }];
  const progress = { nowMs, phase: "ramping", stage, share: 50_000, stageStartedMs: 0, verdict: "healthy", batches };
  return stages.next(progress, forced, []).action;
}

test("a stage ends after its time and its calls", () => {
  const up = { tag: "advance", val: { stage: 1, share: 250_000, soakMs: 3_600_000 } };
  assert.deepEqual(next(3_599_999, 0, 100), { tag: "hold" });
  assert.deepEqual(next(3_600_000, 0, 99), { tag: "hold" });
  assert.deepEqual(next(3_600_000, 0, 100), up);
  assert.deepEqual(next(0, 0, 0, true), up);
  assert.deepEqual(next(3_600_000, 2, 100), { tag: "complete" });
});
