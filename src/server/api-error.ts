import type { FastifyError } from "fastify";
import { z } from "zod";
import { EngineError } from "../engine/engine-error.js";
import { clip } from "../files/quote.js";

/** OpenAI's form of every answer that is an error. */
export const errorSchema = z
  .object({
    error: z.object({
      message: z.string(),
      type: z.string().describe("invalid_request_error, server_error, or which quota is used up: tokens or requests"),
      param: z.string().nullable().describe("the field of the request that is meant"),
      code: z.string().nullable().describe("for programs: what went wrong, for instance context_length_exceeded"),
    }),
  })
  .describe("What went wrong, in OpenAI's form.");

export type ErrorBody = z.output<typeof errorSchema>;

/** An answer that is an error, as a route throws it. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly code: string | undefined;
  /** The request's field that is meant, for instance "messages[0].content". */
  readonly param: string | undefined;
  readonly headers: Readonly<Record<string, string>>;
  /** What kind of error it is, where the status does not say. */
  readonly type: string | undefined;

  constructor(
    readonly statusCode: number,
    message: string,
    options: ErrorOptions & {
      readonly code?: string | undefined;
      readonly param?: string | undefined;
      readonly headers?: Readonly<Record<string, string>>;
      readonly type?: string | undefined;
    } = {},
  ) {
    super(message, options);
    this.code = options.code;
    this.param = options.param;
    this.headers = options.headers ?? {};
    this.type = options.type;
  }
}

/** A field of a request that cannot be used. */
export function fieldError(param: string, what: string, code = "invalid_value"): ApiError {
  return new ApiError(400, `Cannot use "${param}": ${what}`, { code, param });
}

/** The seconds after which a client that met a 503 may try again. */
const retryAfter = "1";

const engineErrors = {
  invalid: { status: 400, code: "invalid_value" },
  too_long: { status: 400, code: "context_length_exceeded" },
  queue_full: { status: 503, code: "queue_full" },
  slow_reader: { status: 500, code: "slow_reader" },
  unavailable: { status: 503, code: "unavailable" },
  died: { status: 500, code: "engine_died" },
  failed: { status: 500, code: "engine_failed" },
} as const satisfies Record<EngineError["code"], { status: number; code: string }>;

/** Fastify's own errors that a client causes, by their code; others of status 4xx keep their words. */
const frameworkErrors: Readonly<Record<string, { readonly code: string; readonly message?: string }>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: { code: "body_too_large", message: "Cannot read the body: it is larger than allowed" },
  FST_ERR_CTP_EMPTY_JSON_BODY: { code: "invalid_json", message: "Cannot read the body: it is empty, wanted JSON" },
  FST_ERR_CTP_INVALID_MEDIA_TYPE: {
    code: "unsupported_media_type",
    message: "Cannot read the body: its Content-Type is not application/json",
  },
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: {
    code: "invalid_content_length",
    message: "Cannot read the body: its size is not what Content-Length says",
  },
  FST_ERR_BAD_URL: { code: "invalid_url", message: "Cannot serve the request: its URL is malformed" },
};

/**
 * Any error as the answer that a client sees: OpenAI's form, one line, never a stack. What is our own fault says so and
 * no more; the caller logs the error itself.
 *
 * @example toApiError(new EngineError("too_long", "Cannot …")): status 400, code "context_length_exceeded"
 */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof EngineError) {
    const { status, code } = engineErrors[error.code];
    const headers: Record<string, string> = status === 503 ? { "retry-after": retryAfter } : {};
    return new ApiError(status, error.message, { code, headers, cause: error });
  }
  const { statusCode, code, message } = (
    typeof error === "object" && error !== null ? error : {}
  ) as Partial<FastifyError>;
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    const known = frameworkErrors[code ?? ""];
    return new ApiError(statusCode, known?.message ?? `Cannot serve the request: ${oneLine(message ?? "")}`, {
      code: known?.code,
      cause: error,
    });
  }
  return new ApiError(500, "Cannot serve the request: the server failed", { code: "internal_error", cause: error });
}

/** An error's body, in OpenAI's form. */
export function errorBody(error: ApiError): ErrorBody {
  return {
    error: {
      message: error.message,
      type: error.type ?? (error.statusCode >= 500 ? "server_error" : "invalid_request_error"),
      param: error.param ?? null,
      code: error.code ?? null,
    },
  };
}

/**
 * The answers that any route may give beside its own, for `schema.response`:
 * `response: { 200: answerSchema, ...errorResponses }`.
 */
export const errorResponses = {
  400: errorSchema.describe("The request cannot be used: the message says why."),
  401: errorSchema.describe("The server wants a key, and this is none."),
  403: errorSchema.describe("The Host header names no host of this server."),
  408: errorSchema.describe("The request came too slowly, or not whole within the time."),
  413: errorSchema.describe("The body is larger than allowed."),
  415: errorSchema.describe("The body is no JSON."),
  429: errorSchema.describe("The key's quota is used up: Retry-After says when to come again."),
  431: errorSchema.describe("The head is larger than allowed."),
  500: errorSchema.describe("The engine or the server failed."),
  503: errorSchema.describe(
    "The model is loading, the queue is full, or the server is ending: Retry-After says when to come again.",
  ),
} as const;

function oneLine(text: string): string {
  return clip(text.replace(/\s+/g, " ").trim().replace(/\.$/, ""), 400);
}
