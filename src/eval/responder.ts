import type { RagLine } from "./rag-line.js";

/** What decides answers: a run goes on only under equal settings. */
export type RunSettings = Readonly<Record<string, string | number | boolean | null>>;

/** Who answers the questions of one run: an engine in one mode, or a server. */
export interface Responder {
  /** What its answers depend on, beside the question and the longest answer. */
  settings(): Promise<RunSettings>;
  /** Whether the same question comes sooner to its first token when it is asked again. */
  readonly keepsPassages: boolean;
  /**
   * Answers a question over its documents, greedily.
   *
   * @param maxTokens the longest answer.
   * @throws Error if nothing can be asked any more: the device fails, the server is gone; the signal's reason.
   */
  ask(line: RagLine, maxTokens: number, signal: AbortSignal): Promise<Reply>;
}

/** An answer, or why this question cannot be asked; others may be. */
export type Reply = AnsweredReply | RefusedReply;

export interface AnsweredReply {
  readonly kind: "answered";
  readonly text: string;
  readonly finishReason: string;
  /** Undefined where a server does not tell. */
  readonly promptTokens: number | undefined;
  readonly completionTokens: number | undefined;
  /** Prompt tokens that were not computed anew; undefined where a server does not tell. */
  readonly cachedTokens: number | undefined;
  /** Undefined where a server does not tell. */
  readonly start: Start | undefined;
  /** From the call to the first token, in milliseconds; undefined where there was none. */
  readonly ttftMs: number | undefined;
  /** Other times in milliseconds, by the names that timings.jsonl has. */
  readonly times: Readonly<Record<string, number>>;
}

export interface RefusedReply {
  readonly kind: "refused";
  /** "too_long": the prompt does not fit the model's context. */
  readonly code: string;
  readonly message: string;
}

/** "stored": all of the passages were there already; "cold": some had to be computed. */
export type Start = "cold" | "stored";
