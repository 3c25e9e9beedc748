// The settings of `burn-rate`. Rules are those of the workbook, shortened from a month to the length of a migration's stages.

import { count, flag, list, object, oneOf, ratio, share, span } from "../sdk/index.js";

const RULES = [
  { long: "10m", short: "1m", burn: 14.4, then: "roll-back" },
  { long: "1h", short: "5m", burn: 6, then: "roll-back" },
  { long: "6h", short: "30m", burn: 1, then: "warn" },
];

const rule = object({
  long: span("1h", "the window that says that it matters", "10s", "7d"),
  short: span("5m", "the window that says that it is still going on", "1s", "7d"),
  burn: ratio(6, "the burn rate that is allowed; at 1 the budget lasts just as long as the period", 0.01),
  then: oneOf(["roll-back", "warn"], "roll-back", "the verdict when both windows burn faster"),
});

export const settings = object({
  objective: share("99.9%", "the share of V2's calls that are to go well", 500_000, 999_990),
  slow_after: span("0ms", "calls that take longer are bad ones; 0ms for none", "0ms", "1h"),
  min_requests: count(100, "calls of V2 within a long window that its rule needs, and that a healthy V2 needs", 1),
  spare_shared: flag(true, "warn rather than roll back while V1 burns as fast"),
  rules: list(rule, RULES, "what is too fast; each rule speaks for itself"),
});
