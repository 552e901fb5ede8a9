/**
 * A value as Python has it, since templates are written for Python: int is bigint, float is number, str is string (counted
 * in code points), None is null, list is Array, dict is Map with keys of text, int or None. No value is ever changed
 * once made, as in the sandbox that Transformers renders in; namespaces are.
 */
export type Value =
  | null
  | boolean
  | bigint
  | number
  | string
  | readonly Value[]
  | ReadonlyMap<Value, Value>
  | Items
  | Undefined
  | Namespace
  | Loop
  | Callable
  | SafeText;

type ItemsKind = "tuple" | "range" | "dict_keys" | "dict_values" | "dict_items" | "generator";

/** What can be iterated and is no list. */
export class Items {
  /** @param repr how a range prints itself. */
  constructor(
    readonly kind: ItemsKind,
    readonly items: readonly Value[],
    readonly repr = "",
  ) {}
  /** A generator gives its items once. */
  isSpent = false;
}

export const tuple = (...items: readonly Value[]): Items => new Items("tuple", items);
export const generator = (items: readonly Value[]): Items => new Items("generator", items);

/** Why a template fails on what it is given, as Python or Jinja2 would say it. */
export class TemplateError extends Error {}

/** A template that refuses its messages, or exceeds its budget. */
export class TemplateRefusal extends TemplateError {}

/** Prints nothing, is false and empty; anything else that is done with it is an error, which says what is undefined. */
export class Undefined {
  constructor(readonly reason: string) {}
  fail(): never {
    throw new TemplateError(this.reason);
  }
}

export class Namespace {
  constructor(readonly fields: Map<string, Value>) {}
}

/** What a loop says of itself. */
export class Loop {
  constructor(readonly fields: ReadonlyMap<string, Value>) {}
}

export type Kwargs = ReadonlyMap<string, Value>;

/** A function, a method or a macro. */
export class Callable {
  constructor(
    readonly name: string,
    readonly call: (args: readonly Value[], kwargs: Kwargs) => Value,
  ) {}
}

/** Text that Jinja would not escape. To print it is all that can be done with it. */
export class SafeText {
  constructor(readonly text: string) {}
}

/** What a template may not exceed. */
export interface Limits {
  readonly numSteps: number;
  readonly ms: number;
  /** Of a text in characters, of a list in items. */
  readonly length: number;
}

const MAX_RANGE_LENGTH = 100_000;
// Python itself prints no int of more digits.
const MAX_INT_BITS = 14_000;
// V8 searches for a long text in a long text in quadratic time at worst; this much takes under a second.
const MAX_SEARCH = 1e11;

/** Counts what a template does. Every node, every item that is looked at and every text that is made passes here. */
export class Budget {
  readonly #startMs = performance.now();
  #numSteps = 0;

  constructor(private readonly limits: Limits) {}

  step(): void {
    if (++this.#numSteps > this.limits.numSteps) this.#refuse(`is not done after ${this.limits.numSteps} steps`);
    if (this.#numSteps % 16 === 0) this.#checkTime();
  }

  /** Before a text or list of this length is made, or after where it is no longer than what it is made from. */
  length(length: number): void {
    if (!(length <= this.limits.length)) this.#refuse(`makes a value longer than ${this.limits.length}`);
    if (length > 10_000) this.#checkTime();
  }

  rangeLength(length: number): void {
    if (!(length <= MAX_RANGE_LENGTH)) this.#refuse(`counts over ${length} numbers, at most ${MAX_RANGE_LENGTH}`);
  }

  intBits(bits: number): void {
    if (!(bits <= MAX_INT_BITS)) this.#refuse(`makes a whole number of more than ${MAX_INT_BITS} bits`);
  }

  search(text: string, sought: string): void {
    if (text.length * sought.length > MAX_SEARCH) this.#refuse("searches for a long text in a long text");
    if (text.length > 10_000) this.#checkTime();
  }

  #checkTime(): void {
    if (performance.now() - this.#startMs > this.limits.ms) this.#refuse(`is not done after ${this.limits.ms} ms`);
  }

  #refuse(what: string): never {
    throw new TemplateRefusal(`it ${what}`);
  }
}

/** Refuses by name what Python or Jinja does and this does not. */
export function notSupported(what: string): never {
  throw new TemplateError(`${what} is not supported`);
}

/** None is a value; only what is absent is replaced. */
export function orElse(value: Value | undefined, other: () => Value): Value {
  return value === undefined ? other() : value;
}

/** The type's name as Python has it. */
export function typeName(value: Value): string {
  if (value === null) return "NoneType";
  if (Array.isArray(value)) return "list";
  if (value instanceof Map) return "dict";
  if (value instanceof Items) return value.kind;
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof Namespace) return "Namespace";
  if (value instanceof Loop) return "LoopContext";
  if (value instanceof Callable) return "function";
  if (value instanceof SafeText) return "Markup";
  return { boolean: "bool", bigint: "int", number: "float", string: "str" }[typeof value as string]!;
}

