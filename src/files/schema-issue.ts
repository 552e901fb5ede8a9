import type { z } from "zod";
import { quote } from "./quote.js";

export type Path = readonly PropertyKey[];

/** What a schema finds wrong with a value first, and where. */
export interface SchemaIssue {
  readonly issue: z.core.$ZodIssue;
  /** Of the value that is wrong, inside the whole one. */
  readonly path: Path;
  /** A key there that the schema does not know, where that is what is wrong. */
  readonly unknownKey: string | undefined;
  /** What stands there, for instance "a list of 3"; undefined where nothing does. */
  readonly shown: string | undefined;
  /** For instance "a whole number". */
  readonly wanted: string;
}

export function firstIssue(error: z.ZodError, value: unknown): SchemaIssue {
  const { issue, path } = innermost(error.issues[0] as z.core.$ZodIssue, value);
  // A key that cannot be used is the whole field's matter.
  const at = issue.code === "invalid_key" ? path.slice(0, -1) : path;
  const unknownKey = issue.code === "unrecognized_keys" ? issue.keys[0] : undefined;
  return { issue, path: at, unknownKey, shown: shownAt(value, at), wanted: wantedBy(issue) };
}

/**
 * What is wrong with a value, as a sentence.
 *
 * @param noun what a key of the value is called.
 * @param nameOf how a path is written.
 * @example '"messages[0].content" is 3, wanted text'
 */
export function issueSentence(error: z.ZodError, value: unknown, noun = "field", nameOf = showPath): string {
  const { path, unknownKey, shown = "missing", wanted } = firstIssue(error, value);
  if (unknownKey !== undefined) return `there is no ${noun} ${quote(nameOf([...path, unknownKey]), 120)}`;
  return `${path.length === 0 ? "it" : quote(nameOf(path), 120)} is ${shown}, wanted ${wanted}`;
}

/** @example showPath(["messages", 0, "content"]) is "messages[0].content" */
export function showPath(path: Path): string {
  return path.reduce<string>((text, part) => {
    const name = String(part);
    if (/^\d+$/.test(name) && text !== "") return `${text}[${name}]`;
    return text === "" ? name : `${text}.${name}`;
  }, "");
}

/** What is wrong, where it is. Of a union, the branch of the value's own kind that found least was meant. */
function innermost(issue: z.core.$ZodIssue, whole: unknown, before: Path = []): Pick<SchemaIssue, "issue" | "path"> {
  const path = [...before, ...issue.path];
  if (issue.code !== "invalid_union") return { path, issue };
  const kind = typeof valueAt(whole, path);
  const ofKind = issue.errors.filter(([first]) => {
    if (first === undefined || first.path.length > 0) return true;
    return first.code === "invalid_value" ? typeof first.values[0] === kind : first.code !== "invalid_type";
  });
  const fewest = Math.min(...ofKind.map((issues) => issues.length));
  const meant = ofKind.filter((issues) => issues.length === fewest);
  const first = meant.length === 1 ? meant[0]?.[0] : undefined;
  return first === undefined ? { path, issue } : innermost(first, whole, path);
}

const kinds: Readonly<Record<string, string>> = {
  string: "text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  array: "a list",
  object: "an object",
  record: "an object",
  null: "null",
};

function wantedBy(issue: z.core.$ZodIssue): string {
  if (issue.message.startsWith("wanted ")) return issue.message.slice("wanted ".length);
  switch (issue.code) {
    case "invalid_type":
      return kinds[issue.expected] ?? issue.expected;
    case "invalid_value":
      return issue.values.map((value) => (typeof value === "string" ? quote(value) : String(value))).join(" or ");
    case "too_small":
      return issue.inclusive === false
        ? `more than ${issue.minimum}`
        : `${issue.minimum} or more${unitOf(issue.origin)}`;
    case "too_big":
      return issue.inclusive === false ? `less than ${issue.maximum}` : `up to ${issue.maximum}${unitOf(issue.origin)}`;
    case "invalid_format":
      return "pattern" in issue ? `text that fits ${issue.pattern}` : issue.format;
    case "invalid_union":
      return [...new Set(issue.errors.flatMap(([first]) => (first === undefined ? [] : [wantedBy(first)])))].join(
        " or ",
      );
    default:
      return "another value";
  }
}

function unitOf(origin: string): string {
  if (origin === "string") return " characters";
  return origin === "array" ? " entries" : "";
}

/** What stands at a path, for a message; undefined for nothing. */
export function shownAt(whole: unknown, path: Path): string | undefined {
  const value = valueAt(whole, path);
  if (value === undefined) return undefined;
  if (typeof value === "string") return quote(value, 80);
  if (Array.isArray(value)) return value.length === 0 ? "an empty list" : `a list of ${value.length}`;
  return typeof value === "object" && value !== null ? "an object" : String(value);
}

function valueAt(whole: unknown, path: Path): unknown {
  return path.reduce(
    (inner, key) => (inner as Readonly<Record<PropertyKey, unknown>> | null | undefined)?.[key],
    whole,
  );
}
