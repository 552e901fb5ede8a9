import { createHash } from "node:crypto";
import { blocksFromStrings, type ChatMessage, joinTextBlocks, type TextBlock } from "../blocks/block.js";
import { segmentMessages } from "../blocks/chat-prompt.js";
import type { ChatTemplate } from "../blocks/chat-template.js";
import { isJsonObject, type JsonObject, type JsonValue } from "../files/bounded-json.js";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { type AttentionMode, attentionModes } from "../model/block-attention-config.js";

/** A prompt cut into blocks, and the response that a model is to learn. */
export interface TrainingSample {
  readonly id: string;
  /** One or more; the last is the final block. */
  readonly blocks: readonly TextBlock[];
  /** Its end token's text may be left out. */
  readonly response: string;
  /** The modes that it is trained in, one or both. */
  readonly modes: readonly AttentionMode[];
  /** Why it is trained in full mode only; undefined where it is trained in both. */
  readonly fullOnly: FullOnlyReason | undefined;
  /** Samples of equal group share all blocks but the last. */
  readonly group: string | undefined;
}

export type FullOnlyReason =
  | "it is meant for full mode only"
  | "it is a single message that was not drawn"
  | "its prompt is one block"
  | "it holds code";

export type SampleOutcome =
  | { readonly kind: "sample"; readonly sample: TrainingSample }
  /** Left out; `reason` is one of a few words that are counted. */
  | { readonly kind: "dropped"; readonly id: string; readonly reason: string };

export interface SampleOptions {
  /** What conversations are rendered with; undefined: conversations are dropped. */
  readonly template: ChatTemplate | undefined;
  /** Which single messages are kept for block training depends on it. */
  readonly seed: string;
  /** The share of single messages that are trained in block mode. Default 0.45. @see docs/reference.md "Training samples" */
  readonly singleProbability?: number | undefined;
  /** How conversations are cut: by the paper's rule, or into spans, as they are served. Default "rule". */
  readonly conversations?: "rule" | "spans" | undefined;
}

const FULL: readonly AttentionMode[] = ["full"];
const DEFAULT_SINGLE_PROBABILITY = 0.45;

/**
 * The training samples of one row: one of a row that is cut already (`prompt`, `blocks` or `chunks`, `response`,
 * `train_block`), one for each assistant turn of a conversation (`messages`).
 *
 * A sample that has code is trained in full mode only, and so is one whose prompt is one block or global; of conversations of one
 * message before the answer, a share is kept for block training, drawn by a hash of seed and id.
 *
 * @param fallbackId names the row where it has no `id` of its own.
 * @throws TypeError or RangeError for a row that is neither, with what was wanted.
 * @see docs/reference.md "Training samples", "Data formats".
 */
export function trainingSamples(row: JsonValue, fallbackId: string, options: SampleOptions): SampleOutcome[] {
  if (!isJsonObject(row)) throw new InputTypeError("Cannot use the row: it is no object");
  const id = textField(row, "id") ?? fallbackId;
  if (Object.hasOwn(row, "messages")) return samplesOfMessages(row, id, options);
  if (Object.hasOwn(row, "blocks") || Object.hasOwn(row, "chunks")) return [sampleOfBlocks(row, id)];
  throw new InputTypeError('Cannot use the row: it has neither "messages" nor "blocks" with "response"');
}

/** Whether a text holds code, by the words that the paper's recipe goes by. @see docs/reference.md "Training samples". */
export function holdsCode(text: string): boolean {
  const languages = "python|cpp|c|java|javascript|typescript|bash|c#|sql|go|ruby|rust|c\\+\\+|julia|golang";
  return new RegExp(`\`\`\`(${languages})(?![\\w+#-])|c\\+\\+|c#`, "i").test(text);
}

function sampleOfBlocks(row: JsonObject, id: string): SampleOutcome {
  const given = row.blocks ?? row.chunks;
  const cut = blocksFromStrings(given as readonly string[]);
  const response = textField(row, "response");
  if (response === undefined) throw new InputTypeError('Cannot use the row: it has no "response"');
  const trainBlock = row.train_block ?? true;
  if (typeof trainBlock !== "boolean") {
    throw new InputTypeError(`Cannot use the row: "train_block" is ${typeof trainBlock}, wanted true or false`);
  }
  const prompt = textField(row, "prompt");
  const joined = (given as readonly string[]).join("");
  if (prompt !== undefined && prompt.trim() !== joined.trim()) {
    return { kind: "dropped", id, reason: "the blocks are not the prompt" };
  }
  const blocks = cut.blocks.filter(({ text }) => text !== "");
  const meant = trainBlock ? undefined : "it is meant for full mode only";
  return finish({ id, blocks, response, group: textField(row, "group") }, meant, joined);
}

