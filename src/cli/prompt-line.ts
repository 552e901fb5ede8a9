import { z } from "zod";
import { PASSAGE_FIELDS, type PassageInput } from "../blocks/passage.js";
import type { PromptInput } from "../engine/prompt.js";
import { isJsonObject, type JsonObject, type JsonValue } from "../files/bounded-json.js";
import { InputTypeError } from "../files/input-error.js";
import { namesNear } from "../files/options.js";
import { quote } from "../files/quote.js";
import { issueSentence, shownAt } from "../files/schema-issue.js";

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
const promptFields = [...new Set(Object.values(forms).flatMap((form) => Object.keys(form)))];
/** Options of `generate`, which holds them for all lines: in a line they would be passed over, and the answer would be another. */
const optionNames = [
  ...["max_tokens", "max_new_tokens", "temperature", "seed", "top_k", "top_p", "min_p", "repetition_penalty"],
  ...["stop", "logprobs", "logit_bias", "mode"],
];

const blocksLine = z.strictObject(forms.blocks);
const messagesLine = z.strictObject(forms.messages);
const questionLine = z.strictObject(forms.question);
const promptLine = z.strictObject(forms.prompt);
const continuationPart = z.strictObject({ continuation: z.string() });
const textLine = z.strictObject({ text: z.string() });

/**
 * A line of `generate` or `segment`: the prompt in one of its forms. The lines of evaluations and of RAG sets are among
 * them: the keys that no prompt is made of, as their `id` and `answers`, are passed over, and so is the `prompt` of one that has
 * `question` and `documents`.
 *
 * @param onPassedOver told such a key.
 * @throws Error, one line, for a key that is missing or of the wrong kind, that is nearly one of a prompt's, or that is an
 *   option of the command.
 */
export function parsePromptLine(value: JsonValue, onPassedOver: (key: string) => void = () => undefined): PromptInput {
  const line = requireObject(value);
  const isRag = Object.hasOwn(line, "question") && Object.hasOwn(line, "documents");
  const found = formNames.filter((name) => Object.hasOwn(line, name) && !(isRag && name === "prompt"));
  if (found.length === 0) {
    const [unknown] = Object.keys(line);
    const has = unknown === undefined ? "it is empty" : `it has the key ${quote(unknown, 60)}`;
    throw new InputTypeError(`Cannot use the line: ${has}, wanted one of "blocks", "messages", "question" or "prompt"`);
  }
  if (found.length > 1) throw new InputTypeError(`Cannot use the line: it has both "${found[0]}" and "${found[1]}"`);
  const form = found[0] as Form;
  const fields = promptPart(line, Object.keys(forms[form]), isRag ? "prompt" : undefined, onPassedOver);
  switch (form) {
    case "blocks": {
      const { blocks, num_local_attention_blocks: numLocalAttentionBlocks } = check(blocksLine, fields);
      return { blocks, numLocalAttentionBlocks };
    }
    case "messages":
      return check(messagesLine, fields);
    case "question":
      return check(questionLine, fields);
    case "prompt":
      return check(promptLine, fields);
  }
}

/** What a prompt is made of: the form's own fields, and of its documents theirs. */
function promptPart(
  line: JsonObject,
  own: readonly string[],
  spare: string | undefined,
  onPassedOver: (key: string) => void,
): JsonObject {
  const part = pick(line, own, (key) => {
    const [near] = key === spare ? [] : namesNear(key, promptFields);
    if (near !== undefined) {
      const why = near === key ? `belongs to another form of prompt` : `is not known, wanted ${quote(near)}`;
      throw new InputTypeError(`Cannot use the line: the key ${quote(key, 60)} ${why}`);
    }
    const plain = key.toLowerCase().replace(/[_-]/g, "");
    if (optionNames.some((name) => name.replaceAll("_", "") === plain)) {
      throw new InputTypeError(`Cannot use the line: ${quote(key, 60)} is an option of the command, for all lines`);
    }
    onPassedOver(key);
  });
  const { documents } = part;
  if (!Array.isArray(documents)) return part;
  const read = documents.map((document: JsonValue) => documentPart(document, onPassedOver));
  return { ...part, documents: read };
}

/**
 * What a passage is made of. @throws TypeError for a key that is nearly one that a passage must have.
 *
 * @param onPassedOver told each other key.
 */
export function documentPart(document: JsonValue, onPassedOver: (key: string) => void): JsonValue {
  if (!isJsonObject(document)) return document;
  return pick(document, PASSAGE_FIELDS, (key) => {
    const [near] = namesNear(key, ["title", "text", "pageContent", "page_content"]);
    if (near !== undefined) {
      throw new InputTypeError(
        `Cannot use the line: the key ${quote(key, 60)} of a document is not known, wanted ${quote(near)}`,
      );
    }
    onPassedOver(key);
  });
}

/** The fields of these names; each other name is told. */
function pick(fields: JsonObject, names: readonly string[], onOther: (name: string) => void): JsonObject {
  const others = Object.keys(fields).filter((name) => !names.includes(name));
  for (const name of others) onOther(name);
  return Object.fromEntries(Object.entries(fields).filter(([name]) => names.includes(name)));
}

/** A line of `score`: a prompt and what follows it. @throws Error as parsePromptLine(). */
export function parseScoreLine(
  value: JsonValue,
  onPassedOver?: (key: string) => void,
): { readonly prompt: PromptInput; readonly continuation: string } {
  const { continuation, ...rest } = requireObject(value);
  const checked = check(continuationPart, continuation === undefined ? {} : { continuation });
  return { prompt: parsePromptLine(rest, onPassedOver), ...checked };
}

/** A line of `tokenize`. @throws Error as parsePromptLine(). */
export function parseTextLine(value: JsonValue): string {
  return check(textLine, requireObject(value)).text;
}

function requireObject(value: JsonValue): { readonly [key: string]: JsonValue } {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    return value as { readonly [key: string]: JsonValue };
  }
  throw new InputTypeError(`Cannot use the line: it is ${shownAt(value, [])}, wanted an object`);
}

function check<T>(schema: z.ZodType<T>, fields: { readonly [key: string]: JsonValue }): T {
  const result = schema.safeParse(fields);
  if (result.success) return result.data;
  throw new InputTypeError(`Cannot use the line: ${issueSentence(result.error, fields)}`);
}
