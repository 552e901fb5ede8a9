import type { Arithmetic, Comparison } from "./syntax.js";
import {
  asNumber,
  type Budget,
  charactersOf,
  hasSurrogates,
  Items,
  isDict,
  isList,
  isNumber,
  isTuple,
  itemsOf,
  keyOf,
  notSupported,
  SafeText,
  TemplateError,
  toFloat,
  toText,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

/** @throws TemplateError for values that Python does not calculate with, or a division by zero. */
export function calculate(op: Arithmetic, a: Value, b: Value, budget: Budget): Value {
  if (op === "~") return joined(toText(a, budget), toText(b, budget), budget);
  if (isNumber(a) && isNumber(b)) return calculateNumbers(op, asNumber(a), asNumber(b), budget);
  if (a instanceof SafeText || b instanceof SafeText) return notSupported(`"${op}" on text marked safe`);
  if (op === "%" && typeof a === "string") return notSupported('"%" on text');
  if (a instanceof Undefined) a.fail();
  if (b instanceof Undefined) b.fail();
  if (op === "+" && typeof a === "string" && typeof b === "string") return joined(a, b, budget);
  if (op === "+" && ((isList(a) && isList(b)) || (isTuple(a) && isTuple(b)))) {
    const both = [...itemsOf(a, budget), ...itemsOf(b, budget)];
    budget.length(both.length);
    return isList(a) ? both : new Items("tuple", both);
  }
  if (op === "*") {
    const [sequence, times] = isSequence(a) ? [a, b] : [b, a];
    if (isSequence(sequence) && (typeof times === "bigint" || typeof times === "boolean")) {
      return repeat(sequence, Math.max(0, Number(times)), budget);
    }
  }
  throw new TemplateError(`unsupported operand type(s) for ${op}: '${typeName(a)}' and '${typeName(b)}'`);
}

function joined(a: string, b: string, budget: Budget): string {
  budget.length(a.length + b.length);
  return a + b;
}

/** Whether it has an order of its own that slices and repetitions keep. */
function isSequence(value: Value): value is string | readonly Value[] | Items {
  return typeof value === "string" || isList(value) || isTuple(value);
}

function repeat(sequence: string | readonly Value[] | Items, times: number, budget: Budget): Value {
  const items = typeof sequence === "string" ? sequence : itemsOf(sequence, budget);
  budget.length(items.length * times);
  if (typeof items === "string") return items.repeat(times);
  const repeated = Array.from({ length: items.length * times }, (_, i) => items[i % items.length]!);
  return isList(sequence) ? repeated : new Items("tuple", repeated);
}

function calculateNumbers(
  op: Exclude<Arithmetic, "~">,
  a: bigint | number,
  b: bigint | number,
  budget: Budget,
): bigint | number {
  // biome-ignore lint/suspicious/noDoubleEquals: of both kinds of number
  if (b == 0 && (op === "/" || op === "//" || op === "%")) throw new TemplateError("it divides by zero");
  const areInts = typeof a === "bigint" && typeof b === "bigint";
  if (areInts && op !== "/") return calculateInts(op, a, b, budget);
  const [x, y] = [toFloat(a), toFloat(b)];
  switch (op) {
    case "+":
      return x + y;
    case "-":
      return x - y;
    case "*":
      return x * y;
    case "/":
      return x / y;
    default:
      return notSupported(`"${op}" on floats`);
  }
}

function calculateInts(op: Exclude<Arithmetic, "~" | "/">, a: bigint, b: bigint, budget: Budget): bigint {
  const numBits = (value: bigint) => value.toString(16).length * 4;
  budget.intBits(op === "**" ? numBits(a) * Number(b) : numBits(a) + numBits(b));
  const rest = () => ((a % b) + b) % b;
  switch (op) {
    case "+":
      return a + b;
    case "-":
      return a - b;
    case "*":
      return a * b;
    case "//":
      return (a - rest()) / b;
    case "%":
      return rest();
    case "**":
      return b < 0n ? notSupported('"**" of less than 0') : a ** b;
    default:
      return op satisfies never;
  }
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
    case "<":
      return order(a, b, budget) < 0;
    case "<=":
      return order(a, b, budget) <= 0;
    case ">":
      return order(a, b, budget) > 0;
    case ">=":
      return order(a, b, budget) >= 0;
    default:
      return op satisfies never;
  }
}

/** Python's `==`. */
export function isEqual(a: Value, b: Value, budget: Budget): boolean {
  budget.step();
  // biome-ignore lint/suspicious/noDoubleEquals: an int equals a float of the same value
  if (isNumber(a) && isNumber(b)) return asNumber(a) == asNumber(b);
  if (isList(a) && isList(b)) return areEqual(a, b, budget);
  if (a instanceof Items && b instanceof Items) {
    if (a.kind !== b.kind || a === b) return a === b;
    if (a.kind === "tuple" || a.kind === "range") return areEqual(a.items, b.items, budget);
    return notSupported(`comparing ${a.kind}`);
  }
  if (isDict(a) && isDict(b)) {
    if (a.size !== b.size) return false;
    for (const [key, item] of a) if (!b.has(key) || !isEqual(item, b.get(key)!, budget)) return false;
    return true;
  }
  if (a instanceof SafeText || b instanceof SafeText) return notSupported("comparing text marked safe");
  return a === b || (a instanceof Undefined && b instanceof Undefined);
}

