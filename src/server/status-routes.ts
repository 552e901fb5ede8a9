import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import type { Engine } from "../engine/engine.js";
import { ApiError, errorResponses, errorSchema } from "./api-error.js";
import type { Metrics } from "./metrics.js";

export interface StatusSources {
  readonly engine: Engine;
  readonly metrics: Metrics;
  /** Aborted once the server is told to end. */
  readonly stopping: AbortSignal;
}

const healthSchema = z.strictObject({
  status: z.literal("ok"),
  replicas: z
    .strictObject({ up: z.int(), all: z.int() })
    .optional()
    .describe("With --engine vllm: how many of vLLM's servers get requests."),
});

/** `GET /health` (the server lives), `GET /ready` (it can answer) and `GET /metrics` (Prometheus). */
export function registerStatus(app: FastifyInstance, { engine, metrics, stopping }: StatusSources): void {
  const typed = app.withTypeProvider<ZodTypeProvider>();
  const tags = ["Operation"];
  const { 403: wrongHost, 500: failed } = errorResponses;
  typed.get(
    "/health",
    {
      config: { isPublic: true },
      schema: {
        summary: "Whether the server lives",
        tags,
        security: [],
        response: { 200: healthSchema, 403: wrongHost, 500: failed },
      },
    },
    () => {
      const { replicas } = engine.status;
      if (replicas === undefined) return { status: "ok" as const };
      const up = replicas.filter(({ downReason }) => downReason === undefined).length;
      return { status: "ok" as const, replicas: { up, all: replicas.length } };
    },
  );
  typed.get(
    "/ready",
    {
      config: { isPublic: true },
      schema: {
        summary: "Whether the model is loaded and requests are taken",
        tags,
        security: [],
        response: {
          200: z.strictObject({ status: z.literal("ready") }),
          403: wrongHost,
          500: failed,
          503: errorSchema.describe("Not now: code is loading, restarting, failed, closed or draining."),
        },
      },
    },
    () => {
      const reason = whyNotReady(engine, stopping);
      if (reason === undefined) return { status: "ready" as const };
      throw new ApiError(503, `Cannot serve: ${reason.message}`, {
        code: reason.code,
        headers: { "retry-after": "1" },
      });
    },
  );
  typed.get(
    "/metrics",
    {
      schema: {
        summary: "Metrics in Prometheus' text format",
        tags,
        response: { ...errorResponses, 200: { content: { "text/plain": { schema: z.string() } } } },
      },
    },
    async (_request, reply) => {
      const text = await metrics.text();
      return reply.type(metrics.contentType).send(text);
    },
  );
}

function whyNotReady(
  { status }: Engine,
  stopping: AbortSignal,
): { readonly code: string; readonly message: string } | undefined {
  if (stopping.aborted) return { code: "draining", message: "the server is ending" };
  // The reason itself is for the log: it may name files.
  switch (status.state) {
    case "ready":
      return undefined;
    case "loading":
      return { code: "loading", message: "the model is being loaded" };
    case "restarting":
      return { code: "restarting", message: "the engine is starting again" };
    case "failed":
      return { code: "failed", message: "the model could not be loaded" };
    case "closed":
      return { code: "closed", message: "the engine is closed" };
    default:
      return status.state satisfies never;
  }
}
