import { z } from "zod";
import {
  blocksFromStrings,
  type ChatMessage,
  joinLocalBlocks,
  joinTextBlocks,
  type SegmentedPrompt,
  type TextBlock,
} from "../blocks/block.js";
import { type ChatPromptOptions, chatPromptFields, segmentMessagesInSteps } from "../blocks/chat-prompt.js";
import type { ChatTemplate } from "../blocks/chat-template.js";
import { type Passage, type PassageInput, type PassageLabel, passageBlock, readPassages } from "../blocks/passage.js";
import {
  type GivenRagTexts,
  type RagPromptOptions,
  ragFields,
  ragPromptInSteps,
  ragTexts,
} from "../blocks/rag-prompt.js";
import { cutAtPassages, type SegmentOptions, segmentFields, segmentText } from "../blocks/segment.js";
import { MIN_PART_TOKENS, splitPassage } from "../blocks/split-passage.js";
import type { Tool } from "../blocks/tools.js";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { anything, type FieldsOf, optionsOf, show } from "../files/options.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import { runToEnd, type Steps } from "../tokenizer/steps.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { encodeCounted, TokenCount, type TokenLimit } from "./token-count.js";

export const promptCuts = ["auto", "parts", "rule", "none"] as const;
/**
 * Where a `prompt` or `messages` are cut in block mode. "auto": where the caller cut them, parts of a message being blocks,
 * and at the passages that strings hold. "parts": parts alone, strings stay whole. "rule": by the paper's rule, parts joined first.
 * "none": nowhere, one block, as in full mode. Default "auto", or "rule" where `segment` says how. Documents' passages are
 * blocks with each but "none".
 */
export type PromptCut = (typeof promptCuts)[number];

/** What a caller asks: one of five forms. Blocks past numLocalAttentionBlocks join the final block. */
export type PromptInput = {
  readonly numLocalAttentionBlocks?: number | undefined;
} /** Blocks as the caller composed them, the last one the final block. */ & (
  | { readonly blocks: readonly string[] }
  /** The same as token ids: nothing is added to them, no BOS and no prefix. */
  | { readonly blockTokenIds: readonly (readonly number[])[] }
  /** One text, cut in block mode. */
  | ({ readonly prompt: string } & CutOptions)
  /** A conversation, through the model's chat template; with documents, they are the passages of a RAG prompt. */
  | ({
      readonly messages: readonly ChatMessage[];
      readonly documents?: readonly PassageInput[] | undefined;
      /** What the model may call. @see Constraint "toolCalls", which holds an answer to calls of them. */
      readonly tools?: readonly Tool[] | undefined;
      /** What else the template reads, such as `enable_thinking`. What it prints of it is the template's own text. */
      readonly variables?: ChatPromptOptions["variables"];
      /** The answer goes on with the last message, the assistant's. Default false. */
      readonly continuesLast?: boolean | undefined;
      /** How the documents become a RAG prompt. */
      readonly rag?: DocumentOptions | undefined;
    } & CutOptions)
  /** The RAG prompt: a passage is a block. */
  | {
      readonly question: string;
      readonly documents: readonly PassageInput[];
      readonly rag?: (DocumentOptions & ChatPromptOptions) | undefined;
    }
);

interface CutOptions {
  readonly cut?: PromptCut | undefined;
  /** The rule's own. */
  readonly segment?: SegmentOptions | undefined;
}

/** How documents become blocks. */
export interface DocumentOptions extends Pick<RagPromptOptions, "texts" | "order" | "maxDocuments"> {
  readonly splitLong?: SplitLong | undefined;
}

/**
 * Whether long passages are split: true into parts of at most half the longest prompt, a number into parts of at most so
 * many tokens, 16 or more. Default false. A passage's parts are found again by prompts that split it in the same way.
 */
export type SplitLong = boolean | number;

/** What turning a prompt into tokens needs of a model. */
export interface PromptContext {
  readonly tokenizer: Tokenizer;
  /** Token ids that the caller gives lie below it: the embedding's rows. Default: the tokenizer's size. */
  readonly vocabSize?: number | undefined;
  /** Undefined where the model has none. */
  readonly chatTemplate: ChatTemplate | undefined;
  readonly ragTexts: GivenRagTexts | undefined;
  /** Text before block 0 in block mode. */
  readonly prefix: string;
  /** What a prompt in full mode that holds passages is warned of. */
  readonly reuseNote?: string | undefined;
}

