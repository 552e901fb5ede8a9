import type { FastifySchemaCompiler } from "fastify";
import { z } from "zod";
import { namesNear } from "../../files/options.js";
import { clip, quote } from "../../files/quote.js";
import { firstIssue, type Path, shownAt, showPath } from "../../files/schema-issue.js";
import { ApiError } from "../api-error.js";

/**
 * What becomes of a field: `read`: it does what OpenAI says of it; `neutral`: it would change the answer in a way that
 * is not to be had here, so only values that change nothing are accepted; `informational`: it changes no answer, and any
 * value of its kind is accepted.
 */
export type FieldUse = "read" | "neutral" | "informational";

/** A field of a request: the schema, the OpenAPI document, errors and the docs are made of it. */
export interface RequestField<T extends z.ZodType = z.ZodType> {
  readonly schema: T;
  readonly use: FieldUse;
  /** What it may be, as errors and docs say it: "a number from 0 to 2". Null and absence are always the default. */
  readonly wanted: string;
  readonly about: string;
}

export type RequestFields = Readonly<Record<string, RequestField>>;

function fieldFor(use: FieldUse) {
  return <T extends z.ZodType>(
    schema: T,
    wanted: string,
    about: string,
  ): RequestField<z.ZodOptional<z.ZodNullable<T>>> => ({ schema: schema.nullish(), use, wanted, about });
}

export const readField = fieldFor("read");
export const neutralField = fieldFor("neutral");
export const informationalField = fieldFor("informational");

/**
 * Warnings that name each informational field of a request that has it.
 *
 * @param fields by their path: `messages[].cache_control` is that of any message.
 * @example '"cache_prompt" is passed over: blocks are found by what they hold'
 */
export function passedOver(fields: RequestFields, body: object): string[] {
  return Object.entries(fields)
    .filter(([path]) => holds(body, path.replaceAll("[]", ".[]").split(".")))
    .map(([path, { about }]) => `${quote(path)} is passed over: ${about[0]!.toLowerCase()}${about.slice(1, -1)}`);
}

function holds(value: unknown, [key, ...rest]: readonly string[]): boolean {
  if (key === undefined) return value != null;
  if (key === "[]") return Array.isArray(value) && value.some((entry) => holds(entry, rest));
  return typeof value === "object" && value !== null && holds((value as Record<string, unknown>)[key], rest);
}

/** The schema of a request with these fields and no others. */
export function requestSchema<F extends RequestFields>(
  fields: F,
): z.ZodObject<{ -readonly [K in keyof F]: F[K]["schema"] }, z.core.$strict> {
  const shape = Object.fromEntries(
    Object.entries(fields).map(([name, { schema, about }]) => [name, schema.describe(about)]),
  );
  return z.strictObject(shape) as ReturnType<typeof requestSchema<F>>;
}

/**
 * Checks a body, or a path's or a query's values, so that an error names the field, its value and what was wanted.
 *
 * @param fields what is known of a body's fields beside their schema.
 * @param maxValues how many values a body may hold, lists of numbers aside. The schema tells of every value that does not
 * fit, which would take seconds for a million of them, so a body that cannot fit is refused before.
 * @example temperature 5: 'Cannot use "temperature": it is 5, wanted a number from 0 to 2'
 */
export function requestValidator(
  fields: RequestFields = {},
  maxValues = Number.POSITIVE_INFINITY,
): FastifySchemaCompiler<unknown> {
  return ({ schema }) =>
    (body: unknown) => {
      if (holdsMoreThan(maxValues, body)) {
        const message = `Cannot use the body: it holds over ${maxValues} values, wanted fewer`;
        return { error: new ApiError(400, message, { code: "invalid_value" }) };
      }
      const result = (schema as z.ZodType).safeParse(body);
      if (result.success) return { value: result.data };
      return { error: requestError(result.error, fields, schema as z.ZodType, body) };
    };
}

function requestError(error: z.ZodError, fields: RequestFields, schema: z.ZodType, body: unknown): ApiError {
  const { path, unknownKey, shown, wanted } = firstIssue(error, body);
  const name = path[0];
  const field = typeof name === "string" && Object.hasOwn(fields, name) ? fields[name] : undefined;
  if (unknownKey !== undefined && field?.use !== "neutral") {
    const param = clip(showPath([...path, unknownKey]), 120);
    const near = pathsNear(unknownKey, path, fieldPaths(schema));
    const meant = near.length === 0 ? "" : `, wanted ${near.map((one) => quote(one)).join(" or ")}`;
    const message = `Cannot use the request: there is no field ${quote(param)}${meant}`;
    return new ApiError(400, message, { code: "unknown_field", param, cause: error });
  }
  const isNeutral = field?.use === "neutral";
  const param = isNeutral ? String(name) : clip(showPath(path), 120);
  const words = isNeutral ? `${field.wanted}: ${field.about}` : path.length === 1 ? (field?.wanted ?? wanted) : wanted;
  const what = param === "" ? "the body" : quote(param);
  const is = isNeutral ? shownAt(body, [param]) : shown;
  return new ApiError(
    400,
    `Cannot use ${what}: ${is === undefined ? "there is none" : `it is ${is}`}, wanted ${words}`,
    {
      code: isNeutral ? "unsupported_value" : "invalid_value",
      param: param === "" ? undefined : param,
      cause: error,
    },
  );
}

/**
 * The fields that a wrong name was meant for: of the object that has it; where this is the body, of the objects in it too.
 *
 * @example "mode" in a chat completion's body is near to "block_attention.mode"
 */
function pathsNear(key: string, place: Path, known: readonly Path[]): string[] {
  const nameOf = (path: Path) => String(path.at(-1));
  const isInPlace = (path: Path) =>
    place.every((part, i) => part === path[i]) && (place.length === 0 || path.length === place.length + 1);
  const paths = known.filter(isInPlace);
  const names = namesNear(key, paths.map(nameOf));
  const near = paths.filter((path) => names.includes(nameOf(path)));
  const fewest = Math.min(...near.map((path) => path.length));
  return [...new Set(near.filter((path) => path.length === fewest).map(showPath))];
}

/** The fields of an object, and those of the objects in it; a list's entries are not looked into. */
function fieldPaths(schema: z.core.$ZodType, before: Path = []): Path[] {
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodNullable || schema instanceof z.ZodDefault) {
    return fieldPaths(schema.unwrap(), before);
  }
  if (schema instanceof z.ZodUnion) return schema.options.flatMap((option) => fieldPaths(option, before));
  if (!(schema instanceof z.ZodObject)) return [];
  return Object.entries(schema.shape).flatMap(([name, field]) => {
    const path = [...before, name];
    return [path, ...fieldPaths(field as z.core.$ZodType, path)];
  });
}

/** Whether a value holds more values than that; those of a list of numbers do not count. */
function holdsMoreThan(maxValues: number, value: unknown): boolean {
  const open: object[] = typeof value === "object" && value !== null ? [value] : [];
  let numValues = 0;
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (Array.isArray(next) && next.every((entry) => typeof entry === "number")) continue;
    // Object.values of a million keys costs less than the schema's word on them.
    const values: unknown[] = Array.isArray(next) ? next : Object.values(next);
    numValues += values.length;
    if (numValues > maxValues) return true;
    for (const inner of values) if (typeof inner === "object" && inner !== null) open.push(inner);
  }
  return false;
}
