import type { z } from "zod";
import type { ChatMessage } from "../../blocks/block.js";
import type { ChatPromptOptions } from "../../blocks/chat-prompt.js";
import type { Reasoning } from "../../blocks/chat-template.js";
import { type PassageInput, unloadPassage } from "../../blocks/passage.js";
import type { Tool } from "../../blocks/tools.js";
import type { Constraint } from "../../engine/constraint/constraint.js";
import type { PromptInput } from "../../engine/prompt.js";
import { quote } from "../../files/quote.js";
import { fieldError } from "../api-error.js";
import type { ServerLimits } from "../server-config.js";
import type { AnswerReaderOptions } from "./answer-reader.js";
import {
  type Asking,
  answerLength,
  requestOptionsOf,
  type StreamFields,
  samplingOf,
  streamOptions,
} from "./common-request.js";
import { chatFields, chatPassedOver } from "./fields.js";
import { requestSchema } from "./request-field.js";
import type { PromptRequest } from "./run-choices.js";

export const chatSchema = (limits: ServerLimits) => requestSchema(chatFields(limits));
export type ChatBody = z.output<ReturnType<typeof chatSchema>>;

type ToolCalls = Extract<Constraint, { type: "toolCalls" }>;

/** A request as the engine takes it. */
export interface ChoiceRequests extends StreamFields, AnswerReaderOptions {
  /** One for each prompt, but for `n`. */
  readonly requests: readonly PromptRequest[];
  /** Answers of each prompt. */
  readonly n: number;
  /** What the answer is to warn of: fields that do nothing. */
  readonly warnings: readonly string[];
  /** As they came, with what they carry. */
  readonly documents?: readonly PassageInput[] | undefined;
}

/** @param names what fields are called that come by another name. @throws ApiError for fields that do not go together. */
export function chatRequests(
  body: ChatBody,
  { salt, limits, reasoning }: Asking,
  names: Readonly<Record<string, string>> = {},
): ChoiceRequests {
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
      names.messages ?? "messages",
      `there are ${numBlocks} content parts and documents in all, wanted up to ${limits.maxBlocks}`,
    );
  }
  const lengthField = newer == null ? "max_tokens" : (names.max_completion_tokens ?? "max_completion_tokens");
  const { maxTokens, warnings } = answerLength(lengthField, newer ?? older ?? limits.maxTokens, limits);
  const tools = toolsOf(body);
  const effort = effortVariables(body.reasoning_effort, reasoning, names.reasoning_effort ?? "reasoning_effort");
  const variables = { ...effort, ...given(body.chat_template_kwargs ?? {}) };
  const prompt = promptOf(body, tools?.tools, variables);
  const n = body.n ?? 1;
  const sampling = samplingOf(body, maxTokens);
  if (tools && sampling.constraint)
    throw fieldError("tools", 'the answer is held to something else already, wanted tool_choice "none" beside it');
  const options = {
    ...sampling,
    ...(tools && { constraint: tools }),
    ...(body.prediction && { prediction: predictionOf(body.prediction) }),
    logprobs,
    topLogprobs: body.top_logprobs ?? 0,
    spell: logprobs,
    ...requestOptionsOf(body.block_attention ?? {}, salt),
    maxLogprobs: Math.floor(limits.maxLogprobs / n),
  };
  const documents = body.documents ?? undefined;
  const toolNames = tools && new Set(tools.tools.map(({ name }) => name));
  // What is held to something else is no reasoning.
  const readsReasoning = reasoning?.isTagged === true && (options.constraint === undefined || tools?.choice === "auto");
  return {
    requests: [{ prompt, options }],
    n,
    warnings: [...chatPassedOver(body), ...warnings],
    documents,
    ...{ toolNames, readsReasoning },
    ...streamOptions(body),
  };
}

function predictionOf({ content }: NonNullable<ChatBody["prediction"]>): string {
  return typeof content === "string" ? content : content.map(({ text }) => text).join("");
}

