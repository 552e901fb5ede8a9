import { mkdir, open, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { readFully } from "../files/read-range.js";
import { describeWriteError, writeAtomically } from "./atomic-output.js";
import { LineDraw } from "./line-draw.js";
import { digestInputs, writeManifest } from "./manifest.js";
import { mixSizes } from "./mix-sizes.js";
import { type RowReport, RowTally, readObjects, refusePipes } from "./row-tally.js";
import { dataFiles } from "./rows.js";
import { countRows } from "./sample-rows.js";
import { shuffledOrder } from "./shuffled-order.js";
import { Random } from "./synth/random.js";
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
  await mkdir(dirname(output), { recursive: true }).catch((error: unknown) => {
    throw describeWriteError(error, output);
  });
  const totals: number[] = [];
  for (const paths of files) totals.push(await countRows(paths, signal));
  const taken = mixSizes(totals, shares, options.count);
  const tally = new RowTally();
  const drawnPath = `${output}.drawn.partial`;
  /** Where each drawn line ends, in bytes. */
  const ends: number[] = [];
  try {
    await writeTexts(drawnPath, drawnTexts(files, totals, taken, tally, ends, options));
    await writeAtomically(output, (partial) => writeTexts(partial, shuffledTexts(drawnPath, ends, seed, signal)));
  } finally {
    await rm(drawnPath, { force: true });
  }
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
  taken: readonly number[],
  tally: RowTally,
  ends: number[],
  { seed, signal, onProgress }: MixOptions,
): AsyncGenerator<string, void> {
  let end = 0;
  for (const [i, paths] of files.entries()) {
    const random = new Random(JSON.stringify(["mix", seed, i]));
    const draw = new LineDraw(random, totals[i] as number, taken[i] as number);
    for await (const { value, index } of readObjects(paths, tally, signal)) {
      onProgress?.(index);
      if (!draw.takes()) {
        tally.drop("not drawn");
        continue;
      }
      const line = `${JSON.stringify(value)}\n`;
      tally.written += 1;
      end += Buffer.byteLength(line);
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
): AsyncGenerator<string, void> {
  const order = shuffledOrder(new Random(JSON.stringify(["shuffle", seed])), ends.length);
  const file = await open(path, "r");
  try {
    for (let first = 0; first < order.length; first += linesPerWrite) {
      signal.throwIfAborted();
      const lines: string[] = [];
      for (const number of order.subarray(first, first + linesPerWrite)) {
        const start = number === 0 ? 0 : (ends[number - 1] as number);
        const bytes = Buffer.alloc((ends[number] as number) - start);
        await readFully(file, bytes, start, path);
        lines.push(bytes.toString("utf8"));
      }
      yield lines.join("");
    }
  } finally {
    await file.close();
  }
}
