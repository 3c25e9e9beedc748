// Compares JSON results field by field; some fields may differ.

import { define, object } from "./sdk/index.js";

/** Names of fields, as a setting. */
const names = (standard, description) => ({
  schema: { type: "array", items: { type: "string" }, default: standard, description },
  read(value, path, problems) {
    if (Array.isArray(value) && value.every((each) => typeof each === "string")) return value;
    problems.push({ path, message: `is ${JSON.stringify(value)}; it must be a list of names` });
    return undefined;
  },
});

const me = define({
  name: "{{NAME}}",
  version: "0.1.0",
  summary: "compares JSON results field by field; some fields may differ",
  settings: object({ ignore: names(["duration_ms", "worker"], "fields of the result that may differ") }),
});

export const policy = me.policy;

export const comparison = { compare: (pairs) => pairs.map(outcome) };

function outcome({ v1, v2 }) {
  if (v1.success !== v2.success) {
    const shown = { v1: String(v1.success), v2: String(v2.success) };
    return { tag: "different", val: [{ path: "", kind: "success", category: "semantic", ...shown }] };
  }
  // Two failures mean the same, whatever their words.
  if (!v1.success) return { tag: "same" };
  let one, other;
  try {
    one = parsed("V1", v1.body);
    other = parsed("V2", v2.body);
  } catch (error) {
    return { tag: "incomparable", val: error.message };
  }
  const found = differences(one, other);
  const different = found.filter((difference) => difference.category !== "ignored");
  if (different.length > 0) return { tag: "different", val: different };
  return found.length > 0 ? { tag: "ignored", val: found } : { tag: "same" };
}

/** Field by field; results that are not both objects are compared as a whole. */
function differences(one, other) {
  if (!isObject(one) || !isObject(other)) return difference("", one, other, "semantic");
  const all = [...new Set([...Object.keys(one), ...Object.keys(other)])].sort();
  return all.flatMap((name) => {
    const category = me.settings().ignore.includes(name) ? "ignored" : "semantic";
    return difference(`/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`, one[name], other[name], category);
  });
}

/** What differs at a place, as people read it: nothing, or one difference. `undefined` is a field that is not there. */
function difference(path, v1, v2, category) {
  const [one, other] = [text(v1), text(v2)];
  if (one === other) return [];
  const kind = v2 === undefined ? "missing" : v1 === undefined ? "extra" : "value";
  return [{ path, kind, category, v1: one.slice(0, 200), v2: other.slice(0, 200) }];
}

/** JSON with its fields in order, so that equal values have equal texts. */
function text(value) {
  const sorted = (_, each) =>
    isObject(each) ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1))) : each;
  return JSON.stringify(value, sorted) ?? "";
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The JSON of a body: UTF-8, by way of the one decoder that every engine has. */
function parsed(pool, body) {
  try {
    const escaped = Array.from(body, (byte) => `%${byte.toString(16).padStart(2, "0")}`);
    return JSON.parse(decodeURIComponent(escaped.join("")));
  } catch (error) {
    throw new Error(`the result of ${pool} is not JSON: ${error.message}`);
  }
}
