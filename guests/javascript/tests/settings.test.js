import assert from "node:assert/strict";
import { test } from "node:test";

import { count, define, flag, list, object, oneOf, ratio, share, span } from "../sdk/index.js";

const settings = object({
  limit: share("5%", "a share", 0, 500_000),
  window: span("1m", "a span", "1s", "1h"),
  factor: ratio(2.5, "a ratio", 1),
  calls: count(100, "a count", 1),
  strict: flag(true, "a flag"),
  rules: list(object({ then: oneOf(["warn", "hold"], "warn", "what") }), [{}], "rules"),
});

const me = () => define({ name: "p", version: "1", summary: "s", settings });

function problems(text) {
  try {
    me().policy.configure(text);
  } catch (problems) {
    return problems.map((problem) => `${problem.path}: ${problem.message}`);
  }
  return [];
}

test("an empty object gives the defaults as integers", () => {
  const policy = me();
  policy.policy.configure("{}");
  const expected = { limit: 50_000, window: 60_000, factor: 2_500_000, calls: 100, strict: true, rules: [{ then: "warn" }] };
  assert.deepEqual(policy.settings(), expected);
});

test("each setting is read in each way to write it", () => {
  const policy = me();
  policy.policy.configure('{ "limit": "0.0125%", "window": "90s", "factor": 3, "strict": false, "rules": [{ "then": "hold" }] }');
  const { limit, window, factor, strict, rules } = policy.settings();
  assert.deepEqual([limit, window, factor, strict, rules], [125, 90_000, 3_000_000, false, [{ then: "hold" }]]);
  policy.policy.configure('{ "limit": 7, "window": 1000 }');
  assert.deepEqual([policy.settings().limit, policy.settings().window], [7, 1_000]);
});

test("every problem is listed with its path", () => {
  const wrong = '{ "limit": "51%", "window": "1y", "factor": "2", "calls": 1.5, "strict": 1, "rules": [{ "then": "x", "if": 1 }], "n": 1 }';
  assert.deepEqual(problems(wrong), [
    "n: is not a setting; there are `limit`, `window`, `factor`, `calls`, `strict`, `rules`",
    'limit: is "51%"; it must be a share from 0% to 50%',
    'window: is "1y"; it must be a span of time from 1s to 1h',
    'factor: is "2"; it must be a ratio from 1 to 4294',
    "calls: is 1.5; it must be a whole number from 1 to 1000000000",
    "strict: is 1; it must be true or false",
    "rules[0].if: is not a setting; there are `then`",
    'rules[0].then: is "x"; it must be "warn" or "hold"',
  ]);
  assert.deepEqual(problems('{ "rules": [] }'), ["rules: must be a list of at least one"]);
  assert.deepEqual(problems("[]"), [": is []; it must be a table"]);
});

test("the schema says the fields and their defaults", () => {
  const { settingsSchema } = me().policy.describe();
  const { properties, additionalProperties } = JSON.parse(settingsSchema);
  assert.deepEqual(Object.keys(properties), ["limit", "window", "factor", "calls", "strict", "rules"]);
  assert.deepEqual([properties.limit.default, properties.rules.items.type, additionalProperties], ["5%", "object", false]);
});
