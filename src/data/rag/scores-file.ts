import { isJsonObject, type JsonValue } from "../../files/bounded-json.js";
import { quote } from "../../files/quote.js";
import { type Row, readRows } from "../rows.js";
import type { RagRow } from "./rag-row.js";

/** To six decimals, so that what a file says and what it was written from are the same numbers. */
export function roundScore(score: number): number {
  // No -0, which JSON writes as 0.
  return Number(score.toFixed(6)) + 0;
}

/** A row's line of a scores file: `{"id", "scores"}`, a score for each document in the row's own order. */
export function scoresLine({ id }: RagRow, scores: readonly number[]): string {
  return `${JSON.stringify({ id, scores })}\n`;
}

/**
 * Scores of a file beside the rows that they were made of, row by row: `next` takes the rows in their order.
 *
 * A file of other rows is noticed by its ids and by how many scores a line has.
 */
export class ScoresReader {
  readonly #lines: AsyncGenerator<Row, void>;

  constructor(
    private readonly path: string,
    signal: AbortSignal,
  ) {
    this.#lines = readRows(path, signal);
  }

  /** @throws Error if the file has no line for the row, or one of another row. */
  async next({ id, where, documents }: RagRow): Promise<readonly number[]> {
    const { done, value: line } = await this.#lines.next();
    if (done) throw new Error(`Cannot use the scores ${quote(this.path)}: they end before ${where}`);
    if (line.kind === "bad") throw new Error(`Cannot use ${line.where}: ${line.error}`);
    const found = parseLine(line.value);
    if (found === undefined) throw new Error(`Cannot use ${line.where}: wanted {"id", "scores"} with numbers`);
    if (found.id !== id) {
      throw new Error(`Cannot use ${line.where}: its "id" is ${quote(found.id)}, that of ${where} is ${quote(id)}`);
    }
    if (found.scores.length !== documents.length) {
      throw new Error(
        `Cannot use ${line.where}: it has ${found.scores.length} scores, ${where} has ${documents.length} documents`,
      );
    }
    return found.scores;
  }

  /** @throws Error if lines are left. */
  async end(): Promise<void> {
    const { done, value: line } = await this.#lines.next();
    if (!done) throw new Error(`Cannot use ${line.where}: there is no row for it`);
  }

  /** Closes the file before its end. */
  async close(): Promise<void> {
    await this.#lines.return();
  }
}

function parseLine(value: JsonValue): { readonly id: string; readonly scores: readonly number[] } | undefined {
  if (!isJsonObject(value)) return undefined;
  const { id, scores } = value;
  if ((typeof id !== "string" && typeof id !== "number") || !Array.isArray(scores)) return undefined;
  const numbers = scores.filter((score: JsonValue): score is number => typeof score === "number");
  return numbers.length === scores.length ? { id: String(id), scores: numbers } : undefined;
}
