import { z } from "zod";
import { passageSchema } from "../../blocks/passage.js";
import { ragTextFields } from "../../blocks/rag-prompt.js";
import { areTools, maxTools, toolName, wantedTools } from "../../blocks/tools.js";
import { promptCuts, splitLongField } from "../../engine/prompt.js";
import { repairField } from "../../engine/repair.js";
import { attentionModes } from "../../model/block-attention-config.js";
import { endUserSalt } from "../route-context.js";
import type { ServerLimits } from "../server-config.js";
import { constraintFields } from "./constraint-fields.js";
import {
  informationalField,
  neutralField,
  passedOver,
  type RequestFields,
  readField,
  type requestSchema,
} from "./request-field.js";

const text = z.string();
const never = z.array(z.never()).max(0);
const maxLogitBias = 4096;
const maxStops = 64;
const maxTags = 1000;

/** A text that an answer can hold: whole characters. Not a pattern in the OpenAPI document: few tools know this one. */
const stopText = z
  .string()
  .min(1)
  .max(10_000)
  .refine((stop) => stop.isWellFormed(), "wanted whole characters");

export const repairText = repairField.schema.nullable();

/** What `block_attention` takes of every prompt. */
const steering = {
  mode: z
    .enum(attentionModes)
    .nullish()
    .describe("Block attention, or plain full attention. Default: what the model was trained for."),
  num_local_attention_blocks: z
    .int()
    .min(0)
    .nullish()
    .describe("Blocks past so many join the final block; 0 is full attention."),
  segment: z
    .enum(promptCuts)
    .nullish()
    .describe(
      "How text is cut in block mode: `auto`: parts are blocks, and in plain strings each passage that is found; `parts`: parts are blocks, plain strings stay whole; `rule`: the paper's rule cuts all text; `none`: nothing is cut. Default `auto`.",
    ),
  keep_prefixes: z
    .boolean()
    .nullish()
    .describe("Whether keys and values of this prompt and its answer are kept for prompts that begin as they do."),
  repair: repairText.describe(
    "What is done in block mode about what it loses: `none`, `auto`, or items such as `lead`. Default: the server's.",
  ),
  explain: z.boolean().nullish().describe("Whether the answer has `misses`: where reuse ended, and the likely reason."),
  salt: endUserSalt,
};
/** @param others the names of those that the route has beside them. */
const steeringWanted = (...others: readonly string[]) =>
  `an object with ${[...Object.keys(steering), ...others].join(", ")}`;

const number = (min: number, max: number, about: string) =>
  readField(z.number().min(min).max(max), `a number from ${min} to ${max}`, about);
const wholeNumber = (min: number, max: number, about: string) =>
  readField(z.int().min(min).max(max), `a whole number from ${min} to ${max}`, about);

/** -1 is no limit but the server's own. */
const maxTokens = z.int().min(-1);
const wantedMaxTokens = "a whole number from 0 on, or -1";

const anyObject = z.record(z.string(), z.unknown());
const blocksAreFound = "Blocks are found by what they hold.";
const nothingIsStored = "Nothing is stored.";
const keysTell = "Keys tell who asks.";
const storedObject = () => informationalField(anyObject, "an object", nothingIsStored);
const storedText = () => informationalField(text, "text", nothingIsStored);
const cacheControl = informationalField(anyObject, "an object", blocksAreFound);

/** What clients send whatever server they speak to, and what cannot change an answer's text. */
const informationalFields = {
  user: informationalField(text, "text", keysTell),
  safety_identifier: informationalField(text, "text", keysTell),
  user_id: informationalField(text, "text", keysTell),
  metadata: storedObject(),
  store: informationalField(z.boolean(), "true or false", nothingIsStored),
  session_id: storedText(),
  request_id: storedText(),
  trace: storedObject(),
  tags: informationalField(z.array(text).max(maxTags), `a list of up to ${maxTags} texts`, nothingIsStored),
  litellm_session_id: storedText(),
  litellm_trace_id: storedText(),
  litellm_call_id: storedText(),
  litellm_metadata: storedObject(),
  prompt_cache_key: informationalField(text, "text", blocksAreFound),
  prompt_cache_retention: informationalField(
    z.enum(["in_memory", "in-memory", "24h"]),
    '"in_memory" or "24h"',
    "Blocks are kept while there is room.",
  ),
  prompt_cache_options: informationalField(anyObject, "an object", blocksAreFound),
  cache_prompt: informationalField(z.boolean(), "true or false", blocksAreFound),
  cache_control: cacheControl,
  keep_alive: informationalField(z.union([text, z.number()]), "text or a number", "The model stays loaded."),
  provider: informationalField(anyObject, "an object", "There is one provider."),
  usage: informationalField(anyObject, "an object", "Answers have their usage, streams by `stream_options`."),
};

