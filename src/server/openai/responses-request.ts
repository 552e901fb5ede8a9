import { z } from "zod";
import { maxTools, toolName } from "../../blocks/tools.js";
import { fieldError } from "../api-error.js";
import type { ServerLimits } from "../server-config.js";
import { newId } from "./answer-head.js";
import { type ChatBody, type ChoiceRequests, chatRequests } from "./chat-request.js";
import type { Asking } from "./common-request.js";
import { chatFields, functionSchema, functionTools, wantedFunctions } from "./fields.js";
import { neutralField, readField, requestSchema } from "./request-field.js";

const text = z.string();
const itemId = text.min(1).max(256);
const maxMetadata = 16;
const logprobsIncluded = "message.output_text.logprobs";
const encryptedIncluded = "reasoning.encrypted_content";

const noSummary = "wanted none: reasoning is told whole";
const functionType = z.literal("function", 'wanted "function": other tools are not supported');
const functionTool = z.strictObject({ type: functionType, ...functionSchema.shape });
const wantedPart = 'wanted "input_text" or "output_text": other parts are not supported';

const partSchema = z
  .strictObject({
    type: z.enum(["input_text", "output_text", "reasoning_text"], wantedPart),
    text,
    // What answers carry, and clients send back.
    annotations: z.array(z.never()).max(0, "wanted none").nullish(),
    logprobs: z.array(z.unknown()).nullish(),
    parsed: z.unknown().optional(),
  })
  .describe("One block, in what a user says.");
const textOrParts = z.union([text, z.array(partSchema)]);

/** What an item of each type has, beside `id` and `status`. */
const itemKeys = {
  message: { needs: ["role", "content"], may: ["phase"] },
  function_call: { needs: ["call_id", "name", "arguments"], may: ["parsed_arguments"] },
  function_call_output: { needs: ["call_id", "output"], may: [] },
  reasoning: { needs: [], may: ["summary", "content", "encrypted_content"] },
  item_reference: { needs: ["id"], may: [] },
} as const satisfies Record<string, { needs: readonly string[]; may: readonly string[] }>;
type ItemType = keyof typeof itemKeys;
const itemTypes = Object.keys(itemKeys) as [ItemType, ...ItemType[]];

/** One object for all types: of a union, errors could not tell which was meant. */
export const itemSchema = z
  .strictObject({
    type: z
      .enum(itemTypes, `wanted ${itemTypes.join(", ")}: other items are not supported`)
      .nullish()
      .describe("Default: message."),
    id: itemId.nullish(),
    status: z.enum(["in_progress", "completed", "incomplete"]).nullish(),
    role: z.enum(["user", "assistant", "system", "developer"], "wanted user, assistant, system or developer").nullish(),
    content: textOrParts.nullish().describe("Text, in which passages are found; or a list of parts."),
    phase: text.nullish(),
    call_id: itemId.nullish().describe("Of a call and its output: what tells which belong together."),
    name: toolName.nullish(),
    arguments: text.nullish(),
    parsed_arguments: z.unknown().optional(),
    output: textOrParts.nullish().describe("What a function gave: a block."),
    summary: z.array(z.strictObject({ type: z.literal("summary_text"), text })).nullish(),
    encrypted_content: text.nullish(),
  })
  .check(({ value, issues }) => {
    const { needs, may } = itemKeys[value.type ?? "message"];
    const known: readonly string[] = ["type", "id", "status", ...needs, ...may];
    const given = Object.entries(value).filter(([, one]) => one != null);
    const missing = needs.find((key) => value[key as keyof typeof value] == null);
    const wrong = missing ?? given.find(([key]) => !known.includes(key))?.[0];
    const refuse = (path: (string | number)[], message: string) =>
      issues.push({ code: "custom", input: value, path, message });
    if (wrong !== undefined)
      return void refuse([wrong], `wanted ${missing === undefined ? "none" : "one"} in a ${value.type ?? "message"}`);
    for (const key of ["content", "output"] as const) {
      const given = value[key];
      const thought = Array.isArray(given) ? given.findIndex(({ type }) => type === "reasoning_text") : -1;
      if (thought >= 0 && value.type !== "reasoning") refuse([key, thought, "type"], wantedPart);
    }
  });

/** An item of a conversation, as it is kept and listed. */
export type ResponseItem = z.output<typeof itemSchema>;

