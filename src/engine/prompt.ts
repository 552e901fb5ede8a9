import {
  blocksFromStrings,
  type ChatMessage,
  joinLocalBlocks,
  joinTextBlocks,
  type SegmentedPrompt,
  type TextBlock,
} from "../blocks/block.js";
import { segmentMessages } from "../blocks/chat-prompt.js";
import type { ChatTemplate } from "../blocks/chat-template.js";
import type { PassageInput, PassageLabel } from "../blocks/passage.js";
import { type RagPromptOptions, ragPrompt } from "../blocks/rag-prompt.js";
import { type SegmentOptions, segmentText } from "../blocks/segment.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";

/**
 * Where a `prompt` or `messages` are cut. "parts": where the caller cut them: parts of a message are blocks, strings stay
 * whole. "rule": by rule, parts joined first. "none": nowhere, one block, as in full mode. Left out: parts are blocks,
 * strings are cut by rule. Documents' passages are blocks with each but "none".
 */
export type PromptCut = "parts" | "rule" | "none";

/** What a caller asks: one of five forms. Blocks past numLocalAttentionBlocks join the final block. */
export type PromptInput = {
  readonly numLocalAttentionBlocks?: number | undefined;
} /** Blocks as the caller composed them, the last one the final block. */ & (
  | { readonly blocks: readonly string[] }
  /** The same as token ids: nothing is added to them, no BOS and no prefix. */
  | { readonly blockTokenIds: readonly (readonly number[])[] }
  /** One text, cut by rule in block mode. */
  | {
      readonly prompt: string;
      readonly cut?: PromptCut | undefined;
      readonly segment?: SegmentOptions | undefined;
    }
  /** A conversation, through the model's chat template; with documents, they are the passages of a RAG prompt. */
  | {
      readonly messages: readonly ChatMessage[];
      readonly documents?: readonly PassageInput[] | undefined;
      readonly cut?: PromptCut | undefined;
      readonly segment?: SegmentOptions | undefined;
    }
  /** The RAG prompt: a passage is a block. */
  | {
      readonly question: string;
      readonly documents: readonly PassageInput[];
      readonly rag?: Omit<RagPromptOptions, "template" | "texts"> | undefined;
    }
);

/** What turning a prompt into tokens needs of a model. */
export interface PromptContext {
  readonly tokenizer: Tokenizer;
  /** Token ids that the caller gives lie below it: the embedding's rows. Default: the tokenizer's size. */
  readonly vocabSize?: number | undefined;
  /** Undefined where the model has none. */
  readonly chatTemplate: ChatTemplate | undefined;
  readonly ragTexts: RagPromptOptions["texts"];
  /** Text before block 0 in block mode. */
  readonly prefix: string;
}

/** A prompt as tokens. */
export interface TokenizedPrompt {
  /** One or more, none empty; the last is the final block. In full mode there is only that. */
  readonly blocks: readonly Int32Array[];
  /** For each block the passage that it is, where it is one. */
  readonly passages: readonly (PassageLabel | undefined)[];
  /** The ids of each block as it was cut, BOS and prefix in the first: what `score` shows. */
  readonly cutTokenIds: readonly (readonly number[])[];
  readonly warnings: readonly string[];
}

/** How a prompt is cut, before it becomes tokens; `isWhole` where full mode tokenizes it as one text. */
export interface CutPrompt extends SegmentedPrompt {
  readonly isWhole: boolean;
  readonly numLocalAttentionBlocks: number | undefined;
}

/**
 * Cuts a prompt into blocks.
 *
 * @throws TypeError or RangeError for a prompt that is none of the forms, is empty, or does not fit the chat template.
 */
export function cutPrompt(
  input: Exclude<PromptInput, { blockTokenIds: unknown }>,
  context: Pick<PromptContext, "chatTemplate" | "ragTexts">,
): CutPrompt {
  const { numLocalAttentionBlocks } = input;
  const cut = cutForm(input, context);
  // Full mode joins all blocks whatever the number, but says so if it is none.
  joinLocalBlocks(cut.blocks.length, numLocalAttentionBlocks);
  return { ...cut, numLocalAttentionBlocks };
}

function cutForm(
  input: Exclude<PromptInput, { blockTokenIds: unknown }>,
  context: Pick<PromptContext, "chatTemplate" | "ragTexts">,
): Omit<CutPrompt, "numLocalAttentionBlocks"> {
  if ("blocks" in input) return { ...blocksFromStrings(input.blocks), isWhole: false };
  if ("prompt" in input) {
    if (typeof input.prompt !== "string")
      throw new TypeError(`Cannot use the prompt: it is ${typeof input.prompt}, wanted text`);
    const texts = segmentText(input.prompt, segmentOptions(input));
    if (texts.length === 0) throw new RangeError("Cannot use the prompt: it is empty");
    return { ...joinIf(input.cut === "none", blocksFromStrings(texts)), isWhole: true };
  }
  const template = context.chatTemplate;
  if ("question" in input) {
    const options = { ...input.rag, template, texts: context.ragTexts };
    const cut = ragPrompt({ documents: input.documents, question: input.question }, options);
    return { ...cut, isWhole: false };
  }
  if ("messages" in input) {
    if (template === undefined) throw new RangeError("Cannot use messages: the model has no chat template");
    const segment = segmentOptions(input);
    const messages = input.cut === "rule" ? joinParts(input.messages) : input.messages;
    if (input.documents !== undefined) {
      const options = { ...segment, template, texts: context.ragTexts };
      const cut = ragPrompt({ documents: input.documents, messages }, options);
      return { ...joinIf(input.cut === "none", cut), isWhole: false };
    }
    const cut = segmentMessages(messages, template, segment);
    return { ...joinIf(input.cut === "none", cut), isWhole: true };
  }
  throw new TypeError(
    'Cannot use the prompt: it has none of "blocks", "prompt", "messages", or "question" with "documents"',
  );
}