/** Fields inside others that are informational, by their path; `[]` is every entry of a list. */
export const innerChatFields = {
  "messages[].cache_control": cacheControl,
  "messages[].content[].cache_control": cacheControl,
} satisfies RequestFields;

/** What a chat's answer warns of: fields that it has and that do nothing. */
export function chatPassedOver(body: object): string[] {
  return passedOver({ ...informationalFields, ...innerChatFields }, body);
}

/** As chatPassedOver(), of a completion. */
export function completionPassedOver(body: object): string[] {
  return passedOver(informationalFields, body);
}

const { system, preamble, passage, final } = ragTextFields;
export const ragRequest = z.strictObject({
  system: system.schema.nullable().describe("The system message where there is none."),
  preamble: preamble.schema.nullable().describe("Stands before the passages; a system message takes its place."),
  passage: passage.schema.nullable().describe("A passage, with `{title}` and `{text}`."),
  final: final.schema.nullable().describe("The task sentence, with `{question}`."),
});
export const splitLong = splitLongField.schema
  .nullable()
  .describe("Whether long passages are split: true at half the longest prompt, a number at so many tokens.");

/** More values than any request has that fits: for each block or message some, with a passage's metadata, all of logit_bias, and spare. */
export function maxValuesOf({ maxBlocks }: ServerLimits): number {
  return 32 * maxBlocks + maxLogitBias + 1000;
}

/** Fields that chat and completions share, but for those of their own. */
function commonFields(limits: ServerLimits) {
  const maxChoices = Math.min(limits.maxChoices, 128);
  return {
    model: readField(text, "text", "Any name; answers name the model that is loaded."),
    stream: readField(z.boolean(), "true or false", "Sends the answer piece by piece, as server-sent events."),
    stream_options: readField(
      z.strictObject({
        include_usage: z.boolean().nullish(),
        continuous_usage_stats: z.boolean().nullish(),
        include_obfuscation: z.literal(false, "wanted false: chunks are not padded").nullish(),
      }),
      "an object with include_usage, continuous_usage_stats",
      "With `include_usage` a last chunk tells the usage; with `continuous_usage_stats`, not OpenAI's, each chunk tells its choice's so far. Wants `stream`.",
    ),
    temperature: number(0, 2, "0 takes the likeliest token. Default 1."),
    top_p: number(
      0,
      1,
      "Keeps the likeliest tokens that together have this probability; 0 the likeliest alone. Default 1.",
    ),
    top_k: readField(
      z.int().min(-1).max(1_000_000_000),
      "a whole number from 0 on, or -1",
      "Keeps the k likeliest tokens; 0 and -1 are off. Not OpenAI's. Default 0.",
    ),
    min_p: number(0, 1, "Keeps tokens at least this many times as likely as the likeliest. Not OpenAI's. Default 0."),
    repetition_penalty: number(
      0.01,
      100,
      "Over 1: tokens of prompt and answer become less likely. Not OpenAI's. Default 1.",
    ),
    presence_penalty: number(-2, 2, "Taken from the logits of tokens that the answer holds. Default 0."),
    frequency_penalty: number(-2, 2, "Taken from a token's logit for each time that the answer holds it. Default 0."),
    seed: readField(
      z.int().min(0),
      "a whole number from 0 to 2^53 - 1",
      "The same seed and request give the same answer. Choice i has seed + i. Default: drawn.",
    ),
    stop: readField(
      z.union([stopText, z.array(stopText).max(maxStops)]),
      `text, or a list of up to ${maxStops}, none empty`,
      "Ends the answer before this text.",
    ),
    n: wholeNumber(1, maxChoices, "How many answers; they are computed together. Default 1."),
    logit_bias: readField(
      z
        .record(z.string().regex(/^(0|[1-9][0-9]{0,9})$/, "wanted a token id"), z.number().min(-100).max(100))
        .refine((bias) => Object.keys(bias).length <= maxLogitBias, `wanted up to ${maxLogitBias} tokens`),
      `an object of up to ${maxLogitBias} token ids and numbers from -100 to 100`,
      "Added to the logits of tokens; -100 bans one.",
    ),
    ...constraintFields,
    ...informationalFields,
  };
}

export type CommonBody = z.output<ReturnType<typeof requestSchema<ReturnType<typeof commonFields>>>>;

const nothing = "functions are given as `tools`";

const partSchema = z
  .strictObject({
    type: z.literal("text", 'wanted "text": other parts are not supported'),
    text,
    cache_control: cacheControl.schema,
  })
  .describe("One block.");

/** Fields that answers carry, and clients send back in a history. */
const historyFields = {
  refusal: z.literal("", "wanted none").nullish(),
  audio: z.null("wanted none").optional(),
  annotations: z.array(z.never()).max(0, "wanted none").nullish(),
  function_call: z.null(`wanted none: ${nothing}`).optional(),
};

