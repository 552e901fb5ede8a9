import { type ToolCallPiece, ToolCallReader } from "../../blocks/tool-calls.js";

/** Reads an answer's text as it comes: what of it is text, and what calls tools. */
export class AnswerReader {
  readonly #calls: ToolCallReader | undefined;

  /** @param toolNames what the answer may call; none: it is all text. */
  constructor(toolNames?: ReadonlySet<string>) {
    this.#calls = toolNames && new ToolCallReader(toolNames);
  }

  get hasCalls(): boolean {
    return (this.#calls?.numCalls ?? 0) > 0;
  }

  push(text: string): ToolCallPiece[] {
    if (this.#calls !== undefined) return this.#calls.push(text);
    return text === "" ? [] : [{ kind: "text", text }];
  }

  /** What was held back of an answer that has ended. */
  end(): ToolCallPiece[] {
    return this.#calls?.end() ?? [];
  }
}
