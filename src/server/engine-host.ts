import type { PassageInput } from "../blocks/passage.js";
import type { EncodeOptions } from "../engine/engine-options.js";
import type { PromptInput } from "../engine/prompt.js";
import type { EncodedPassage, FinishReason, ServedBlock, Timings, Usage } from "../engine/results.js";
import type { SamplingInput } from "../engine/sampling-options.js";
import type { KVType } from "../files/element-types.js";
import type { AttentionMode } from "../model/block-attention-config.js";

/** An engine as the server uses it, in this process or another. All that goes in and comes out is plain data. */
export interface EngineHost extends AsyncDisposable {
  readonly status: HostStatus;
  /** Calls the listener whenever the status changes; the function returned ends that. */
  onStatus(listener: (status: HostStatus) => void): () => void;
  /** What is loaded; undefined before the model has been loaded for the first time. */
  readonly model: HostModel | undefined;
  /**
   * Answers a prompt, token by token. Events wait for their reader: one that reads slowly slows its own answer down, and
   * no more than a few events are ever held for it. Leaving the loop early, or an abort, frees the request's place within
   * 200 ms; after an abort the last event says `cancelled`. Requests that share one prompt, the very object, share its
   * tokenizing.
   *
   * @throws HostError.
   */
  generate(request: HostGenerateRequest, signal?: AbortSignal): AsyncIterable<HostEvent>;
  /** Encodes passages ahead, at index time; one event a passage, in order, an error among them. @throws HostError; the signal's reason. */
  encode(request: HostEncodeRequest, signal?: AbortSignal): AsyncIterable<HostEncodeEvent>;
  /** A text's tokens, some at a time; one event at least. @throws HostError; the signal's reason. */
  tokenize(request: HostTokenizeRequest, signal?: AbortSignal): AsyncIterable<HostTokenizeEvent>;
  /** A kept block of this tenant; undefined where there is none, another tenant's among them. @throws HostError. */
  block(id: string, salt: string): Promise<HostBlock | undefined>;
  /** Forgets a block of this tenant. @returns whether there was one. @throws HostError. */
  deleteBlock(id: string, salt: string): Promise<boolean>;
  /** @throws HostError. */
  stats(): Promise<HostStats>;
  /** Ends what runs with an error, then the engine. */
  [Symbol.asyncDispose](): Promise<void>;
}

export interface HostStatus {
  /** `loading` before the first load is done, `restarting` after a death; `failed` where the first load failed. */
  readonly state: "loading" | "ready" | "restarting" | "failed" | "closed";
  /** How often the engine was started again. */
  readonly restarts: number;
  /** What went wrong last, one line. */
  readonly lastError?: string | undefined;
}

export interface HostModel {
  /** The model's file or folder name, without path and ending. */
  readonly name: string;
  /** The longest prompt plus answer, in tokens. */
  readonly contextLength: number;
  readonly vocabSize: number;
  readonly kvType: KVType;
  readonly defaultMode: AttentionMode;
  readonly trainedModes: readonly AttentionMode[];
  readonly hasChatTemplate: boolean;
  /** When it was loaded, in seconds since 1970. */
  readonly loadedAt: number;
}

export interface HostGenerateRequest {
  /** `cut`, `numLocalAttentionBlocks` and all the prompt says are part of the input. */
  readonly prompt: PromptInput;
  readonly sampling: SamplingInput;
  readonly mode?: AttentionMode | undefined;
  /** Keeps tenants apart; "" where there is one. */
  readonly salt: string;
  /** Whether each token comes with its text, bytes, logprob and `sampling.topLogprobs` alternatives. */
  readonly logprobs: boolean;
  /** Whether the prompt's tokens come before the `prompt` event: text alone, or logprobs too where `logprobs` is true. */
  readonly echo: boolean;
  /**
   * The most log-probabilities of tokens, told, echoed, and in their places, together: what could have more is refused
   * before anything is computed. Default: as many as there are.
   */
  readonly maxLogprobs?: number | undefined;
}

/** A token and its own spelling. Half a character's bytes spell U+FFFD; `bytes` are exact. */
export interface HostToken {
  readonly id: number;
  readonly text: string;
  readonly bytes: readonly number[];
}

