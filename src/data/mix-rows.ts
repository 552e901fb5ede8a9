import { closeSync, openSync, readSync } from "node:fs";
import { rm } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { writeAtomically } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { LineDraw } from "./line-draw.js";
import { digestInputs, writeManifest } from "./manifest.js";
import { mixSizes } from "./mix-sizes.js";
import { findUsableRows, readObjectLines, UsableRows, watchFiles } from "./object-lines.js";
import { Random } from "./random.js";
import { type RowReport, RowTally, refusePipes } from "./row-tally.js";
import { dataFiles } from "./rows.js";
import { shuffledOrder } from "./shuffled-order.js";
import { writeTexts } from "./write-lines.js";

export interface MixOptions {
  /** Files of rows of any kind, or folders; two or more. */
  readonly inputs: readonly string[];
  readonly output: string;
  /** What each input counts beside the others, numbers above 0. Default: equal numbers. */
  readonly shares?: readonly number[] | undefined;
  /** How many rows in all. Default: as many as the shares allow. */
  readonly count?: number | undefined;
  readonly seed: string;
  readonly signal: AbortSignal;
  readonly onProgress?: ((rows: number) => void) | undefined;
}

export interface MixReport extends RowReport {
  /** How many rows were taken of each input. */
  readonly taken: readonly number[];
}

const linesPerWrite = 256;

/**
 * Draws rows of several inputs in given shares and writes them as JSON lines in random order. Draw and order go by seed and
 * numbers of rows alone.
 *
 * Of the drawn rows only the places in a file beside the output are held, 20 bytes a row.
 *
 * @throws Error for files that cannot be read or written, or that hold too few rows; the signal's reason. No half file stays.
 */
export async function mixRows(options: MixOptions): Promise<MixReport> {
  const { output, seed, signal } = options;
  const shares = options.shares ?? options.inputs.map(() => 1);
  const files = await Promise.all(options.inputs.map(dataFiles));
  const inputs = await digestInputs(files.flat(), signal);
  refusePipes(inputs);
  const refuseChanged = await watchFiles(files.flat());
  const usable = new UsableRows();
  const totals: number[] = [];
  for (const paths of files) {
    const before = usable.count;
    await findUsableRows(paths, usable, signal);
    totals.push(usable.count - before);
  }
  const taken = mixSizes(totals, shares, options.count);
  const tally = new RowTally();
  const drawnPath = `${output}.drawn.partial`;
  /** Where each drawn line ends, in bytes. */
  const ends: number[] = [];
  await writeAtomically(output, async (partial) => {
    try {
      await writeTexts(drawnPath, drawnTexts(files, totals, usable, taken, tally, ends, options));
      await refuseChanged();
      await writeTexts(partial, shuffledTexts(drawnPath, ends, seed, signal));
    } finally {
      await rm(drawnPath, { force: true });
    }
  });
  const { dropped, errors: _, ...counts } = tally.report();
  const perInput = Object.fromEntries(taken.map((count, i) => [`input_${i + 1}`, count]));
  await writeManifest(
    output,
    {
      command: "data mix",
      options: { shares, ...(options.count !== undefined && { count: options.count }), seed },
      inputs,
      counts: { ...counts, ...perInput },
      dropped,
    },
    signal,
  );
  return { ...tally.report(), taken };
}

async function* drawnTexts(
  files: readonly (readonly string[])[],
  totals: readonly number[],
  usable: UsableRows,
  taken: readonly number[],
  tally: RowTally,
  ends: number[],
  { seed, signal, onProgress }: MixOptions,
): AsyncGenerator<Uint8Array, void> {
  let end = 0;
  for (const [i, paths] of files.entries()) {
    const random = new Random(JSON.stringify(["mix", seed, i]));
    const draw = new LineDraw(random, totals[i] as number, taken[i] as number);
    for await (const { line, index } of readObjectLines(paths, tally, signal, usable)) {
      onProgress?.(index);
      if (!draw.takes()) {
        tally.drop("not drawn");
        continue;
      }
      tally.written += 1;
      end += line.length;
      ends.push(end);
      yield line;
    }
  }
  tally.throwIfEmpty("Cannot mix");
}

/** A file's lines in random order. */
async function* shuffledTexts(
  path: string,
  ends: readonly number[],
  seed: string,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void> {
  const order = shuffledOrder(new Random(JSON.stringify(["shuffle", seed])), ends.length);
  const file = openSync(path, "r");
  try {
    for (let first = 0; first < order.length; first += linesPerWrite) {
      signal.throwIfAborted();
      // A call each: a promise for every line took longer than all else.
      for (const number of order.subarray(first, first + linesPerWrite)) {
        const start = number === 0 ? 0 : (ends[number - 1] as number);
        const line = Buffer.allocUnsafe((ends[number] as number) - start);
        if (readSync(file, line, 0, line.length, start) !== line.length)
          throw new Error(`Cannot read ${quote(path)}: it became shorter meanwhile`);
        yield line;
      }
      await setImmediate();
    }
  } finally {
    closeSync(file);
  }
}
