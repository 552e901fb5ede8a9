import { z } from "zod";
import { InputRangeError, InputTypeError, isInputError } from "../files/input-error.js";
import { anyBoolean, type FieldsOf, optionsOf, show } from "../files/options.js";
import { clip, quote } from "../files/quote.js";
import { render as renderProgram } from "../jinja/interpreter.js";
import { parse } from "../jinja/parser.js";
import type { Statement } from "../jinja/syntax.js";
import {
  Budget,
  Callable,
  type Limits,
  TemplateError,
  TemplateRefusal,
  toText,
  toValue,
  type Value,
} from "../jinja/values.js";

/** A message as a template sees it: one text, whatever it was cut from. */
export interface RenderedMessage {
  readonly role: string;
  readonly content: string;
  readonly name?: string | undefined;
  readonly reasoning_content?: string;
  readonly tool_calls?: readonly RenderedToolCall[];
  readonly tool_call_id?: string;
}

/** A call as Transformers gives it to a template: the arguments are an object, or text where they are no JSON. */
export interface RenderedToolCall {
  readonly id: string;
  readonly type: "function";
  readonly function: { readonly name: string; readonly arguments: Readonly<Record<string, unknown>> | string };
}

export interface RenderOptions {
  /** Whether the prompt ends where the assistant's answer begins. Default true. */
  readonly addGenerationPrompt?: boolean | undefined;
  /** What else the template reads: `tools`, `enable_thinking`, `date_string`, … Their text counts as the caller's own. */
  readonly variables?: Readonly<Record<string, unknown>> | undefined;
  /** The clock of `strftime_now`. Default: the time of the call. */
  readonly now?: Date | undefined;
}

export const renderFields = {
  addGenerationPrompt: anyBoolean,
  variables: { schema: z.record(z.string(), z.unknown()).optional(), wanted: "an object" },
  now: { schema: z.date().optional(), wanted: "a date" },
} satisfies FieldsOf<RenderOptions>;
const readRenderOptions = optionsOf(renderFields);

/** A model's chat template, compiled. */
export interface ChatTemplate {
  /**
   * The prompt exactly as the template prints it, its own BOS text included.
   *
   * @throws RangeError if the template refuses the messages, or takes too long or prints too much.
   * @throws TypeError if the template itself fails, or a variable is of no kind that JSON has.
   */
  render(messages: readonly RenderedMessage[], options?: RenderOptions): string;
  /**
   * The text that a prompt must not begin with, because the tokenizer puts that token there by id; "" where it does not.
   * Who cuts a rendered prompt removes it once, where the template itself printed it, so that no prompt has two BOS.
   */
  readonly bosText: string;
  /** The template's source, in Jinja. */
  readonly source: string;
}

export interface ChatTemplateOptions {
  /** The texts of the tokens that templates name. */
  readonly tokens: Readonly<{ bos_token: string; eos_token: string; pad_token: string; unk_token: string }>;
  /** Whether the tokenizer puts BOS before every prompt. */
  readonly addsBos: boolean;
}

const tokenTexts = { bos_token: z.string(), eos_token: z.string(), pad_token: z.string(), unk_token: z.string() };
const readTemplateOptions = optionsOf({
  tokens: { schema: z.object(tokenTexts), wanted: "the texts of bos_token, eos_token, pad_token and unk_token" },
  addsBos: { schema: z.boolean(), wanted: "true or false" },
} satisfies FieldsOf<ChatTemplateOptions>);

// Models' own templates have up to some 20,000 characters. One is rendered several times for each request.
const MAX_SOURCE_LENGTH = 100_000;
// Real templates take up to 130 steps a message, one that walks back over the messages for each of them some thousands.
const MAX_STEPS = 300_000;
const MAX_STEPS_PER_MESSAGE = 500;
// For steps that each do much, over long texts and lists. A busy machine renders 10,000 messages in well under a second.
const MAX_MS = 5_000;
const MAX_MS_PER_MESSAGE = 1;
const MAX_EXTRA_LENGTH = 4_000_000;

