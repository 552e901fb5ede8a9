import { SPACE } from "./lexer.js";
import { isEqual, itemAt } from "./operators.js";
import {
  type Budget,
  Callable,
  charactersOf,
  hasSurrogates,
  Items,
  isDict,
  isList,
  isTuple,
  itemsOf,
  joinTexts,
  type Kwargs,
  keyOf,
  Loop,
  Namespace,
  notSupported,
  orElse,
  SafeText,
  TemplateError,
  textLength,
  toRepr,
  toText,
  tuple,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

export type Args = readonly (Value | undefined)[];

/**
 * Puts arguments in the order of a signature: names with spaces between them. Those that end in "?" are optional, those
 * that end in "!" too, but not supported. After "/" an argument may be given by name; without "/" none may.
 *
 * @throws TemplateError for arguments that do not fit, or one that is not supported.
 * @example bind("replace", "old new / count?", ["a", "b"], new Map([["count", 1n]])) is ["a", "b", 1n]
 */
export function bind(name: string, signature: string, args: readonly Value[], kwargs: Kwargs): (Value | undefined)[] {
  const [fixed = "", free = ""] = signature.split("/");
  const words = (text: string) => text.match(/\S+/g) ?? [];
  const parameters = [...words(fixed), ...words(free)];
  if (args.length > parameters.length) {
    throw new TemplateError(`${name}() takes at most ${parameters.length} arguments, ${args.length} are given`);
  }
  const named = words(free).map((word) => word.replace(/[?!]/, ""));
  for (const key of kwargs.keys()) {
    if (!named.includes(key)) throw new TemplateError(`${name}() takes no argument named "${key}"`);
  }
  return parameters.map((word, i) => {
    const parameter = word.replace(/[?!]/, "");
    const value = kwargs.get(parameter);
    if (value !== undefined && i < args.length) throw new TemplateError(`${name}() is given "${parameter}" twice`);
    const bound = i < args.length ? args[i] : value;
    if (bound === undefined && parameter === word) throw new TemplateError(`${name}() is missing "${parameter}"`);
    if (bound !== undefined && word.endsWith("!")) notSupported(`"${parameter}" of ${name}()`);
    return bound;
  });
}

/** @throws TemplateError if it is no text. */
export function text(name: string, value: Value | undefined): string {
  if (typeof value !== "string") throw new TemplateError(`"${name}" is ${typeName(value ?? null)}, wanted str`);
  return value;
}

/** None is absent. */
export function optionalText(name: string, value: Value | undefined): string | undefined {
  return value === undefined || value === null ? undefined : text(name, value);
}

/** A whole number, or `fallback` where it is absent. @throws TemplateError if it is another kind of value. */
export function optionalInt(name: string, value: Value | undefined, fallback: number): number {
  if (value === undefined) return fallback;
  if (typeof value !== "bigint" && typeof value !== "boolean") {
    throw new TemplateError(`"${name}" is ${typeName(value)}, wanted int`);
  }
  return Number(value);
}

/** A method's signature (see `bind`), and what it gives. */
type Methods<T> = Readonly<Record<string, readonly [string, (self: T, args: Args, budget: Budget) => Value]>>;

/** Python's methods of text. What Python has beside them is refused by name. */
const TEXT_METHODS: Methods<string> = {
  capitalize: ["", capitalize],
  count: ["sub start! end!", (self, [sub], budget) => BigInt(cut(self, text("sub", sub), -1, budget).length - 1)],
  endswith: ["suffix start! end!", (self, [suffix]) => oneOf(suffix, (end) => self.endsWith(end))],
  find: ["sub start! end!", (self, [sub], budget) => place(self, text("sub", sub), "indexOf", budget)],
  index: ["sub start! end!", (self, [sub], budget) => found(place(self, text("sub", sub), "indexOf", budget))],
  isalnum: ["", (self) => /^[\p{L}\p{N}]+$/u.test(self)],
  isalpha: ["", (self) => /^\p{L}+$/u.test(self)],
  isascii: ["", (self) => !/[\u0080-\uffff]/.test(self)],
  isdecimal: ["", (self) => /^\p{Nd}+$/u.test(self)],
  isdigit: ["", (self) => (/\p{No}/u.test(self) ? notSupported("isdigit() of such text") : /^\p{Nd}+$/u.test(self))],
  islower: ["", isLower],
  isspace: ["", (self) => ONLY_SPACE.test(self)],
  isupper: ["", isUpper],
  join: ["iterable", (self, [items], budget) => join(self, itemsOf(items!, budget), budget)],
  lower: ["", (self) => self.toLowerCase()],
  lstrip: ["chars?", (self, [chars]) => strip(self, chars, "left")],
  removeprefix: [
    "prefix",
    (self, [prefix]) => (self.startsWith(text("prefix", prefix)) ? self.slice(text("prefix", prefix).length) : self),
  ],
  removesuffix: [
    "suffix",
    (self, [suffix]) =>
      self.endsWith(text("suffix", suffix)) ? self.slice(0, self.length - text("suffix", suffix).length) : self,
  ],
  replace: [
    "old new / count?",
    (self, [old, by, count], budget) =>
      replace(self, text("old", old), text("new", by), optionalInt("count", count, -1), budget),
  ],
  rfind: ["sub start! end!", (self, [sub], budget) => place(self, text("sub", sub), "lastIndexOf", budget)],
  rindex: ["sub start! end!", (self, [sub], budget) => found(place(self, text("sub", sub), "lastIndexOf", budget))],
  rsplit: [
    "/ sep? maxsplit?",
    (self, [sep = null, max], budget) => {
      const by = typeof sep === "string" ? reversed(sep) : sep;
      return split(reversed(self), [by, max], budget).reverse().map(reversed);
    },
  ],
  rstrip: ["chars?", (self, [chars]) => strip(self, chars, "right")],
  split: ["/ sep? maxsplit?", split],
  splitlines: ["/ keepends?", (self, [keep]) => splitLines(self, optionalInt("keepends", keep, 0) !== 0)],
  startswith: ["prefix start! end!", (self, [prefix]) => oneOf(prefix, (start) => self.startsWith(start))],
  strip: ["chars?", (self, [chars]) => strip(self, chars, "both")],
  title: ["", (self) => self.replace(/\p{Cased}+/gu, capitalize)],
  upper: ["", (self) => self.toUpperCase()],
};

const DICT_METHODS: Methods<ReadonlyMap<Value, Value>> = {
  copy: ["", (self) => self],
  get: ["key default?", (self, [key, fallback = null]) => orElse(self.get(keyOf(key!)), () => fallback)],
  items: ["", (self) => new Items("dict_items", entriesOf(self))],
  keys: ["", (self) => new Items("dict_keys", [...self.keys()])],
  values: ["", (self) => new Items("dict_values", [...self.values()])],
};

const SEQUENCE_METHODS: Methods<readonly Value[]> = {
  count: ["value", (self, [value], budget) => BigInt(self.filter((item) => isEqual(item, value!, budget)).length)],
  index: ["value", (self, [value], budget) => found(BigInt(self.findIndex((item) => isEqual(item, value!, budget))))],
};
const LIST_METHODS: Methods<readonly Value[]> = { ...SEQUENCE_METHODS, copy: ["", (self) => self] };

// Python and Jinja2 have them; a template that uses one is told so, since without them it would see an undefined value.
const NOT_SUPPORTED: Readonly<Record<string, string>> = {
  str: "casefold center encode expandtabs format format_map isidentifier isnumeric isprintable istitle ljust maketrans partition rjust rpartition swapcase translate zfill",
  dict: "fromkeys",
  int: "as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag is_integer numerator real to_bytes",
  float: "as_integer_ratio conjugate fromhex hex imag is_integer real",
  dict_keys: "isdisjoint mapping",
  dict_values: "mapping",
  dict_items: "isdisjoint mapping",
  range: "count index start step stop",
  generator: "close gi_code gi_frame gi_running gi_suspended gi_yieldfrom send throw",
  LoopContext: "changed cycle depth depth0",
};
const CHANGES: Readonly<Record<string, string>> = {
  dict: "clear pop popitem setdefault update",
  list: "append clear extend insert pop remove reverse sort",
};

/** @returns the method, bound to its value; undefined where the type has none of that name. */
function methodOf(self: Value, name: string, budget: Budget): Callable | undefined {
  const type = typeName(self);
  const bound = <T>(methods: Methods<T>, of: T): Callable | undefined => {
    if (!Object.hasOwn(methods, name)) return undefined;
    const [signature, call] = methods[name]!;
    return new Callable(name, (args, kwargs) => call(of, bind(name, signature, args, kwargs), budget));
  };
  const has = (names: string | undefined) => names?.split(" ").includes(name) === true;
  if (has(CHANGES[type]))
    throw new TemplateError(`the method "${name}" of ${type} is not allowed: it changes the ${type}`);
  if (has(NOT_SUPPORTED[type === "bool" ? "int" : type])) return notSupported(`"${name}" of ${type}`);
  if (name.startsWith("__")) return notSupported(`"${name}"`);
  if (typeof self === "string") return bound(TEXT_METHODS, self);
  if (isDict(self)) return bound(DICT_METHODS, self);
  if (isList(self)) return bound(LIST_METHODS, self);
  return isTuple(self) ? bound(SEQUENCE_METHODS, self.items) : undefined;
}

export function entriesOf(dict: ReadonlyMap<Value, Value>): Value[] {
  return [...dict].map(([key, value]) => tuple(key, value));
}

const IS_SPACE = new RegExp(`^${SPACE}$`);
const ONLY_SPACE = new RegExp(`^${SPACE}+$`);
const WORD = new RegExp(`[^${SPACE.slice(1)}+`, "g");
const LINE_BREAK = "[\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029]";
const LINE = new RegExp(`[^${LINE_BREAK.slice(1)}*(?:\\r\\n|${LINE_BREAK}|$)`, "g");
const END_OF_LINE = new RegExp(`(?:\\r\\n|${LINE_BREAK})$`);

export function isLower(self: string): boolean {
  return /\p{Lowercase}/u.test(self) && !/[\p{Uppercase}\p{Lt}]/u.test(self);
}

export function isUpper(self: string): boolean {
  return /\p{Uppercase}/u.test(self) && !/[\p{Lowercase}\p{Lt}]/u.test(self);
}

/** @param chars undefined or null for white space. */
export function strip(self: string, chars: Value | undefined, sides: "left" | "right" | "both"): string {
  const set = chars === undefined || chars === null ? undefined : new Set(charactersOf(text("chars", chars)));
  const isStripped = (character: string) => (set === undefined ? IS_SPACE.test(character) : set.has(character));
  const characters = hasSurrogates(self) ? charactersOf(self) : self;
  let [start, end] = [0, characters.length];
  if (sides !== "right") while (start < end && isStripped(characters[start]!)) start++;
  if (sides !== "left") while (end > start && isStripped(characters[end - 1]!)) end--;
  return typeof characters === "string" ? characters.slice(start, end) : characters.slice(start, end).join("");
}

export function splitLines(self: string, keepEnds = false): string[] {
  // The last match is the nothing at the text's end.
  const lines = self.match(LINE)!.slice(0, -1);
  return keepEnds ? lines : lines.map((line) => line.replace(END_OF_LINE, ""));
}

/** The first letter large, all others small. */
export function capitalize(self: string): string {
  const first = String.fromCodePoint(...(self === "" ? [] : [self.codePointAt(0)!]));
  const [large = "", ...others] = Array.from(first.toUpperCase());
  return large + others.join("").toLowerCase() + self.slice(first.length).toLowerCase();
}

/** A text's pieces between those that are `by`; at most `limit` times cut, without end where it is below 0. */
function cut(self: string, by: string, limit: number, budget: Budget): string[] {
  budget.search(self, by);
  const pieces = by === "" ? ["", ...charactersOf(self), ""] : self.split(by);
  if (limit < 0 || pieces.length <= limit + 1) return pieces;
  return [...pieces.slice(0, limit), pieces.slice(limit).join(by)];
}

/** @param count how many at most; below 0 all. */
export function replace(self: string, old: string, by: string, count: number, budget: Budget): string {
  const pieces = cut(self, old, count, budget);
  budget.length(self.length + (pieces.length - 1) * (by.length - old.length));
  return pieces.join(by);
}

function split(self: string, [sep, maxsplit]: Args, budget: Budget): string[] {
  const limit = optionalInt("maxsplit", maxsplit, -1);
  const by = optionalText("sep", sep);
  if (by === "") throw new TemplateError("empty separator");
  if (by !== undefined) return cut(self, by, limit, budget);
  const words = [...self.matchAll(WORD)];
  const texts = words.map(([word]) => word);
  if (limit < 0 || words.length <= limit + 1) return texts;
  return [...texts.slice(0, limit), self.slice(words[limit]!.index)];
}

export function reversed(self: string): string {
  return charactersOf(self).reverse().join("");
}

function oneOf(wanted: Value | undefined, matches: (text: string) => boolean): boolean {
  const texts = wanted !== undefined && isTuple(wanted) ? wanted.items : [wanted];
  return texts.some((item) => matches(text("prefix or suffix", item)));
}

/** Where a text stands in another, in code points; -1 where it does not. */
function place(self: string, sought: string, search: "indexOf" | "lastIndexOf", budget: Budget): bigint {
  budget.search(self, sought);
  const at = self[search](sought);
  return BigInt(at < 0 ? at : textLength(self.slice(0, at)));
}

function found(at: bigint): bigint {
  if (at < 0n) throw new TemplateError("what is sought is not there");
  return at;
}

function join(self: string, items: readonly Value[], budget: Budget): string {
  const texts = items.map((item, i) => {
    if (typeof item !== "string")
      throw new TemplateError(`sequence item ${i}: expected str instance, ${typeName(item)} found`);
    return item;
  });
  return joinTexts(texts, self, budget);
}

/** `object.name` in a template: a method, else a field. */
export function attribute(object: Value, name: string, budget: Budget): Value {
  return orElse(methodOf(object, name, budget) ?? fieldOf(object, name, budget), () => missing(object, name, budget));
}

/** `object[key]` in a template: a field, else a method. */
export function subscript(object: Value, key: Value, budget: Budget): Value {
  const method = () => (typeof key === "string" ? methodOf(object, key, budget) : undefined);
  return orElse(fieldOf(object, key, budget), () => method() ?? missing(object, key, budget));
}

function fieldOf(object: Value, key: Value, budget: Budget): Value | undefined {
  if (object instanceof Undefined) object.fail();
  if (object instanceof SafeText) notSupported("a field of text marked safe");
  if ((object instanceof Namespace || object instanceof Loop) && typeof key === "string") return object.fields.get(key);
  return itemAt(object, key, budget);
}

function missing(object: Value, key: Value, budget: Budget): Undefined {
  if (object instanceof Callable) notSupported(`${toText(key, budget)} of a function`);
  const what = object === null ? "None" : `'${typeName(object)} object'`;
  return new Undefined(`${what} has no ${typeof key === "string" ? "attribute" : "element"} ${toRepr(key, budget)}`);
}