/** How strings are cut. @throws RangeError for a cut that is none, or a rule beside a cut that has no use for it. */
function segmentOptions({
  cut,
  segment,
}: {
  readonly cut?: PromptCut | undefined;
  readonly segment?: SegmentOptions | undefined;
}): SegmentOptions | undefined {
  if (cut === undefined || cut === "rule") return segment;
  if (cut !== "parts" && cut !== "none") {
    throw new RangeError(`Cannot cut the prompt: cut is "${String(cut)}", wanted "parts", "rule" or "none"`);
  }
  if (segment !== undefined) {
    throw new RangeError(`Cannot cut the prompt by the rule of "segment": cut is "${cut}", wanted "rule" beside it`);
  }
  return { cut: (text) => [text], limit: Number.POSITIVE_INFINITY };
}

function joinIf(isJoined: boolean, cut: SegmentedPrompt): SegmentedPrompt {
  return isJoined ? { ...cut, blocks: [joinTextBlocks(cut.blocks)] } : cut;
}

/** Messages whose parts are joined. What is no list of messages is left to who checks them. */
function joinParts(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  if (!Array.isArray(messages)) return messages;
  return messages.map((message: ChatMessage) => {
    const content: unknown = message?.content;
    const isParts = Array.isArray(content) && content.every((part) => typeof part === "string");
    return isParts ? { ...message, content: content.join("") } : message;
  });
}

/**
 * A prompt's ids: BOS where the tokenizer adds one, never twice; the prefix, tokenized alone, in block mode; then each
 * block, tokenized alone. Full mode joins the blocks' ids, except for `prompt` and `messages`, which it tokenizes whole.
 *
 * @throws TypeError or RangeError as cutPrompt(), and for lone surrogates, an empty final block, or ids that are none.
 * @see FACTS "Ids".
 */
export function tokenizePrompt(input: PromptInput, mode: AttentionMode, context: PromptContext): TokenizedPrompt {
  if ("blockTokenIds" in input) return fromTokenIds(input, mode, context);
  const cut = cutPrompt(input, context);
  const { tokenizer } = context;
  const encode = ({ text, trusted }: TextBlock) => tokenizer.encode(text, trusted);
  const texts = mode === "full" && cut.isWhole ? [joinTextBlocks(cut.blocks)] : cut.blocks;
  const ids = texts.map(encode);
  if (ids.at(-1)?.length === 0) throw new RangeError("Cannot use the prompt: the final block has no tokens");
  const opening: number[] = [];
  if (tokenizer.bosTokenId !== undefined) opening.push(tokenizer.bosTokenId);
  const first = ids[0] as number[];
  if (tokenizer.bosTokenId !== undefined && first[0] === tokenizer.bosTokenId) first.shift();
  if (mode === "block" && context.prefix !== "") opening.push(...tokenizer.encode(context.prefix, "all"));
  ids[0] = [...opening, ...first];
  const numLocal = mode === "full" ? 0 : cut.numLocalAttentionBlocks;
  return { ...joinBlocks(ids, numLocal, texts), cutTokenIds: ids, warnings: cut.warnings };
}

function fromTokenIds(
  { blockTokenIds: ids, numLocalAttentionBlocks }: Extract<PromptInput, { blockTokenIds: unknown }>,
  mode: AttentionMode,
  { tokenizer, vocabSize = tokenizer.vocabSize }: PromptContext,
): TokenizedPrompt {
  if (!Array.isArray(ids) || ids.length === 0) throw new RangeError("Cannot use token ids: there are no blocks");
  for (const [i, block] of ids.entries()) {
    if (!Array.isArray(block)) throw new TypeError(`Cannot use token ids: block ${i} is no array`);
    for (const id of block as readonly unknown[]) {
      if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= vocabSize) {
        throw new RangeError(
          `Cannot use token ids: block ${i} holds ${String(id)}, wanted a whole number below ${vocabSize}`,
        );
      }
    }
  }
  if (ids.at(-1)?.length === 0) throw new RangeError("Cannot use token ids: the final block is empty");
  joinLocalBlocks(ids.length, numLocalAttentionBlocks);
  return { ...joinBlocks(ids, mode === "full" ? 0 : numLocalAttentionBlocks), cutTokenIds: ids, warnings: [] };
}

/** Joins the ids of blocks that attend to each other, and leaves empty blocks out: they add nothing. */
function joinBlocks(
  ids: readonly (readonly number[])[],
  numLocal: number | undefined,
  texts: readonly TextBlock[] = [],
): Pick<TokenizedPrompt, "blocks" | "passages"> {
  const joined = joinLocalBlocks(ids.length, numLocal)
    .map((group) => ({
      block: Int32Array.from(group.flatMap((index) => ids[index] as readonly number[])),
      passage: group.length === 1 ? texts[group[0] as number]?.passage : undefined,
    }))
    .filter(({ block }) => block.length > 0);
  return { blocks: joined.map(({ block }) => block), passages: joined.map(({ passage }) => passage) };
}