/**
 * Compiles a chat template (Jinja, as in tokenizer_config.json, chat_template.jinja or GGUF's tokenizer.chat_template).
 * A template sees what Transformers gives it: messages, add_generation_prompt, tools and documents (none unless given),
 * the special tokens' texts, raise_exception, strftime_now and range.
 *
 * Rendering is bounded: a template that loops, recurses or prints without end is an error, never a hang.
 *
 * @throws TypeError if the source is no text, SyntaxError if it is not Jinja.
 * @example
 * const source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}";
 * const tokens = { bos_token: "", eos_token: "", pad_token: "", unk_token: "" };
 * const template = compileChatTemplate(source, { tokens, addsBos: false });
 * template.render([{ role: "user", content: "Hi" }]); // "<|user|>Hi"
 */
export function compileChatTemplate(source: string, options: ChatTemplateOptions): ChatTemplate {
  if (typeof source !== "string")
    throw new InputTypeError(`Cannot read the chat template: it is ${show(source)}, wanted text`);
  if (source.length > MAX_SOURCE_LENGTH) {
    throw new InputRangeError(
      `Cannot read the chat template: it has ${source.length} characters, at most ${MAX_SOURCE_LENGTH} are read`,
    );
  }
  const { tokens, addsBos } = readTemplateOptions("compile the chat template", options);
  let program: Statement[];
  try {
    program = parse(source);
  } catch (error) {
    if (!(error instanceof SyntaxError || isTooDeep(error))) throw error;
    throw new SyntaxError(`Cannot read the chat template: ${oneLine(error)}`, { cause: error });
  }

  const render = (messages: readonly RenderedMessage[], renderOptions: RenderOptions = {}): string => {
    const checked = readRenderOptions("render the chat template", renderOptions);
    const { addGenerationPrompt = true, variables = {}, now = new Date() } = checked;
    const isMessage = (message: unknown): boolean =>
      typeof message === "object" && message !== null && "content" in message && typeof message.content === "string";
    if (!Array.isArray(messages) || !Array.from(messages).every(isMessage)) {
      throw new InputTypeError(
        `Cannot render the chat template: the messages are ${show(messages)}, wanted an array of them`,
      );
    }
    const budget = new Budget(limitsOf(messages, source, variables));
    const seen = {
      tools: null,
      documents: null,
      ...variables,
      ...tokens,
      messages: messages.map(({ role, content, name, reasoning_content, tool_calls, tool_call_id }) => ({
        role,
        content,
        ...(name !== undefined && { name }),
        ...(reasoning_content !== undefined && { reasoning_content }),
        ...(tool_calls !== undefined && { tool_calls }),
        ...(tool_call_id !== undefined && { tool_call_id }),
      })),
      add_generation_prompt: addGenerationPrompt,
      raise_exception: new Callable("raise_exception", ([message = null]) => {
        throw new TemplateRefusal(
          `it refuses these messages with ${quote(toText(message, budget).replace(/\s+/g, " ").trim(), 300)}`,
        );
      }),
      strftime_now: new Callable("strftime_now", ([format = ""]) => strftime(now, toText(format, budget))),
    };
    try {
      const values = Object.entries(seen).map(([name, value]): [string, Value] => [name, toValue(value)]);
      return renderProgram(program, new Map(values), budget);
    } catch (error) {
      const isRefused = error instanceof TemplateRefusal || isTooDeep(error);
      if (!(isRefused || error instanceof TemplateError)) throw error;
      const Kind = isRefused ? InputRangeError : InputTypeError;
      throw new Kind(`Cannot render the chat template: ${oneLine(error)}`, { cause: error });
    }
  };
  return { render, bosText: addsBos ? tokens.bos_token : "", source };
}

/** Variables that steer reasoning, each with two values that make a difference where a template reads it. */
const reasoningSwitches = {
  enable_thinking: [true, false],
  thinking: [true, false],
  reasoning_effort: ["high", "low"],
} as const;

/** What a template knows of reasoning. */
export interface Reasoning {
  /** The variables by which it is steered, if any. */
  readonly switches: readonly (keyof typeof reasoningSwitches)[];
  /** Whether answers have it between "<think>" and "</think>". */
  readonly isTagged: boolean;
}

