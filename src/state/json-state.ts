import type { JsonObject, JsonValue } from "../files/bounded-json.js";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { anything, type FieldsOf, optionsOf, show, wholeNumber } from "../files/options.js";
import { quote } from "../files/quote.js";

export interface JsonStateOptions {
  /**
   * The values that become blocks of their own, as keys and indices joined with "." or as an array (for keys that hold
   * a dot); "*" stands for any. Default: the state is cut by size, as `maxValues` and `minChars` say.
   */
  readonly paths?: readonly (string | readonly string[])[] | undefined;
  /**
   * An object or list of more values than this (texts, numbers and so on, at any depth) is cut at its members, and one of a quarter of it
   * or fewer stands in one block with its neighbours of the same object or list. Default 8.
   */
  readonly maxValues?: number | undefined;
  /** A member of this many characters or more stands alone, however few its values. Default 64. */
  readonly minChars?: number | undefined;
  /**
   * Fields that tell a list's members from each other, the first that all of them have: "seat" or "id". Members that have one are
   * compared by it, so that a member that comes or goes changes no other, and values do not decide where blocks end. Default: none.
   */
  readonly keyFields?: readonly string[] | undefined;
}

export const stateFields = {
  paths: anything,
  maxValues: wholeNumber(1, 2 ** 20),
  minChars: wholeNumber(1, 2 ** 20),
  keyFields: anything,
} satisfies FieldsOf<JsonStateOptions>;
const readOptions = optionsOf(stateFields);

/** As text, how JSON's members are cut. */
export interface StateCut {
  readonly paths: readonly (readonly string[])[] | undefined;
  readonly maxValues: number;
  readonly minChars: number;
  readonly keyFields: readonly string[];
}

const MAX_DEPTH = 500;
const MAX_STRING = 2 ** 20;
/** Of a state's text: more than any model's context. */
const MAX_STATE = 2 ** 22;
/** One small member in so many ends a text. */
const textEnds = 4;

/**
 * Writes a state (a game's, say) as JSON cut into texts for a prompt: content parts of a message, or blocks. Keys are
 * sorted, so that equal states are equal texts. The cut depends on the state alone, whatever was cut before.
 *
 * By size: an object or list of more than `maxValues` values is cut at its members, a list of objects always. Members of few values share
 * a text with their neighbours; it ends at a quarter of the keys (of a list, of the values), chosen by their hash. Where a text ends does
 * not depend on how long values are: one that changes changes its own text only, and a member that comes or goes the text in which it stands.
 *
 * A value's text is the comma before it, its key, and itself; a bracket stands with what is around the values. So a list
 * can grow without its former last value changing. The price: where a first value goes, the next one loses its comma.
 *
 * @returns the texts; put together they are the state as JSON without white space.
 * @throws TypeError for what is no JSON (undefined, a function, NaN, a cycle) and for options of the wrong kind,
 *   RangeError for a state deeper than 500, a string of more than a million characters, or a text of more than 4 million.
 * @see arXiv:2409.15355v5 Appendix A.
 * @example
 * jsonStateBlocks({ pot: 5, bets: [1, 2] }, { paths: ["bets.*"] }); // ["{\"bets\":[", "1", ",2", "],\"pot\":5}"]
 */
export function jsonStateBlocks(state: unknown, options: JsonStateOptions = {}): string[] {
  const cut = stateCut("cut a state", readOptions("cut a state", options));
  return cutState(copyState(state), cut);
}

/** Checks options of a cut and fills the defaults in. @throws as jsonStateBlocks(). */
export function stateCut(action: string, options: ReturnType<typeof readOptions>): StateCut {
  const { paths, maxValues = 8, minChars = 64, keyFields = [] } = options;
  if (!Array.isArray(keyFields) || keyFields.some((name: unknown) => typeof name !== "string")) {
    throw new InputTypeError(`Cannot ${action}: keyFields is ${show(keyFields)}, wanted an array of texts`);
  }
  return {
    paths: paths === undefined ? undefined : parsePaths(action, paths),
    maxValues,
    minChars,
    keyFields: [...keyFields],
  };
}