/** What a block is encoded from. */
export interface BlockTokens {
  readonly tokenIds: Int32Array;
  /** What stands right before the block while it is encoded, and nothing else sees. */
  readonly preamble?: Int32Array | undefined;
  /** Its own tokens, where a repair put others before them. */
  readonly ownTokenIds?: Int32Array | undefined;
}

export function numRowsOf({ tokenIds, preamble }: BlockTokens): number {
  return tokenIds.length + (preamble?.length ?? 0);
}

/** The preamble's tokens and the block's own. */
export function rowsOfBlock({ tokenIds, preamble }: BlockTokens): Int32Array {
  return preamble === undefined ? tokenIds : Int32Array.from([...preamble, ...tokenIds]);
}

/** Consecutive tokens of a prompt that see alike. */
export interface PromptSpan extends BlockTokens {
  /** Local ones see themselves, and their preamble; global ones see all before them. */
  readonly kind: "local" | "global";
  /** The passage that it is, where it is one. */
  readonly passage?: PassageLabel | undefined;
}

/** A prompt as tokens. */
export class TokenizedPrompt {
  constructor(
    readonly mode: AttentionMode,
    /** None empty, no two global ones side by side; the last is global. In full mode there is only that. */
    readonly spans: readonly PromptSpan[],
    /** The ids of each block as it was cut, BOS and prefix in the first: what `score` shows. */
    readonly cutTokenIds: readonly (readonly number[])[],
    readonly warnings: readonly string[],
    /** The answer goes on with the prompt's own text; else it is a text of its own, as in a conversation. */
    readonly isContinued: boolean,
    /** It goes on with a conversation: it holds earlier answers. */
    readonly isConversation = false,
    /** UTF-16 units of its last block, such as the question, where it has several: no earlier prompt need have had it. */
    readonly finalLength = 0,
    /** It ends where the answer begins with reasoning: behind "<think>". */
    readonly opensReasoning = false,
  ) {}

  get numTokens(): number {
    return this.spans.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
  }

  withSpans(spans: readonly PromptSpan[]): TokenizedPrompt {
    const { mode, cutTokenIds, warnings, isContinued, isConversation, finalLength, opensReasoning } = this;
    const flags = [isContinued, isConversation, finalLength, opensReasoning] as const;
    return new TokenizedPrompt(mode, spans, cutTokenIds, warnings, ...flags);
  }
}

/** How a prompt is cut, before it becomes tokens; `isWhole` where full mode tokenizes it as one text. */
export interface CutPrompt extends SegmentedPrompt {
  readonly isWhole: boolean;
  readonly numLocalAttentionBlocks: number | undefined;
}

/**
 * Cuts a prompt into blocks, in steps.
 *
 * @throws TypeError or RangeError for a prompt that is none of the forms, is empty, or does not fit the chat template.
 */
export function* cutPrompt(
  input: Exclude<PromptInput, { blockTokenIds: unknown }>,
  context: Pick<PromptContext, "chatTemplate" | "ragTexts">,
  partsOf?: RagPromptOptions["partsOf"],
): Steps<CutPrompt> {
  const { numLocalAttentionBlocks } = input;
  const cut = yield* cutForm(formOf(input) as typeof input, context, partsOf);
  // Full mode joins all blocks whatever the number, but says so if it is none.
  joinLocalBlocks(cut.blocks.length, numLocalAttentionBlocks);
  return { ...cut, numLocalAttentionBlocks };
}

const common = { numLocalAttentionBlocks: anything };
const cutFields = { cut: anything, segment: anything };
/** The fields of each form, by the one that names it. */
const forms = {
  blocks: optionsOf({ ...common, blocks: anything }, "field"),
  blockTokenIds: optionsOf({ ...common, blockTokenIds: anything }, "field"),
  prompt: optionsOf({ ...common, prompt: anything, ...cutFields }, "field"),
  question: optionsOf({ ...common, question: anything, documents: anything, rag: anything }, "field"),
  messages: optionsOf(
    {
      ...common,
      ...{ messages: anything, documents: anything, tools: anything, rag: anything },
      ...{ variables: anything, continuesLast: anything },
      ...cutFields,
    },
    "field",
  ),
};
export const splitLongField = {
  schema: z.union([z.boolean(), z.int().min(MIN_PART_TOKENS)]).optional(),
  wanted: `true, false, or the most tokens of a part, ${MIN_PART_TOKENS} or more`,
};
const { texts, order, maxDocuments } = ragFields;
const documentFields = { texts, order, maxDocuments, splitLong: splitLongField } satisfies FieldsOf<DocumentOptions>;
const readDocumentOptions = optionsOf(documentFields);
const readRagOptions = optionsOf({ ...documentFields, ...chatPromptFields });
const readSegmentOptions = optionsOf(segmentFields);
const formNames = Object.keys(forms) as (keyof typeof forms)[];

