// Values as the sentences of findings show them, as the other policies do: `12.3 %`, `2.5x`, `1h 30m`.

const UNITS = [["d", 86_400_000], ["h", 3_600_000], ["m", 60_000], ["s", 1_000], ["ms", 1]];

/** A share in parts per million as `12.3 %`. */
export const percent = (ppm) => `${Number((ppm / 10_000).toFixed(4))} %`;

/** A ratio in parts per million as `2.5x`. */
export const times = (ppm) => `${Number((ppm / 1_000_000).toFixed(2))}x`;

/** A span of time in milliseconds in its two largest units. */
export function shown(ms) {
  const largest = UNITS.findIndex(([, unit]) => ms >= unit);
  if (largest < 0) return "0s";
  const parts = [];
  for (const [name, unit] of UNITS.slice(largest, largest + 2)) {
    if (ms >= unit) parts.push(`${Math.floor(ms / unit)}${name}`);
    ms %= unit;
  }
  return parts.join(" ");
}