/** Of `POST /v1/responses`: what it shares with chat completions, and its own. */
export function responseFields(limits: ServerLimits) {
  const { maxBlocks } = limits;
  const chat = chatFields(limits);
  const { max_completion_tokens: maxTokens, top_logprobs: topLogprobs } = chat;
  return {
    input: readField(
      z.union([text, z.array(itemSchema).min(1).max(maxBlocks)]),
      `text, or a list of 1 to ${maxBlocks} items`,
      "What is said: a user's text, or messages, calls, their outputs, reasoning and references to kept items. Every text part of a user's message is a block, but the last; a call's output is one.",
    ),
    instructions: readField(text, "text", "The system message; that of a previous response does not go on."),
    previous_response_id: readField(itemId, "text", "The kept response that this one goes on from."),
    store: readField(z.boolean(), "true or false", "Whether the response is kept, for a time. Default true."),
    metadata: readField(
      z
        .record(text.max(64), text.max(512))
        .refine((pairs) => Object.keys(pairs).length <= maxMetadata, `wanted up to ${maxMetadata} pairs`),
      `an object of up to ${maxMetadata} texts`,
      "Comes back with the response.",
    ),
    ...omit(chat, [
      ...["messages", "n", "stream_options", "store", "metadata", "max_completion_tokens", "max_tokens"],
      ...["logprobs", "top_logprobs", "tools", "tool_choice", "functions", "function_call", "modalities", "audio"],
      ...[
        "prediction",
        "reasoning_effort",
        "continue_final_message",
        "add_generation_prompt",
        "verbosity",
        "web_search_options",
        "response_format",
        "guided_json",
      ],
      ...["guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "json_schema", "grammar"],
    ] as const),
    stream_options: readField(
      z.strictObject({ include_obfuscation: z.literal(false, "wanted false: events are not padded").nullish() }),
      "an object with include_obfuscation",
      "Events are not padded.",
    ),
    max_output_tokens: maxTokens,
    text: readField(
      z.strictObject({
        format: z
          .discriminatedUnion("type", [
            z.strictObject({ type: z.literal("text") }),
            z.strictObject({ type: z.literal("json_object") }),
            z.strictObject({
              type: z.literal("json_schema"),
              name: text,
              description: text.nullish(),
              schema: z.record(text, z.unknown()),
              strict: z.boolean().nullish(),
            }),
          ])
          .nullish(),
        verbosity: z.literal("medium", 'wanted "medium": verbosity is not steered').nullish(),
      }),
      'an object with a format of type "text", "json_object" or "json_schema"',
      "Holds the answer to JSON, or to JSON that a JSON Schema takes, `strict` or not.",
    ),
    tools: readField(
      functionTools(functionTool, (tool) => tool),
      wantedFunctions,
      "What the model may call.",
    ),
    tool_choice: readField(
      z.union([z.enum(["none", "auto", "required"]), z.strictObject({ type: functionType, name: text })]),
      '"none", "auto", "required" or a function of `tools`',
      chat.tool_choice.about,
    ),
    include: readField(
      z.array(z.enum([logprobsIncluded, encryptedIncluded])).max(maxTools),
      `a list of "${logprobsIncluded}"`,
      `Log-probabilities. "${encryptedIncluded}" is accepted, and nothing is encrypted.`,
    ),
    top_logprobs: {
      ...topLogprobs,
      about: `How many of the likeliest tokens are told at each place. Wants \`include\` with \`${logprobsIncluded}\`.`,
    },
    reasoning: readField(
      z.strictObject({
        effort: chat.reasoning_effort.schema,
        summary: z.null(noSummary).optional(),
        generate_summary: z.null(noSummary).optional(),
      }),
      "an object with an effort",
      chat.reasoning_effort.about,
    ),
    truncation: neutralField(z.literal("disabled"), '"disabled"', "items are never dropped"),
    max_tool_calls: neutralField(z.null(), "none", "it is for tools of OpenAI's own, which are not here"),
    background: neutralField(z.literal(false), "false", "responses are computed while their client waits"),
    conversation: neutralField(z.null(), "none", "conversations go on by `previous_response_id`"),
    context_management: neutralField(z.null(), "none", "items are never dropped"),
    prompt: neutralField(z.null(), "none", "prompts are not kept here"),
  };
}

function omit<T extends object, K extends keyof T>(fields: T, names: readonly K[]): Omit<T, K> {
  const left: ReadonlySet<PropertyKey> = new Set(names);
  return Object.fromEntries(Object.entries(fields).filter(([name]) => !left.has(name))) as Omit<T, K>;
}

export const responsesSchema = (limits: ServerLimits) => requestSchema(responseFields(limits));
export type ResponsesBody = z.output<ReturnType<typeof responsesSchema>>;

/** The items of a request, each with an id. */
export function inputItems({ input }: ResponsesBody): ResponseItem[] {
  const given: readonly ResponseItem[] = typeof input === "string" ? [{ role: "user", content: input }] : (input ?? []);
  return given.map((item) => {
    const type = item.type ?? "message";
    const id = item.id ?? newId(type === "message" ? "msg_" : "item_");
    return { status: "completed" as const, ...item, type, id };
  });
}

/**
 * The request that answers it: a chat completion's, with the same prompt for the same conversation.
 *
 * @param items all that was said, references resolved.
 * @throws ApiError for fields that do not go together.
 */
export function responseRequests(body: ResponsesBody, items: readonly ResponseItem[], asking: Asking): ChoiceRequests {
  const { limits } = asking;
  const { input, instructions, text: wanted, include, tools, tool_choice: choice, top_logprobs: top, reasoning } = body;
  if (input == null) throw fieldError("input", "there is none, wanted text or a list of items");
  const logprobs = include?.includes(logprobsIncluded) ?? false;
  if (top && !logprobs) throw fieldError("top_logprobs", `it wants "include" to have "${logprobsIncluded}"`);
  const messages = messagesOf(instructions == null ? items : [{ role: "system", content: instructions }, ...items]);
  if (messages.length > limits.maxBlocks)
    throw fieldError("input", `there are ${messages.length} messages in all, wanted up to ${limits.maxBlocks}`);
  const { store: _, metadata: __, stream_options: ___, max_output_tokens: maxTokens, ...shared } = body;
  const asked = chatRequests(
    {
      ...shared,
      messages,
      max_completion_tokens: maxTokens,
      logprobs,
      reasoning_effort: reasoning?.effort,
      response_format: formatOf(wanted?.format),
      tools: tools?.map(({ type, ...called }) => ({ type, function: called })),
      tool_choice:
        typeof choice === "object" && choice !== null ? { type: choice.type, function: { name: choice.name } } : choice,
    },
    asking,
    { messages: "input", max_completion_tokens: "max_output_tokens", reasoning_effort: "reasoning.effort" },
  );
  const isEncrypted = include?.includes(encryptedIncluded) ?? false;
  const warnings = isEncrypted ? [`"${encryptedIncluded}" is passed over: nothing is encrypted`] : [];
  return { ...asked, warnings: [...asked.warnings, ...warnings] };
}

type Format = NonNullable<NonNullable<ResponsesBody["text"]>["format"]>;

function formatOf(format: Format | null | undefined): ChatBody["response_format"] {
  if (format?.type !== "json_schema") return format;
  const { type, ...schema } = format;
  return { type, json_schema: schema };
}

type Message = ChatBody["messages"][number];

/** Messages as a chat has them: calls belong to the assistant's message before them, reasoning to the one behind it. */
function messagesOf(items: readonly ResponseItem[]): Message[] {
  const messages: Message[] = [];
  let thought: string | undefined;
  const answer = (message: Pick<Message, "content" | "tool_calls">) => {
    messages.push({ role: "assistant", ...message, ...(thought && { reasoning_content: thought }) });
    thought = undefined;
  };
  for (const { type, role, content, call_id: callId, name, arguments: given, output } of items) {
    if (type === "reasoning") thought = textOf(content);
    else if (type === "function_call") {
      const call = { id: callId as string, function: { name: name as string, arguments: given as string } };
      const last = messages.at(-1);
      const joins = last?.role === "assistant" && thought === undefined;
      if (joins) messages[messages.length - 1] = { ...last, tool_calls: [...(last.tool_calls ?? []), call] };
      else answer({ content: null, tool_calls: [call] });
    } else if (type === "function_call_output") {
      messages.push({ role: "tool", tool_call_id: callId, content: partsOf(output) });
    } else if (role === "assistant") answer({ content: textOf(content) });
    else messages.push({ role: role as Message["role"], content: partsOf(content) });
  }
  return messages;
}

function textOf(content: ResponseItem["content"]): string {
  return typeof content === "string" ? content : (content ?? []).map((part) => part.text).join("");
}

function partsOf(content: ResponseItem["content"]): Message["content"] {
  if (content == null || typeof content === "string") return content;
  return content.length === 0 ? "" : content.map((part) => ({ type: "text" as const, text: part.text }));
}
