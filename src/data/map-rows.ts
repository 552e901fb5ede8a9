import { stat } from "node:fs/promises";
import { mapInOrder } from "./ordered-workers.js";
import type { RowTally } from "./row-tally.js";
import { type RowOutcomes, type RowWork, type SentRows, sendRows, sentRowsWork } from "./row-work.js";
import { type RowPart, readRowParts } from "./rows.js";
import type { RowThreadWork } from "./work-thread.js";

export interface MapRowsOptions<F> {
  /** What threads make their work of; undefined: this thread does it. */
  readonly settings: RowThreadWork | undefined;
  /** At most so many, and none for small files; 0: this thread does it. */
  readonly numWorkers: number;
  /** Makes the work for this thread. */
  readonly inline: () => Promise<RowWork<F>>;
}

export interface MappedRow<F> {
  /** With its end; empty where none is written. */
  readonly line: Uint8Array;
  readonly facts: F;
}

const rowsPerPiece = 64;
const pieceBytes = 2 ** 22;
/** Input that one thread has done before others have started, in bytes. */
const smallBytes = 2 ** 23;

/**
 * Does work on the rows of files, on several threads, and gives what became of those that could be used in the order of the input.
 * All are counted, but for `written`.
 *
 * @throws Error if a file cannot be read or a thread fails; the signal's reason.
 */
export async function* mapRows<F>(
  files: readonly string[],
  options: MapRowsOptions<F>,
  tally: RowTally,
  signal: AbortSignal,
): AsyncGenerator<MappedRow<F>, void> {
  const { settings, inline } = options;
  const numWorkers = settings === undefined || (await isSmall(files)) ? 0 : options.numWorkers;
  const workers = {
    data: settings,
    numWorkers,
    inline: async () => sentRowsWork(await inline()),
  };
  // With nobody beside, nothing is read ahead: work may count on being asked for no more rows than are taken.
  const pieces = sentPieces(files, numWorkers === 0 ? 1 : rowsPerPiece, signal);
  for await (const { bytes, outcomes } of mapInOrder<SentRows, RowOutcomes<F>>(pieces, workers, signal)) {
    let start = 0;
    for (const outcome of outcomes) {
      tally.rows += 1;
      if (outcome.kind === "bad") tally.reject(outcome.where, outcome.error);
      else if (outcome.kind === "dropped") tally.drop(outcome.reason);
      else {
        const line = bytes.subarray(start, start + outcome.numBytes);
        start += outcome.numBytes;
        yield { line, facts: outcome.facts };
      }
    }
  }
}

/** Rows in pieces of so many, or of fewer where these are large. */
async function* sentPieces(
  files: readonly string[],
  size: number,
  signal: AbortSignal,
): AsyncGenerator<SentRows, void> {
  let [first, parts, numBytes]: [number, RowPart[], number] = [0, [], 0];
  const send = (): SentRows => {
    const sent = sendRows(parts, first);
    [first, parts, numBytes] = [first + parts.length, [], 0];
    return sent;
  };
  for (const file of files) {
    for await (const row of readRowParts(file, signal)) {
      parts.push(row);
      numBytes += row.part.kind === "bytes" ? row.part.bytes.length : 0;
      if (parts.length >= size || numBytes >= pieceBytes) yield send();
    }
  }
  if (parts.length > 0) yield send();
}

async function isSmall(files: readonly string[]): Promise<boolean> {
  let size = 0;
  // What cannot be read is told when it is opened; a pipe has no size.
  for (const file of files)
    size += await stat(file).then(
      (found) => found.size,
      () => 0,
    );
  return size < smallBytes;
}
