// What a policy in JavaScript needs beside its own rules: who it is, its settings, its memory.
//
// An interface of the contract is an exported object with the interface's name, its functions in camel case. A record is an
// object with camel-case fields, an enum its case's name, a variant `{ tag, val }`, a `list<u8>` a Uint8Array, a 64-bit
// integer a number. The error of a `result` is thrown.

export { latency } from "./latency.js";
export { count, flag, list, object, oneOf, ratio, share, span } from "./settings.js";
export { percent, shown, times } from "./text.js";

/**
 * The interface `policy`, and a way to the settings. Call it once, at the top of the policy's module:
 *
 *     const me = define({ name: "mine", version: "1.0.0", summary: "..", settings: object({ .. }) });
 *     export const policy = me.policy;
 *
 * @param who `name`, `version`, `summary`, `settings` (an `object(..)` of `settings.js`), and for a routing policy that
 * decides, `attributes`.
 * @returns `policy`, to be exported, and `settings()`, what `configure` took.
 */
export function define({ name, version, summary, settings, attributes = [] }) {
  let configured;
  const policy = {
    describe: () => ({ name, version, summary, attributes, settingsSchema: JSON.stringify(settings.schema) }),
    configure(text) {
      const problems = [];
      const read = settings.read(JSON.parse(text), "", problems);
      if (problems.length > 0) throw problems;
      configured = read;
    },
  };
  return { policy, settings: () => configured };
}

/**
 * Makes a question that may fail of a plain function: what it throws becomes the answer `error`, as a sentence, instead of
 * a trap that says nothing.
 */
export function answering(question) {
  return (...inputs) => {
    try {
      return question(...inputs);
    } catch (error) {
      throw error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    }
  };
}

/** What a policy remembers, from the host's bytes. `fresh` is what it remembers before its first call. */
export function recall(bytes, fresh) {
  if (bytes.length === 0) return fresh;
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return JSON.parse(text);
}

/**
 * What a policy remembers, as bytes. JSON in ASCII, so that people can read it in the decision log and no encoder is needed.
 */
export function remember(memory) {
  const escape = (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  const text = JSON.stringify(memory).replace(/[\u0080-\uffff]/g, escape);
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** One fact behind an answer. Observed values and limits are whole; what does not fit is the nearest that does. */
export function finding(rule, observed, limit, unit, note) {
  const whole = (value) => Math.min(Math.ceil(value), Number.MAX_SAFE_INTEGER);
  return { rule, observed: whole(observed), limit: whole(limit), unit, note };
}
