import type { PassageLabel } from "../blocks/passage.js";
import type { BlockId } from "../kv/block-id.js";
import type { BlockStoreStats } from "../kv/block-store.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import type { RequestCounts } from "./admission.js";
import type { EngineErrorCode } from "./engine-error.js";
import type { KVMemoryStats } from "./kv-memory.js";

/** `stop`: an end token or a stop text; `length`: the limit on the answer or the model's context; `cancelled`: the signal. */
export type FinishReason = "stop" | "length" | "cancelled";

export interface TokenLogprob {
  readonly id: number;
  /** Natural logarithm of the model's own probability: before bias, penalties, temperature and filters. */
  readonly logprob: number;
}

export interface Usage {
  /** In tokens, BOS and prefix counted. */
  readonly promptTokens: number;
  /** Prompt tokens whose keys and values came from the block store: the sum of `reused`. */
  readonly cachedTokens: number;
  readonly reused: ReusedTokens;
  readonly completionTokens: number;
  /** Undefined where the engine computes none. */
  readonly drafts?: DraftCounts | undefined;
}

/** Tokens that were guessed and computed before their turn. */
export interface DraftCounts {
  /** Those that the answer has. */
  readonly accepted: number;
  readonly rejected: number;
}

export const noDrafts: DraftCounts = { accepted: 0, rejected: 0 };

/** Prompt tokens whose keys and values came from the block store, by what they were part of. */
export interface ReusedTokens {
  /** Local blocks, in any order. */
  readonly blocks: number;
  /** What the prompt begins with, as an earlier one did; no conversation. */
  readonly prefix: number;
  /** A conversation that goes on, from its beginning. */
  readonly conversation: number;
}

export const nothingReused: ReusedTokens = { blocks: 0, prefix: 0, conversation: 0 };

/** Where reuse ended though it could be expected to go on: the stored text that reads most alike, and why it was not used. */
export interface ReuseMiss {
  readonly kind: "block" | "prefix" | "conversation";
  /** The passage that the block is, where it is one. */
  readonly passage?: PassageLabel | undefined;
  /** The place of the first token that differs, from the prompt's start. */
  readonly token: number;
  /** The text before it, which is alike. */
  readonly before: string;
  /** From that token on, this prompt's text. */
  readonly asked: string;
  /** From there on, the stored text. */
  readonly stored: string;
  /** The likely reason, a sentence. */
  readonly reason: string;
}

/** What was done about what block mode loses. */
export interface UsedRepair {
  /** As it can be asked for. */
  readonly text: string;
  /** Tokens of local blocks that were computed again for this request. */
  readonly recomputedTokens: number;
  /** With `keep`: which of `blocks` stayed in the prompt, by their index. */
  readonly kept?: readonly number[];
}

/** In milliseconds. */
export interface Timings {
  /** Cutting, templates and tokens. */
  readonly tokenizeMs: number;
  /** Waiting to be admitted, behind others. */
  readonly queueMs: number;
  /** Waiting for room among the assembled contexts. */
  readonly waitMs: number;
  /** Looking blocks up and encoding those that the store lacked. */
  readonly encodeMs: number;
  /** Laying blocks out and turning their keys to their places. */
  readonly assembleMs: number;
  /** Computing the final block. */
  readonly prefillMs: number;
  /** From the call to the first token; undefined where there was none. */
  readonly ttftMs: number | undefined;
  /** From the first token to the last. */
  readonly decodeMs: number;
}

/** One local block of a prompt as it was served. */
export interface ServedBlock {
  readonly id: BlockId;
  readonly tokens: number;
  /** Whether its keys and values were there already. */
  readonly hit: boolean;
  /** The passage that it is, where it is one. */
  readonly passage?: PassageLabel | undefined;
  /** Of `encode()` with a `store`: whether it is there now for the next process; not where this one only reads, or the disk is full. */
  readonly durable?: boolean | undefined;
}

/** A passage that cannot be encoded, in its block's place. */
export interface FailedPassage {
  readonly passage: PassageLabel;
  readonly error: { readonly code: EngineErrorCode; readonly message: string };
}

/** What became of a passage, or of a part of one that was split. */
export type EncodedPassage = (ServedBlock & { readonly passage: PassageLabel; readonly error?: never }) | FailedPassage;

/** A token and its own spelling. Half a character's bytes spell U+FFFD; `bytes` are exact. */
export interface Token {
  readonly id: number;
  readonly text: string;
  readonly bytes: readonly number[];
}

export interface SpelledLogprob extends Token {
  /** Natural logarithm. */
  readonly logprob: number;
}

/** A token and the likeliest ones in its place, each spelled. */
export interface SpelledToken extends Token {
  /** Natural logarithm; undefined where log-probabilities were not asked for, and for a prompt's first token, which nothing precedes. */
  readonly logprob: number | undefined;
  /** Likeliest first. */
  readonly top: readonly SpelledLogprob[];
}

