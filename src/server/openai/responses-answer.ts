import { z } from "zod";
import type { GenerateResult, SpelledToken, Usage } from "../../engine/results.js";
import type { ApiError } from "../api-error.js";
import { type AnswerHead, finishReason, newId } from "./answer-head.js";
import { type AnswerPiece, AnswerReader, type AnswerReaderOptions } from "./answer-reader.js";
import { logprobsOf, logprobsSchema, newCallId } from "./chat-answer.js";
import type { ResponsesBody } from "./responses-request.js";
import type { ChoiceEvent } from "./run-choices.js";
import { reportOf, reportSchema, usageOf } from "./usage.js";

const status = z.enum(["in_progress", "completed", "incomplete"]);
const textPart = z.object({
  type: z.literal("output_text"),
  text: z.string(),
  annotations: z.array(z.never()),
  logprobs: logprobsSchema.shape.content,
});
const messageItem = z.object({
  type: z.literal("message"),
  id: z.string(),
  status,
  role: z.literal("assistant"),
  content: z.array(textPart),
});
const thoughtPart = z.object({ type: z.literal("reasoning_text"), text: z.string() });
const reasoningItem = z
  .object({
    type: z.literal("reasoning"),
    id: z.string(),
    status,
    summary: z.array(z.never()),
    content: z.array(thoughtPart),
  })
  .describe("What the model thought.");
const callItem = z.object({
  type: z.literal("function_call"),
  id: z.string(),
  status,
  call_id: z.string().describe("What the call's output names."),
  name: z.string(),
  arguments: z.string().describe("A JSON object."),
});
const usageSchema = z.object({
  input_tokens: z.int().min(0),
  input_tokens_details: z.object({ cached_tokens: z.int().min(0) }),
  output_tokens: z.int().min(0),
  output_tokens_details: z.object({ reasoning_tokens: z.int().min(0) }),
  total_tokens: z.int().min(0),
});

export const responseSchema = z
  .object({
    id: z.string(),
    object: z.literal("response"),
    created_at: z.int(),
    completed_at: z.int().nullable(),
    status: z.enum(["in_progress", "completed", "incomplete", "failed"]),
    error: z.object({ code: z.string(), message: z.string() }).nullable(),
    incomplete_details: z.object({ reason: z.literal("max_output_tokens") }).nullable(),
    model: z.string(),
    output: z.array(z.discriminatedUnion("type", [messageItem, reasoningItem, callItem])),
    usage: usageSchema.nullable(),
    ...reportSchema.partial().shape,
    // The request's own fields, as they came.
    instructions: z.string().nullable(),
    previous_response_id: z.string().nullable(),
    store: z.boolean(),
    metadata: z.record(z.string(), z.string()),
    max_output_tokens: z.int().nullable(),
    parallel_tool_calls: z.boolean(),
    temperature: z.number(),
    top_p: z.number(),
    top_logprobs: z.int(),
    text: z.looseObject({}),
    tools: z.array(z.looseObject({})),
    tool_choice: z.union([z.string(), z.looseObject({})]),
    reasoning: z.looseObject({}),
    truncation: z.literal("disabled"),
    background: z.literal(false),
    service_tier: z.literal("default"),
  })
  .describe("A response.");

export type ResponseAnswer = z.output<typeof responseSchema>;
type OutputItem = ResponseAnswer["output"][number];
type Logprobs = z.output<typeof textPart>["logprobs"];

/** An event of a streamed response. */
export interface ResponseEvent {
  readonly type: string;
  readonly sequence_number: number;
  readonly [field: string]: unknown;
}

export interface ResponseWriterOptions extends AnswerReaderOptions {
  /** Keeps a whole response whose request wants it, before its client reads of it; false: there is no room. */
  readonly keep: (response: ResponseAnswer) => boolean;
}

/** Makes a response of an answer, event by event, as OpenAI's streams have them. */
export class ResponseWriter {
  #response: ResponseAnswer;
  readonly #reader: AnswerReader;
  #numEvents = 0;
  /** The output's last item, while more may come of it. */
  #open: OutputItem | undefined;
  #numReasoning = 0;
  /** Of tokens whose text is held back. */
  #logprobs: Logprobs = [];