/** The input with the fields of its form. @throws TypeError for none of the forms, several, or a field that the form has not. */
function formOf(input: unknown): PromptInput {
  const isInput = typeof input === "object" && input !== null;
  const given: Record<string, unknown> = isInput ? { ...input } : {};
  for (const name of formNames) if (given[name] === undefined) delete given[name];
  const [form, other] = formNames.filter((name) => name in given);
  if (form === undefined) {
    const what = isInput ? "it has none of" : `it is ${show(input)}, wanted an object with one of`;
    throw new InputTypeError(
      `Cannot use the prompt: ${what} "blocks", "blockTokenIds", "prompt", "messages", or "question" with "documents"`,
    );
  }
  if (other !== undefined) throw new InputTypeError(`Cannot use the prompt: it has both "${form}" and "${other}"`);
  return forms[form]("use the prompt", given) as PromptInput;
}

function* cutForm(
  input: Exclude<PromptInput, { blockTokenIds: unknown }>,
  context: Pick<PromptContext, "chatTemplate" | "ragTexts">,
  partsOf: RagPromptOptions["partsOf"],
): Steps<Omit<CutPrompt, "numLocalAttentionBlocks">> {
  if ("blocks" in input) return { ...blocksFromStrings(input.blocks), isWhole: false };
  if ("prompt" in input) {
    if (typeof input.prompt !== "string")
      throw new InputTypeError(`Cannot use the prompt: it is ${show(input.prompt)}, wanted text`);
    const { cut, segment } = readCut(input);
    if (input.prompt === "") throw new InputRangeError("Cannot use the prompt: it is empty");
    if (cut !== "auto") {
      const texts = cut === "rule" ? segmentText(input.prompt, segment) : [input.prompt];
      return { ...blocksFromStrings(texts), isWhole: true };
    }
    const pieces = yield* cutAtPassages(input.prompt, true);
    const blocks = pieces.map(({ text, isGlobal }): TextBlock => ({ text, isGlobal, trusted: "all" }));
    return { blocks, warnings: [], isWhole: true };
  }
  const template = context.chatTemplate;
  const ofDocuments = (documentsInput: DocumentsInput) => {
    const { splitLong: _, ...rag } = ragOptions(documentsInput);
    return { ...rag, template, texts: ragTexts(rag.texts, context.ragTexts), partsOf };
  };
  if ("question" in input) {
    const { documents, question } = input;
    return { ...(yield* ragPromptInSteps({ documents, question }, ofDocuments(input))), isWhole: false };
  }
  if (template === undefined) throw new InputRangeError("Cannot use messages: the model has no chat template");
  const { cut: by, segment } = readCut(input);
  const messages = by === "rule" ? joinParts(input.messages) : input.messages;
  const spans = by === "rule" ? segment : { spans: by === "auto" ? by : ("parts" as const) };
  const { tools, variables, continuesLast } = input;
  const options = { ...spans, tools, variables, continuesLast };
  if (input.documents !== undefined) {
    const cut = yield* ragPromptInSteps(
      { documents: input.documents, messages },
      { ...options, ...ofDocuments(input) },
    );
    return { ...joinIf(by === "none", cut), isWhole: false };
  }
  if (input.rag !== undefined) throw new InputTypeError('Cannot use "rag" of the prompt: there are no documents');
  const cut = yield* segmentMessagesInSteps(messages, template, options);
  return { ...joinIf(by === "none", cut), isWhole: true };
}

type DocumentsInput = Extract<PromptInput, { documents?: unknown }>;

function ragOptions(input: DocumentsInput): DocumentOptions {
  if (input.rag === undefined) return {};
  const read = "question" in input ? readRagOptions : readDocumentOptions;
  return read('use "rag" of the prompt', input.rag);
}

