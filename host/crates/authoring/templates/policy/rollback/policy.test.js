import assert from "node:assert/strict";
import { test } from "node:test";

import { policy, rollback } from "./policy.js";

policy.configure("{}");

function verdict(requests, errors) {
  const calls = { requests, errors };
  const batch = { operations: [{ operation: "execute", v2: calls }] };
  return rollback.judge({ phase: "ramping", stageStartedMs: 0, batches: [batch] }, []).verdict;
}

test("the verdict follows the share of failed calls", () => {
  assert.equal(verdict(49, 49), "hold");
  assert.equal(verdict(100, 2), "healthy");
  assert.equal(verdict(100, 3), "warn");
  assert.equal(verdict(100, 6), "roll-back");
});
