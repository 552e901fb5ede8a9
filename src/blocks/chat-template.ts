import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { z } from "zod";
import { anyBoolean, type FieldsOf, optionsOf } from "../files/options.js";
import { strftime } from "./strftime.js";

/** A message as a template sees it: one text, whatever it was cut from. */
export interface RenderedMessage {
  readonly role: string;
  readonly content: string;
  readonly name?: string | undefined;
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

/** A model's chat template, compiled. */
export interface ChatTemplate {
  /**
   * The prompt exactly as the template prints it, its own BOS text included.
   *
   * @throws RangeError if the template refuses the messages, or takes too long or prints too much.
   * @throws Error if the template itself fails.
   */
  render(messages: readonly RenderedMessage[], options?: RenderOptions): string;
  /**
   * The text that a prompt must not begin with, because the tokenizer puts that token there by id; "" where it does not.
   * Who cuts a rendered prompt removes it once, where the template itself printed it, so that no prompt has two BOS.
   */
  readonly bosText: string;
  /** Whether the template may print a message's `name`; false where it surely reads no field of that name. */
  readonly readsMessageName: boolean;
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

// A model's files are not to be trusted with the machine: Jinja can nest loops and double strings.
const MAX_SOURCE_LENGTH = 1_000_000;
// Real templates take up to 130 steps a message, one that walks back over the messages for each of them some thousands.
const MAX_STEPS = 300_000;
const MAX_STEPS_PER_MESSAGE = 500;
// For steps that each do much, over long texts and lists. A busy machine renders 10,000 messages in well under a second.
const MAX_MS = 5_000;
const MAX_MS_PER_MESSAGE = 1;
const MAX_EXTRA_LENGTH = 4_000_000;
const MAX_RANGE_LENGTH = 100_000;

/**
 * Compiles a chat template (Jinja, as in tokenizer_config.json, chat_template.jinja or GGUF's tokenizer.chat_template).
 * A template sees what Transformers gives it: messages, add_generation_prompt, tools and documents (none unless given),
 * the special tokens' texts, raise_exception, strftime_now and range.
 *
 * Rendering is bounded: a template that loops, recurses or prints without end is an error, never a hang.
 *
 * @throws TypeError if the source is no text, SyntaxError if it is not Jinja.
 */
export function compileChatTemplate(source: string, options: ChatTemplateOptions): ChatTemplate {
  if (typeof source !== "string")
    throw new TypeError(`Cannot read the chat template: it is ${typeof source}, wanted text`);
  if (source.length > MAX_SOURCE_LENGTH) {
    throw new RangeError(
      `Cannot read the chat template: it has ${source.length} characters, at most ${MAX_SOURCE_LENGTH} are read`,
    );
  }
  const { tokens, addsBos } = readTemplateOptions("compile the chat template", options);
  let program: unknown;
  try {
    program = new Template(source).parsed;
  } catch (error) {
    throw new SyntaxError(`Cannot read the chat template: ${oneLine(error)}`, { cause: error });
  }

  const render = (messages: readonly RenderedMessage[], renderOptions: RenderOptions = {}): string => {
    const { addGenerationPrompt = true, variables = {}, now = new Date() } = renderOptions;
    const environment = new Environment();
    const globals: Record<string, unknown> = {
      tools: null,
      documents: null,
      ...variables,
      ...tokens,
      messages: messages.map(({ role, content, name }) => ({ role, content, ...(name !== undefined && { name }) })),
      add_generation_prompt: addGenerationPrompt,
      raise_exception: (message: unknown) => {
        throw new RangeError(`Cannot render the chat template: it refuses these messages with ${quote(message)}`);
      },
      strftime_now: (format: unknown) => strftime(now, String(format)),
      range: boundedRange,
      true: true,
      false: false,
      none: null,
      True: true,
      False: false,
      None: null,
    };
    try {
      for (const [name, value] of Object.entries(globals)) environment.set(name, value);
      const bounds = boundsOf(messages, source, variables);
      const printed = new BoundedInterpreter(environment, bounds).run(program).value;
      return String(printed);
    } catch (error) {
      if (error instanceof RangeError && error.message.startsWith("Cannot render the chat template")) throw error;
      if (error instanceof RangeError) {
        throw new RangeError(`Cannot render the chat template: it went out of bounds (${oneLine(error)})`, {
          cause: error,
        });
      }
      throw new Error(`Cannot render the chat template: ${oneLine(error)}`, { cause: error });
    }
  };
  return { render, bosText: addsBos ? tokens.bos_token : "", readsMessageName: mentionsName(program), source };
}

/** Whether a node below reads `.name`, or spells "name", as `message["name"]` and `message.get("name")` do. */
function mentionsName(node: unknown): boolean {
  if (typeof node !== "object" || node === null) return false;
  const { type, value } = node as { type?: unknown; value?: unknown };
  if ((type === "Identifier" || type === "StringLiteral") && value === "name") return true;
  const children = node instanceof Map ? [...node].flat() : Object.values(node);
  return children.some(mentionsName);
}

interface RenderBounds {
  readonly numSteps: number;
  readonly ms: number;
  /** Of a text in characters, of a list in items. */
  readonly length: number;
}

function boundsOf(messages: readonly RenderedMessage[], source: string, variables: object): RenderBounds {
  let length = MAX_EXTRA_LENGTH + source.length * messages.length + lengthOfVariables(variables);
  for (const message of messages) length += 4 * message.content.length;
  const numMessages = messages.length;
  return {
    numSteps: MAX_STEPS + MAX_STEPS_PER_MESSAGE * numMessages,
    ms: MAX_MS + MAX_MS_PER_MESSAGE * numMessages,
    length,
  };
}

function lengthOfVariables(variables: object): number {
  return 8 * (JSON.stringify(variables)?.length ?? 0);
}

/** What is used of the library's interpreter; its own declarations do not resolve under Node's module rules. */
interface JinjaInterpreter {
  run(program: unknown): { readonly value: unknown };
  evaluate(statement: unknown, environment: unknown): { readonly value: unknown };
}
const BaseInterpreter: new (environment: unknown) => JinjaInterpreter = Interpreter;

/** Counts what the template does. Every node of a template passes `evaluate`, so no loop and no value escapes it. */
class BoundedInterpreter extends BaseInterpreter {
  readonly #bounds: RenderBounds;
  readonly #startMs = performance.now();
  #numSteps = 0;

