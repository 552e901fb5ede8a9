import { createHash } from "node:crypto";
import { z } from "zod";
import { isInputError } from "../files/input-error.js";
import type { PartedMessage, TextRun, ToolCall } from "./block.js";
import type { ChatTemplate, RenderedMessage, RenderedToolCall, RenderOptions } from "./chat-template.js";

/** A function that the model may call. */
export interface Tool {
  readonly name: string;
  readonly description?: string | undefined;
  /** A JSON Schema of its arguments, an object. Default: one without properties. */
  readonly parameters?: Readonly<Record<string, unknown>> | undefined;
}

/**
 * How a model writes calls. "hermes": `<tool_call>\n{"name": …, "arguments": …}\n</tool_call>`, as Qwen does; "mistral":
 * `[TOOL_CALLS][{"name": …, "arguments": …}, …]`; "llama": `{"name": …, "parameters": …}`, one call alone. "generic": the template
 * reads no tools, or writes them in another form: a system text lists them and asks for Hermes' form.
 */
export type ToolForm = "hermes" | "mistral" | "llama" | "generic";

/** What a tool may be called. It stands in the template's text, and in grammars. */
export const toolName = z.string().regex(/^[\w.-]{1,64}$/, 'wanted 1 to 64 letters, digits, "_", "-" or "."');
/** The most tools of a request, and the most of their JSON in UTF-16 units. */
export const maxTools = 128;
const maxToolsLength = 2 ** 18;
const maxDepth = 64;

/** Whether it nests so deep that reading it would run out of stack. */
export function isDeep(value: unknown, left = maxDepth): boolean {
  if (typeof value !== "object" || value === null) return false;
  return left === 0 || Object.values(value).some((inner) => isDeep(inner, left - 1));
}

/** Whether values nest and have as much text as tools' schemas may. */
export function isBounded(value: unknown): boolean {
  return !isDeep(value) && (JSON.stringify(value) ?? "").length <= maxToolsLength;
}

const toolSchema = z.strictObject({
  name: toolName,
  description: z.string().optional(),
  parameters: z.record(z.string(), z.unknown()).optional(),
});
export const wantedTools = `up to ${maxTools} tools with different names, up to ${maxDepth} levels deep and ${maxToolsLength / 1024} KiB in all`;
export const toolsField = {
  schema: z.array(toolSchema).min(1).max(maxTools).refine(areTools),
  wanted: `a list of 1 to ${maxTools} tools, each a {"name"} with or without "description" and "parameters": ${wantedTools}`,
};

/** Whether their names differ and they are bounded. */
export function areTools(tools: readonly { readonly name: string }[]): boolean {
  return new Set(tools.map(({ name }) => name)).size === tools.length && isBounded(tools);
}

export const toolCallsField = z.array(z.strictObject({ id: z.string().min(1), name: toolName, arguments: z.string() }));

/** @see ToolForm. Whether the template reads tools is seen by rendering them. */
export function toolFormOf(template: ChatTemplate): ToolForm {
  const { source } = template;
  const isMistral = source.includes("[TOOL_CALLS]") && !source.includes("[ARGS]");
  const isHermes = source.includes("<tool_call>") && !/<function=|<arg_key>/.test(source);
  const isLlama = /\{\\?"name\\?": [^}]*\\?"parameters\\?": /.test(source);
  const form = isMistral ? "mistral" : isHermes ? "hermes" : isLlama ? "llama" : "generic";
  return form !== "generic" && readsTools(template) ? form : "generic";
}

function readsTools(template: ChatTemplate): boolean {
  const messages = [{ role: "user", content: "a" }];
  const tools = [renderedTool({ name: "tool0x", description: "" })];
  try {
    return template.render(messages, { variables: { tools } }).includes("tool0x");
  } catch (error) {
    if (!isInputError(error)) throw error;
    return false;
  }
}

/** As Transformers gives a tool to a template. */
function renderedTool({ name, description, parameters = { type: "object", properties: {} } }: Tool) {
  return { type: "function", function: { name, description: description ?? "", parameters } };
}

/** Messages whose calls and results are as the template reads them. */
export interface ToolMessages {
  readonly messages: readonly (PartedMessage &
    Pick<RenderedMessage, "reasoning_content" | "tool_calls" | "tool_call_id">)[];
  readonly variables: RenderOptions["variables"];
  /** A printed text as runs: what tools and calls say is not trusted, and is without the marks around it. */
  readonly runsOf: (printed: string, trusted: boolean) => TextRun[];
}

/**
 * Makes tools, calls, results and reasoning what the model's template reads; of tools the generic form, where it reads none.
 *
 * The template prints what tools, calls and reasoning say, and what it prints is trusted. So every text of them that could spell a control token
 * stands between marks, by which it is found again in what was printed.
 */