function parsePaths(action: string, paths: unknown): string[][] {
  if (!Array.isArray(paths))
    throw new InputTypeError(`Cannot ${action}: the paths are ${show(paths)}, wanted an array`);
  return paths.map((path: unknown) => {
    const keys: unknown = typeof path === "string" ? path.split(".") : path;
    if (!Array.isArray(keys) || keys.length === 0 || keys.some((key) => typeof key !== "string")) {
      throw new InputTypeError(`Cannot ${action}: the path ${show(path)} is neither text nor an array of texts`);
    }
    return [...keys] as string[];
  });
}

/**
 * A state of one's own: the caller may go on changing his. Objects have no prototype, so that "__proto__" is a key as any.
 *
 * @throws as jsonStateBlocks().
 */
export function copyState(state: unknown): JsonValue {
  return copyValue(state, { path: [], around: [], numChars: 0 });
}

/** Where copying stands. */
interface Copying {
  readonly path: string[];
  readonly around: object[];
  /** Copied so far, brackets and commas among them. */
  numChars: number;
}

function copyValue(value: unknown, at: Copying): JsonValue {
  const { path, around } = at;
  if (path.length > MAX_DEPTH) {
    throw new InputRangeError(`Cannot write a state as JSON: it is deeper than ${MAX_DEPTH}`);
  }
  const length = typeof value === "string" ? value.length : 0;
  if (length > MAX_STRING) {
    throw new InputRangeError(
      `Cannot write a state as JSON: ${nameOf(path)} has ${length} characters, at most ${MAX_STRING} are wanted`,
    );
  }
  at.numChars += 1 + length + (path.at(-1)?.length ?? 0);
  if (at.numChars > MAX_STATE) {
    throw new InputRangeError(`Cannot write a state as JSON: it has more than ${MAX_STATE} characters`);
  }
  if (value === null || typeof value === "boolean" || typeof value === "string") return value;
  if (typeof value === "number") {
    if (Number.isFinite(value)) return value;
    throw new InputTypeError(`Cannot write a state as JSON: ${nameOf(path)} is ${value}, wanted a finite number`);
  }
  if (typeof value !== "object") {
    throw new InputTypeError(`Cannot write a state as JSON: ${nameOf(path)} is ${typeof value}`);
  }
  if (around.includes(value)) throw new InputTypeError(`Cannot write a state as JSON: ${nameOf(path)} holds itself`);
  around.push(value);
  const copyMember = (member: unknown, key: string) => {
    path.push(key);
    const copy = copyValue(member, at);
    path.pop();
    return copy;
  };
  let copy: JsonValue;
  if (Array.isArray(value)) {
    copy = Array.from(value, (member: unknown, i) => copyMember(member, String(i)));
  } else {
    const prototype: unknown = Object.getPrototypeOf(value);
    if (prototype !== null && prototype !== Object.prototype) {
      throw new InputTypeError(`Cannot write a state as JSON: ${nameOf(path)} is no plain object`);
    }
    copy = objectOf(Object.entries(value).map(([key, member]) => [key, copyMember(member, key)]));
  }
  around.pop();
  return copy;
}

/** An object without a prototype. */
export function objectOf(members: readonly (readonly [key: string, member: JsonValue])[]): JsonObject {
  const object: Record<string, JsonValue> = Object.create(null);
  for (const [key, member] of members) object[key] = member;
  return object;
}

function nameOf(path: readonly string[]): string {
  return path.length === 0 ? "the state" : quote(path.join("."));
}

/** A value as text, and its members where it is an object or list. */
interface Written {
  readonly text: string;
  readonly members: readonly { readonly key: string; readonly value: JsonValue; readonly written: Written }[];
  readonly isList: boolean;
  /** Texts, numbers and so on, and what is empty, at any depth. */
  readonly numValues: number;
  /** Whether a list of objects or lists stands in it. */
  readonly hasList: boolean;
}

function writeValue(value: JsonValue): Written {
  const isPlain = typeof value !== "object" || value === null;
  if (isPlain) return { text: JSON.stringify(value), members: [], isList: false, numValues: 1, hasList: false };
  const isList = Array.isArray(value);
  const entries = isList
    ? (value as readonly JsonValue[]).map((member, i) => [String(i), member] as const)
    : Object.entries(value as JsonObject).sort(([a], [b]) => (a < b ? -1 : 1));
  const members = entries.map(([key, member]) => ({ key, value: member, written: writeValue(member) }));
  let text = isList ? "[" : "{";
  // Added piece by piece, and not joined: of nested values no character is copied before its text is used.
  for (const [i, { key, written }] of members.entries()) text += leadOf(isList, key, i) + written.text;
  const numValues = members.reduce((sum, { written }) => sum + written.numValues, 0);
  const hasList = members.some(({ value, written }) => {
    return written.hasList || (isList && typeof value === "object" && value !== null);
  });
  return { text: text + (isList ? "]" : "}"), members, isList, numValues: Math.max(1, numValues), hasList };
}