export function isDict(value: Value): value is ReadonlyMap<Value, Value> {
  return value instanceof Map;
}

export function isList(value: Value): value is readonly Value[] {
  return Array.isArray(value);
}

export function isTuple(value: Value): value is Items {
  return value instanceof Items && value.kind === "tuple";
}

export function isNumber(value: Value): value is bigint | number | boolean {
  return typeof value === "bigint" || typeof value === "number" || typeof value === "boolean";
}

/** Python's bool is an int. */
export function asNumber(value: bigint | number | boolean): bigint | number {
  return typeof value === "boolean" ? BigInt(value) : value;
}

export function toFloat(value: bigint | number): number {
  if (typeof value === "bigint" && BigInt.asIntN(54, value) !== value)
    notSupported("float arithmetic on an int of this size");
  return Number(value);
}

export function isTrue(value: Value): boolean {
  if (typeof value === "string") return value !== "";
  if (isNumber(value)) return Boolean(value);
  if (value === null || value instanceof Undefined) return false;
  if (isList(value)) return value.length > 0;
  if (isDict(value)) return value.size > 0;
  if (value instanceof Items) return value.kind === "generator" || value.items.length > 0;
  if (value instanceof SafeText) return value.text !== "";
  return true;
}

/** Whether a text's UTF-16 units may be fewer than its code points. */
export const hasSurrogates = (text: string) => /[\ud800-\udfff]/.test(text);

/** A text's code points. */
export function charactersOf(text: string): string[] {
  return hasSurrogates(text) ? Array.from(text) : text.split("");
}

export function textLength(text: string): number {
  return hasSurrogates(text) ? Array.from(text).length : text.length;
}

/** What iterating over a value gives. @throws TemplateError if it cannot be iterated. */
export function itemsOf(value: Value, budget: Budget): readonly Value[] {
  if (typeof value === "string") {
    budget.length(value.length);
    return charactersOf(value);
  }
  if (isList(value)) return value;
  if (isDict(value)) return [...value.keys()];
  if (value instanceof Undefined) return [];
  if (value instanceof Items) {
    if (value.kind !== "generator") return value.items;
    const items = value.isSpent ? [] : value.items;
    value.isSpent = true;
    return items;
  }
  throw new TemplateError(`'${typeName(value)}' object is not iterable`);
}

/** @throws TemplateError if it has none. */
export function lengthOf(value: Value): number {
  if (typeof value === "string") return textLength(value);
  if (isList(value)) return value.length;
  if (isDict(value)) return value.size;
  if (value instanceof Undefined) return 0;
  if (value instanceof Items && value.kind !== "generator") return value.items.length;
  throw new TemplateError(`object of type '${typeName(value)}' has no len()`);
}

