import { type Kwargs, typeName, type Value } from "./values.js";

/**
 * Puts arguments in the order of a signature: names with spaces between them, those that end in "?" optional. After "/"
 * an argument may be given by name; without "/" none may.
 *
 * @throws TypeError for arguments that do not fit.
 * @example bind("replace", "old new / count?", ["a", "b"], new Map([["count", 1n]])) is ["a", "b", 1n]
 */
export function bind(name: string, signature: string, args: readonly Value[], kwargs: Kwargs): (Value | undefined)[] {
  const [fixed = "", free = ""] = signature.includes("/") ? signature.split("/") : [signature];
  const words = (text: string) => text.split(" ").filter((word) => word !== "");
  const parameters = [...words(fixed), ...words(free)];
  if (args.length > parameters.length) {
    throw new TypeError(`${name}() takes at most ${parameters.length} arguments, ${args.length} are given`);
  }
  const named = words(free).map((word) => word.replace("?", ""));
  for (const key of kwargs.keys()) {
    if (!named.includes(key)) throw new TypeError(`${name}() takes no argument named "${key}"`);
  }
  return parameters.map((word, i) => {
    const parameter = word.replace("?", "");
    const value = kwargs.get(parameter);
    if (value !== undefined && i < args.length) throw new TypeError(`${name}() is given "${parameter}" twice`);
    const bound = i < args.length ? args[i] : value;
    if (bound === undefined && !word.endsWith("?")) throw new TypeError(`${name}() is missing "${parameter}"`);
    return bound;
  });
}

/** @throws TypeError if it is no text. */
export function text(name: string, value: Value | undefined): string {
  if (typeof value !== "string") throw new TypeError(`"${name}" is ${typeName(value ?? null)}, wanted str`);
  return value;
}

/** None is absent. */
export function optionalText(name: string, value: Value | undefined): string | undefined {
  return value === undefined || value === null ? undefined : text(name, value);
}

/** A whole number, or `fallback` where it is absent. @throws TypeError if it is another kind of value. */
export function optionalInt(name: string, value: Value | undefined, fallback: number): number {
  if (value === undefined) return fallback;
  if (typeof value !== "bigint" && typeof value !== "boolean") {
    throw new TypeError(`"${name}" is ${typeName(value)}, wanted int`);
  }
  return Number(value);
}
