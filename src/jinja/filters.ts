import { SPACE } from "./lexer.js";
import { capitalize, entriesOf, isLower, isUpper, pad, replace, splitLines, strip, subscript } from "./methods.js";
import { calculate, contains, formatText } from "./operators.js";
import { bind, optionalInt, optionalText, text } from "./signature.js";
import {
  asNumber,
  type Budget,
  Callable,
  charactersOf,
  floatRepr,
  generator,
  Items,
  isDict,
  isEqual,
  isList,
  isNumber,
  isOrdered,
  isTrue,
  itemsOf,
  joinTexts,
  type Kwargs,
  keyOf,
  lengthOf,
  notSupported,
  type Ordering,
  orElse,
  SafeText,
  toFloat,
  toText,
  tuple,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

type Args = readonly (Value | undefined)[];
type FilterFunction = (value: Value, args: Args, budget: Budget) => Value;
type TestFunction = (value: Value, args: Args, budget: Budget) => boolean;

const textOf = (filter: (text: string, args: Args, budget: Budget) => Value): FilterFunction => {
  return (value, args, budget) => filter(toText(value, budget), args, budget);
};

const length: FilterFunction = (value) => BigInt(lengthOf(value));
const fallback: FilterFunction = (value, [other = "", forFalse = false]) =>
  value instanceof Undefined || (isTrue(forFalse!) && !isTrue(value)) ? other! : value;

/** Jinja2's filters, each with its signature after the value; `/` before it, since all may be given by name. */
const FILTERS: Readonly<Record<string, readonly [signature: string, filter: FilterFunction]>> = {
  abs: ["", (value) => absolute(value)],
  capitalize: ["", textOf(capitalize)],
  center: ["width?", textOf((self, [width = 80n], budget) => pad(self, [width], "both", budget))],
  count: ["", length],
  d: ["default_value? boolean?", fallback],
  default: ["default_value? boolean?", fallback],
  dictsort: ["case_sensitive? by? reverse?", dictSort],
  first: [
    "",
    (value, _, budget) => orElse(itemsOf(value, budget)[0], () => new Undefined("No first item, sequence was empty")),
  ],
  float: ["default?", (value, [other = 0]) => readFloat(value) ?? other!],
  indent: ["width? first? blank?", (value, args, budget) => indent(text("value", value), args, budget)],
  int: ["default? base?", toInt],
  items: ["", (value) => generator(value instanceof Undefined ? [] : entriesOf(dictOf(value)))],
  join: ["d? attribute?", join],
  last: ["", last],
  length: ["", length],
  list: ["", (value, _, budget) => itemsOf(value, budget)],
  lower: ["", textOf((self) => self.toLowerCase())],
  max: ["case_sensitive? attribute?", (value, args, budget) => extreme(value, args, budget, ">")],
  min: ["case_sensitive? attribute?", (value, args, budget) => extreme(value, args, budget, "<")],
  replace: [
    "old new count?",
    textOf((self, [old, by, count], budget) => {
      const limit = count === null ? -1 : optionalInt("count", count, -1);
      return replace(self, toText(old!, budget), toText(by!, budget), limit, budget);
    }),
  ],
  reverse: ["", reverse],
  round: ["precision? method?", round],
  safe: ["", (value, _, budget) => new SafeText(toText(value, budget))],
  sort: ["reverse? case_sensitive? attribute?", sort],
  string: ["", textOf((self) => self)],
  sum: ["attribute? start?", sum],
  title: ["", textOf(title)],
  tojson: ["ensure_ascii? indent? separators? sort_keys?", toJson],
  trim: ["chars?", textOf((self, [chars]) => strip(self, chars, "both"))],
  unique: ["case_sensitive? attribute?", unique],
  upper: ["", textOf((self) => self.toUpperCase())],
  wordcount: ["", textOf((self) => BigInt(self.match(/[\p{L}\p{N}_]+/gu)?.length ?? 0))],
};

/** Those that name other filters or tests, and have arguments for them. */
const FILTERS_OF_NAMES = ["format", "map", "select", "reject", "selectattr", "rejectattr"];

export function isFilter(name: string): boolean {
  return Object.hasOwn(FILTERS, name) || FILTERS_OF_NAMES.includes(name);
}

/** @throws Error for a filter that is not known, TypeError for arguments that do not fit. */
export function applyFilter(name: string, value: Value, args: readonly Value[], kwargs: Kwargs, budget: Budget): Value {
  budget.step();
  if (!isFilter(name)) return notSupported(`the filter "${name}"`);
  if (value instanceof SafeText && name !== "string" && name !== "safe") notSupported(`"${name}" of text marked safe`);
  if (Object.hasOwn(FILTERS, name)) {
    const [signature, filter] = FILTERS[name]!;
    return filter(value, bind(name, `/ ${signature}`, args, kwargs), budget);
  }
  if (name === "format") {
    if (kwargs.size > 0) notSupported("a format by names");
    return formatText(toText(value, budget), tuple(...args), budget);
  }
  const items = itemsOf(value, budget);
  if (name === "map") return generator(mapItems(items, args, kwargs, budget));
  const byAttribute = name.endsWith("attr");
  const attribute = byAttribute ? args[0] : null;
  if (attribute === undefined) throw new TypeError(`${name}() is missing "attribute"`);
  const [test, ...rest] = byAttribute ? args.slice(1) : args;
  const wanted = name.startsWith("select");
  const kept = items.filter((item) => {
    const looked = attributeOf(item, attribute, budget);
    const holds = test === undefined ? isTrue(looked) : applyTest(text("test", test), looked, rest, budget, kwargs);
    return holds === wanted;
  });
  return generator(kept);
}

function mapItems(items: readonly Value[], args: readonly Value[], kwargs: Kwargs, budget: Budget): Value[] {
  if (args.length === 0) {
    const [attribute, other] = bind("map", "/ attribute default?", args, kwargs);
    return items.map((item) => attributeOf(item, attribute!, budget, other ?? undefined));
  }
  const [name, ...rest] = args;
  return items.map((item) => applyFilter(text("filter", name), item, rest, kwargs, budget));
}

/** An item's own field, at a path with dots or an index; the item itself for None. */
function attributeOf(item: Value, path: Value, budget: Budget, other?: Value): Value {
  budget.step();
  if (path === null) return item;
  const parts = typeof path === "bigint" ? [path] : text("attribute", path).split(".");
  let value = item;
  for (const part of parts) {
    const key = typeof part === "string" && /^\d+$/.test(part) ? BigInt(part) : part;
    value = subscript(value, key, budget);
    if (other !== undefined && value instanceof Undefined) value = other;
  }
  return value;
}

function dictOf(value: Value): ReadonlyMap<Value, Value> {
  if (!isDict(value)) throw new TypeError(`can only get item pairs from a mapping, not from ${typeName(value)}`);
  return value;
}

function absolute(value: Value): Value {
  if (!isNumber(value)) throw new TypeError(`bad operand type for abs(): '${typeName(value)}'`);
  const number = asNumber(value);
  return number < 0 || Object.is(number, -0) ? -number : number;
}

/** As JavaScript compares for a sort, with the text's case ignored unless `caseSensitive`. */
function comparison(caseSensitive: Value | undefined, budget: Budget): (a: Value, b: Value) => number {
  const folded = (value: Value) =>
    typeof value === "string" && !isTrue(caseSensitive ?? false) ? value.toLowerCase() : value;
  return (a, b) => {
    const [left, right] = [folded(a), folded(b)];
    return isOrdered("<", left, right, budget) ? -1 : Number(isOrdered("<", right, left, budget));
  };
}

function dictSort(value: Value, [caseSensitive, by = "key", reversed]: Args, budget: Budget): Value {
  if (by !== "key" && by !== "value") throw new TypeError('you can only sort by either "key" or "value"');
  const order = comparison(caseSensitive, budget);
  const sign = optionalInt("reverse", reversed, 0) !== 0 ? -1 : 1;
  const entries = [...dictOf(value)].sort((a, b) => sign * (by === "key" ? order(a[0], b[0]) : order(a[1], b[1])));
  return entries.map(([key, item]) => tuple(key, item));
}

function sort(value: Value, [reversed, caseSensitive, attribute = null]: Args, budget: Budget): Value {
  const order = comparison(caseSensitive, budget);
  const sign = optionalInt("reverse", reversed, 0) !== 0 ? -1 : 1;
  const paths: readonly Value[] = typeof attribute === "string" ? attribute.split(",") : [attribute];
  const keyed = itemsOf(value, budget).map((item) => ({
    item,
    keys: paths.map((path) => attributeOf(item, path, budget)),
  }));
  keyed.sort((a, b) => {
    for (const [i, key] of a.keys.entries()) {
      const ordered = order(key, b.keys[i]!);
      if (ordered !== 0) return sign * ordered;
    }
    return 0;
  });
  return keyed.map(({ item }) => item);
}

function unique(value: Value, [caseSensitive, attribute = null]: Args, budget: Budget): Value {
  const isFolded = !isTrue(caseSensitive ?? false);
  const seen = new Set<Value>();
  const kept = itemsOf(value, budget).filter((item) => {
    const key = keyOf(attributeOf(item, attribute, budget));
    const folded = typeof key === "string" && isFolded ? key.toLowerCase() : key;
    const isNew = !seen.has(folded);
    seen.add(folded);
    return isNew;
  });
  return generator(kept);
}

function extreme(value: Value, [caseSensitive, attribute = null]: Args, budget: Budget, op: Ordering): Value {
  const order = comparison(caseSensitive, budget);
  const keyed = itemsOf(value, budget).map((item) => ({ item, key: attributeOf(item, attribute, budget) }));
  if (keyed.length === 0) return new Undefined("No aggregated item, sequence was empty");
  const sign = op === "<" ? 1 : -1;
  return keyed.reduce((best, next) => (sign * order(next.key, best.key) < 0 ? next : best)).item;
}

function sum(value: Value, [attribute = null, start = 0n]: Args, budget: Budget): Value {
  return itemsOf(value, budget).reduce(
    (total, item) => calculate("+", total, attributeOf(item, attribute, budget), budget),
    start!,
  );
}

function join(value: Value, [separator = "", attribute = null]: Args, budget: Budget): Value {
  const texts = itemsOf(value, budget).map((item) => toText(attributeOf(item, attribute, budget), budget));
  return joinTexts(texts, toText(separator!, budget), budget);
}

function last(value: Value, _: Args, budget: Budget): Value {
  if (value instanceof Items && value.kind === "generator") throw new TypeError("'generator' object is not reversible");
  return orElse(itemsOf(value, budget).at(-1), () => new Undefined("No last item, sequence was empty"));
}

function reverse(value: Value, _: Args, budget: Budget): Value {
  if (typeof value === "string") return charactersOf(value).reverse().join("");
  const reversed = [...itemsOf(value, budget)].reverse();
  // What Python cannot reverse, it makes a list of.
  return value instanceof Items && value.kind === "generator" ? reversed : generator(reversed);
}

function title(self: string): string {
  const words = self.split(new RegExp(`([-({\\[<]|${SPACE})`));
  return words.map((word) => word.slice(0, 1).toUpperCase() + word.slice(1).toLowerCase()).join("");
}

function indent(self: string, [width = 4n, first = false, blank = false]: Args, budget: Budget): Value {
  const indention = typeof width === "string" ? width : pad("", [width], "left", budget);
  const lines = splitLines(`${self}\n`);
  const isIndented = (line: string, i: number) => (i === 0 ? isTrue(first!) : line !== "" || isTrue(blank!));
  budget.length(self.length + lines.length * indention.length);
  return lines.map((line, i) => (isIndented(line, i) ? indention + line : line)).join("\n");
}

/** Python's `float()`, undefined for what is no number. */
function readFloat(value: Value): number | undefined {
  if (isNumber(value)) return toFloat(asNumber(value));
  if (value instanceof Undefined) value.fail();
  if (typeof value !== "string") return undefined;
  const written = readable(value).toLowerCase();
  if (/^[+-]?(?:\d+(?:_\d+)*\.?(?:\d+(?:_\d+)*)?|\.\d+(?:_\d+)*)(?:e[+-]?\d+(?:_\d+)*)?$/.test(written)) {
    return Number(written.replaceAll("_", ""));
  }
  const [, sign, word] = /^([+-]?)(inf|infinity|nan)$/.exec(written) ?? [];
  if (word === undefined) return undefined;
  return word === "nan" ? Number.NaN : sign === "-" ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
}

/** A text as Python reads numbers from it. */
function readable(value: string): string {
  if (/(?=[^0-9])\p{Nd}/u.test(value)) notSupported("a number in digits other than 0 to 9");
  return strip(value, undefined, "both");
}

function toInt(value: Value, [other = 0n, base = 10n]: Args): Value {
  if (base !== 10n) notSupported("a base other than 10");
  if (typeof value === "bigint" || typeof value === "boolean") return asNumber(value);
  if (typeof value === "string") {
    const written = readable(value);
    if (/^[+-]?\d+(?:_\d+)*$/.test(written)) {
      const digits = written.replace(/^\+/, "").replaceAll("_", "");
      // Python reads no int of more digits.
      return digits.replace("-", "").length > 4300 ? other! : BigInt(digits);
    }
  }
  const float = readFloat(value);
  if (float === undefined || (typeof value === "string" && !Number.isFinite(float)) || Number.isNaN(float))
    return other!;
  if (!Number.isFinite(float)) throw new TypeError("cannot convert float infinity to integer");
  return BigInt(Math.trunc(float));
}

function round(value: Value, [precision = 0n, method = "common"]: Args): Value {
  if (method !== "common" && method !== "ceil" && method !== "floor") {
    throw new TypeError("method must be common, ceil or floor");
  }
  const digits = optionalInt("precision", precision, 0);
  if (!isNumber(value)) throw new TypeError(`cannot round ${typeName(value)}`);
  if (digits < 0 || digits > 20) notSupported(`round() to ${digits} digits`);
  const number = asNumber(value);
  if (method !== "common") {
    const scaled = toFloat(number) * 10 ** digits;
    return (method === "ceil" ? Math.ceil(scaled) : Math.floor(scaled)) / 10 ** digits;
  }
  if (typeof number === "bigint" || !Number.isFinite(number) || Math.abs(number) >= 1e20) return number;
  // Both round the exact value; of two that are as near, Python takes the even one and JavaScript the larger one.
  const exact = Math.abs(number).toFixed(Math.min(100, digits + 30));
  const isTie = /^50*$/.test(exact.slice(exact.indexOf(".") + 1 + digits));
  const rounded = Number(Math.abs(number).toFixed(digits));
  const isOdd = /[13579]$/.test(Math.abs(number).toFixed(digits));
  const size = isTie && isOdd ? Number((rounded - 10 ** -digits).toFixed(digits)) : rounded;
  return number < 0 || Object.is(number, -0) ? -size : size;
}

/** Python's `json.dumps`, as Transformers overrides the filter: `ensure_ascii` is false, nothing is escaped for HTML. */
function toJson(
  value: Value,
  [ascii = false, indentation = null, separators = null, sortKeys = false]: Args,
  budget: Budget,
): Value {
  const isSorted = isTrue(sortKeys!);
  const step = isNumber(indentation!) ? pad("", [indentation], "left", budget) : optionalText("indent", indentation);
  const given = separators === null ? [] : itemsOf(separators!, budget).map((item) => text("separators", item));
  const [between = step === undefined ? ", " : ",", afterKey = ": "] = given;
  if (separators !== null && given.length !== 2) throw new TypeError("separators wants two texts");
  const texts = (texts: readonly string[], depth: number, [open, close]: readonly [string, string]): string => {
    if (texts.length === 0) return open + close;
    const line = (at: number) => {
      budget.length((step?.length ?? 0) * at);
      return step === undefined ? "" : `\n${step.repeat(at)}`;
    };
    const inner = joinTexts(texts, between + line(depth + 1), budget);
    return open + line(depth + 1) + inner + line(depth) + close;
  };
  const write = (item: Value, depth: number): string => {
    budget.step();
    if (typeof item === "string") return jsonText(item, isTrue(ascii!));
    if (item === null) return "null";
    if (typeof item === "boolean" || typeof item === "bigint") return String(item);
    if (typeof item === "number")
      return { nan: "NaN", inf: "Infinity", "-inf": "-Infinity" }[floatRepr(item)] ?? floatRepr(item);
    if (isList(item) || (item instanceof Items && item.kind === "tuple")) {
      return texts(
        itemsOf(item, budget).map((part) => write(part, depth + 1)),
        depth,
        ["[", "]"],
      );
    }
    if (!isDict(item)) throw new TypeError(`Object of type ${typeName(item)} is not JSON serializable`);
    const entries = [...item];
    if (isSorted) entries.sort(([a], [b]) => (isOrdered("<", a, b, budget) ? -1 : 1));
    return texts(
      entries.map(
        ([key, part]) =>
          `${typeof key === "string" ? write(key, 0) : `"${write(key, 0)}"`}${afterKey}${write(part, depth + 1)}`,
      ),
      depth,
      ["{", "}"],
    );
  };
  return write(value, 0);
}

function jsonText(value: string, onlyAscii: boolean): string {
  const json = JSON.stringify(value);
  if (onlyAscii)
    return json.replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return value.isWellFormed() ? json : notSupported("half a surrogate pair in tojson");
}

const compared = (
  compare: (value: Value, other: Value, budget: Budget) => boolean,
): readonly [string, TestFunction] => ["other", (value, [other], budget) => compare(value, other!, budget)];
const of = (holds: (value: Value) => boolean): readonly [string, TestFunction] => ["", holds];
const equal = compared(isEqual);
const unequal = compared((a, b, budget) => !isEqual(a, b, budget));
const ordered = (op: Ordering) => compared((a, b, budget) => isOrdered(op, a, b, budget));
const remainder = (value: Value, by: Value, budget: Budget) => calculate("%", value, by, budget);

/** Jinja2's tests. */
const TESTS: Readonly<Record<string, readonly [signature: string, test: TestFunction]>> = {
  "!=": unequal,
  "<": ordered("<"),
  "<=": ordered("<="),
  "==": equal,
  ">": ordered(">"),
  ">=": ordered(">="),
  boolean: of((value) => typeof value === "boolean"),
  callable: of((value) => value instanceof Callable),
  defined: of((value) => !(value instanceof Undefined)),
  divisibleby: ["num", (value, [num], budget) => isEqual(remainder(value, num!, budget), 0n, budget)],
  eq: equal,
  equalto: equal,
  even: ["", (value, _, budget) => isEqual(remainder(value, 2n, budget), 0n, budget)],
  false: of((value) => value === false),
  float: of((value) => typeof value === "number"),
  ge: ordered(">="),
  greaterthan: ordered(">"),
  gt: ordered(">"),
  in: ["seq", (value, [seq], budget) => contains(seq!, value, budget)],
  integer: of((value) => typeof value === "bigint"),
  iterable: of(
    (value) =>
      typeof value === "string" ||
      isList(value) ||
      isDict(value) ||
      value instanceof Items ||
      value instanceof Undefined,
  ),
  le: ordered("<="),
  lessthan: ordered("<"),
  lower: ["", (value, _, budget) => isLower(toText(value, budget))],
  lt: ordered("<"),
  mapping: of(isDict),
  ne: unequal,
  none: of((value) => value === null),
  number: of(isNumber),
  odd: ["", (value, _, budget) => isEqual(remainder(value, 2n, budget), 1n, budget)],
  sameas: ["other", (value, [other]) => isSame(value, other!)],
  sequence: of(
    (value) =>
      typeof value === "string" || isList(value) || isDict(value) || value instanceof Undefined || isIndexed(value),
  ),
  string: of((value) => typeof value === "string"),
  true: of((value) => value === true),
  undefined: of((value) => value instanceof Undefined),
  upper: ["", (value, _, budget) => isUpper(toText(value, budget))],
};

export function isTest(name: string): boolean {
  return Object.hasOwn(TESTS, name);
}

/** @throws Error for a test that is not known, TypeError for arguments that do not fit. */
export function applyTest(
  name: string,
  value: Value,
  args: readonly Value[],
  budget: Budget,
  kwargs: Kwargs = new Map(),
): boolean {
  budget.step();
  if (!isTest(name)) return notSupported(`the test "${name}"`);
  if (value instanceof SafeText) notSupported("a test of text marked safe");
  const [signature, test] = TESTS[name]!;
  return test(value, bind(name, `/ ${signature}`, args, kwargs), budget);
}

function isIndexed(value: Value): boolean {
  return value instanceof Items && (value.kind === "tuple" || value.kind === "range");
}

/** Python's `is`; whether two texts or numbers are one is Python's own affair. */
function isSame(a: Value, b: Value): boolean {
  const isOneOfAKind = (value: Value) => value === null || typeof value === "boolean";
  const isPlain = (value: Value) => typeof value === "string" || isNumber(value);
  if (isPlain(a) && isPlain(b) && !isOneOfAKind(a) && !isOneOfAKind(b)) notSupported('"sameas" for texts and numbers');
  return a === b;
}
