import type { z } from "zod";
import type { ChatMessage } from "../../blocks/block.js";
import { type PassageInput, unloadPassage } from "../../blocks/passage.js";
import type { PromptInput } from "../../engine/prompt.js";
import { fieldError } from "../api-error.js";
import type { ServerLimits } from "../server-config.js";
import { requestOptionsOf, type StreamFields, samplingOf, streamOptions } from "./common-request.js";
import { chatFields, chatPassedOver } from "./fields.js";
import { requestSchema } from "./request-field.js";
import type { PromptRequest } from "./run-choices.js";

export const chatSchema = (limits: ServerLimits) => requestSchema(chatFields(limits));
export type ChatBody = z.output<ReturnType<typeof chatSchema>>;

/** A request as the engine takes it. */
export interface ChoiceRequests extends StreamFields {
  /** One for each prompt, but for `n`. */
  readonly requests: readonly PromptRequest[];
  /** Answers of each prompt. */
  readonly n: number;
  /** What the answer is to warn of: fields that do nothing. */
  readonly warnings: readonly string[];
  /** As they came, with what they carry. */
  readonly documents?: readonly PassageInput[] | undefined;
}

/** @throws ApiError for fields that do not go together. */
export function chatRequests(body: ChatBody, salt: string, limits: ServerLimits): ChoiceRequests {
  const { max_tokens: older, max_completion_tokens: newer } = body;
  if (older != null && newer != null && older !== newer) {
    throw fieldError("max_tokens", `it is ${older}, and max_completion_tokens is ${newer}`);
  }
  const logprobs = body.logprobs ?? false;
  if (body.top_logprobs && !logprobs) {
    throw fieldError("top_logprobs", 'it wants "logprobs" to be true');
  }
  const numParts = body.messages.reduce((sum, { content }) => sum + (Array.isArray(content) ? content.length : 0), 0);
  const numBlocks = numParts + (body.documents?.length ?? 0);
  if (numBlocks > limits.maxBlocks) {
    throw fieldError(
      "messages",
      `there are ${numBlocks} content parts and documents in all, wanted up to ${limits.maxBlocks}`,
    );
  }
  const maxTokens = newer ?? older ?? limits.maxTokens;
  const prompt = promptOf(body);
  const n = body.n ?? 1;
  const options = {
    ...samplingOf(body, maxTokens),
    logprobs,
    topLogprobs: body.top_logprobs ?? 0,
    spell: logprobs,
    ...requestOptionsOf(body.block_attention ?? {}, salt),
    maxLogprobs: Math.floor(limits.maxLogprobs / n),
  };
  const documents = body.documents ?? undefined;
  return { requests: [{ prompt, options }], n, warnings: chatPassedOver(body), documents, ...streamOptions(body) };
}

function promptOf({ messages, documents, block_attention: steering }: ChatBody): PromptInput {
  const { rag, split_long: splitLong } = steering ?? {};
  const name = rag != null ? "rag" : splitLong != null ? "split_long" : undefined;
  if (documents == null && name !== undefined) {
    const param = `block_attention.${name}`;
    throw fieldError(param, 'it wants "documents"');
  }
  return {
    messages: messages.map(messageOf),
    ...(documents != null && { documents: documents.map((document) => unloadPassage(document)[0]) }),
    ...(name !== undefined && { rag: { texts: given(rag ?? {}), splitLong: splitLong ?? undefined } }),
    ...(steering?.segment != null && { cut: steering.segment }),
    ...(steering?.num_local_attention_blocks != null && {
      numLocalAttentionBlocks: steering.num_local_attention_blocks,
    }),
  };
}

/** Null is the same as leaving a field out. */
function given<T extends object>(fields: T): { readonly [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null)) as ReturnType<
    typeof given<T>
  >;
}

function messageOf({ role, name, content }: ChatBody["messages"][number], index: number): ChatMessage {
  if (content == null && role !== "assistant") {
    const param = `messages[${index}].content`;
    throw fieldError(param, "there is none, wanted text or a list of parts");
  }
  return {
    role: role === "developer" ? "system" : role,
    // An empty name is none: clients send it so.
    ...(name && { name }),
    content: typeof content === "string" ? content : (content?.map((part) => part.text) ?? ""),
  };
}
