import type { PassageInput } from "../../blocks/passage.js";
import type { EngineErrorCode } from "../../engine/engine-error.js";
import type {
  DocumentsOptions,
  EncodeOptions,
  EngineOptions,
  GenerateOptions,
  RequestOptions,
  ScoreOptions,
  TokenizeOptions,
} from "../../engine/engine-options.js";
import type { ModelInfo } from "../../engine/model.js";
import type { PromptInput } from "../../engine/prompt.js";
import type { EncodedPassage, EngineStats, GenerateEvent, ScoreResult, Token } from "../../engine/results.js";
import type { BlockInfo } from "../../kv/block-store.js";
import type { DocumentInfo } from "../../kv/documents.js";
import type { LoadProgress } from "../../model/weights.js";

/** The options that can be sent: those that are data. */
type Sent<O> = Omit<O, "signal" | "onWarning" | "onProgress" | "onEstimate" | "onBlock" | "onTokens">;

export type ChildEngineOptions = Sent<EngineOptions>;

/** A call of the engine. */
export type Call =
  | {
      readonly kind: "generate";
      readonly input: PromptInput;
      readonly options: Sent<GenerateOptions & RequestOptions>;
    }
  | {
      readonly kind: "scoreEach";
      readonly input: PromptInput;
      readonly continuations: readonly (string | readonly number[])[];
      readonly options: Sent<ScoreOptions>;
    }
  | { readonly kind: "encode"; readonly passages: readonly PassageInput[]; readonly options: Sent<EncodeOptions> }
  | { readonly kind: "tokenize"; readonly text: string; readonly options: Sent<TokenizeOptions> }
  | { readonly kind: "documents"; readonly options: DocumentsOptions }
  | { readonly kind: "deleteDocument"; readonly documentId: string; readonly options: Sent<RequestOptions> }
  | { readonly kind: "block" | "deleteBlock"; readonly blockId: string; readonly options: Sent<RequestOptions> }
  | { readonly kind: "stats" };

/** The events that answer each kind of call, one or many. */
export interface CallEvents {
  readonly generate: GenerateEvent;
  readonly scoreEach: readonly ScoreResult[];
  readonly encode: EncodedPassage;
  readonly tokenize: { readonly tokens: readonly Token[]; readonly numTokens: number };
  readonly block: BlockInfo | undefined;
  readonly deleteBlock: boolean;
  readonly documents: readonly DocumentInfo[];
  readonly deleteDocument: boolean;
  readonly stats: EngineStats;
}

export type CallEvent = CallEvents[Call["kind"]];

/** From the server to the engine's process. Calls are numbered by the server, never twice the same. */
export type ToChild =
  /** First, once. Answered by `loaded` or `load-failed`. */
  | { readonly kind: "load"; readonly options: ChildEngineOptions }
  | { readonly kind: "call"; readonly id: number; readonly call: Call }
  /** The reader of a call has read so many more events. */
  | { readonly kind: "credit"; readonly id: number; readonly count: number }
  /** Aborts a call; does nothing where it has ended. */
  | { readonly kind: "cancel"; readonly id: number }
  /** Answered by `pong` as soon as the event loop comes to it. */
  | { readonly kind: "ping" }
  /** Ends what runs, then the process. */
  | { readonly kind: "close" };

/** From the engine's process to the server. */
export type FromChild =
  | { readonly kind: "loaded"; readonly info: ModelInfo }
  | { readonly kind: "load-failed"; readonly message: string }
  /** The engine can go on no more: the process is to be ended. */
  | { readonly kind: "failed"; readonly message: string }
  | { readonly kind: "estimate"; readonly weightBytes: number }
  | { readonly kind: "progress"; readonly progress: LoadProgress }
  | { readonly kind: "warning"; readonly warning: string }
  /** Events of calls, those of one call in order, and which calls have ended. */
  | {
      readonly kind: "events";
      readonly events: readonly (readonly [id: number, event: CallEvent])[];
      readonly ended: readonly number[];
    }
  | { readonly kind: "error"; readonly id: number; readonly code: EngineErrorCode; readonly message: string }
  | { readonly kind: "pong" };

/** How many events of a call may be sent before its reader has read them: so many for each answer. */
export function maxUnreadEvents(call: Call): number {
  return 32 * (call.kind === "generate" ? (call.options.n ?? 1) : 1);
}
