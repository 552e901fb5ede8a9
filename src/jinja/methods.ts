import { SPACE } from "./lexer.js";
import { itemAt } from "./operators.js";
import { bind, optionalInt, optionalText, text } from "./signature.js";
import {
  type Budget,
  Callable,
  charactersOf,
  hasSurrogates,
  Items,
  isDict,
  isEqual,
  isList,
  itemsOf,
  joinTexts,
  keyOf,
  Namespace,
  notSupported,
  orElse,
  SafeText,
  textLength,
  toRepr,
  toText,
  tuple,
  typeName,
  Undefined,
  type Value,
} from "./values.js";

type Args = readonly (Value | undefined)[];
/** A method's signature (see `bind`), and what it gives. */
type Methods<T> = Readonly<Record<string, readonly [string, (self: T, args: Args, budget: Budget) => Value]>>;

/** Python's methods of text. What Python has beside them is refused by name. */
const TEXT_METHODS: Methods<string> = {
  capitalize: ["", (self) => capitalize(self)],
  casefold: ["", (self) => (isAscii(self) ? self.toLowerCase() : notSupported("casefold() of such text"))],
  center: ["width fillchar?", (self, args, budget) => pad(self, args, "both", budget)],
  count: ["sub start? end?", (self, args, budget) => BigInt(countOf(part(self, args), text("sub", args[0]), budget))],
  endswith: ["suffix start? end?", (self, args) => oneOf(args[0], (end) => part(self, args).endsWith(end))],
  expandtabs: ["/ tabsize?", (self, [size], budget) => expandTabs(self, optionalInt("tabsize", size, 8), budget)],
  find: ["sub start? end?", (self, args, budget) => place(self, args, budget, "first")],
  index: ["sub start? end?", (self, args, budget) => found(place(self, args, budget, "first"))],
  isalnum: ["", (self) => /^[\p{L}\p{N}]+$/u.test(self)],
  isalpha: ["", (self) => /^\p{L}+$/u.test(self)],
  isascii: ["", isAscii],
  isdecimal: ["", (self) => /^\p{Nd}+$/u.test(self)],
  isdigit: ["", (self) => (/\p{No}/u.test(self) ? notSupported("isdigit() of such text") : /^\p{Nd}+$/u.test(self))],
  islower: ["", (self) => isLower(self)],
  isspace: ["", (self) => ONLY_SPACE.test(self)],
  isupper: ["", (self) => isUpper(self)],
  join: ["iterable", (self, [items], budget) => join(self, itemsOf(items!, budget), budget)],
  ljust: ["width fillchar?", (self, args, budget) => pad(self, args, "right", budget)],
  lower: ["", (self) => self.toLowerCase()],
  lstrip: ["chars?", (self, [chars]) => strip(self, chars, "left")],
  partition: ["sep", (self, [sep], budget) => partition(self, text("sep", sep), "first", budget)],
  removeprefix: [
    "prefix",
    (self, [start]) => (self.startsWith(text("prefix", start)) ? self.slice(text("prefix", start).length) : self),
  ],
  removesuffix: [
    "suffix",
    (self, [end]) =>
      self.endsWith(text("suffix", end)) ? self.slice(0, self.length - text("suffix", end).length) : self,
  ],
  replace: [
    "old new / count?",
    (self, [old, by, count], budget) =>
      replace(self, text("old", old), text("new", by), optionalInt("count", count, -1), budget),
  ],
  rfind: ["sub start? end?", (self, args, budget) => place(self, args, budget, "last")],
  rindex: ["sub start? end?", (self, args, budget) => found(place(self, args, budget, "last"))],
  rjust: ["width fillchar?", (self, args, budget) => pad(self, args, "left", budget)],
  rpartition: ["sep", (self, [sep], budget) => partition(self, text("sep", sep), "last", budget)],
  rsplit: ["/ sep? maxsplit?", (self, args, budget) => split(self, args, "last", budget)],
  rstrip: ["chars?", (self, [chars]) => strip(self, chars, "right")],
  split: ["/ sep? maxsplit?", (self, args, budget) => split(self, args, "first", budget)],
  splitlines: ["/ keepends?", (self, [keep]) => splitLines(self, optionalInt("keepends", keep, 0) !== 0)],
  startswith: ["prefix start? end?", (self, args) => oneOf(args[0], (start) => part(self, args).startsWith(start))],
  strip: ["chars?", (self, [chars]) => strip(self, chars, "both")],
  swapcase: [
    "",
    (self) => self.replace(/\p{Lu}|\p{Ll}/gu, (c) => (/\p{Lu}/u.test(c) ? c.toLowerCase() : c.toUpperCase())),
  ],
  title: ["", (self) => self.replace(/\p{Cased}+/gu, capitalize)],
  upper: ["", (self) => self.toUpperCase()],
  zfill: [
    "width",
    (self, [width], budget) => {
      const sign = /^[+-]/.exec(self)?.[0] ?? "";
      return (
        sign + pad(self.slice(sign.length), [BigInt(optionalInt("width", width, 0) - sign.length), "0"], "left", budget)
      );
    },
  ],
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

// Python has them; a template that uses one is told so, since without them it would see an undefined value.
const NOT_SUPPORTED: Readonly<Record<string, string>> = {
  str: "encode format format_map isidentifier isnumeric isprintable istitle maketrans translate",
  dict: "fromkeys",
  int: "as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag is_integer numerator real to_bytes",
  float: "as_integer_ratio conjugate fromhex hex imag is_integer real",
  dict_keys: "isdisjoint mapping",
  dict_values: "mapping",
  dict_items: "isdisjoint mapping",
  range: "count index start step stop",
  generator: "close gi_code gi_frame gi_running gi_suspended gi_yieldfrom send throw",
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
  if (has(CHANGES[type])) throw new TypeError(`the method "${name}" of ${type} is not allowed: it changes the ${type}`);
  if (has(NOT_SUPPORTED[type === "bool" ? "int" : type])) return notSupported(`"${name}" of ${type}`);
  if (name.startsWith("__")) return notSupported(`"${name}"`);
  if (typeof self === "string") return bound(TEXT_METHODS, self);
  if (isDict(self)) return bound(DICT_METHODS, self);
  if (isList(self)) return bound(LIST_METHODS, self);
  return self instanceof Items && self.kind === "tuple" ? bound(SEQUENCE_METHODS, self.items) : undefined;
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

function isAscii(self: string): boolean {
  return !/[\u0080-\uffff]/.test(self);
}

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

/** @param count how many at most; below 0 all. */
export function replace(self: string, old: string, by: string, count: number, budget: Budget): string {
  budget.search(self, old);
  const places: number[] = [];
  const limit = count < 0 ? Number.POSITIVE_INFINITY : count;
  if (old === "") {
    let at = 0;
    for (const character of ["", ...charactersOf(self)]) {
      if (places.length >= limit) break;
      at += character.length;
      places.push(at);
    }
  } else {
    for (let at = self.indexOf(old); at >= 0 && places.length < limit; at = self.indexOf(old, at + old.length))
      places.push(at);
  }
  budget.length(self.length + places.length * (by.length - old.length));
  let replaced = "";
  let done = 0;
  for (const at of places) {
    replaced += self.slice(done, at) + by;
    done = at + old.length;
  }
  return replaced + self.slice(done);
}

function split(self: string, [sep, maxsplit]: Args, from: "first" | "last", budget: Budget): string[] {
  const max = optionalInt("maxsplit", maxsplit, -1);
  const limit = max < 0 ? Number.POSITIVE_INFINITY : max;
  const by = optionalText("sep", sep);
  if (by === undefined) {
    const words = [...self.matchAll(WORD)].map((match) => ({ word: match[0], start: match.index }));
    const texts = words.map(({ word }) => word);
    if (words.length <= limit + 1) return texts;
    if (from === "first") return [...texts.slice(0, limit), self.slice(words[limit]!.start)];
    const { word, start } = words[words.length - limit - 1]!;
    return [self.slice(0, start + word.length), ...texts.slice(words.length - limit)];
  }
  if (by === "") throw new TypeError("empty separator");
  budget.search(self, by);
  const pieces: string[] = [];
  if (from === "first") {
    let start = 0;
    for (let at = self.indexOf(by); at >= 0 && pieces.length < limit; at = self.indexOf(by, start)) {
      pieces.push(self.slice(start, at));
      start = at + by.length;
    }
    return [...pieces, self.slice(start)];
  }
  let end = self.length;
  while (pieces.length < limit && end >= by.length) {
    const at = self.lastIndexOf(by, end - by.length);
    if (at < 0) break;
    pieces.push(self.slice(at + by.length, end));
    end = at;
  }
  return [self.slice(0, end), ...pieces.reverse()];
}

function partition(self: string, sep: string, which: "first" | "last", budget: Budget): Items {
  if (sep === "") throw new TypeError("empty separator");
  budget.search(self, sep);
  const at = which === "first" ? self.indexOf(sep) : self.lastIndexOf(sep);
  if (at < 0) return which === "first" ? tuple(self, "", "") : tuple("", "", self);
  return tuple(self.slice(0, at), sep, self.slice(at + sep.length));
}

/** The part of a text that `start` and `end`, the second and third argument, leave. */
function part(self: string, [, start, end]: Args): string {
  if ((start ?? end ?? null) === null) return self;
  const characters = charactersOf(self);
  const [from, to] = [
    optionalInt("start", start ?? undefined, 0),
    optionalInt("end", end ?? undefined, characters.length),
  ];
  return characters.slice(from, to).join("");
}

function oneOf(wanted: Value | undefined, matches: (text: string) => boolean): boolean {
  if (wanted instanceof Items && wanted.kind === "tuple")
    return wanted.items.some((item) => matches(text("item", item)));
  return matches(text("prefix or suffix", wanted));
}

function countOf(self: string, sub: string, budget: Budget): number {
  if (sub === "") return textLength(self) + 1;
  budget.search(self, sub);
  let count = 0;
  for (let at = self.indexOf(sub); at >= 0; at = self.indexOf(sub, at + sub.length)) count++;
  return count;
}

/** Where a text stands in another, in code points; -1 where it does not. */
function place(self: string, args: Args, budget: Budget, which: "first" | "last"): bigint {
  const [sub, start] = args;
  const searched = part(self, args);
  const sought = text("sub", sub);
  budget.search(searched, sought);
  const first = optionalInt("start", start ?? undefined, 0);
  const length = textLength(self);
  const skipped = first < 0 ? Math.max(0, length + first) : first;
  // An empty text is found anywhere but past the end.
  if (skipped > length) return -1n;
  const at = which === "first" ? searched.indexOf(sought) : searched.lastIndexOf(sought);
  return at < 0 ? -1n : BigInt(skipped + textLength(searched.slice(0, at)));
}

function found(at: bigint): bigint {
  if (at < 0n) throw new TypeError("what is sought is not there");
  return at;
}

/** @param side where the filling goes. */
export function pad(self: string, [width, fill]: Args, side: "left" | "right" | "both", budget: Budget): string {
  const wanted = optionalInt("width", width, 0);
  const filling = fill === undefined ? " " : text("fillchar", fill);
  if (textLength(filling) !== 1) throw new TypeError("the fill character must be exactly one character long");
  const missing = Math.max(0, wanted - textLength(self));
  budget.length(self.length + missing);
  const half = Math.floor(missing / 2) + (missing & wanted & 1);
  const left = side === "left" ? missing : side === "right" ? 0 : half;
  return filling.repeat(left) + self + filling.repeat(missing - left);
}

function expandTabs(self: string, size: number, budget: Budget): string {
  budget.length(self.length + countOf(self, "\t", budget) * Math.max(0, size - 1));
  let column = 0;
  const expanded = charactersOf(self).map((character) => {
    if (character !== "\t") {
      column = character === "\n" || character === "\r" ? 0 : column + 1;
      return character;
    }
    const width = size > 0 ? size - (column % size) : 0;
    column += width;
    return " ".repeat(width);
  });
  return expanded.join("");
}

function join(self: string, items: readonly Value[], budget: Budget): string {
  const texts = items.map((item, i) => {
    if (typeof item !== "string")
      throw new TypeError(`sequence item ${i}: expected str instance, ${typeName(item)} found`);
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
  if ((object instanceof Namespace || object instanceof Callable) && typeof key === "string")
    return object.fields.get(key);
  return itemAt(object, key, budget);
}

function missing(object: Value, key: Value, budget: Budget): Undefined {
  // A loop's fields are all here, those of functions and macros are not.
  if (object instanceof Callable && object.fields.size === 0) notSupported(`${toText(key, budget)} of a function`);
  const what = object === null ? "None" : `'${typeName(object)} object'`;
  return new Undefined(`${what} has no ${typeof key === "string" ? "attribute" : "element"} ${toRepr(key, budget)}`);
}