  constructor(
    { id, created, model }: AnswerHead,
    body: ResponsesBody,
    private readonly options: ResponseWriterOptions,
  ) {
    this.#reader = new AnswerReader(options);
    this.#response = {
      id,
      object: "response",
      created_at: created,
      completed_at: null,
      status: "in_progress",
      error: null,
      incomplete_details: null,
      model,
      output: [],
      usage: null,
      instructions: body.instructions ?? null,
      previous_response_id: body.previous_response_id ?? null,
      store: body.store ?? true,
      metadata: body.metadata ?? {},
      max_output_tokens: body.max_output_tokens ?? null,
      parallel_tool_calls: body.parallel_tool_calls ?? true,
      temperature: body.temperature ?? 1,
      top_p: body.top_p ?? 1,
      top_logprobs: body.top_logprobs ?? 0,
      text: { format: { type: "text" }, ...body.text },
      tools: body.tools ?? [],
      tool_choice: body.tool_choice ?? "auto",
      reasoning: { effort: body.reasoning?.effort ?? null, summary: null },
      truncation: "disabled",
      background: false,
      service_tier: "default",
    };
  }

  /** As far as it has come. */
  get response(): ResponseAnswer {
    return this.#response;
  }

  push({ event }: ChoiceEvent): ResponseEvent[] {
    switch (event.kind) {
      case "echo":
        return [];
      case "prompt":
        if (event.opensReasoning) this.#reader.openReasoning();
        return ["created", "in_progress"].map((name) => this.#event(`response.${name}`, { response: this.#response }));
      case "token":
        if (this.#reader.isReasoning) this.#numReasoning += 1;
        return this.#add(this.#reader.push(event.text), event.spelled);
      case "done": {
        const last = [...this.#reader.push(event.text), ...this.#reader.end()];
        return [...this.#add(last, undefined), ...this.#end(event.result)];
      }
      default:
        return event satisfies never;
    }
  }

  /** What a client reads of a failure, where it has read events before. */
  fail({ message, code, param }: ApiError): ResponseEvent[] {
    const failure = { code: code ?? "server_error", message };
    this.#response = { ...this.#response, status: "failed", error: failure };
    // Clients differ in where they look.
    const error = { type: "server_error", ...failure, param: param ?? null };
    return [
      this.#event("response.failed", { response: this.#response }),
      this.#event("error", { code: failure.code, message, param: param ?? null, error }),
    ];
  }

  #event(type: string, fields: object): ResponseEvent {
    return { type, sequence_number: this.#numEvents++, ...fields };
  }

  #add(pieces: readonly AnswerPiece[], token: SpelledToken | undefined): ResponseEvent[] {
    if (token !== undefined) this.#logprobs.push(...logprobsOf([token]).content);
    return pieces.flatMap((piece) => {
      switch (piece.kind) {
        case "text":
          return this.#addText(piece.text);
        case "reasoning":
          return this.#addThought(piece.text);
        case "call": {
          const call = { type: "function_call" as const, id: newId("fc_"), status: "in_progress" as const };
          return this.#begin({ ...call, call_id: newCallId(), name: piece.name, arguments: "" });
        }
        case "arguments":
          return this.#addArguments(piece.text);
        default:
          return piece satisfies never;
      }
    });
  }

  #addText(delta: string): ResponseEvent[] {
    const events: ResponseEvent[] = [];
    let item = this.#open;
    if (item?.type !== "message") {
      const message = { type: "message" as const, id: newId("msg_"), status: "in_progress" as const };
      item = { ...message, role: "assistant" as const, content: [] };
      events.push(...this.#begin(item));
      const part = { type: "output_text" as const, text: "", annotations: [] };
      events.push(this.#event("response.content_part.added", { ...this.#place(0), part: { ...part, logprobs: [] } }));
      item.content.push({ ...part, logprobs: [] });
    }
    const [part] = item.content;
    const logprobs = this.#logprobs.splice(0);
    part!.text += delta;
    part!.logprobs.push(...logprobs);
    events.push(this.#event("response.output_text.delta", { ...this.#place(0), delta, logprobs }));
    return events;
  }

  #addThought(delta: string): ResponseEvent[] {
    const events: ResponseEvent[] = [];
    let item = this.#open;
    if (item?.type !== "reasoning") {
      const status = "in_progress" as const;
      item = { type: "reasoning" as const, id: newId("rs_"), status, summary: [], content: [] };
      events.push(...this.#begin(item));
      const part = { type: "reasoning_text" as const, text: "" };
      events.push(this.#event("response.content_part.added", { ...this.#place(0), part: { ...part } }));
      item.content.push(part);
    }
    item.content[0]!.text += delta;
    return [...events, this.#event("response.reasoning_text.delta", { ...this.#place(0), delta })];
  }

  #addArguments(delta: string): ResponseEvent[] {
    if (this.#open?.type === "function_call") this.#open.arguments += delta;
    return [this.#event("response.function_call_arguments.delta", { ...this.#place(), delta })];
  }

  /** Where the open item stands, and which of its parts is meant. */
  #place(contentIndex?: number) {
    const place = { item_id: this.#open?.id, output_index: this.#response.output.length };
    return contentIndex === undefined ? place : { ...place, content_index: contentIndex };
  }

  #begin(item: OutputItem): ResponseEvent[] {
    const events = this.#close("completed");
    this.#open = item;
    const { output_index } = this.#place();
    // A copy: what was told does not change.
    events.push(this.#event("response.output_item.added", { output_index, item: structuredClone(item) }));
    return events;
  }

  #close(end: "completed" | "incomplete"): ResponseEvent[] {
    const item = this.#open;
    if (item === undefined) return [];
    const events: ResponseEvent[] = [];
    item.status = end;
    if (item.type !== "function_call") {
      const part = item.content[0]!;
      const { type, text } = part;
      const said = type === "output_text" ? { text, logprobs: part.logprobs } : { text };
      events.push(this.#event(`response.${type}.done`, { ...this.#place(0), ...said }));
      events.push(this.#event("response.content_part.done", { ...this.#place(0), part }));
    } else {
      const { name, arguments: whole } = item;
      events.push(this.#event("response.function_call_arguments.done", { ...this.#place(), name, arguments: whole }));
    }
    const { output_index } = this.#place();
    events.push(this.#event("response.output_item.done", { output_index, item }));
    this.#response = { ...this.#response, output: [...this.#response.output, item] };
    this.#open = undefined;
    return events;
  }

  #end(result: GenerateResult): ResponseEvent[] {
    const isCut = finishReason(result) === "length";
    // An answer without a token is a message too.
    const isEmpty = this.#response.output.length === 0 && this.#open === undefined;
    const opened = isEmpty ? this.#addText("") : [];
    const closed = this.#close(isCut ? "incomplete" : "completed");
    const end = isCut ? "incomplete" : "completed";
    this.#response = {
      ...this.#response,
      status: end,
      completed_at: isCut ? null : Math.floor(Date.now() / 1000),
      incomplete_details: isCut ? { reason: "max_output_tokens" } : null,
      usage: responseUsage(result.usage, this.#numReasoning),
      ...reportOf(result),
    };
    if (this.#response.store && !this.options.keep(this.#response)) {
      const warning = "The response is not kept: it is larger than --response-bytes";
      const report = reportOf({ ...result, warnings: [...result.warnings, warning] });
      this.#response = { ...this.#response, ...report, store: false };
    }
    return [...opened, ...closed, this.#event(`response.${end}`, { response: this.#response })];
  }
}

function responseUsage(usage: Usage, numReasoning: number): z.output<typeof usageSchema> {
  const { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details } = usageOf([usage], 1);
  return {
    input_tokens: prompt_tokens,
    input_tokens_details: prompt_tokens_details,
    output_tokens: completion_tokens,
    output_tokens_details: { reasoning_tokens: numReasoning },
    total_tokens,
  };
}
