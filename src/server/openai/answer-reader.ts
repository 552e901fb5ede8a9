import { type ToolCallPiece, ToolCallReader } from "../../blocks/tool-calls.js";

/** What an answer adds: what the model thinks before it answers, text, or a call. */
export type AnswerPiece = ToolCallPiece | { readonly kind: "reasoning"; readonly text: string };

export interface AnswerReaderOptions {
  /** What the answer may call; none: it calls nothing. */
  readonly toolNames?: ReadonlySet<string> | undefined;
  /** Whether it may begin with reasoning between "<think>" and "</think>". */
  readonly readsReasoning?: boolean | undefined;
}

const opening = "<think>";
const closing = "</think>";

/** Reads an answer's text as it comes: what of it is reasoning, what is text, and what calls tools. */
export class AnswerReader {
  readonly #calls: ToolCallReader | undefined;
  #state: "start" | "reasoning" | "after" | "rest";
  #held = "";
  #hasReasoning = false;

  constructor({ toolNames, readsReasoning = false }: AnswerReaderOptions) {
    this.#calls = toolNames && new ToolCallReader(toolNames);
    this.#state = readsReasoning ? "start" : "rest";
  }

  get hasCalls(): boolean {
    return (this.#calls?.numCalls ?? 0) > 0;
  }

  /** Whether what comes next is reasoning still. */
  get isReasoning(): boolean {
    return this.#state === "reasoning";
  }

  /** The prompt ends with "<think>": the answer begins with reasoning. */
  openReasoning(): void {
    if (this.#state === "start") this.#state = "reasoning";
  }

  push(text: string): AnswerPiece[] {
    if (this.#state === "rest") return this.#readRest(text);
    this.#held += text;
    const pieces: AnswerPiece[] = [];
    if (this.#state === "start") {
      const trimmed = this.#held.trimStart();
      if (trimmed.length < opening.length && opening.startsWith(trimmed)) return [];
      if (!trimmed.startsWith(opening)) return this.#takeRest();
      this.#state = "reasoning";
      this.#held = trimmed.slice(opening.length);
    }
    if (this.#state === "reasoning") {
      if (!this.#hasReasoning) this.#held = this.#held.trimStart();
      const end = this.#held.indexOf(closing);
      // The end may have begun, and white space before it is none of the reasoning.
      const taken = end >= 0 ? this.#held.slice(0, end).trimEnd() : this.#held.slice(0, heldFrom(this.#held));
      if (taken !== "") pieces.push({ kind: "reasoning", text: taken });
      this.#hasReasoning ||= taken !== "";
      if (end < 0) {
        this.#held = this.#held.slice(taken.length);
        return pieces;
      }
      this.#held = this.#held.slice(end + closing.length);
      this.#state = "after";
    }
    if (this.#held.trim() === "") return pieces;
    this.#held = this.#held.trimStart();
    return [...pieces, ...this.#takeRest()];
  }

  /** What was held back of an answer that has ended. */
  end(): AnswerPiece[] {
    const pieces: AnswerPiece[] = [];
    if (this.#state === "reasoning") {
      const left = this.#held.trimEnd();
      if (left !== "") pieces.push({ kind: "reasoning", text: left });
    } else if (this.#state === "start") pieces.push(...this.#takeRest());
    return [...pieces, ...(this.#calls?.end() ?? [])];
  }

  #takeRest(): AnswerPiece[] {
    this.#state = "rest";
    const held = this.#held;
    this.#held = "";
    return this.#readRest(held);
  }

  #readRest(text: string): AnswerPiece[] {
    if (this.#calls !== undefined) return this.#calls.push(text);
    return text === "" ? [] : [{ kind: "text", text }];
  }
}

/** From where on a text may be white space and the beginning of the end of reasoning. */
function heldFrom(text: string): number {
  for (let length = Math.min(closing.length - 1, text.length); length > 0; length--)
    if (closing.startsWith(text.slice(-length))) return text.slice(0, -length).trimEnd().length;
  return text.trimEnd().length;
}
