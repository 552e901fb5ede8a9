import {
  type Args,
  bind,
  capitalize,
  entriesOf,
  isLower,
  isUpper,
  optionalInt,
  optionalText,
  replace,
  reversed,
  splitLines,
  strip,
  subscript,
  text,
} from "./methods.js";
import { calculate, compare, isEqual, order } from "./operators.js";
import type { Comparison } from "./syntax.js";
import {
  asNumber,
  type Budget,
  floatRepr,
  generator,
  Items,
  isDict,
  isList,
  isNumber,
  isTrue,
  isTuple,
  itemsOf,
  joinTexts,
  type Kwargs,
  lengthOf,
  notSupported,
  orElse,
  SafeText,
  TemplateError,
  toText,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

type FilterFunction = (value: Value, args: Args, budget: Budget) => Value;

const textOf = (filter: (text: string, args: Args, budget: Budget) => Value): FilterFunction => {
  return (value, args, budget) => filter(toText(value, budget), args, budget);
};

const length: FilterFunction = (value) => BigInt(lengthOf(value));
const fallback: FilterFunction = (value, [other = "", forFalse = false]) =>
  value instanceof Undefined || (isTrue(forFalse!) && !isTrue(value)) ? other! : value;

/** Jinja2's filters, each with its signature after the value; `/` before it, since all may be given by name. */
const FILTERS: Readonly<Record<string, readonly [signature: string, filter: FilterFunction]>> = {
  capitalize: ["", textOf(capitalize)],
  count: ["", length],
  d: ["default_value? boolean?", fallback],
  default: ["default_value? boolean?", fallback],
  dictsort: [
    "case_sensitive! by! reverse!",
    (value, _, budget) => entriesOf(new Map([...dictOf(value)].sort(([a], [b]) => orderOfFolded(a, b, budget)))),
  ],
  first: [
    "",
    (value, _, budget) => orElse(itemsOf(value, budget)[0], () => new Undefined("No first item, sequence was empty")),
  ],
  indent: ["width? first? blank?", (value, args, budget) => indent(text("value", value), args, budget)],
  int: ["default! base!", toInt],
  items: ["", (value) => generator(value instanceof Undefined ? [] : entriesOf(dictOf(value)))],
  join: ["d? attribute?", join],
  last: ["", last],
  length: ["", length],
  list: ["", (value, _, budget) => itemsOf(value, budget)],
  lower: ["", textOf((self) => self.toLowerCase())],
  replace: [
    "old new count?",
    textOf((self, [old, by, count], budget) => {
      const limit = count === null ? -1 : optionalInt("count", count, -1);
      return replace(self, toText(old!, budget), toText(by!, budget), limit, budget);
    }),
  ],
  reverse: ["", reverse],
  safe: ["", (value, _, budget) => new SafeText(toText(value, budget))],
  sort: [
    "reverse? case_sensitive! attribute!",
    (value, [reverse = false], budget) => {
      const sign = isTrue(reverse!) ? -1 : 1;
      return [...itemsOf(value, budget)].sort((a, b) => sign * orderOfFolded(a, b, budget));
    },
  ],
  string: ["", textOf((self) => self)],
  tojson: ["ensure_ascii? indent? separators? sort_keys?", toJson],
  trim: ["chars?", textOf((self, [chars]) => strip(self, chars, "both"))],
  upper: ["", textOf((self) => self.toUpperCase())],
};

/** Those that name other filters or tests, and have arguments for them. */
const FILTERS_OF_NAMES = ["map", "select", "reject", "selectattr", "rejectattr"];

export function isFilter(name: string): boolean {
  return Object.hasOwn(FILTERS, name) || FILTERS_OF_NAMES.includes(name);
}

/** @throws TemplateError for a filter that is not known, or arguments that do not fit. */
export function applyFilter(name: string, value: Value, args: readonly Value[], kwargs: Kwargs, budget: Budget): Value {
  budget.step();
  if (!isFilter(name)) return notSupported(`the filter "${name}"`);
  if (value instanceof SafeText && name !== "string" && name !== "safe") notSupported(`"${name}" of text marked safe`);
  if (Object.hasOwn(FILTERS, name)) {
    const [signature, filter] = FILTERS[name]!;
    return filter(value, bind(name, `/ ${signature}`, args, kwargs), budget);
  }
  const items = itemsOf(value, budget);
  if (name === "map") return generator(mapItems(items, args, kwargs, budget));
  const byAttribute = name.endsWith("attr");
  const attribute = byAttribute ? args[0] : null;
  if (attribute === undefined) throw new TemplateError(`${name}() is missing "attribute"`);
  const [test, ...rest] = byAttribute ? args.slice(1) : args;
  const wanted = name.startsWith("select");
  const kept = items.filter((item) => {
    const looked = attributeOf(item, attribute, budget);
    const holds = test === undefined ? isTrue(looked) : applyTest(text("test", test), looked, rest, kwargs, budget);
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
  if (!isDict(value)) throw new TemplateError(`can only get item pairs from a mapping, not from ${typeName(value)}`);
  return value;
}

/** Texts are ordered whatever their case. */
function orderOfFolded(a: Value, b: Value, budget: Budget): number {
  const folded = (value: Value) => (typeof value === "string" ? value.toLowerCase() : value);
  return order(folded(a), folded(b), budget);
}

function join(value: Value, [separator = "", attribute = null]: Args, budget: Budget): Value {
  const texts = itemsOf(value, budget).map((item) => toText(attributeOf(item, attribute, budget), budget));
  return joinTexts(texts, toText(separator!, budget), budget);
}

function last(value: Value, _: Args, budget: Budget): Value {
  if (value instanceof Items && value.kind === "generator")
    throw new TemplateError("'generator' object is not reversible");
  return orElse(itemsOf(value, budget).at(-1), () => new Undefined("No last item, sequence was empty"));
}

function reverse(value: Value, _: Args, budget: Budget): Value {
  if (typeof value === "string") return reversed(value);
  const items = [...itemsOf(value, budget)].reverse();
  // What Python cannot reverse, it makes a list of.
  return value instanceof Items && value.kind === "generator" ? items : generator(items);
}

function indent(self: string, [width = 4n, first = false, blank = false]: Args, budget: Budget): Value {
  const indention = typeof width === "string" ? width : spaces(width, budget);
  const lines = splitLines(`${self}\n`);
  const isIndented = (line: string, i: number) => (i === 0 ? isTrue(first!) : line !== "" || isTrue(blank!));
  budget.length(self.length + lines.length * indention.length);
  return lines.map((line, i) => (isIndented(line, i) ? indention + line : line)).join("\n");
}

function spaces(width: Value | undefined, budget: Budget): string {
  const number = Math.max(0, optionalInt("width", width, 0));
  budget.length(number);
  return " ".repeat(number);
}

function toInt(value: Value): Value {
  if (value instanceof Undefined) value.fail();
  if (typeof value === "bigint" || typeof value === "boolean") return asNumber(value);
  if (typeof value === "number" && Number.isFinite(value)) return BigInt(Math.trunc(value));
  const written = typeof value === "string" ? strip(value, undefined, "both") : "";
  // Python reads no int of more digits.
  if (!/^[+-]?\d{1,4300}$/.test(written)) notSupported(`the int of ${typeName(value)} that is no whole number`);
  return BigInt(written.replace("+", ""));
}

/** Python's `json.dumps`, as Transformers overrides the filter: `ensure_ascii` is false, nothing is escaped for HTML. */
function toJson(
  value: Value,
  [ascii = false, indentation = null, separators = null, sortKeys = false]: Args,
  budget: Budget,
): Value {
  const step = isNumber(indentation!) ? spaces(indentation, budget) : optionalText("indent", indentation);
  const given = separators === null ? [] : itemsOf(separators!, budget).map((item) => text("separators", item));
  const [between = step === undefined ? ", " : ",", afterKey = ": "] = given;
  if (separators !== null && given.length !== 2) throw new TemplateError("separators wants two texts");
  const enclosed = (open: string, pieces: readonly string[], close: string, depth: number): string => {
    if (pieces.length === 0) return open + close;
    budget.length((step?.length ?? 0) * (depth + 1));
    const [inner, outer] = [depth + 1, depth].map((at) => (step === undefined ? "" : `\n${step.repeat(at)}`));
    return open + inner + joinTexts(pieces, between + inner, budget) + outer + close;
  };
  const write = (item: Value, depth: number): string => {
    budget.step();
    if (typeof item === "string") return jsonText(item, isTrue(ascii!));
    if (item === null) return "null";
    if (typeof item === "boolean" || typeof item === "bigint") return String(item);
    if (typeof item === "number") {
      return { nan: "NaN", inf: "Infinity", "-inf": "-Infinity" }[floatRepr(item)] ?? floatRepr(item);
    }
    if (isList(item) || isTuple(item)) {
      const items = itemsOf(item, budget).map((part) => write(part, depth + 1));
      return enclosed("[", items, "]", depth);
    }
    if (!isDict(item)) throw new TemplateError(`Object of type ${typeName(item)} is not JSON serializable`);
    const entries = [...item];
    if (isTrue(sortKeys!)) entries.sort(([a], [b]) => order(a, b, budget));
    const pieces = entries.map(([key, part]) => {
      const name = typeof key === "string" ? write(key, 0) : `"${write(key, 0)}"`;
      return name + afterKey + write(part, depth + 1);
    });
    return enclosed("{", pieces, "}", depth);
  };
  return write(value, 0);
}

function jsonText(value: string, onlyAscii: boolean): string {
  const json = JSON.stringify(value);
  if (onlyAscii)
    return json.replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return value.isWellFormed() ? json : notSupported("half a surrogate pair in tojson");
}

type Test = readonly [signature: string, test: (value: Value, args: Args, budget: Budget) => boolean];

const compared = (op: Comparison): Test => ["other", (value, [other], budget) => compare(op, value, other!, budget)];
const COMPARED_AS: Readonly<Record<Exclude<Comparison, "not in">, string>> = {
  "==": "== eq equalto",
  "!=": "!= ne",
  "<": "< lt lessthan",
  "<=": "<= le",
  ">": "> gt greaterthan",
  ">=": ">= ge",
  in: "in",
};
const typed = (types: string): Test => ["", (value) => types.split(" ").includes(typeName(value))];
const isRest = (value: Value, by: Value, rest: bigint, budget: Budget) =>
  isEqual(calculate("%", value, by, budget), rest, budget);

/** Jinja2's tests. */
const TESTS: Readonly<Record<string, Test>> = {
  ...Object.fromEntries(
    Object.entries(COMPARED_AS).flatMap(([op, names]) =>
      names.split(" ").map((name) => [name, compared(op as Comparison)]),
    ),
  ),
  boolean: typed("bool"),
  callable: typed("function LoopContext"),
  defined: ["", (value) => !(value instanceof Undefined)],
  divisibleby: ["num", (value, [num], budget) => isRest(value, num!, 0n, budget)],
  even: ["", (value, _, budget) => isRest(value, 2n, 0n, budget)],
  false: ["", (value) => value === false],
  float: typed("float"),
  integer: typed("int"),
  iterable: typed("str list dict Undefined tuple range dict_keys dict_values dict_items generator"),
  lower: ["", (value, _, budget) => isLower(toText(value, budget))],
  mapping: typed("dict"),
  none: typed("NoneType"),
  number: typed("bool int float"),
  odd: ["", (value, _, budget) => isRest(value, 2n, 1n, budget)],
  sequence: typed("str list dict Undefined tuple range"),
  string: typed("str"),
  true: ["", (value) => value === true],
  undefined: typed("Undefined"),
  upper: ["", (value, _, budget) => isUpper(toText(value, budget))],
};

export function isTest(name: string): boolean {
  return Object.hasOwn(TESTS, name);
}

/** @throws TemplateError for a test that is not known, or arguments that do not fit. */
export function applyTest(name: string, value: Value, args: readonly Value[], kwargs: Kwargs, budget: Budget): boolean {
  budget.step();
  if (!isTest(name)) return notSupported(`the test "${name}"`);
  if (value instanceof SafeText) notSupported("a test of text marked safe");
  const [signature, test] = TESTS[name]!;
  return test(value, bind(name, `/ ${signature}`, args, kwargs), budget);
}