function areEqual(a: readonly Value[], b: readonly Value[], budget: Budget): boolean {
  return a.length === b.length && a.every((item, i) => isEqual(item, b[i]!, budget));
}

/**
 * How Python orders two values: below 0, 0, above 0, or NaN where one of them is.
 *
 * @throws TemplateError for values that have no order.
 */
export function order(a: Value, b: Value, budget: Budget): number {
  budget.step();
  if (isNumber(a) && isNumber(b)) {
    const [x, y] = [asNumber(a), asNumber(b)];
    // biome-ignore lint/suspicious/noDoubleEquals: an int equals a float of the same value
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : Number.NaN;
  }
  if (typeof a === "string" && typeof b === "string") return compareTexts(a, b);
  if ((isList(a) && isList(b)) || (isTuple(a) && isTuple(b))) {
    const [left, right] = [itemsOf(a, budget), itemsOf(b, budget)];
    const at = left.findIndex((item, i) => i >= right.length || !isEqual(item, right[i]!, budget));
    return at < 0 || at >= right.length ? left.length - right.length : order(left[at]!, right[at]!, budget);
  }
  if (a instanceof Undefined) a.fail();
  if (b instanceof Undefined) b.fail();
  throw new TemplateError(`'${typeName(a)}' and '${typeName(b)}' have no order`);
}

/** By code points, not by UTF-16 units. */
function compareTexts(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  let i = 0;
  while (i < length && a[i] === b[i]) i++;
  return i < length ? a.codePointAt(i)! - b.codePointAt(i)! : a.length - b.length;
}

/** Whether `container` has `value`, as Python's `in` says. */
function contains(container: Value, value: Value, budget: Budget): boolean {
  if (typeof container === "string") {
    if (value instanceof Undefined) value.fail();
    if (typeof value !== "string") {
      throw new TemplateError(`'in <string>' requires string as left operand, not ${typeName(value)}`);
    }
    budget.search(container, value);
    return container.includes(value);
  }
  if (isDict(container)) return container.has(keyOf(value));
  return itemsOf(container, budget).some((item) => isEqual(item, value, budget));
}

/** The item at an index or key; undefined where there is none. */
export function itemAt(object: Value, key: Value, budget: Budget): Value | undefined {
  if (isDict(object)) return isList(key) || isDict(key) ? undefined : object.get(keyOf(key));
  const isIndexed = isSequence(object) || (object instanceof Items && object.kind === "range");
  if (!isIndexed || (typeof key !== "bigint" && typeof key !== "boolean")) return undefined;
  return unitsOf(object, budget).at(Number(key));
}

/** A sequence as what can be indexed: a text by its code points. */
function unitsOf(sequence: string | readonly Value[] | Items, budget: Budget): string | readonly Value[] {
  if (typeof sequence !== "string") return itemsOf(sequence, budget);
  budget.length(sequence.length);
  return hasSurrogates(sequence) ? charactersOf(sequence) : sequence;
}

/** Python's `object[start:stop:step]`. */
export function slice(object: Value, bounds: readonly Value[], budget: Budget): Value {
  if (object instanceof Undefined) object.fail();
  if (!isSequence(object)) return notSupported(`a slice of ${typeName(object)}`);
  const [start = null, stop = null, step] = bounds.map((bound) => {
    if (bound !== null && typeof bound !== "bigint" && typeof bound !== "boolean") {
      throw new TemplateError("slice indices must be integers or None");
    }
    return bound === null ? null : Number(bound);
  });
  const by = step ?? 1;
  if (by === 0) throw new TemplateError("slice step cannot be zero");
  const units = unitsOf(object, budget);
  const [low, high] = by > 0 ? [0, units.length] : [-1, units.length - 1];
  const clamp = (bound: number) => Math.min(Math.max(bound < 0 ? bound + units.length : bound, low), high);
  const first = start === null ? (by > 0 ? low : high) : clamp(start);
  const end = stop === null ? (by > 0 ? high : low) : clamp(stop);
  if (by === 1 && typeof units === "string") return units.slice(first, Math.max(first, end));
  const sliced: Value[] = [];
  for (let i = first; by > 0 ? i < end : i > end; i += by) sliced.push(units[i]!);
  if (typeof object === "string") return sliced.join("");
  return isList(object) ? sliced : new Items("tuple", sliced);
}

/** Python's `range()`, given one, two or three whole numbers. */
export function range(args: readonly (Value | undefined)[], budget: Budget): Items {
  const numbers = args
    .filter((arg) => arg !== undefined)
    .map((arg) => {
      if (typeof arg !== "bigint" && typeof arg !== "boolean") throw new TemplateError("range() wants whole numbers");
      return BigInt(arg);
    });
  const [from, to, by = 1n] = numbers.length === 1 ? [0n, numbers[0]!] : [numbers[0]!, numbers[1]!, numbers[2]];
  if (by === 0n) throw new TemplateError("range() wants a step other than 0");
  const length = Number((to - from + (by > 0n ? by - 1n : by + 1n)) / by);
  budget.rangeLength(length);
  const items = Array.from({ length: Math.max(0, length) }, (_, i) => from + BigInt(i) * by);
  return new Items("range", items, `range(${from}, ${to}${by === 1n ? "" : `, ${by}`})`);
}