export interface HostTokenLogprob extends HostToken {
  /** Natural logarithm. */
  readonly logprob: number;
}

/** A token with its probability; `logprob` is undefined for a prompt's first token, which nothing precedes. */
export interface HostLogprobs extends HostToken {
  readonly logprob: number | undefined;
  /** Likeliest first. */
  readonly top: readonly HostTokenLogprob[];
}

export type HostEvent =
  /** The prompt's next tokens, in order, where `echo` asked for them: all come before `prompt`. */
  | { readonly kind: "echo"; readonly tokens: readonly HostLogprobs[] }
  /** The prompt is cut and tokenized, its blocks are there. */
  | {
      readonly kind: "prompt";
      readonly mode: AttentionMode;
      readonly promptTokens: number;
      readonly cachedTokens: number;
      readonly blocks: readonly ServedBlock[];
    }
  /** A token of the answer, and the text that is complete with it, possibly "". */
  | {
      readonly kind: "token";
      readonly tokenId: number;
      readonly text: string;
      readonly logprobs?: HostLogprobs | undefined;
    }
  /** The end: text that was held back, and what was done. */
  | { readonly kind: "done"; readonly text: string; readonly result: HostResult };

export interface HostResult {
  readonly finishReason: FinishReason;
  readonly mode: AttentionMode;
  readonly usage: Usage;
  readonly timings: Timings;
  readonly blocks: readonly ServedBlock[];
  readonly seed: number;
  readonly warnings: readonly string[];
  /** The token that ended the answer and is not in it, where `logprobs` were asked for and it was one. */
  readonly endToken?: HostLogprobs | undefined;
}

export interface HostEncodeRequest {
  readonly passages: readonly PassageInput[];
  readonly texts?: EncodeOptions["texts"];
  readonly splitLong?: EncodeOptions["splitLong"];
  readonly maxBlocks?: EncodeOptions["maxBlocks"];
  readonly salt: string;
}

export type HostEncodeEvent = EncodedPassage;

export interface HostTokenizeRequest {
  readonly text: string;
  /** Whether text that spells a control token becomes it. */
  readonly special: boolean;
  /** More tokens are an error. Default: as many as there are. */
  readonly maxTokens?: number | undefined;
}

export interface HostTokenizeEvent {
  /** Of the whole text. */
  readonly numTokens: number;
  /** The next of them. */
  readonly tokens: readonly HostToken[];
}

export interface HostBlock {
  readonly id: string;
  readonly tokens: number;
  readonly bytes: number;
  /** Whether a request uses it now. */
  readonly inUse: boolean;
}

/** Counters never go down while the engine lives; a restart starts them anew. */
export interface HostStats {
  readonly store: {
    readonly capBytes: number;
    readonly leasedBytes: number;
    readonly idleBytes: number;
    readonly freeBytes: number;
    readonly unkeptBytes: number;
    readonly numBlocks: number;
    readonly hits: number;
    readonly misses: number;
    readonly waits: number;
    readonly evictions: Readonly<Record<string, number>>;
  };
  readonly contexts: { readonly capBytes: number; readonly usedBytes: number };
  readonly weightBytes: number;
  readonly computeBytes: number;
  readonly requests: {
    readonly queued: number;
    readonly running: number;
    readonly finished: number;
    readonly cancelled: number;
    readonly failed: number;
  };
  /** Graphs that were computed: of prompts and blocks, and of tokens decoded together. */
  readonly graphs: { readonly rows: number; readonly decode: number };
  /** Resident memory of the engine's process, in bytes. */
  readonly processBytes: number;
}

/**
 * Why an engine did not do what it was asked.
 *
 * | code | HTTP | |
 * |---|---|---|
 * | `invalid` | 400 | the prompt or an option cannot be used |
 * | `too_long` | 400 | the prompt does not fit the model's context, or the memory of contexts |
 * | `queue_full` | 503 | too many requests wait; later there may be room |
 * | `unavailable` | 503 | the engine is loading, restarting or closed |
 * | `died` | 500 | the engine's process died with the request |
 * | `failed` | 500 | the device or the engine failed |
 */
export class HostError extends Error {
  override readonly name = "HostError";

  constructor(
    readonly code: "invalid" | "too_long" | "queue_full" | "slow_reader" | "unavailable" | "died" | "failed",
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