export function toolMessages(
  messages: readonly PartedMessage[],
  template: ChatTemplate,
  {
    tools,
    variables,
  }: { readonly tools?: readonly Tool[] | undefined; readonly variables?: RenderOptions["variables"] },
): ToolMessages {
  const plain = { messages, variables, runsOf: (text: string, trusted: boolean) => [{ text, trusted }] };
  const usesTools = tools !== undefined || messages.some(({ toolCalls, toolCallId }) => toolCalls ?? toolCallId);
  if (!usesTools && messages.every(({ reasoning }) => reasoning === undefined)) return plain;
  const form = usesTools ? toolFormOf(template) : undefined;
  const isGeneric = form === "generic";
  const shown = isGeneric ? genericMessages(messages, tools) : messages;
  const said = JSON.stringify([tools, variables, messages]);
  let salt = 0;
  while (`${said}${template.source}`.includes(`Mk${salt}Q`)) salt++;
  const mark = `Mk${salt}Q`;
  const id = form === "mistral" ? shortId : (given: string) => given;
  return {
    messages: shown.map(({ reasoning, toolCalls, toolCallId, ...message }) => ({
      ...message,
      ...(reasoning !== undefined && { reasoning_content: marked(reasoning, mark) }),
      ...(toolCalls && {
        tool_calls: toolCalls.map((call) => ({ ...marked(renderedCall(call), mark), id: id(call.id) })),
      }),
      ...(toolCallId !== undefined && { tool_call_id: marked(id(toolCallId), mark) }),
    })),
    variables: { ...variables, ...(tools && !isGeneric && { tools: marked(tools.map(renderedTool), mark) }) },
    runsOf: (printed, trusted) => {
      const pieces = printed.split(mark);
      // One mark without the other: the template cut what it prints.
      const isWhole = pieces.length % 2 === 1;
      return pieces.map((text, i) => ({ text, trusted: trusted && isWhole && i % 2 === 0 }));
    },
  };
}

function renderedCall({ id, name, arguments: text }: ToolCall): RenderedToolCall {
  return { id, type: "function", function: { name, arguments: objectOf(text) ?? text } };
}

/** The object that a text is as JSON; undefined where it is none. */
export function objectOf(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text.trim() === "" ? "{}" : text);
    return typeof value === "object" && value !== null && !Array.isArray(value) && !isDeep(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}

/** The value with marks around its texts and keys, but those of letters, digits and plain punctuation alone. */
function marked<T>(value: T, mark: string): T {
  const walk = (inner: unknown): unknown => {
    if (typeof inner === "string")
      return /^[\p{L}\p{N}\s_.,:;'"()/-]*$/u.test(inner) ? inner : `${mark}${inner}${mark}`;
    if (Array.isArray(inner)) return inner.map(walk);
    if (typeof inner !== "object" || inner === null) return inner;
    return Object.fromEntries(Object.entries(inner).map(([key, of]) => [walk(key), walk(of)]));
  };
  return walk(value) as T;
}

/** Mistral's templates want ids of nine letters and digits. */
function shortId(id: string): string {
  return /^[a-zA-Z0-9]{9}$/.test(id) ? id : createHash("sha256").update(id).digest("hex").slice(0, 9);
}

const untrusted = (text: string): TextRun => ({ text, trusted: false });

/**
 * The generic form: the system text lists the tools; an assistant's calls are text of its answer; results are parts of a user message,
 * a block each, with a line that asks to go on, or before what the user says next.
 */
function genericMessages(messages: readonly PartedMessage[], tools: readonly Tool[] | undefined): PartedMessage[] {
  const made: PartedMessage[] = [];
  if (tools !== undefined && messages[0]?.role !== "system") made.push({ role: "system", parts: [] });
  let results: PartedMessage["parts"] = [];
  const goOn: PartedMessage["parts"] = [{ runs: [untrusted("Go on with these results.")], cut: "whole" }];
  const close = () => {
    if (results.length > 0) made.push({ role: "user", parts: [...results, ...goOn] });
    results = [];
  };
  for (const { toolCalls, toolCallId: _, ...message } of messages) {
    const { role, parts } = message;
    if (role === "tool") {
      const runs = parts.flatMap((part) => part.runs);
      const wrapped = [untrusted("<tool_response>\n"), ...runs, untrusted("\n</tool_response>\n")];
      results = [...results, { runs: [untrusted(wrapped.map(({ text }) => text).join(""))], cut: "given" }];
      continue;
    }
    if (role === "user" && results.length > 0) {
      made.push({ ...message, parts: [...results, ...parts] });
      results = [];
      continue;
    }
    close();
    const calls = (toolCalls ?? []).map(writtenCall).join("\n");
    const before = parts.some(({ runs }) => runs.length > 0) && calls !== "" ? "\n" : "";
    made.push(
      calls === "" ? message : { ...message, parts: [...parts, { runs: [untrusted(before + calls)], cut: "whole" }] },
    );
  }
  close();
  const [system] = made;
  if (tools === undefined || system === undefined) return made;
  const text = `${system.parts.length > 0 ? "\n\n" : ""}${toolsText(tools)}`;
  made[0] = { ...system, parts: [...system.parts, { runs: [untrusted(text)], cut: "whole" }] };
  return made;
}

/** A call in Hermes' form. */
function writtenCall({ name, arguments: text }: ToolCall): string {
  return `<tool_call>\n{"name": ${JSON.stringify(name)}, "arguments": ${objectOf(text) === undefined ? JSON.stringify(text) : text.trim() || "{}"}}\n</tool_call>`;
}

function toolsText(tools: readonly Tool[]): string {
  const listed = tools.map((tool) => JSON.stringify(renderedTool(tool))).join("\n");
  return `You may call these functions to answer. Each line is a function's signature as JSON:
<tools>
${listed}
</tools>
To call one, write a JSON object with its name and arguments between <tool_call> tags, and nothing after it:
<tool_call>
{"name": "the function's name", "arguments": {"an argument's name": "its value"}}
</tool_call>
Results come between <tool_response> tags.`;
}
