import type { Reasoning } from "../../blocks/chat-template.js";
import type { GenerateOptions, RequestOptions } from "../../engine/engine-options.js";
import type { SamplingInput } from "../../engine/sampling-options.js";
import { fieldError } from "../api-error.js";
import { ownerOf } from "../route-context.js";
import type { ServerLimits } from "../server-config.js";
import { constraintOf } from "./constraint-fields.js";
import type { CommonBody } from "./fields.js";

/** Sampling as the engine takes it. Defaults are OpenAI's where it has them: temperature 1. */
export function samplingOf(fields: CommonBody, maxTokens: number): SamplingInput & Pick<GenerateOptions, "constraint"> {
  const { stop, top_k: topK, top_p: topP } = fields;
  return {
    temperature: fields.temperature ?? 1,
    // The engine wants more than 0: the smallest number keeps the likeliest token alone.
    topP: topP === 0 ? Number.MIN_VALUE : (topP ?? 1),
    topK: topK == null || topK === -1 ? 0 : topK,
    minP: fields.min_p ?? 0,
    repetitionPenalty: fields.repetition_penalty ?? 1,
    presencePenalty: fields.presence_penalty ?? 0,
    frequencyPenalty: fields.frequency_penalty ?? 0,
    seed: fields.seed ?? undefined,
    logitBias: fields.logit_bias ?? {},
    maxTokens,
    constraint: constraintOf(fields),
    stop: typeof stop === "string" ? [stop] : [...(stop ?? [])],
  };
}

/** Who asks, and of what. */
export interface Asking {
  readonly salt: string;
  readonly limits: ServerLimits;
  /** What the model's template knows of reasoning. */
  readonly reasoning: Reasoning | undefined;
}

/** The longest answer, within the server's limit, and what to warn of where it is not the one that a field asks for. */
export function answerLength(
  field: string,
  asked: number,
  { maxTokens: limit }: ServerLimits,
): { readonly maxTokens: number; readonly warnings: readonly string[] } {
  if (asked >= 0 && asked <= limit) return { maxTokens: asked, warnings: [] };
  const warning = `"${field}" is ${asked}: the answer ends at the latest where the context does, or after ${limit} tokens, the server's limit`;
  return { maxTokens: limit, warnings: [warning] };
}

interface Steering {
  readonly mode?: RequestOptions["mode"] | null;
  readonly keep_prefixes?: boolean | null | undefined;
  readonly repair?: string | null | undefined;
  readonly explain?: boolean | null | undefined;
  readonly salt?: string | null | undefined;
}

/** What `block_attention` says of a request, as the engine takes it, and whose blocks it may use. */
export function requestOptionsOf(
  { mode, keep_prefixes, repair, explain, salt }: Steering = {},
  tenantSalt: string,
): RequestOptions {
  return {
    mode: mode ?? undefined,
    keepPrefixes: keep_prefixes ?? undefined,
    repair: repair ?? undefined,
    explain: explain ?? undefined,
    ...ownerOf(tenantSalt, salt),
  };
}

/** How an answer is sent. */
export interface StreamFields {
  readonly stream: boolean;
  /** Whether a last chunk has the usage. */
  readonly includeUsage: boolean;
  /** Whether each chunk has its choice's usage so far. @see vLLM's `continuous_usage_stats`. */
  readonly continuousUsage: boolean;
}

/** @throws ApiError for stream_options without stream, as OpenAI. */
export function streamOptions(body: CommonBody): StreamFields {
  const stream = body.stream ?? false;
  if (body.stream_options != null && !stream) {
    throw fieldError("stream_options", 'it wants "stream" to be true');
  }
  const { include_usage: includeUsage, continuous_usage_stats: continuousUsage } = body.stream_options ?? {};
  return { stream, includeUsage: includeUsage ?? false, continuousUsage: continuousUsage ?? false };
}
