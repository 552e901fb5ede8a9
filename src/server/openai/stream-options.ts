import { ApiError } from "../api-error.js";

/** How an answer is sent. */
export interface StreamFields {
  readonly stream: boolean;
  /** Whether a last chunk has the usage. */
  readonly includeUsage: boolean;
  /** Whether each chunk has its choice's usage so far. @see vLLM's `continuous_usage_stats`. */
  readonly continuousUsage: boolean;
}

/** @throws ApiError for stream_options without stream, as OpenAI. */
export function streamOptions(body: {
  readonly stream?: boolean | null | undefined;
  readonly stream_options?:
    | {
        readonly include_usage?: boolean | null | undefined;
        readonly continuous_usage_stats?: boolean | null | undefined;
      }
    | null
    | undefined;
}): StreamFields {
  const stream = body.stream ?? false;
  if (body.stream_options != null && !stream) {
    throw new ApiError(400, 'Cannot use "stream_options": it wants "stream" to be true', {
      code: "invalid_value",
      param: "stream_options",
    });
  }
  const { include_usage: includeUsage, continuous_usage_stats: continuousUsage } = body.stream_options ?? {};
  return { stream, includeUsage: includeUsage ?? false, continuousUsage: continuousUsage ?? false };
}