/** What answers may or must call; undefined where they call nothing. @throws ApiError for a choice without its tools. */
function toolsOf({ tools, tool_choice: choice, parallel_tool_calls: parallel }: ChatBody): ToolCalls | undefined {
  const all = (tools ?? []).map(({ function: { name, description, parameters } }) =>
    given({ name, description, parameters }),
  );
  const isOne = typeof choice === "object" && choice !== null;
  if (isOne && !all.some(({ name }) => name === choice.function.name))
    throw fieldError("tool_choice", `there is no tool ${quote(choice.function.name, 80)}`);
  if (choice === "required" && all.length === 0) throw fieldError("tool_choice", 'it wants "tools"');
  if (all.length === 0 || choice === "none") return undefined;
  return {
    type: "toolCalls",
    tools: all as Tool[],
    choice: isOne ? choice.function : choice === "required" ? "required" : "auto",
    parallel: parallel ?? true,
  };
}

/** What an effort means to the model's template. @throws ApiError where it means nothing. */
function effortVariables(
  effort: ChatBody["reasoning_effort"],
  reasoning: Reasoning | undefined,
  name: string,
): Readonly<Record<string, boolean | string>> {
  if (effort == null || (effort === "none" && reasoning === undefined)) return {};
  const { switches } = reasoning ?? { switches: [] };
  if (switches.length === 0) {
    const wanted =
      reasoning === undefined
        ? '"none": the model\'s template knows no reasoning'
        : "none: the model's template does not steer reasoning";
    throw fieldError(name, `it is "${effort}", wanted ${wanted}`, "unsupported_value");
  }
  return Object.fromEntries(switches.map((one) => [one, one === "reasoning_effort" ? effort : effort !== "none"]));
}

function promptOf(
  body: ChatBody,
  tools: readonly Tool[] | undefined,
  variables: NonNullable<ChatPromptOptions["variables"]>,
): PromptInput {
  const { messages, documents, block_attention: steering } = body;
  const continuesLast = body.continue_final_message ?? false;
  if (!continuesLast && body.add_generation_prompt === false)
    throw fieldError("add_generation_prompt", "it is false, wanted true but beside continue_final_message");
  if (continuesLast && body.add_generation_prompt === true)
    throw fieldError("add_generation_prompt", "it is true, wanted false beside continue_final_message");
  const { rag, split_long: splitLong } = steering ?? {};
  const name = rag != null ? "rag" : splitLong != null ? "split_long" : undefined;
  if (documents == null && name !== undefined) {
    const param = `block_attention.${name}`;
    throw fieldError(param, 'it wants "documents"');
  }
  return {
    messages: messages.map(messageOf),
    ...(tools && { tools }),
    ...(Object.keys(variables).length > 0 && { variables }),
    ...(continuesLast && { continuesLast }),
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

function messageOf(
  {
    role,
    name,
    content,
    reasoning_content: reasoning,
    tool_calls: calls,
    tool_call_id: callId,
  }: ChatBody["messages"][number],
  index: number,
): ChatMessage {
  const wrong = (field: string, what: string) => fieldError(`messages[${index}].${field}`, what);
  if (calls?.length && role !== "assistant") throw wrong("tool_calls", "it calls, wanted an assistant's message");
  if (reasoning && role !== "assistant") throw wrong("reasoning_content", "wanted an assistant's message");
  if ((callId != null) !== (role === "tool"))
    throw wrong("tool_call_id", role === "tool" ? "there is none, wanted the call's id" : "wanted a tool's message");
  if (content == null && role !== "assistant") {
    throw wrong("content", "there is none, wanted text or a list of parts");
  }
  return {
    role: role === "developer" ? "system" : role,
    // An empty name is none: clients send it so.
    ...(name && { name }),
    content: typeof content === "string" ? content : (content?.map((part) => part.text) ?? ""),
    ...(reasoning && { reasoning }),
    ...(calls?.length && { toolCalls: calls.map(({ id, function: called }) => ({ id, ...called })) }),
    ...(callId != null && { toolCallId: callId }),
  };
}
