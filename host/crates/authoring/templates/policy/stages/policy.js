// Raises V2's share stage by stage: each lasts a while, and goes up only while V2 is called and judged healthy.
//
// It only goes up: going back is the business of the rollback policy.

import { answering, count, define, finding, list, object, recall, remember, share, shown, span } from "./sdk/index.js";

const ALL = 1_000_000;

const me = define({
  name: "{{NAME}}",
  version: "0.1.0",
  summary: "raises V2's share stage by stage while it is called and healthy",
  settings: rising(
    object({
      shares: list(share("5%", "V2's share"), ["5%", "25%", "100%"], "V2's share in each stage"),
      soak: span("1h", "how long each stage lasts at least"),
      min_requests: count(100, "calls of V2 that each stage needs", 1),
    }),
  ),
});

export const policy = me.policy;

export const stages = {
  next: answering((progress, forced, bytes) => {
    const seen = add(recall(bytes, { stageStartedMs: -1 }), progress);
    const missing = waitsFor(progress, seen, me.settings());
    const answer = { action: { tag: "hold" }, findings: missing, memory: remember(seen) };
    if (!forced && missing.length > 0) return answer;
    const action = act(progress, me.settings());
    return { ...answer, action, findings: [] };
  }),
};

/** Adds what happened since the last question. */
function add(memory, progress) {
  const { stageStartedMs } = progress;
  // Other calls belong to another stage.
  const seen = memory.stageStartedMs === stageStartedMs ? memory : { stageStartedMs, requests: 0 };
  for (const operation of progress.batches.flatMap((batch) => batch.operations)) {
    seen.requests += (progress.phase === "shadow" ? operation.shadow : operation.v2).requests;
  }
  return seen;
}

/** What the stage still waits for. */
function waitsFor(progress, seen, wanted) {
  const missing = [];
  const elapsed = Math.max(0, progress.nowMs - progress.stageStartedMs);
  if (elapsed < wanted.soak) {
    const note = `lasted ${shown(elapsed)} of ${shown(wanted.soak)}`;
    missing.push(finding("soak", elapsed, wanted.soak, "ms", note));
  }
  if (seen.requests < wanted.min_requests) {
    const note = `V2 had ${seen.requests} of the ${wanted.min_requests} calls needed`;
    missing.push(finding("calls", seen.requests, wanted.min_requests, "count", note));
  }
  // In the shadow phase V2 has no callers yet, so `hold` does not stand in its way.
  const fine = progress.verdict === "healthy" || (progress.verdict === "hold" && progress.phase === "shadow");
  if (!fine) missing.push(finding("verdict", 0, 1, "verdicts", "the rollback policy does not call V2 healthy"));
  return missing;
}

/** To the next stage; past the last one V2 serves everything for good. */
function act({ phase, stage }, { shares, soak }) {
  if (phase !== "shadow" && phase !== "ramping") return { tag: "hold" };
  const next = phase === "shadow" ? 0 : stage + 1;
  if (next >= shares.length) return { tag: "complete" };
  return { tag: "advance", val: { stage: next, share: shares[next], soakMs: soak } };
}

/** The settings, and that shares rise to all. */
function rising(settings) {
  const read = (value, path, problems) => {
    const wanted = settings.read(value, path, problems);
    const shares = wanted?.shares;
    const rise = shares?.every((share, stage) => share > (stage === 0 ? 0 : shares[stage - 1]));
    if (shares !== undefined && (!rise || shares.at(-1) !== ALL)) {
      problems.push({ path: "shares", message: 'must rise from above 0% to 100%, as in ["5%", "100%"]' });
    }
    return wanted;
  };
  return { ...settings, read };
}
