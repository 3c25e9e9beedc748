// What `burn-rate` remembers: for each window the calls of both pools, in slices, because one number per batch would grow
// with the window.
//
// { phase, stage, windows: { "600000": [[slice, v1 calls, v1 bad, v2 calls, v2 bad], ..] } }

import { latency } from "../sdk/index.js";

/** Slices in a window; a call is forgotten at most one slice late. */
const SLICES = 60;

/**
 * Goes on where the last check ended while V2 keeps its calls or gets more; begins afresh if it lost them since, because what
 * it did before that is not held against it. A pause changes nothing.
 */
export function begin(memory, check) {
  if (memory !== undefined && check.phase === "paused") return memory;
  const { phase, stage } = check;
  const goesOn = memory?.phase === phase ? memory.stage <= stage : memory?.phase === "ramping" && phase === "complete";
  return { phase, stage, windows: goesOn ? memory.windows : {} };
}

/** Adds what happened to each window, and forgets what is older. */
export function add(memory, check, spans, slowAfter) {
  const happened = check.batches.map((batch) => [batch.startMs, counted(batch, memory.phase, slowAfter)]);
  const windows = {};
  for (const span of spans) {
    const slices = memory.windows[span] ?? [];
    for (const [start, counts] of happened) {
      const number = Math.floor(start / (span / SLICES));
      // Batches come oldest first. If one did not, its slice would be there twice, and still be summed once.
      let slice = slices.at(-1);
      if (slice?.[0] !== number) slices.push((slice = [number, 0, 0, 0, 0]));
      for (let i = 0; i < counts.length; i += 1) slice[i + 1] += counts[i];
    }
    windows[span] = slices.filter((slice) => slice[0] > oldest(span, check.nowMs));
  }
  memory.windows = windows;
}

/** The calls of a batch: V1's, bad ones of V1, V2's, bad ones of V2. Mirrored calls are V2's in the shadow phase. */
function counted(batch, phase, slowAfter) {
  const sums = [0, 0, 0, 0];
  for (const operation of batch.operations) {
    const v2 = phase === "shadow" ? operation.shadow : operation.v2;
    sums[0] += operation.v1.requests;
    sums[1] += bad(operation.v1, slowAfter);
    sums[2] += v2.requests;
    sums[3] += bad(v2, slowAfter);
  }
  return sums;
}

/** The calls of both pools within a window. */
export function totals(memory, span, now) {
  const sum = { v1: { calls: 0, bad: 0 }, v2: { calls: 0, bad: 0 } };
  for (const [number, v1, v1Bad, v2, v2Bad] of memory.windows[span] ?? []) {
    if (number <= oldest(span, now)) continue;
    sum.v1.calls += v1;
    sum.v1.bad += v1Bad;
    sum.v2.calls += v2;
    sum.v2.bad += v2Bad;
  }
  return sum;
}

/** The last slice that is too old. */
function oldest(span, now) {
  return Math.floor(now / (span / SLICES)) - SLICES;
}

/** Calls that failed or were too slow; one that timed out is not counted twice. */
function bad(calls, slowAfter) {
  if (slowAfter === 0) return calls.errors;
  const slow = latency.slowerThan(calls.latency, slowAfter * 1_000);
  return Math.min(calls.requests, calls.errors + slow - Math.min(calls.timeouts, slow));
}
