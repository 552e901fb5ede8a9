import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { anything, type FieldsOf, optionsOf } from "../files/options.js";

export interface JsonStateOptions {
  /**
   * The values that become blocks of their own, as keys and indices joined with "." or as an array (for keys that hold
   * a dot); "*" stands for any. Default `["*"]`: each member of the state.
   */
  readonly paths?: readonly (string | readonly string[])[] | undefined;
}

const readOptions = optionsOf({ paths: anything } satisfies FieldsOf<JsonStateOptions>);

const MAX_DEPTH = 500;

/**
 * Writes a state (a game's, say) as JSON cut into texts for a prompt: content parts of a message, or blocks. Keys are
 * sorted, so that equal states are equal texts. A value that changes, whatever its length, changes its own text only; a
 * value put at the end of a list or object adds one. What belongs to no path stands with its neighbours, as one text.
 *
 * A value's text is the comma before it, its key, and itself; a bracket stands with what is around the values. So a list
 * can grow without its former last value changing. The price: where a first value goes, the next one loses its comma.
 *
 * @returns the texts; put together they are the state as JSON without white space.
 * @throws TypeError for what is no JSON (undefined, a function, NaN, a cycle) and for paths of the wrong kind,
 *   RangeError for one deeper than 500.
 * @see FACTS §8, arXiv:2409.15355v5 Appendix A.
 * @example jsonStateBlocks({ pot: 5, bets: [1, 2] }, { paths: ["bets.*"] }) is ['{"bets":[', "1", ",2", '],"pot":5}']
 */
export function jsonStateBlocks(state: unknown, options: JsonStateOptions = {}): string[] {
  const { paths: given = ["*"] } = readOptions("cut a state", options);
  const paths = parsePaths(given);
  const pieces: string[] = [];
  let open = "";

  const close = () => {
    if (open !== "") pieces.push(open);
    open = "";
  };
  /** `lead` is the comma and the key before the value: they go with it. */
  const write = (value: unknown, lead: string, path: readonly string[], matching: readonly PathMatch[]) => {
    const isCutHere = matching.some((match) => match.rest.length === 0);
    const deeper = matching.filter((match) => match.rest.length > 0);
    const isContainer = typeof value === "object" && value !== null;
    const entries = isContainer && deeper.length > 0 ? entriesOf(value, path) : [];
    const inner = entries.map(([key, member]) => ({ key, member, matching: step(deeper, key) }));
    if (isCutHere) close();
    if (!inner.some((entry) => entry.matching.length > 0)) {
      open += lead + stringify(value, path, []);
    } else {
      const isArray = Array.isArray(value);
      open += lead + (isArray ? "[" : "{");
      for (const [i, { key, member, matching: next }] of inner.entries()) {
        write(member, (i > 0 ? "," : "") + (isArray ? "" : `${JSON.stringify(key)}:`), [...path, key], next);
      }
      open += isArray ? "]" : "}";
    }
    if (isCutHere) close();
  };

  const matching = paths.map((rest) => ({ rest }));
  write(state, "", [], matching);
  close();
  return pieces;
}

interface PathMatch {
  /** The keys still to come. */
  readonly rest: readonly string[];
}

function step(matching: readonly PathMatch[], key: string): PathMatch[] {
  return matching.filter(({ rest }) => rest[0] === "*" || rest[0] === key).map(({ rest }) => ({ rest: rest.slice(1) }));
}

function parsePaths(paths: unknown): string[][] {
  if (!Array.isArray(paths)) throw new InputTypeError("Cannot cut a state: the paths are no array");
  return paths.map((path: unknown) => {
    const keys: unknown = typeof path === "string" ? path.split(".") : path;
    if (!Array.isArray(keys) || keys.length === 0 || keys.some((key) => typeof key !== "string")) {
      throw new InputTypeError(
        `Cannot cut a state: the path ${JSON.stringify(path)} is neither text nor an array of texts`,
      );
    }
    return keys as string[];
  });
}

/** Members in the order in which they are written: a list's as they are, an object's by key. */
function entriesOf(container: object, path: readonly string[]): [string, unknown][] {
  if (Array.isArray(container)) return Array.from(container, (member: unknown, i) => [String(i), member]);
  const prototype: unknown = Object.getPrototypeOf(container);
  if (prototype !== null && prototype !== Object.prototype) {
    throw new InputTypeError(`Cannot write a state as JSON: ${nameOf(path)} is no plain object`);
  }
  return Object.entries(container).sort(([a], [b]) => (a < b ? -1 : 1));
}

function stringify(value: unknown, path: readonly string[], around: readonly object[]): string {
  if (path.length > MAX_DEPTH)
    throw new InputRangeError(`Cannot write a state as JSON: it is deeper than ${MAX_DEPTH}`);
  if (value === null || typeof value === "string" || typeof value === "boolean") return JSON.stringify(value);
  if (typeof value === "number") {
    if (Number.isFinite(value)) return JSON.stringify(value);
    throw new InputTypeError(`Cannot write a state as JSON: ${nameOf(path)} is ${value}, wanted a finite number`);
  }
  if (typeof value !== "object")
    throw new InputTypeError(`Cannot write a state as JSON: ${nameOf(path)} is ${typeof value}`);
  if (around.includes(value)) throw new InputTypeError(`Cannot write a state as JSON: ${nameOf(path)} holds itself`);
  const inside = [...around, value];
  const members = entriesOf(value, path).map(([key, member]) => {
    const text = stringify(member, [...path, key], inside);
    return Array.isArray(value) ? text : `${JSON.stringify(key)}:${text}`;
  });
  return Array.isArray(value) ? `[${members.join(",")}]` : `{${members.join(",")}}`;
}

function nameOf(path: readonly string[]): string {
  return path.length === 0 ? "the state" : JSON.stringify(path.join(".").slice(0, 200));
}
