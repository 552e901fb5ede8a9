import type { z } from "zod";
import { EngineError } from "../../engine/engine-error.js";
import type { PromptInput } from "../../engine/prompt.js";
import { fieldError } from "../api-error.js";
import type { ServerLimits } from "../server-config.js";
import type { ChoiceRequests } from "./chat-request.js";
import { answerLength, requestOptionsOf, samplingOf, streamOptions } from "./common-request.js";
import { completionFields, completionPassedOver } from "./fields.js";
import { requestSchema } from "./request-field.js";

/** For the OpenAPI document, whose readers draw requests from it: a prompt, or blocks in its place. */
const promptIsThere = {
  anyOf: [
    { required: ["prompt"], properties: { prompt: { not: { type: "null" } } } },
    {
      required: ["block_attention"],
      properties: {
        block_attention: { type: "object", required: ["blocks"], properties: { blocks: { type: "array" } } },
      },
    },
  ],
};

export const completionSchema = (limits: ServerLimits) => requestSchema(completionFields(limits)).meta(promptIsThere);
export type CompletionBody = z.output<ReturnType<typeof completionSchema>>;

const defaultMaxTokens = 16;

export interface CompletionRequests extends ChoiceRequests {
  /** How the answers of each prompt begin, where it is echoed; undefined: as the engine spells the prompt's ids. */
  readonly echoes: readonly (string | undefined)[] | undefined;
}

/**
 * @param contextLength what the model takes, in tokens.
 * @throws ApiError for fields that do not go together, EngineError for token ids over the model's context.
 */
export function completionRequests(
  body: CompletionBody,
  salt: string,
  limits: ServerLimits,
  contextLength: number,
): CompletionRequests {
  const n = body.n ?? 1;
  if (body.best_of != null && body.best_of !== n) {
    throw fieldError("best_of", `it is ${body.best_of}, wanted n, which is ${n}`, "unsupported_value");
  }
  const prompts = promptsOf(body);
  for (const { input } of prompts) {
    // The engine would say the same, once it had been handed them all.
    const numTokens = "blockTokenIds" in input ? (input.blockTokenIds[0]?.length ?? 0) : 0;
    if (numTokens <= contextLength) continue;
    throw new EngineError(
      "too_long",
      `Cannot use the prompt: it has ${numTokens} tokens, the model takes up to ${contextLength}`,
    );
  }
  if (prompts.length * n > limits.maxChoices) {
    throw fieldError(
      "n",
      `${n} answers to each of ${prompts.length} prompts are over the limit of ${limits.maxChoices}`,
    );
  }
  const numLocal = body.block_attention?.num_local_attention_blocks;
  const echo = body.echo ?? false;
  const logprobs = body.logprobs != null;
  const asked = body.max_tokens ?? Math.min(defaultMaxTokens, limits.maxTokens);
  const { maxTokens, warnings } = answerLength("max_tokens", asked, limits);
  const maxLogprobs = Math.floor(limits.maxLogprobs / (prompts.length * n));
  const requests = prompts.map(({ input, text }) => ({
    prompt: { ...input, ...(numLocal != null && { numLocalAttentionBlocks: numLocal }) },
    options: {
      ...samplingOf(body, maxTokens),
      logprobs,
      topLogprobs: body.logprobs ?? 0,
      spell: logprobs,
      // A prompt that came as text is known; its tokens are wanted for their probabilities alone.
      echo: echo && (logprobs || text === undefined),
      ...requestOptionsOf(body.block_attention ?? {}, salt),
      maxLogprobs,
    },
  }));
  return {
    requests,
    n,
    warnings: [...completionPassedOver(body), ...warnings],
    echoes: echo ? prompts.map(({ text }) => text) : undefined,
    ...streamOptions(body),
  };
}

/** One prompt, and its text where it came as text. */
interface Prompt {
  readonly input: PromptInput;
  readonly text: string | undefined;
}

function promptsOf({ prompt, block_attention: steering }: CompletionBody): Prompt[] {
  const blocks = steering?.blocks;
  if (blocks != null) {
    if (prompt != null) {
      throw fieldError("prompt", "there is also block_attention.blocks");
    }
    if (steering?.segment != null) {
      throw fieldError("block_attention.segment", "block_attention.blocks are cut already");
    }
    return [{ input: { blocks }, text: blocks.join("") }];
  }
  if (prompt == null) {
    throw fieldError("prompt", "there is none");
  }
  const cut = steering?.segment == null ? {} : { cut: steering.segment };
  const ofText = (text: string): Prompt => ({ input: { prompt: text, ...cut }, text });
  const ofIds = (ids: readonly number[]): Prompt => ({ input: { blockTokenIds: [ids] }, text: undefined });
  if (typeof prompt === "string") return [ofText(prompt)];
  if (isIds(prompt)) return [ofIds(prompt)];
  return prompt.map((one) => (typeof one === "string" ? ofText(one) : ofIds(one)));
}

function isIds(prompt: readonly (number | string | readonly number[])[]): prompt is readonly number[] {
  return typeof prompt[0] === "number";
}