/** A token, how likely the model held it in its place, and what it held likeliest there. */
export interface LikelyToken {
  readonly id: number;
  /** Natural logarithm; undefined where none is asked for, and for a prompt's first token, which nothing precedes. */
  readonly logprob: number | undefined;
  /** Likeliest first, the lower id first on a tie. */
  readonly top: readonly TokenLogprob[];
}

export interface EndToken extends LikelyToken {
  /** Where `spell` asked for it. */
  readonly spelled?: SpelledToken | undefined;
}

export interface GenerateResult {
  readonly text: string;
  /** The answer's ids, without the end token. */
  readonly tokenIds: readonly number[];
  /** The end token, where one ended the answer; its logprob is undefined where `logprobs` is false. */
  readonly endToken: EndToken | undefined;
  readonly finishReason: FinishReason;
  readonly mode: AttentionMode;
  readonly usage: Usage;
  readonly timings: Timings;
  readonly blocks: readonly ServedBlock[];
  /** Undefined where none was asked for. */
  readonly repair?: UsedRepair | undefined;
  /** Where reuse ended; undefined unless `explain` asked for it. */
  readonly misses?: readonly ReuseMiss[] | undefined;
  /** The seed in use: with it the answer can be had again. */
  readonly seed: number;
  readonly warnings: readonly string[];
}

export type GenerateEvent =
  /** The prompt's next tokens, BOS and prefix among them, where `echo` asked for them: all come before `prompt`. */
  | { readonly kind: "echo"; readonly tokens: readonly SpelledToken[] }
  /** The prompt is cut and tokenized, its blocks are there. */
  | {
      readonly kind: "prompt";
      readonly mode: AttentionMode;
      readonly promptTokens: number;
      readonly cachedTokens: number;
      readonly reused: ReusedTokens;
      readonly blocks: readonly ServedBlock[];
      /** The answer begins with reasoning, which "</think>" ends; absent where it may begin with it. */
      readonly opensReasoning?: boolean;
    }
  /** A token of an answer, and the text that is complete with it, possibly "". */
  | {
      readonly kind: "token";
      /** Of the answer, from 0 on: 0 where `n` is 1. */
      readonly index: number;
      readonly tokenId: number;
      readonly text: string;
      /** Undefined where `logprobs` is false. */
      readonly logprob: number | undefined;
      readonly top: readonly TokenLogprob[];
      /** Where `spell` asked for it. */
      readonly spelled?: SpelledToken | undefined;
    }
  /** An answer's end: what text was held back, and the whole. */
  | { readonly kind: "done"; readonly index: number; readonly text: string; readonly result: GenerateResult };

export interface ScoreResult {
  /** The ids of each block as it was cut, BOS and prefix in the first one's. */
  readonly blockTokenIds: readonly (readonly number[])[];
  readonly continuationTokenIds: readonly number[];
  /** Natural logarithms of each continuation token's probability. */
  readonly logprobs: readonly number[];
  /** The likeliest tokens at each step, likeliest first. */
  readonly top: readonly (readonly TokenLogprob[])[];
  readonly mode: AttentionMode;
  /** Undefined where none was asked for. */
  readonly repair?: UsedRepair | undefined;
  readonly usage: Usage;
}

export interface EncodeResult {
  /** In the passages' order; a passage that failed has its error in its place. */
  readonly blocks: readonly EncodedPassage[];
  /** How many passages failed. */
  readonly failed: number;
}

/** What a scheduler did so far; counters never go down. */
export interface SchedulerStats {
  readonly decodeGraphs: number;
  readonly decodedTokens: number;
  /** Tokens of drafts that were computed, and how many of them were right: those are among the decoded ones. */
  readonly draftTokens: number;
  readonly acceptedDraftTokens: number;
  /** How many of the decode graphs were built, and not just computed again. */
  readonly builtDecodeGraphs: number;
  /** Graphs of prompts' pieces and of blocks. */
  readonly rowGraphs: number;
  readonly rows: number;
  /** The most rows of prompts and blocks that stood in one graph while sequences were decoding. */
  readonly maxRowsBesideDecoding: number;
}

/** Counters never go down while the engine lives; a restart starts them anew. */
export interface EngineStats {
  readonly store: BlockStoreStats;
  readonly contexts: { readonly capBytes: number; readonly usedBytes: number };
  readonly weightBytes: number;
  /** How many of `weightBytes` are mapped from the model's files: shared with other processes, and no part of what this one allocated. */
  readonly mappedBytes: number;
  /** Of blocks and contexts: what they use, and what the device has given for it. */
  readonly kvMemory: KVMemoryStats;
  /** The same of blocks that rest in the machine's memory, where `hostStoreBytes` has room for them. */
  readonly hostMemory?: KVMemoryStats;
  /** Bytes that the device keeps for intermediate results. */
  readonly computeBytes: number;
  /** CPU threads of a graph: the most, and how many the next one gets; fewer while other programs use the cores. */
  readonly threads: { readonly most: number; readonly now: number };
  /** Resident memory of the engine's process. */
  readonly processBytes: number;
  readonly requests: RequestCounts;
  /** How requests shared the device's graphs. */
  readonly batching: SchedulerStats;
}