/** The most tokens of a passage's part. */
export function maxPartTokens(splitLong: SplitLong, { maxTokens }: TokenLimit): number {
  const wanted = typeof splitLong === "number" ? splitLong : Math.floor(maxTokens / 2);
  return Math.max(MIN_PART_TOKENS, Math.min(wanted, maxTokens));
}

/** The parts of those documents that are split, by their place. */
function* splitDocuments(
  input: PromptInput,
  { tokenizer, ragTexts: own }: PromptContext,
  limit: TokenLimit,
): Steps<ReadonlyMap<number, readonly Passage[]>> {
  const parts = new Map<number, readonly Passage[]>();
  if (!("documents" in input) || input.documents === undefined) return parts;
  const { texts, splitLong = false, maxDocuments } = ragOptions(input);
  if (splitLong === false) return parts;
  const rule = { form: ragTexts(texts, own).passage, maxTokens: maxPartTokens(splitLong, limit), tokenizer };
  const count = new TokenCount(limit);
  for (const passage of readPassages(input.documents).slice(0, maxDocuments)) {
    // Parts have no fewer tokens: what is too long for any prompt is not split first.
    yield* encodeCounted(tokenizer, { text: passageBlock(passage, rule.form), trusted: "none" }, count);
    parts.set(passage.label.index, yield* splitPassage(passage, rule));
  }
  return parts;
}