  constructor(environment: unknown, bounds: RenderBounds) {
    super(environment);
    this.#bounds = bounds;
  }

  override evaluate(statement: unknown, environment: unknown): { readonly value: unknown } {
    if (++this.#numSteps > this.#bounds.numSteps) {
      throw new RangeError(`Cannot render the chat template: it is not done after ${this.#bounds.numSteps} steps`);
    }
    if (this.#numSteps % 16 === 0 && performance.now() - this.#startMs > this.#bounds.ms) {
      throw new RangeError(`Cannot render the chat template: it is not done after ${this.#bounds.ms} ms`);
    }
    const result = super.evaluate(statement, environment);
    const { value } = result;
    if ((typeof value === "string" || Array.isArray(value)) && value.length > this.#bounds.length) {
      throw new RangeError(`Cannot render the chat template: it makes a value longer than ${this.#bounds.length}`);
    }
    return result;
  }
}

function boundedRange(start: number, stop?: number, step?: number): number[] {
  const [first, end] = typeof stop === "number" ? [start, stop] : [0, start];
  const by = typeof step === "number" ? step : 1;
  if (![first, end, by].every(Number.isSafeInteger)) throw new TypeError("range() wants whole numbers");
  if (by === 0) throw new TypeError("range() wants a step other than 0");
  const length = Math.max(0, Math.ceil((end - first) / by));
  if (length > MAX_RANGE_LENGTH) {
    throw new RangeError(
      `Cannot render the chat template: range() over ${length} numbers, at most ${MAX_RANGE_LENGTH}`,
    );
  }
  return Array.from({ length }, (_, i) => first + i * by);
}

/** An error's message on one line, cut to a readable length. */
function oneLine(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return shorten(message.replace(/\s+/g, " ").trim()).replace(/\.$/, "");
}

function quote(value: unknown): string {
  return JSON.stringify(shorten(String(value).replace(/\s+/g, " ").trim()));
}

function shorten(text: string): string {
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}
