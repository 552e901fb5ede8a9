import type { FastifySchemaCompiler } from "fastify";
import { z } from "zod";
import { quote } from "../../files/quote.js";
import { ApiError, toApiError } from "../api-error.js";

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

export function readField<T extends z.ZodType>(
  schema: T,
  wanted: string,
  about: string,
): RequestField<z.ZodOptional<z.ZodNullable<T>>> {
  return { schema: schema.nullish(), use: "read", wanted, about };
}

export function neutralField<T extends z.ZodType>(
  schema: T,
  wanted: string,
  about: string,
): RequestField<z.ZodOptional<z.ZodNullable<T>>> {
  return { schema: schema.nullish(), use: "neutral", wanted, about };
}

export function informationalField<T extends z.ZodType>(
  schema: T,
  wanted: string,
  about: string,
): RequestField<z.ZodOptional<z.ZodNullable<T>>> {
  return { schema: schema.nullish(), use: "informational", wanted, about };
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
 * Checks a body so that an error names the field, its value and what was wanted.
 *
 * @example temperature 5: 'Cannot use "temperature": it is 5, wanted a number from 0 to 2'
 */
export function requestValidator(fields: RequestFields): FastifySchemaCompiler<unknown> {
  return ({ schema }) =>
    (body: unknown) => {
      const result = (schema as z.ZodType).safeParse(body);
      return result.success ? { value: result.data } : { error: requestError(result.error, fields, body) };
    };
}

function requestError(error: z.ZodError, fields: RequestFields, body: unknown): ApiError {
  const issue = error.issues[0];
  const name = issue?.path[0];
  const isOfField = issue !== undefined && issue.path.length === 1 && typeof name === "string";
  const field = isOfField && Object.hasOwn(fields, name) ? fields[name] : undefined;
  // A part of a field, such as one message, is told by itself.
  if (field === undefined || issue === undefined || isDeep(issue) || issue.code === "unrecognized_keys") {
    return toApiError(error);
  }
  const param = name as string;
  const value = (body as Readonly<Record<string, unknown>>)[param];
  const why = field.use === "neutral" ? `: ${field.about}` : "";
  return new ApiError(400, `Cannot use ${quote(param)}: it is ${show(value)}, wanted ${field.wanted}${why}`, {
    code: field.use === "neutral" ? "unsupported_value" : "invalid_value",
    param,
    cause: error,
  });
}

/** Whether a branch of a union came as far as one of the value's own parts. */
function isDeep(issue: z.core.$ZodIssue): boolean {
  if (issue.code !== "invalid_union") return false;
  return issue.errors.some((branch) => branch.some((inner) => inner.path.length > 0 || isDeep(inner)));
}

function show(value: unknown): string {
  if (typeof value === "string") return quote(value, 80);
  if (Array.isArray(value)) return value.length === 0 ? "an empty list" : `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  return String(value);
}
