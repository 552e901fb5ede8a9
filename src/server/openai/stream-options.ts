import { ApiError } from "../api-error.js";

/** How an answer is sent. */
export interface StreamFields {
  readonly stream: boolean;
  readonly includeUsage: boolean;
}

/** @throws ApiError for stream_options without stream, as OpenAI. */
export function streamOptions(body: {
  readonly stream?: boolean | null | undefined;
  readonly stream_options?: { readonly include_usage?: boolean | null | undefined } | null | undefined;
}): StreamFields {
  const stream = body.stream ?? false;
  if (body.stream_options != null && !stream) {
    throw new ApiError(400, 'Cannot use "stream_options": it wants "stream" to be true', {
      code: "invalid_value",
      param: "stream_options",
    });
  }
  return { stream, includeUsage: body.stream_options?.include_usage ?? false };
}