function samplesOfMessages(row: JsonObject, id: string, options: SampleOptions): SampleOutcome[] {
  const messages = messagesOf(row.messages);
  const { template } = options;
  return messages.flatMap(({ role, content }, i): SampleOutcome[] => {
    if (role !== "assistant") return [];
    const turnId = `${id}#${i}`;
    const dropped = (reason: string): SampleOutcome[] => [{ kind: "dropped", id: turnId, reason }];
    const before = messages.slice(0, i);
    if (template === undefined) return dropped("there is no chat template");
    if (before.length === 0 || before.at(-1)?.role !== "user")
      return dropped("no user message stands before the answer");
    if (before.some((message) => message.content.trim() === "") || content.trim() === "")
      return dropped("a message is empty");
    let blocks: readonly TextBlock[];
    let response: string;
    try {
      blocks = segmentMessages(before, template, options.conversations === "spans" ? { spans: "auto" } : {}).blocks;
      const rendered = template.render(messages.slice(0, i + 1), { addGenerationPrompt: false });
      const prompt = joinTextBlocks(blocks).text;
      // The prompt's text is without the BOS text that the tokenizer puts there by id.
      const start = rendered.indexOf(prompt);
      if (start < 0 || rendered.slice(0, start) !== template.bosText.slice(0, start)) {
        return dropped("the chat template prints a prompt otherwise once it is answered");
      }
      response = rendered.slice(start + prompt.length);
    } catch (error) {
      if (error instanceof InputRangeError) return dropped("the chat template refuses the conversation");
      throw error;
    }
    const isSingle = before.length === 1;
    const isKept = !isSingle || draw(options.seed, turnId) < (options.singleProbability ?? DEFAULT_SINGLE_PROBABILITY);
    const text = [...before.map((message) => message.content), content].join("\n");
    const undrawn = isKept ? undefined : "it is a single message that was not drawn";
    return [finish({ id: turnId, blocks, response, group: undefined }, undrawn, text)];
  });
}

function finish(
  sample: Omit<TrainingSample, "modes" | "fullOnly">,
  chosen: FullOnlyReason | undefined,
  text: string,
): SampleOutcome {
  const { id, blocks, response } = sample;
  if (response.trim() === "") return { kind: "dropped", id, reason: "the response is empty" };
  const isCode = holdsCode(`${text}\n${response}`);
  const hasLocal = blocks.slice(0, -1).some(({ isGlobal }) => isGlobal !== true);
  const fullOnly = !hasLocal ? "its prompt is one block" : (chosen ?? (isCode ? "it holds code" : undefined));
  return { kind: "sample", sample: { ...sample, modes: fullOnly === undefined ? attentionModes : FULL, fullOnly } };
}

function messagesOf(value: JsonValue | undefined): (ChatMessage & { content: string })[] {
  if (!Array.isArray(value))
    throw new InputTypeError(`Cannot use the row: "messages" is ${typeof value}, wanted an array`);
  return (value as readonly JsonValue[]).map((message, i) => {
    const { role, content } = isJsonObject(message) ? message : {};
    if (typeof role !== "string" || typeof content !== "string") {
      throw new InputTypeError(`Cannot use the row: message ${i + 1} has no "role" and "content" of text`);
    }
    return { role, content };
  });
}

function textField(row: JsonObject, key: string): string | undefined {
  const value = Object.hasOwn(row, key) ? (row[key] ?? undefined) : undefined;
  if (value === undefined || typeof value === "string") return value;
  throw new InputTypeError(`Cannot use the row: "${key}" is ${typeof value}, wanted text`);
}

/** A number from 0, less than 1, that seed and id decide. */
function draw(seed: string, id: string): number {
  return (
    createHash("sha256")
      .update(JSON.stringify([seed, id]), "utf8")
      .digest()
      .readUInt32LE(0) /
    2 ** 32
  );
}