/** How strings are cut. @throws RangeError for a cut that is none, or a rule beside a cut that has no use for it. */
function readCut(given: CutOptions): { readonly cut: PromptCut; readonly segment: SegmentOptions } {
  const { segment = {}, cut = given.segment === undefined ? "auto" : "rule" } = given;
  if (!promptCuts.includes(cut)) {
    throw new InputRangeError(`Cannot cut the prompt: cut is ${show(cut)}, wanted "auto", "parts", "rule" or "none"`);
  }
  if (cut !== "rule" && given.segment !== undefined) {
    throw new InputRangeError(
      `Cannot cut the prompt by the rule of "segment": cut is "${cut}", wanted "rule" beside it`,
    );
  }
  return { cut, segment: readSegmentOptions('use "segment" of the prompt', segment) };
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
 * The work ends as soon as there are more tokens than the limit takes: a megabyte need not be read to be refused.
 *
 * @throws TypeError or RangeError as cutPrompt(), and for lone surrogates, an empty final block, or ids that are none;
 *   EngineError "too_long".
 * @see docs/reference.md "Ids of tokens".
 */
export function* tokenizePromptInSteps(
  input: PromptInput,
  mode: AttentionMode,
  context: PromptContext,
  limit: TokenLimit,
): Steps<TokenizedPrompt> {
  const count = new TokenCount(limit);
  const form = formOf(input);
  if ("blockTokenIds" in form) return fromTokenIds(form, mode, context, count);
  const parts = yield* splitDocuments(form, context, limit);
  const isAuto = ("prompt" in form || "messages" in form) && readCut(form).cut === "auto";
  // In full mode it makes no difference where passages are, but for a note that they are not reused in any order.
  const hasDocuments = "documents" in form && form.documents !== undefined;
  const isSearched = isAuto && (mode === "block" || (context.reuseNote !== undefined && !hasDocuments));
  const asked = isAuto && !isSearched ? { ...form, cut: "parts" as const } : form;
  if (isSearched) {
    const strings = "messages" in form ? [form.messages].flat().map((message) => message?.content) : [form.prompt];
    yield* countLong(strings, context, limit);
  }
  const cut = yield* cutPrompt(asked, context, (passage) => parts.get(passage.label.index) ?? [passage]);
  const { tokenizer } = context;
  const { bosTokenId } = tokenizer;
  const texts = mode === "full" && cut.isWhole ? [joinTextBlocks(cut.blocks)] : cut.blocks;
  const prefix = mode === "block" && context.prefix !== "" ? tokenizer.encode(context.prefix, "all") : [];
  count.add(prefix.length);
  const ids: number[][] = [];
  for (const text of texts) ids.push(yield* encodeCounted(tokenizer, text, count));
  if (ids.at(-1)?.length === 0) throw new InputRangeError("Cannot use the prompt: the final block has no tokens");
  const first = ids[0] as number[];
  const bos = bosTokenId === undefined ? [] : [bosTokenId];
  if (bosTokenId !== undefined && first[0] === bosTokenId) first.shift();
  else count.add(bos.length);
  ids[0] = [...bos, ...prefix, ...first];
  const numLocal = mode === "full" ? 0 : cut.numLocalAttentionBlocks;
  // One local block may be the system's text alone.
  const holdsPassages = cut.blocks.slice(0, -1).filter(({ isGlobal }) => isGlobal !== true).length > 1;
  const notes = mode === "full" && holdsPassages && context.reuseNote !== undefined ? [context.reuseNote] : [];
  const continuesLast = "messages" in input && input.continuesLast === true;
  const isChat = "messages" in input || "question" in input;
  const final = cut.blocks.at(-1)?.text ?? "";
  return new TokenizedPrompt(
    mode,
    promptSpans(ids, numLocal, texts),
    ids,
    [...cut.warnings, ...notes],
    !isChat || continuesLast,
    cut.isConversation,
    cut.blocks.length > 1 ? final.length : 0,
    continuesLast ? final.lastIndexOf("<think>") > final.lastIndexOf("</think>") : isChat && /<think>\s*$/.test(final),
  );
}

/** Refuses a string that has too many tokens itself, where to count them is likely to take less time than to find its passages. */
function* countLong(texts: readonly unknown[], { tokenizer }: PromptContext, limit: TokenLimit): Steps<void> {
  for (const text of texts) {
    if (typeof text !== "string" || text.length <= 8 * limit.maxTokens) continue;
    yield* encodeCounted(tokenizer, { text: text.trim(), trusted: "all" }, new TokenCount(limit));
  }
}

/** The same at once, of whatever length. */
export function tokenizePrompt(input: PromptInput, mode: AttentionMode, context: PromptContext): TokenizedPrompt {
  const noLimit = { maxTokens: Number.POSITIVE_INFINITY, of: "nothing" };
  return runToEnd(tokenizePromptInSteps(input, mode, context, noLimit));
}

function fromTokenIds(
  { blockTokenIds: ids, numLocalAttentionBlocks }: Extract<PromptInput, { blockTokenIds: unknown }>,
  mode: AttentionMode,
  { tokenizer, vocabSize = tokenizer.vocabSize }: PromptContext,
  count: TokenCount,
): TokenizedPrompt {
  if (!Array.isArray(ids) || ids.length === 0) throw new InputRangeError("Cannot use token ids: there are no blocks");
  // Empty ones add nothing, and are read all the same.
  count.check(ids.length);
  for (const [i, block] of ids.entries()) {
    if (!Array.isArray(block)) throw new InputTypeError(`Cannot use token ids: block ${i + 1} is no array`);
    count.add(block.length);
    for (const id of block as readonly unknown[]) {
      if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= vocabSize) {
        throw new InputRangeError(
          `Cannot use token ids: block ${i + 1} holds ${show(id)}, wanted a whole number below ${vocabSize}`,
        );
      }
    }
  }
  if (ids.at(-1)?.length === 0) throw new InputRangeError("Cannot use token ids: the final block is empty");
  joinLocalBlocks(ids.length, numLocalAttentionBlocks);
  const spans = promptSpans(ids, mode === "full" ? 0 : numLocalAttentionBlocks);
  return new TokenizedPrompt(mode, spans, ids, [], true);
}

/** The spans that blocks' ids make: empty ones add nothing, and blocks past the number of local ones are global. */
export function promptSpans(
  ids: readonly (readonly number[])[],
  numLocal = Number.POSITIVE_INFINITY,
  texts: readonly Pick<TextBlock, "isGlobal" | "passage">[] = [],
): PromptSpan[] {
  const spans: { kind: PromptSpan["kind"]; tokenIds: number[]; passage?: PassageLabel | undefined }[] = [];
  for (const [i, block] of ids.entries()) {
    if (block.length === 0) continue;
    const isGlobal = i === ids.length - 1 || i >= numLocal || texts[i]?.isGlobal === true;
    const last = spans.at(-1);
    if (isGlobal && last?.kind === "global") for (const id of block) last.tokenIds.push(id);
    else if (isGlobal) spans.push({ kind: "global", tokenIds: [...block] });
    else spans.push({ kind: "local", tokenIds: [...block], passage: texts[i]?.passage });
  }
  return spans.map((span) => ({ ...span, tokenIds: Int32Array.from(span.tokenIds) }));
}