/** @param state of copyState(). @returns as jsonStateBlocks(). */
export function cutState(state: JsonValue, cut: StateCut): string[] {
  const written = writeValue(state);
  return cut.paths ? cutByPaths(written, cut.paths) : cutBySize(state, written, cut);
}

/** Texts that come piece by piece. */
class Texts {
  readonly closed: string[] = [];
  open = "";

  close(): void {
    if (this.open !== "") this.closed.push(this.open);
    this.open = "";
  }
}

/** The comma and the key before a member: they go with it. */
function leadOf(isList: boolean, key: string, index: number): string {
  return (index > 0 ? "," : "") + (isList ? "" : `${JSON.stringify(key)}:`);
}

function cutByPaths(state: Written, paths: readonly (readonly string[])[]): string[] {
  const texts = new Texts();
  /** @param rests the keys still to come of each path that leads here. */
  const write = (value: Written, lead: string, rests: readonly (readonly string[])[]) => {
    const isCutHere = rests.some((rest) => rest.length === 0);
    const inner = value.members.map((member) => {
      const matching = rests.filter((rest) => rest[0] === "*" || rest[0] === member.key);
      return { ...member, rests: matching.map((rest) => rest.slice(1)) };
    });
    if (isCutHere) texts.close();
    if (!inner.some((member) => member.rests.length > 0)) {
      texts.open += lead + value.text;
    } else {
      texts.open += lead + (value.isList ? "[" : "{");
      for (const [i, member] of inner.entries())
        write(member.written, leadOf(value.isList, member.key, i), member.rests);
      texts.open += value.isList ? "]" : "}";
    }
    if (isCutHere) texts.close();
  };
  write(state, "", paths);
  texts.close();
  return texts.closed;
}

function cutBySize(state: JsonValue, whole: Written, { maxValues, minChars, keyFields }: StateCut): string[] {
  const texts = new Texts();
  /** In the open text. */
  let numOpen = 0;
  const close = () => {
    texts.close();
    numOpen = 0;
  };
  /** @param mark what decides whether a text ends with the value: its key; in a list itself, or its key field. */
  const write = (value: JsonValue, written: Written, lead: string, mark: string) => {
    const { text, members, isList, numValues, hasList } = written;
    if (numValues > maxValues || hasList) {
      const field = isList ? keyFieldOf(value as readonly JsonValue[], keyFields) : undefined;
      texts.open += lead + (isList ? "[" : "{");
      for (const [i, member] of members.entries()) {
        const own = field ? JSON.stringify((member.value as JsonObject)[field]) : member.written.text;
        write(member.value, member.written, leadOf(isList, member.key, i), isList ? own : member.key);
      }
      close();
      texts.open = isList ? "]" : "}";
      return;
    }
    const isSmall = numValues <= Math.ceil(maxValues / 4) && text.length < minChars;
    if (!isSmall) close();
    texts.open += lead + text;
    numOpen += numValues;
    if (!isSmall || numOpen >= maxValues || hashOf(mark) % textEnds === 0) close();
  };
  write(state, whole, "", "");
  texts.close();
  return texts.closed;
}

/** The first field that tells all of a list's members from each other; undefined where none does. */
export function keyFieldOf(list: readonly JsonValue[], keyFields: readonly string[]): string | undefined {
  return keyFields.find((field) => {
    const seen = new Set<JsonValue>();
    for (const member of list) {
      if (typeof member !== "object" || member === null || !Object.hasOwn(member, field)) return false;
      const key = (member as JsonObject)[field] as JsonValue;
      if ((typeof key !== "string" && typeof key !== "number") || seen.has(key)) return false;
      seen.add(key);
    }
    return list.length > 0;
  });
}

/** FNV-1a, its bits mixed. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x21f0aaad);
  return (hash ^ (hash >>> 15)) >>> 0;
}
