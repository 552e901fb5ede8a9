import { z } from "zod";
import type { PassageInput } from "../blocks/passage.js";
import type { PromptInput } from "../engine/prompt.js";
import type { JsonValue } from "../files/bounded-json.js";
import { quote } from "../files/quote.js";

const content = z.union([z.string(), z.array(z.string())], { error: "wanted text or an array of texts" });
const message = z.strictObject({ role: z.string(), name: z.string().exactOptional(), content });

// Each passage is checked where it is read.
const passages = z.array(z.custom<PassageInput>(() => true));

const forms = {
  blocks: { blocks: z.array(z.string()), num_local_attention_blocks: z.int().min(0).optional() },
  messages: { messages: z.array(message), documents: passages.optional() },
  question: { question: z.string(), documents: passages },
  prompt: { prompt: z.string() },
} as const;

type Form = keyof typeof forms;
const formNames = Object.keys(forms) as Form[];

const blocksLine = z.strictObject(forms.blocks);
const messagesLine = z.strictObject(forms.messages);
const questionLine = z.strictObject(forms.question);
const promptLine = z.strictObject(forms.prompt);
const textLine = z.strictObject({ text: z.string() });

/**
 * A line of `generate` or `segment`: the prompt in one of its forms.
 *
 * @throws Error, one line, for a key that is unknown, missing or of the wrong kind.
 */
export function parsePromptLine(value: JsonValue): PromptInput {
  const fields = requireObject(value);
  const found = formNames.filter((name) => Object.hasOwn(fields, name));
  if (found.length === 0) {
    const [unknown] = Object.keys(fields);
    const has = unknown === undefined ? "it is empty" : `it has the key ${quote(unknown, 60)}`;
    throw new TypeError(`Cannot use the line: ${has}, wanted one of "blocks", "messages", "question" or "prompt"`);
  }
  if (found.length > 1) throw new TypeError(`Cannot use the line: it has both "${found[0]}" and "${found[1]}"`);
  switch (found[0] as Form) {
    case "blocks": {
      const line = check(blocksLine, fields);
      return { blocks: line.blocks, numLocalAttentionBlocks: line.num_local_attention_blocks };
    }
    case "messages":
      return check(messagesLine, fields);
    case "question":
      return check(questionLine, fields);
    case "prompt":
      return check(promptLine, fields);
  }
}

/** A line of `score`: a prompt and what follows it. @throws Error as parsePromptLine(). */
export function parseScoreLine(value: JsonValue): { readonly prompt: PromptInput; readonly continuation: string } {
  const { continuation, ...rest } = requireObject(value);
  if (typeof continuation !== "string") {
    throw new TypeError(`Cannot use the line: "continuation" is ${kindOf(continuation)}, wanted text`);
  }
  return { prompt: parsePromptLine(rest), continuation };
}

/** A line of `tokenize`. @throws Error as parsePromptLine(). */
export function parseTextLine(value: JsonValue): string {
  return check(textLine, requireObject(value)).text;
}

function requireObject(value: JsonValue): { readonly [key: string]: JsonValue } {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    return value as { readonly [key: string]: JsonValue };
  }
  throw new TypeError(`Cannot use the line: it is ${kindOf(value)}, wanted an object`);
}

function check<T>(schema: z.ZodType<T>, fields: { readonly [key: string]: JsonValue }): T {
  const result = schema.safeParse(fields);
  if (result.success) return result.data;
  throw new TypeError(`Cannot use the line: ${explain(result.error.issues[0], fields)}`);
}

function explain(issue: z.core.$ZodIssue | undefined, fields: unknown): string {
  if (issue === undefined) return "it does not fit";
  const path = issue.path.map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`)).join("");
  const where = path === "" ? "" : quote(path.replace(/^\./, ""), 80);
  if (issue.code === "unrecognized_keys") {
    return `the key ${quote(String(issue.keys[0]), 60)} is not known${where === "" ? "" : ` in ${where}`}`;
  }
  let value: unknown = fields;
  for (const key of issue.path) value = (value as Record<PropertyKey, unknown> | undefined)?.[key];
  const wanted = wantedKind(issue);
  return `${where} is ${value === undefined ? "missing" : kindOf(value)}, wanted ${wanted}`;
}

function wantedKind(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case "invalid_type":
      return (
        (
          {
            string: "text",
            array: "an array",
            int: "a whole number, 0 or more",
            number: "a whole number, 0 or more",
            object: "an object",
          } as Record<string, string>
        )[issue.expected] ?? issue.expected
      );
    case "invalid_union":
      return "text or an array of texts";
    case "too_small":
    case "too_big":
      return "a whole number, 0 or more";
    default:
      return issue.message;
  }
}

function kindOf(value: unknown): string {
  if (value === undefined) return "missing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "string") return "text";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  return "an object";
}