const toolCall = z.strictObject({
  id: z.string().min(1).max(256),
  type: z.literal("function").nullish(),
  index: z.int().nullish(),
  function: z.strictObject({ name: toolName, arguments: text }),
});

/** A function that the model may call, as requests describe it. */
export const functionSchema = z.strictObject({
  name: toolName,
  description: text.nullish(),
  parameters: anyObject.nullish(),
  strict: z.boolean().nullish(),
});

export const wantedFunctions = `a list of up to ${maxTools} functions with different names, in all up to 256 KiB of JSON`;

/** A list of tools. @param functionOf the function of one. */
export function functionTools<T extends z.ZodType>(
  tool: T,
  functionOf: (tool: z.output<T>) => z.output<typeof functionSchema>,
) {
  return z
    .array(tool)
    .max(maxTools)
    .refine((tools) => areTools(tools.map(functionOf)), `wanted ${wantedTools}`);
}

const toolSchema = z.strictObject({
  type: z.literal("function", 'wanted "function": other tools are not supported'),
  function: functionSchema,
});

/** For the OpenAPI document, whose readers draw requests from it: only an assistant's message may be without content. */
const contentIsThere = {
  anyOf: [
    { properties: { role: { const: "assistant" } } },
    { required: ["content"], properties: { content: { not: { type: "null" } } } },
  ],
};

const messageSchema = (limits: ServerLimits) =>
  z
    .strictObject({
      role: z.enum(
        ["system", "developer", "user", "assistant", "tool"],
        "wanted system, developer, user, assistant or tool",
      ),
      content: z
        .union([text, z.array(partSchema).min(1).max(limits.maxBlocks)])
        .nullish()
        .describe(
          "Text, in which passages are found; or a list of parts, each of which is a block. Null in an assistant's message only.",
        ),
      name: z
        .string()
        .regex(/^[\w.-]{0,64}$/, 'wanted up to 64 letters, digits, "_", "-" or "."')
        .nullish()
        .describe("Who of the role speaks, where the model's template reads it."),
      reasoning_content: text
        .nullish()
        .describe("Of an assistant's message: what it thought first, where the template reads it."),
      tool_calls: z.array(toolCall).max(maxTools).nullish().describe("Of an assistant's message: what it called."),
      tool_call_id: z.string().min(1).max(256).nullish().describe("Of a tool's message: whose result it is."),
      cache_control: cacheControl.schema,
      ...historyFields,
    })
    .meta(contentIsThere);

