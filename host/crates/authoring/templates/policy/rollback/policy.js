// Rolls back when too many of V2's calls fail, and warns before that.
//
// Calls are counted from the beginning of a stage on: stages differ in V2's share, and so in what it has to bear.

import { answering, count, define, finding, object, percent, recall, remember, share } from "./sdk/index.js";

const me = define({
  name: "{{NAME}}",
  version: "0.1.0",
  summary: "rolls back when too many of V2's calls fail, and warns before that",
  settings: ordered(
    object({
      min_requests: count(50, "calls of V2 that a stage needs before it is judged", 1),
      warn_error_rate: share("2%", "the share of failed calls over which people are told"),
      max_error_rate: share("5%", "the share of failed calls over which everything goes back"),
    }),
  ),
});

export const policy = me.policy;

export const rollback = {
  judge: answering((check, bytes) => {
    const seen = add(recall(bytes, { stageStartedMs: -1 }), check);
    return { ...judge(seen, me.settings()), evidence: 0, memory: remember(seen) };
  }),
};

/** Adds what happened since the last check. In the shadow phase V2 has no callers, but mirrored calls. */
function add(memory, check) {
  const { stageStartedMs } = check;
  // Other counts belong to another stage.
  const seen = memory.stageStartedMs === stageStartedMs ? memory : { stageStartedMs, requests: 0, errors: 0 };
  for (const operation of check.batches.flatMap((batch) => batch.operations)) {
    const calls = check.phase === "shadow" ? operation.shadow : operation.v2;
    seen.requests += calls.requests;
    seen.errors += calls.errors;
  }
  return seen;
}

function judge(seen, wanted) {
  if (seen.requests < wanted.min_requests) {
    const note = `V2 answered ${seen.requests} of the ${wanted.min_requests} calls needed`;
    const few = finding("v2-requests", seen.requests, wanted.min_requests, "count", note);
    return { verdict: "hold", findings: [few] };
  }
  const rate = Math.ceil((seen.errors * 1_000_000) / seen.requests);
  const failed = (limit) => {
    const note = `${percent(rate)} of V2's calls failed, ${percent(limit)} may`;
    return [finding("v2-error-rate", rate, limit, "ppm", note)];
  };
  if (rate > wanted.max_error_rate) return { verdict: "roll-back", findings: failed(wanted.max_error_rate) };
  if (rate > wanted.warn_error_rate) return { verdict: "warn", findings: failed(wanted.warn_error_rate) };
  return { verdict: "healthy", findings: [] };
}

/** The settings, and that people are told before everything goes back. */
function ordered(settings) {
  const read = (value, path, problems) => {
    const wanted = settings.read(value, path, problems);
    if (wanted?.warn_error_rate > wanted?.max_error_rate) {
      problems.push({ path: "warn_error_rate", message: "is over `max_error_rate`; people are told before" });
    }
    return wanted;
  };
  return { ...settings, read };
}
