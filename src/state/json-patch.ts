import type { JsonObject, JsonValue } from "../files/bounded-json.js";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { show } from "../files/options.js";
import { quote } from "../files/quote.js";
import { copyState, keyFieldOf, objectOf } from "./json-state.js";

/** An operation of RFC 6902 (JSON Patch); paths are JSON Pointers. */
export type JsonPatchOperation =
  | { readonly op: "add" | "replace" | "test"; readonly path: string; readonly value: unknown }
  | { readonly op: "remove"; readonly path: string }
  | { readonly op: "move" | "copy"; readonly from: string; readonly path: string };

/** What differs between two states, where: a JSON Pointer, of a removed value into the state before. */
export interface StateChange {
  readonly kind: "added" | "removed" | "changed";
  readonly path: string;
}

const MAX_OPERATIONS = 10_000;

/**
 * A state after a patch. The state before stays as it is, whatever becomes of the patch: all of it is done or nothing.
 *
 * @param state of copyState().
 * @throws TypeError for what is no patch, RangeError for a path that leads nowhere, and a test that fails.
 * @see RFC 6902, RFC 6901.
 * @example applyPatch({ pot: 5 }, [{ op: "replace", path: "/pot", value: 7 }]) is { pot: 7 }
 */
export function applyPatch(state: JsonValue, patch: readonly JsonPatchOperation[]): JsonValue {
  if (!Array.isArray(patch))
    throw new InputTypeError(`Cannot patch a state: the patch is ${show(patch)}, wanted a list`);
  if (patch.length > MAX_OPERATIONS) {
    throw new InputRangeError(
      `Cannot patch a state: there are ${patch.length} operations, at most ${MAX_OPERATIONS} are wanted`,
    );
  }
  return patch.reduce<JsonValue>((before, operation, i) => {
    try {
      return applyOperation(before, operation);
    } catch (error) {
      if (!(error instanceof PatchError)) throw error;
      throw new error.type(`Cannot patch a state: operation ${i + 1} ${error.message}`);
    }
  }, state);
}

/** Why an operation cannot be done, without its number. */
class PatchError extends Error {
  constructor(
    readonly type: typeof InputTypeError | typeof InputRangeError,
    message: string,
  ) {
    super(message);
  }
}

function applyOperation(state: JsonValue, given: unknown): JsonValue {
  if (typeof given !== "object" || given === null) {
    throw new PatchError(InputTypeError, `is ${show(given)}, wanted an object`);
  }
  const { op, path, from, value } = given as Readonly<Record<string, unknown>>;
  const at = pointerOf(path, "path");
  const ownValue = () => {
    if (!Object.hasOwn(given, "value")) throw new PatchError(InputTypeError, "has no value");
    return copyState(value);
  };
  switch (op) {
    case "add":
      return addAt(state, at, ownValue());
    case "remove":
      return removeAt(state, at);
    case "replace": {
      const next = ownValue();
      valueAt(state, at);
      return at.length === 0 ? next : changeAt(state, at, (holder, key) => withMember(holder, key, next));
    }
    case "copy":
      return addAt(state, at, valueAt(state, pointerOf(from, "from")));
    case "move": {
      const source = pointerOf(from, "from");
      const moved = valueAt(state, source);
      if (source.length < at.length && source.every((key, i) => key === at[i])) {
        throw new PatchError(InputRangeError, `moves ${quote(String(from))} into itself`);
      }
      return source.length === 0 ? moved : addAt(removeAt(state, source), at, moved);
    }
    case "test":
      if (isEqual(valueAt(state, at), ownValue())) return state;
      throw new PatchError(InputRangeError, `fails: ${quote(String(path))} is another value`);
    default:
      throw new PatchError(
        InputTypeError,
        `has the op ${show(op)}, wanted "add", "remove", "replace", "move", "copy" or "test"`,
      );
  }
}

function pointerOf(pointer: unknown, name: string): string[] {
  if (typeof pointer !== "string" || (pointer !== "" && !pointer.startsWith("/")) || /~(?![01])/.test(pointer)) {
    throw new PatchError(
      InputTypeError,
      `has the ${name} ${show(pointer)}, wanted a JSON Pointer such as "/players/0"`,
    );
  }
  return pointer
    .split("/")
    .slice(1)
    .map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~"));
}

function nowhere(path: readonly string[]): PatchError {
  return new PatchError(InputRangeError, `has a path that leads nowhere, ${quote(textOf(path))}`);
}

/** @param length one more than the last index that is wanted. */
function indexOf(key: string, length: number): number | undefined {
  return /^(0|[1-9]\d{0,8})$/.test(key) && Number(key) < length ? Number(key) : undefined;
}

function memberOf(value: JsonValue, key: string): JsonValue | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  if (Array.isArray(value)) return value[indexOf(key, value.length) ?? -1];
  return Object.hasOwn(value, key) ? (value as JsonObject)[key] : undefined;
}

function valueAt(state: JsonValue, path: readonly string[]): JsonValue {
  let value: JsonValue | undefined = state;
  for (const key of path) if (value !== undefined) value = memberOf(value, key);
  if (value === undefined) throw nowhere(path);
  return value;
}