/** Undefined where the template knows none. */
export function reasoningOf({ source, render }: ChatTemplate): Reasoning | undefined {
  const rendered = (name: string, value: unknown) => {
    try {
      return render([{ role: "user", content: "a" }], { variables: { [name]: value }, now: new Date(0) });
    } catch (error) {
      if (!isInputError(error)) throw error;
      return undefined;
    }
  };
  const switches = (Object.keys(reasoningSwitches) as (keyof typeof reasoningSwitches)[]).filter((name) => {
    const [one, other] = reasoningSwitches[name];
    return rendered(name, one) !== rendered(name, other);
  });
  const isTagged = source.includes("</think>") || source.includes("<think>");
  return isTagged || switches.length > 0 ? { switches, isTagged } : undefined;
}

function limitsOf(messages: readonly RenderedMessage[], source: string, variables: object): Limits {
  let length = MAX_EXTRA_LENGTH + source.length * messages.length + lengthOfVariables(variables);
  for (const { content, reasoning_content = "", tool_calls = [] } of messages) {
    length +=
      4 * (content.length + reasoning_content.length) + (tool_calls.length === 0 ? 0 : lengthOfVariables(tool_calls));
  }
  const numMessages = messages.length;
  return {
    numSteps: MAX_STEPS + MAX_STEPS_PER_MESSAGE * numMessages,
    ms: MAX_MS + MAX_MS_PER_MESSAGE * numMessages,
    length,
  };
}

function lengthOfVariables(variables: object): number {
  try {
    return 8 * JSON.stringify(variables).length;
  } catch (cause) {
    throw new InputTypeError("Cannot render the chat template: the variables cannot be said in JSON", { cause });
  }
}

/** JavaScript's own way to say that a template nests deeper than the stack. */
function isTooDeep(error: unknown): boolean {
  return error instanceof RangeError && error.message.includes("call stack");
}

/** An error's message on one line, cut to a readable length. */
function oneLine(error: unknown): string {
  const message = isTooDeep(error) ? "it is nested too deeply" : (error as Error).message;
  return clip(message.replace(/\s+/g, " ").trim(), 300).replace(/\.$/, "");
}

const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
] as const;
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"] as const;

/**
 * Python's `strftime` in the C locale and local time, as far as chat templates use it (`strftime_now`).
 * A directive that is not known stays as it is; `%-d` is `%d` without the leading zero.
 *
 * @example strftime(new Date(2024, 6, 26), "%d %b %Y") is "26 Jul 2024"
 */
function strftime(date: Date, format: string): string {
  return format.replace(/%(-?)([A-Za-z%])/g, (directive, minus: string, letter: string) => {
    const value = directiveOf(date, letter);
    if (value === undefined) return directive;
    return minus === "-" ? value.replace(/^0+(?=\d)/, "") : value;
  });
}

function directiveOf(date: Date, letter: string): string | undefined {
  const padded = (value: number, width = 2) => String(value).padStart(width, "0");
  const hour = date.getHours();
  switch (letter) {
    case "Y":
      return padded(date.getFullYear(), 4);
    case "y":
      return padded(date.getFullYear() % 100);
    case "m":
      return padded(date.getMonth() + 1);
    case "d":
      return padded(date.getDate());
    case "B":
      return MONTHS[date.getMonth()];
    case "b":
      return MONTHS[date.getMonth()]?.slice(0, 3);
    case "A":
      return DAYS[date.getDay()];
    case "a":
      return DAYS[date.getDay()]?.slice(0, 3);
    case "H":
      return padded(hour);
    case "I":
      return padded(hour % 12 === 0 ? 12 : hour % 12);
    case "p":
      return hour < 12 ? "AM" : "PM";
    case "M":
      return padded(date.getMinutes());
    case "S":
      return padded(date.getSeconds());
    case "F":
      return `${directiveOf(date, "Y")}-${directiveOf(date, "m")}-${directiveOf(date, "d")}`;
    case "T":
      return `${directiveOf(date, "H")}:${directiveOf(date, "M")}:${directiveOf(date, "S")}`;
    case "%":
      return "%";
    default:
      return undefined;
  }
}