const efforts = ["none", "minimal", "low", "medium", "high", "xhigh"] as const;
const maxTemplateVariables = 32;
/** What a template prints is its own text, so this must not spell a control token. */
const plainText = z
  .string()
  .max(1000)
  .regex(/^[\p{L}\p{N}\s_.,:;'"()/-]*$/u, "wanted letters, digits and plain punctuation");

/** Of `POST /v1/chat/completions`. */
export function chatFields(limits: ServerLimits) {
  const { maxBlocks } = limits;
  return {
    messages: {
      schema: z.array(messageSchema(limits)).min(1).max(maxBlocks),
      use: "read" as const,
      wanted: `a list of 1 to ${maxBlocks} messages`,
      about:
        "The conversation. Role `developer` is `system`. Every text part of a content list is a block, but a user message's last; a tool's result is one.",
    },
    ...commonFields(limits),
    documents: readField(
      z.array(passageSchema).max(maxBlocks),
      `a list of up to ${maxBlocks} passages`,
      "With them the messages become the model's RAG prompt, a passage a block. Not OpenAI's.",
    ),
    block_attention: readField(
      z.strictObject({
        ...steering,
        rag: ragRequest.nullish().describe("The RAG prompt's own words, in place of the model's. Wants `documents`."),
        split_long: splitLong,
      }),
      steeringWanted("rag", "split_long"),
      "How the prompt becomes blocks, and what is kept and told of it. Not OpenAI's.",
    ),
    max_completion_tokens: readField(
      maxTokens,
      wantedMaxTokens,
      "The longest answer. Default, and with a warning for -1 and what is over the limit: what the context and the server's limit leave.",
    ),
    max_tokens: readField(maxTokens, wantedMaxTokens, "The older name of `max_completion_tokens`."),
    logprobs: readField(z.boolean(), "true or false", "Tells each token's log-probability."),
    top_logprobs: wholeNumber(0, 20, "How many of the likeliest tokens are told at each place. Wants `logprobs`."),
    tools: readField(
      functionTools(toolSchema, (tool) => tool.function),
      wantedFunctions,
      "What the model may call.",
    ),
    tool_choice: readField(
      z.union([
        z.enum(["none", "auto", "required"]),
        z.strictObject({ type: z.literal("function"), function: z.strictObject({ name: text }) }),
      ]),
      '"none", "auto", "required" or a function of `tools`',
      "Whether tools are called: never (then the prompt is without them), where the model does, always, or this one. Default `auto`.",
    ),
    prediction: readField(
      z.strictObject({
        type: z.literal("content"),
        content: z.union([text, z.array(z.strictObject({ type: z.literal("text"), text })).max(maxBlocks)]),
      }),
      'a {"type": "content"} with "content", a text or a list of text parts',
      "What the answer is likely to be: tokens that are as it says come sooner. It changes no token.",
    ),
    parallel_tool_calls: readField(z.boolean(), "true or false", "Whether there may be several calls. Default true."),
    functions: neutralField(never, "none", nothing),
    function_call: neutralField(z.enum(["none", "auto"]), '"none" or "auto"', nothing),
    modalities: neutralField(z.tuple([z.literal("text")]), '["text"]', "answers are text"),
    audio: neutralField(z.null(), "none", "answers are text"),
    reasoning_effort: readField(
      z.enum(efforts),
      efforts.map((effort) => `"${effort}"`).join(", "),
      "How much the model thinks first, as its template knows it: `reasoning_effort`, or on and off (`none`). Of a template that knows none, only `none`.",
    ),
    chat_template_kwargs: readField(
      z
        .record(
          z.string().regex(/^[A-Za-z_]\w{0,63}$/, "wanted the name of a variable"),
          z.union([z.boolean(), z.number(), plainText, z.null()], "wanted true, false, a number or plain text"),
        )
        .refine((given) => Object.keys(given).length <= maxTemplateVariables, `wanted up to ${maxTemplateVariables}`),
      `an object of up to ${maxTemplateVariables} values that are true, false, numbers or plain text`,
      "Variables of the model's chat template, such as `enable_thinking`. Not OpenAI's.",
    ),
    continue_final_message: readField(
      z.boolean(),
      "true or false",
      "The answer goes on with the last message, the assistant's. vLLM's. Default false.",
    ),
    add_generation_prompt: readField(
      z.boolean(),
      "true or false",
      "False beside `continue_final_message`, else true. vLLM's.",
    ),
    verbosity: neutralField(z.literal("medium"), '"medium"', "verbosity is not steered"),
    web_search_options: neutralField(z.null(), "none", "there is no web search"),
    moderation: neutralField(z.null(), "none", "answers are not moderated"),
    service_tier: neutralField(z.enum(["auto", "default"]), '"auto" or "default"', "there is one tier"),
  };
}

const maxEcho = 20;

/** A schema of its own for each would tell of every one that does not fit, of a million of them for seconds. */
const tokenIds = z
  .array(z.unknown() as z.ZodType<number>)
  .min(1)
  .check(({ value, issues }) => {
    const wrong = value.findIndex((id) => !Number.isSafeInteger(id) || id < 0);
    if (wrong === -1) return;
    const message = "wanted a whole number from 0 on";
    issues.push({ code: "custom", input: value, path: [wrong], message, continue: typeof value[wrong] === "number" });
  })
  .meta({ items: { type: "integer", minimum: 0, maximum: Number.MAX_SAFE_INTEGER } });

/** Of `POST /v1/completions`. */
export function completionFields(limits: ServerLimits) {
  const { maxBlocks, maxChoices } = limits;
  return {
    prompt: readField(
      z.union([text, tokenIds, z.array(text).min(1).max(maxChoices), z.array(tokenIds).min(1).max(maxChoices)]),
      `text, token ids, or a list of up to ${maxChoices} of either`,
      "What the answer goes on from. Passages are found in text; token ids are never cut, and nothing is put before them.",
    ),
    ...commonFields(limits),
    block_attention: readField(
      z.strictObject({
        ...steering,
        blocks: z
          .array(text)
          .min(1)
          .max(maxBlocks)
          .nullish()
          .describe("The prompt as blocks, in place of `prompt`; the last is the final block."),
      }),
      steeringWanted("blocks"),
      "How the prompt becomes blocks, or the blocks themselves, and what is kept and told of it. Not OpenAI's.",
    ),
    max_tokens: readField(
      maxTokens,
      wantedMaxTokens,
      "The longest answer; -1 and more than the limit as in a chat. Default 16.",
    ),
    logprobs: wholeNumber(
      0,
      maxEcho,
      "Tells each token's log-probability, and so many of the likeliest tokens at its place.",
    ),
    echo: readField(z.boolean(), "true or false", "Puts the prompt before the answer, in `logprobs` too."),
    best_of: neutralField(z.int().min(1).max(maxChoices), "the value of n", "answers are not ranked"),
    suffix: neutralField(z.literal(""), "none", "nothing is inserted before a text"),
  };
}