/** The state with another value in the place of the one that holds `path`'s last key: what is not on the way is shared. */
function changeAt(
  state: JsonValue,
  path: readonly string[],
  change: (holder: JsonValue, key: string) => JsonValue | undefined,
): JsonValue {
  const within = (value: JsonValue, depth: number): JsonValue => {
    const key = path[depth] as string;
    const isLast = depth === path.length - 1;
    const member = isLast ? change(value, key) : memberOf(value, key);
    if (member === undefined) throw nowhere(path);
    return isLast ? member : withMember(value, key, within(member, depth + 1));
  };
  return within(state, 0);
}

function withMember(holder: JsonValue, key: string, member: JsonValue): JsonValue {
  if (Array.isArray(holder)) return holder.with(Number(key), member);
  return objectOf([...Object.entries(holder as JsonObject).filter(([name]) => name !== key), [key, member]]);
}

function addAt(state: JsonValue, path: readonly string[], value: JsonValue): JsonValue {
  if (path.length === 0) return value;
  return changeAt(state, path, (holder, key) => {
    if (typeof holder !== "object" || holder === null) return undefined;
    if (!Array.isArray(holder)) return withMember(holder, key, value);
    const index = key === "-" ? holder.length : indexOf(key, holder.length + 1);
    return index === undefined ? undefined : holder.toSpliced(index, 0, value);
  });
}

function removeAt(state: JsonValue, path: readonly string[]): JsonValue {
  if (path.length === 0) return null;
  return changeAt(state, path, (holder, key) => {
    if (memberOf(holder, key) === undefined) return undefined;
    if (Array.isArray(holder)) return holder.toSpliced(Number(key), 1);
    return objectOf(Object.entries(holder as JsonObject).filter(([name]) => name !== key));
  });
}

function isEqual(a: JsonValue, b: JsonValue): boolean {
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return a === b;
  const keys = Object.keys(a);
  return (
    Array.isArray(a) === Array.isArray(b) &&
    keys.length === Object.keys(b).length &&
    keys.every((key) => {
      return Object.hasOwn(b, key) && isEqual((a as JsonObject)[key] as JsonValue, (b as JsonObject)[key] as JsonValue);
    })
  );
}

/** A JSON Pointer. */
function textOf(path: readonly string[]): string {
  return path.map((key) => `/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}

/**
 * What differs between two states, in the order of keys. Members of a list are compared by their key field, where it has one of
 * `keyFields`, and their order is not; otherwise by their places, after those that are alike at both ends.
 *
 * @param before of copyState(), as `after`.
 * @example changesBetween({ pot: 5 }, { pot: 7 }, []) is [{ kind: "changed", path: "/pot" }]
 */
export function changesBetween(before: JsonValue, after: JsonValue, keyFields: readonly string[]): StateChange[] {
  const changes: StateChange[] = [];
  const add = (kind: StateChange["kind"], path: readonly string[]) => changes.push({ kind, path: textOf(path) });
  const compare = (a: JsonValue, b: JsonValue, path: readonly string[]): void => {
    if (a === b) return;
    const isSameKind = typeof a === "object" && typeof b === "object" && a !== null && b !== null;
    if (!isSameKind || Array.isArray(a) !== Array.isArray(b)) {
      add("changed", path);
      return;
    }
    const [were, are] = Array.isArray(a)
      ? namedLists(a, b as readonly JsonValue[], keyFields)
      : [namedMembers(a), namedMembers(b)];
    for (const [name, [key]] of were) if (!are.has(name)) add("removed", [...path, key]);
    for (const [name, [key, value]] of are) {
      const was = were.get(name);
      if (was === undefined) add("added", [...path, key]);
      else compare(was[1], value, [...path, key]);
    }
  };
  compare(before, after, []);
  return changes;
}

/** Members by a name that both states give the same one: its key in its own state, and the value. */
type NamedMembers = ReadonlyMap<string, readonly [key: string, value: JsonValue]>;

function namedMembers(object: JsonValue): NamedMembers {
  const entries = Object.entries(object as JsonObject).sort(([a], [b]) => (a < b ? -1 : 1));
  return new Map(entries.map((entry) => [entry[0], entry]));
}

function namedLists(
  before: readonly JsonValue[],
  after: readonly JsonValue[],
  keyFields: readonly string[],
): [NamedMembers, NamedMembers] {
  const field = keyFieldOf(before, keyFields) ?? keyFieldOf(after, keyFields);
  const isKeyed =
    field !== undefined && [before, after].every((list) => list.length === 0 || keyFieldOf(list, [field]));
  if (isKeyed) {
    const named = (list: readonly JsonValue[]): NamedMembers =>
      new Map(list.map((member, i) => [JSON.stringify((member as JsonObject)[field]), [String(i), member]]));
    return [named(before), named(after)];
  }
  const shorter = Math.min(before.length, after.length);
  let numAlike = 0;
  const isAlike = (i: number) => isEqual(before.at(i) as JsonValue, after.at(i) as JsonValue);
  while (numAlike < shorter && isAlike(numAlike)) numAlike++;
  let numAlikeAtEnd = 0;
  while (numAlikeAtEnd < shorter - numAlike && isAlike(-1 - numAlikeAtEnd)) numAlikeAtEnd++;
  const named = (list: readonly JsonValue[]): NamedMembers => {
    const middle = list.slice(numAlike, list.length - numAlikeAtEnd);
    return new Map(middle.map((member, i) => [String(i), [String(numAlike + i), member]]));
  };
  return [named(before), named(after)];
}
