import assert from "node:assert/strict";
import { test } from "node:test";

import { answering, finding, latency, percent, recall, remember, shown, times } from "../sdk/index.js";

test("memory comes back as it went, whatever is in it", () => {
  const memory = { list: [1, 2.5, null], text: "Zürich \u{1f600} \"quoted\"" };
  const bytes = remember(memory);
  assert.ok(bytes instanceof Uint8Array && bytes.every((byte) => byte < 0x80));
  assert.deepEqual(recall(bytes, undefined), memory);
  assert.equal(recall(new Uint8Array(), "fresh"), "fresh");
});

test("buckets have the bounds that the contract says", () => {
  for (const [index, bound] of [[0, 0], [63, 63], [64, 64], [65, 66], [96, 128], [927, 63 * 2 ** 27]]) {
    assert.equal(latency.lowerBound(index), bound);
  }
  for (let index = 0; index < 927; index += 1) {
    assert.equal(latency.upperBound(index) + 1, latency.lowerBound(index + 1));
  }
  const buckets = [{ index: 10, count: 5 }, { index: 64, count: 3 }, { index: 96, count: 2 }];
  assert.equal(latency.slowerThan(buckets, 64), 2);
  assert.equal(latency.slowerThan(buckets, 63), 5);
});

test("what a question throws is a sentence", () => {
  const thrown = (error) => {
    try {
      answering(() => {
        throw error;
      })();
    } catch (message) {
      return message;
    }
  };
  assert.equal(thrown(new TypeError("x is not a function")), "TypeError: x is not a function");
  assert.equal(thrown("no plan"), "no plan");
  assert.equal(answering((a, b) => a + b)(1, 2), 3);
});

test("findings are whole numbers and read like the others'", () => {
  assert.deepEqual(finding("r", 1.2, 2, "count", "n"), { rule: "r", observed: 2, limit: 2, unit: "count", note: "n" });
  assert.equal(finding("r", 1e300, 0, "count", "n").observed, Number.MAX_SAFE_INTEGER);
  assert.deepEqual([percent(123_000), times(14_400_000), shown(5_430_000), shown(0)], ["12.3 %", "14.4x", "1h 30m", "0s"]);
});
