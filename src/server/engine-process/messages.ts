import type { EngineOptions } from "../../engine/engine-options.js";
import type { PromptInput } from "../../engine/prompt.js";
import type { LoadProgress } from "../../model/weights.js";
import {
  type HostBlock,
  type HostEncodeEvent,
  type HostEncodeRequest,
  HostError,
  type HostEvent,
  type HostGenerateRequest,
  type HostModel,
  type HostStats,
  type HostTokenizeEvent,
  type HostTokenizeRequest,
} from "../engine-host.js";

/** The engine's options that can be sent: data alone. */
export type ChildEngineOptions = Omit<EngineOptions, "signal" | "onWarning" | "onProgress" | "onEstimate">;

/** Calls that are answered by events. */
export type StreamCall =
  | {
      readonly kind: "generate";
      /** A prompt that was sent. */
      readonly promptId: number;
      readonly request: Omit<HostGenerateRequest, "prompt">;
    }
  | { readonly kind: "encode"; readonly request: HostEncodeRequest }
  | { readonly kind: "tokenize"; readonly request: HostTokenizeRequest };

/** Calls that are answered by one value. */
export type ValueCall =
  | { readonly kind: "block"; readonly blockId: string; readonly salt: string }
  | { readonly kind: "deleteBlock"; readonly blockId: string; readonly salt: string }
  | { readonly kind: "stats" };

/** What each value call is answered with. */
export interface CallValues {
  readonly block: HostBlock | undefined;
  readonly deleteBlock: boolean;
  readonly stats: HostStats;
}

/** From the server to the engine's process. Calls are numbered by the server, never twice the same. */
export type ToChild =
  /** First, once. Answered by `loaded` or `load-failed`. */
  | { readonly kind: "load"; readonly options: ChildEngineOptions }
  | { readonly kind: "call"; readonly id: number; readonly call: StreamCall | ValueCall }
  /** The reader of a stream call is done with so many events. */
  | { readonly kind: "credit"; readonly id: number; readonly count: number }
  /** For calls to come: one prompt may be many calls', and is sent once. */
  | { readonly kind: "prompt"; readonly id: number; readonly prompt: PromptInput }
  /** No further call names this prompt. */
  | { readonly kind: "forget-prompt"; readonly id: number }
  /** Aborts a stream call; of one that has ended, nothing. */
  | { readonly kind: "cancel"; readonly id: number }
  /** Answered by `pong` as soon as the event loop comes to it. */
  | { readonly kind: "ping" }
  /** Ends what runs, then the process. */
  | { readonly kind: "close" };

export type StreamEvent = HostEvent | HostEncodeEvent | HostTokenizeEvent;

/** From the engine's process to the server. */
export type FromChild =
  | { readonly kind: "loaded"; readonly model: HostModel }
  | { readonly kind: "load-failed"; readonly message: string }
  | { readonly kind: "estimate"; readonly weightBytes: number }
  | { readonly kind: "progress"; readonly progress: LoadProgress }
  | { readonly kind: "warning"; readonly warning: string }
  /** Events of stream calls, those of one call in order, and which calls have given all theirs. */
  | {
      readonly kind: "events";
      readonly events: readonly (readonly [id: number, event: StreamEvent])[];
      readonly ended: readonly number[];
    }
  | { readonly kind: "value"; readonly id: number; readonly value: CallValues[keyof CallValues] }
  | { readonly kind: "error"; readonly id: number; readonly error: SentError }
  | { readonly kind: "pong" };

/** A HostError as data: classes do not survive the way. */
export interface SentError {
  readonly code: HostError["code"];
  readonly message: string;
}

/** So many events of a stream call may be under way to its reader. */
export const maxUnreadEvents = 32;

export function sentError(error: unknown): SentError {
  if (error instanceof HostError) return { code: error.code, message: error.message };
  return { code: "failed", message: error instanceof Error ? error.message : String(error) };
}

export function receivedError({ code, message }: SentError): HostError {
  return new HostError(code, message);
}
