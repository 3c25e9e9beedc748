import assert from "node:assert/strict";
import { test } from "node:test";

import { comparison, policy } from "./policy.js";

policy.configure("{}");

function compare(v1, v2) {
  const side = (body) => ({ success: true, status: 0, mediaType: "", body: new TextEncoder().encode(body) });
  return comparison.compare([{ operation: "execute", v1: side(v1), v2: side(v2) }])[0];
}

test("fields are the same, ignored or different", () => {
  assert.deepEqual(compare('{"a":1,"b":"ä"}', '{"b":"ä","a":1}'), { tag: "same" });
  assert.equal(compare('{"worker":1}', '{"worker":2}').tag, "ignored");
  assert.equal(compare('{"a":1}', '{"a":2}').val[0].path, "/a");
  assert.equal(compare("[1]", "[2]").val[0].path, "");
  assert.match(compare("{", "{}").val, /V1/);
});
