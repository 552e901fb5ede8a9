import type { Arithmetic, Comparison } from "./syntax.js";
import {
  asNumber,
  type Budget,
  charactersOf,
  hasSurrogates,
  Items,
  isDict,
  isEqual,
  isList,
  isNumber,
  isOrdered,
  itemsOf,
  keyOf,
  notSupported,
  SafeText,
  toFloat,
  toRepr,
  toText,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

/** @throws TypeError for values that Python does not calculate with, RangeError for a division by zero. */
export function calculate(op: Arithmetic, a: Value, b: Value, budget: Budget): Value {
  if (isNumber(a) && isNumber(b)) return calculateNumbers(op, asNumber(a), asNumber(b), budget);
  if (a instanceof SafeText || b instanceof SafeText) return notSupported(`"${op}" on text marked safe`);
  if (op === "%" && typeof a === "string") return formatText(a, b, budget);
  if (a instanceof Undefined) a.fail();
  if (b instanceof Undefined) b.fail();
  if (op === "+") {
    if (typeof a === "string" && typeof b === "string") {
      budget.length(a.length + b.length);
      return a + b;
    }
    const isTuples = isTuple(a) && isTuple(b);
    if (isTuples || (isList(a) && isList(b))) {
      const [left, right] = [itemsOf(a, budget), itemsOf(b, budget)];
      budget.length(left.length + right.length);
      const both = [...left, ...right];
      return isTuples ? new Items("tuple", both) : both;
    }
  }
  if (op === "*") {
    const [sequence, times] = isSequence(a) ? [a, b] : [b, a];
    if (isSequence(sequence) && (typeof times === "bigint" || typeof times === "boolean")) {
      return repeat(sequence, Math.max(0, Number(times)), budget);
    }
  }
  throw new TypeError(`unsupported operand type(s) for ${op}: '${typeName(a)}' and '${typeName(b)}'`);
}

function isTuple(value: Value): value is Items {
  return value instanceof Items && value.kind === "tuple";
}

function isSequence(value: Value): value is string | readonly Value[] | Items {
  return typeof value === "string" || isList(value) || isTuple(value);
}

function repeat(sequence: string | readonly Value[] | Items, times: number, budget: Budget): Value {
  if (typeof sequence === "string") {
    budget.length(sequence.length * times);
    return sequence.repeat(times);
  }
  const items = itemsOf(sequence, budget);
  budget.length(items.length * times);
  const repeated = Array.from({ length: items.length * times }, (_, i) => items[i % items.length]!);
  return isList(sequence) ? repeated : new Items("tuple", repeated);
}

function calculateNumbers(op: Arithmetic, a: bigint | number, b: bigint | number, budget: Budget): Value {
  if (typeof a === "bigint" && typeof b === "bigint" && op !== "/" && !(op === "**" && b < 0n)) {
    return calculateInts(op, a, b, budget);
  }
  return calculateFloats(op, toFloat(a), toFloat(b));
}

function calculateInts(op: Exclude<Arithmetic, "/">, a: bigint, b: bigint, budget: Budget): bigint {
  const numBits = (value: bigint) => value.toString(16).length * 4;
  switch (op) {
    case "+":
    case "-":
      budget.intBits(Math.max(numBits(a), numBits(b)));
      return op === "+" ? a + b : a - b;
    case "*":
      budget.intBits(numBits(a) + numBits(b));
      return a * b;
    case "//":
      return (a - modulo(a, b)) / b;
    case "%":
      return modulo(a, b);
    case "**":
      if (a > 1n || a < -1n) budget.intBits(numBits(a) * Number(b));
      return a ** b;
    default:
      return op satisfies never;
  }
}

function modulo(a: bigint, b: bigint): bigint {
  if (b === 0n) throw new TypeError("it divides by zero");
  const rest = a % b;
  return rest !== 0n && rest < 0n !== b < 0n ? rest + b : rest;
}

function calculateFloats(op: Arithmetic, a: number, b: number): number {
  switch (op) {
    case "+":
      return a + b;
    case "-":
      return a - b;
    case "*":
      return a * b;
    case "**": {
      if (a === 0 && b < 0) throw new TypeError("it divides by zero");
      const power = a ** b;
      if (!Number.isFinite(power) && Number.isFinite(a) && Number.isFinite(b))
        notSupported("a power that is no finite number");
      return power;
    }
    case "/":
    case "//":
    case "%": {
      if (b === 0) throw new TypeError("it divides by zero");
      if (op === "/") return a / b;
      let rest = a % b;
      if (rest !== 0 && rest < 0 !== b < 0) rest += b;
      else if (rest === 0) rest = b < 0 ? -0 : 0;
      if (op === "%") return rest;
      const quotient = (a - rest) / b;
      const floor = Math.floor(quotient);
      return quotient - floor > 0.5 ? floor + 1 : floor;
    }
    default:
      return op satisfies never;
  }
}

/** Python's `%` on text, with `%s`, `%r`, `%d`, `%i` and `%%`. */
export function formatText(format: string, value: Value, budget: Budget): string {
  const args = isTuple(value) ? [...value.items] : [value];
  let numUsed = 0;
  const text = format.replace(/%[^A-Za-z%]*[A-Za-z%]?/g, (directive) => {
    if (directive === "%%") return "%";
    if (!["%s", "%r", "%d", "%i"].includes(directive)) return notSupported(`the format "${directive}"`);
    const letter = directive[1];
    if (numUsed === args.length) throw new TypeError("not enough arguments for format string");
    const arg = args[numUsed++]!;
    if (letter === "s") return toText(arg, budget);
    if (letter === "r") return toRepr(arg, budget);
    if (!isNumber(arg)) throw new TypeError(`%${letter} format: a real number is required, not ${typeName(arg)}`);
    return String(typeof arg === "number" ? BigInt(Math.trunc(arg)) : asNumber(arg));
  });
  if (numUsed < args.length && !isDict(value) && !isList(value) && !isRange(value))
    throw new TypeError("not all arguments converted during string formatting");
  if (isDict(value) && numUsed === 0 && text !== format.replaceAll("%%", "%")) notSupported("a format by names");
  budget.length(text.length);
  return text;
}

export function compare(op: Comparison, a: Value, b: Value, budget: Budget): boolean {
  switch (op) {
    case "==":
      return isEqual(a, b, budget);
    case "!=":
      return !isEqual(a, b, budget);
    case "in":
      return contains(b, a, budget);
    case "not in":
      return !contains(b, a, budget);
    default:
      return isOrdered(op, a, b, budget);
  }
}

/** Whether `container` has `value`, as Python's `in` says. */
export function contains(container: Value, value: Value, budget: Budget): boolean {
  if (typeof container === "string") {
    if (value instanceof Undefined) value.fail();
    if (typeof value !== "string") {
      throw new TypeError(`'in <string>' requires string as left operand, not ${typeName(value)}`);
    }
    budget.search(container, value);
    return container.includes(value);
  }
  if (isDict(container)) return container.has(keyOf(value));
  return itemsOf(container, budget).some((item) => isEqual(item, value, budget));
}

/** The item at an index or key; undefined where there is none. */
export function itemAt(object: Value, key: Value, budget: Budget): Value | undefined {
  if (typeof object === "string") budget.length(object.length);
  if (isDict(object)) return isList(key) || isDict(key) ? undefined : object.get(keyOf(key));
  const isIndexed = typeof object === "string" || isList(object) || isTuple(object) || isRange(object);
  if (!isIndexed || (typeof key !== "bigint" && typeof key !== "boolean")) return undefined;
  const items = typeof object === "string" ? unitsOf(object) : isList(object) ? object : (object as Items).items;
  return items.at(Number(key));
}

/** A text's code points, as what can be indexed. */
function unitsOf(text: string): string | string[] {
  return hasSurrogates(text) ? charactersOf(text) : text;
}

function isRange(value: Value): value is Items {
  return value instanceof Items && value.kind === "range";
}

/** Python's `object[start:stop:step]`. */
export function slice(object: Value, bounds: readonly Value[], budget: Budget): Value {
  if (object instanceof Undefined) object.fail();
  const isSliced = typeof object === "string" || isList(object) || isTuple(object);
  if (isRange(object)) notSupported("a slice of a range");
  if (!isSliced) throw new TypeError(`'${typeName(object)}' object cannot be sliced`);
  const [start, stop, step = null] = bounds.map((bound) => {
    if (bound === null) return null;
    if (typeof bound !== "bigint" && typeof bound !== "boolean") {
      throw new TypeError("slice indices must be integers or None");
    }
    return Number(bound);
  });
  const items = typeof object === "string" ? unitsOf(object) : itemsOf(object, budget);
  const places = placesOf(items.length, start ?? null, stop ?? null, step ?? 1);
  if (typeof items === "string" && places.step === 1)
    return items.slice(places.first, Math.max(places.first, places.end));
  const sliced: Value[] = [];
  for (let i = places.first; places.step > 0 ? i < places.end : i > places.end; i += places.step)
    sliced.push(items[i]!);
  if (typeof object === "string") return sliced.join("");
  return isList(object) ? sliced : new Items("tuple", sliced);
}

function placesOf(length: number, start: number | null, stop: number | null, step: number) {
  if (step === 0) throw new TypeError("slice step cannot be zero");
  const [low, high] = step > 0 ? [0, length] : [-1, length - 1];
  const clamp = (bound: number) => Math.min(Math.max(bound < 0 ? bound + length : bound, low), high);
  const first = start === null ? (step > 0 ? low : high) : clamp(start);
  const end = stop === null ? (step > 0 ? high : low) : clamp(stop);
  return { first, end, step };
}

/** Python's `range()`, given one, two or three whole numbers. */
export function range(args: readonly (Value | undefined)[], budget: Budget): Items {
  const numbers = args
    .filter((arg) => arg !== undefined)
    .map((arg) => {
      if (typeof arg !== "bigint" && typeof arg !== "boolean") throw new TypeError("range() wants whole numbers");
      return BigInt(arg);
    });
  const [from, to, by = 1n] = numbers.length === 1 ? [0n, numbers[0]!] : [numbers[0]!, numbers[1]!, numbers[2]];
  if (by === 0n) throw new TypeError("range() wants a step other than 0");
  const length = Number((to - from + (by > 0n ? by - 1n : by + 1n)) / by);
  budget.rangeLength(length);
  const items = Array.from({ length: Math.max(0, length) }, (_, i) => from + BigInt(i) * by);
  return new Items("range", items, `range(${from}, ${to}${by === 1n ? "" : `, ${by}`})`);
}