/** A value as a dict's key. @throws TemplateError for what cannot be one. */
export function keyOf(value: Value): Value {
  if (typeof value === "boolean") return BigInt(value);
  if (typeof value === "number") return Number.isInteger(value) ? BigInt(value) : value;
  // Undefined is a key like any other, which no dict has.
  if (value === null || typeof value === "string" || typeof value === "bigint" || value instanceof Undefined)
    return value;
  return notSupported(`a dict key of type ${typeName(value)}`);
}

/** Python's `str()`, which is what a template prints. */
export function toText(value: Value, budget: Budget): string {
  if (typeof value === "string") return value;
  if (value instanceof Undefined) return "";
  if (value instanceof SafeText) return value.text;
  return toRepr(value, budget);
}

/** Python's `repr()`. */
export function toRepr(value: Value, budget: Budget): string {
  budget.step();
  if (value === null) return "None";
  if (typeof value === "string") return textRepr(value);
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") return floatRepr(value);
  if (typeof value === "bigint") return String(value);
  if (value instanceof Undefined) return "Undefined";
  if (isList(value)) return `[${joinReprs(value, budget)}]`;
  if (isDict(value)) return dictRepr(value, budget);
  if (value instanceof Namespace) return `<Namespace ${dictRepr(value.fields, budget)}>`;
  if (value instanceof Items) {
    const { kind, items, repr } = value;
    if (kind === "tuple") return `(${joinReprs(items, budget)}${items.length === 1 ? "," : ""})`;
    if (kind === "range") return repr;
    if (kind !== "generator") return `${kind}([${joinReprs(items, budget)}])`;
  }
  return notSupported(`printing a ${typeName(value)}`);
}

function joinReprs(items: readonly Value[], budget: Budget): string {
  return joinTexts(
    items.map((item) => toRepr(item, budget)),
    ", ",
    budget,
  );
}

function dictRepr(dict: ReadonlyMap<Value, Value>, budget: Budget): string {
  const entries = [...dict].map(([key, item]) => `${toRepr(key, budget)}: ${toRepr(item, budget)}`);
  return `{${joinTexts(entries, ", ", budget)}}`;
}

/** `separator.join(texts)`, its length checked before it is made. */
export function joinTexts(texts: readonly string[], separator: string, budget: Budget): string {
  budget.length(texts.reduce((sum, text) => sum + text.length + separator.length, 0));
  return texts.join(separator);
}

const ESCAPES: Record<string, string> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };

function textRepr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text.replace(/[\\'"]|(?! )[\p{C}\p{Z}]/gu, (character) => {
    if (character === quote) return `\\${character}`;
    if (character === "'" || character === '"') return character;
    if (ESCAPES[character] !== undefined) return ESCAPES[character];
    const code = character.codePointAt(0)!;
    const hex = (width: number) => code.toString(16).padStart(width, "0");
    if (code < 0x100) return `\\x${hex(2)}`;
    return code < 0x10000 ? `\\u${hex(4)}` : `\\U${hex(8)}`;
  });
  return quote + escaped + quote;
}

/** @example floatRepr(1e16) is "1e+16", floatRepr(3) is "3.0" */
export function floatRepr(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Object.is(value, -0)) return "-0.0";
  const [digits, power] = value.toExponential().split("e");
  const exponent = Number(power);
  if (value !== 0 && (exponent < -4 || exponent >= 16)) {
    return `${digits}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  return Number.isInteger(value) ? `${value}.0` : String(value);
}

/** What stands in a program's data: JSON values, and functions. */
export function toValue(data: unknown): Value {
  if (data === null || data === undefined) return null;
  if (typeof data === "number") return Number.isSafeInteger(data) && !Object.is(data, -0) ? BigInt(data) : data;
  if (typeof data === "string" || typeof data === "boolean" || typeof data === "bigint") return data;
  if (data instanceof Callable) return data;
  if (Array.isArray(data)) return data.map(toValue);
  if (typeof data === "object") return new Map(Object.entries(data).map(([key, item]) => [key, toValue(item)]));
  throw new TemplateError(`a variable is ${typeof data}`);
}
