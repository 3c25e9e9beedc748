// Settings: each field is described once, and both its reader and its JSON Schema come of that.
//
// A field is `{ schema, read(value, path, problems) }`. `read` gives the value in integers (shares and ratios in parts per
// million, spans in milliseconds), or adds a problem that names the path and says what would be right.

const UNITS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

const PPM = 1_000_000;

/** An object whose fields all have defaults. Fields that it does not know are problems. */
export function object(fields) {
  const names = Object.keys(fields);
  const properties = Object.fromEntries(names.map((name) => [name, fields[name].schema]));
  return {
    schema: { type: "object", properties, additionalProperties: false },
    read(value, path, problems) {
      if (typeof value !== "object" || value === null || Array.isArray(value)) {
        return wrong(problems, path, `is ${JSON.stringify(value)}; it must be a table`);
      }
      const at = (name) => (path === "" ? name : `${path}.${name}`);
      for (const name of Object.keys(value).filter((name) => !names.includes(name))) {
        wrong(problems, at(name), `is not a setting; there are ${names.map((n) => `\`${n}\``).join(", ")}`);
      }
      const read = (name) => [name, fields[name].read(value[name] ?? fields[name].schema.default, at(name), problems)];
      return Object.fromEntries(names.map(read));
    },
  };
}

/** A list of at least one `item`. */
export function list(item, standard, description) {
  return {
    schema: { type: "array", items: item.schema, minItems: 1, default: standard, description },
    read(value, path, problems) {
      if (!Array.isArray(value) || value.length === 0) {
        return wrong(problems, path, "must be a list of at least one");
      }
      return value.map((each, i) => item.read(each, `${path}[${i}]`, problems));
    },
  };
}

/** A share of a whole, in parts per million: `"5%"`, `"99.95%"`, or a whole number of ppm. */
export function share(standard, description, least = 0, most = PPM) {
  const parse = (value) => {
    if (Number.isSafeInteger(value)) return value;
    const [, number] = /^(\d+(?:\.\d{1,4})?)\s*%$/.exec(value) ?? [];
    return number === undefined ? undefined : Math.round(Number(number) * 10_000);
  };
  const range = `a share from ${least / 10_000}% to ${most / 10_000}%`;
  return field({ type: ["string", "integer"] }, standard, description, parse, least, most, range);
}

/** A span of time, in milliseconds: `"250ms"`, `"30s"`, `"5m"`, `"1h"`, `"2d"`, or a whole number of ms. */
export function span(standard, description, least = "0ms", most = "30d") {
  const parse = (value) => {
    if (Number.isSafeInteger(value)) return value;
    const [, number, unit] = /^(\d{1,9})\s*(ms|s|m|h|d)$/.exec(value) ?? [];
    return number === undefined ? undefined : Number(number) * UNITS[unit];
  };
  const range = `a span of time from ${least} to ${most}`;
  return field({ type: ["string", "integer"] }, standard, description, parse, parse(least), parse(most), range);
}

/** A ratio, in parts per million: a number such as `3` or `14.4`. */
export function ratio(standard, description, least = 0, most = 4_294) {
  const parse = (value) => (typeof value === "number" ? Math.round(value * PPM) : undefined);
  const range = `a ratio from ${least} to ${most}`;
  return field({ type: "number" }, standard, description, parse, least * PPM, most * PPM, range);
}

/** A whole number. */
export function count(standard, description, least = 0, most = 1_000_000_000) {
  const parse = (value) => (Number.isSafeInteger(value) ? value : undefined);
  return field({ type: "integer" }, standard, description, parse, least, most, `a whole number from ${least} to ${most}`);
}

/** `true` or `false`. */
export function flag(standard, description) {
  return oneOf([true, false], standard, description);
}

/** One of a few values. */
export function oneOf(values, standard, description) {
  const parse = (value) => (values.includes(value) ? value : undefined);
  const range = values.map((value) => JSON.stringify(value)).join(" or ");
  return field({ enum: values }, standard, description, parse, undefined, undefined, range);
}

function field(type, standard, description, parse, least, most, range) {
  return {
    schema: { ...type, default: standard, description },
    read(value, path, problems) {
      const read = parse(value);
      const fits = read !== undefined && !(read < least) && !(read > most);
      return fits ? read : wrong(problems, path, `is ${JSON.stringify(value)}; it must be ${range}`);
    },
  };
}

function wrong(problems, path, message) {
  problems.push({ path, message });
  return undefined;
}
