import { closeSync, openSync, readSync } from "node:fs";
import { rm } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { writeAtomically } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { LineDraw } from "./line-draw.js";
import { digestInputs, writeManifest } from "./manifest.js";
import { findUsableRows, readObjectLines, UsableRows, watchFiles } from "./object-lines.js";
import { Random } from "./random.js";
import { type RowReport, RowTally, refusePipes } from "./row-tally.js";
import { dataFiles } from "./rows.js";
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

/** The numbers 0 to count - 1 in random order, each order as likely as any other; 4 bytes a number. @see Fisher and Yates. */
export function shuffledOrder(random: Random, count: number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [order[i], order[j]] = [order[j] as number, order[i] as number];
  }
  return order;
}

/**
 * How many rows are taken of each input, so that they stand in given shares.
 *
 * @param rows how many each input has.
 * @param shares what each counts beside the others, numbers above 0: [1, 1] and [50, 50] are halves.
 * @param total how many in all; undefined: as many as the shares allow.
 * @throws RangeError if an input has too few rows.
 * @example mixSizes([100, 30], [1, 1], undefined) is [30, 30]; mixSizes([100, 30], [2, 1], undefined) is [60, 30]
 */
export function mixSizes(
  rows: readonly number[],
  shares: readonly number[],
  total: number | undefined,
): readonly number[] {
  if (rows.length !== shares.length) {
    throw new RangeError(`Cannot mix: there are ${rows.length} inputs and ${shares.length} shares`);
  }
  const sum = shares.reduce((a, b) => a + b, 0);
  if (total === undefined) {
    const most = Math.min(...rows.map((count, i) => count / (shares[i] as number)));
    // Dividing and multiplying again may end just below a whole number.
    return shares.map((share, i) => Math.min(rows[i] as number, Math.floor(most * share + 1e-9)));
  }
  const exact = shares.map((share) => (total * share) / sum);
  const sizes = exact.map(Math.floor);
  const left = total - sizes.reduce((a, b) => a + b, 0);
  const byRest = exact
    .map((value, i) => ({ i, rest: value - (sizes[i] as number) }))
    .sort((a, b) => b.rest - a.rest || a.i - b.i);
  for (const { i } of byRest.slice(0, left)) sizes[i] = (sizes[i] as number) + 1;
  for (const [i, size] of sizes.entries()) {
    if (size > (rows[i] as number)) {
      throw new RangeError(`Cannot mix: ${size} rows of input ${i + 1} are wanted, it has ${rows[i]} that can be used`);
    }
  }
  return sizes;
}

export interface MergeOptions {
  /** Files of rows of any kind, or folders, in this order. */
  readonly inputs: readonly string[];
  readonly output: string;
  readonly signal: AbortSignal;
  readonly onProgress?: ((rows: number) => void) | undefined;
}

/**
 * Writes the rows of files as JSON lines, one file after another, each as it is spelled.
 *
 * @throws Error for files that cannot be read or written, or if no row can be used; the signal's reason. No half file stays.
 */
export async function mergeRows(options: MergeOptions): Promise<RowReport> {
  const { output, signal, onProgress } = options;
  const files = (await Promise.all(options.inputs.map(dataFiles))).flat();
  const inputs = await digestInputs(files, signal);
  const tally = new RowTally();
  async function* texts(): AsyncGenerator<Uint8Array, void> {
    for await (const { line, index } of readObjectLines(files, tally, signal)) {
      onProgress?.(index);
      tally.written += 1;
      yield line;
    }
    tally.throwIfEmpty("Cannot merge");
  }
  await writeAtomically(output, (partial) => writeTexts(partial, texts()));
  const { dropped, errors: _, ...counts } = tally.report();
  await writeManifest(output, { command: "data merge", options: {}, inputs, counts, dropped }, signal);
  return tally.report();
}

export interface SampleOptions {
  /** A file of rows of any kind, or a folder. */
  readonly input: string;
  readonly output: string;
  /** How many rows, or which share of those that can be used, rounded. */
  readonly size:
    | { readonly kind: "count"; readonly count: number }
    | { readonly kind: "share"; readonly share: number };
  readonly seed: string;
  readonly signal: AbortSignal;
  readonly onProgress?: ((rows: number) => void) | undefined;
}

/** Left out because it was not drawn. */
const NOT_DRAWN = "not drawn";

/**
 * Draws rows at random, as JSON lines in their order, each as it is spelled. The draw goes by seed and number of rows alone.
 *
 * @throws Error for files that cannot be read or written, or that hold fewer rows; the signal's reason. No half file stays.
 */
export async function sampleRows(options: SampleOptions): Promise<RowReport> {
  const { input, output, size, seed, signal, onProgress } = options;
  const files = await dataFiles(input);
  const inputs = await digestInputs(files, signal);
  refusePipes(inputs);
  const refuseChanged = await watchFiles(files);
  const usable = new UsableRows();
  await findUsableRows(files, usable, signal);
  const total = usable.count;
  const count = size.kind === "count" ? size.count : Math.round(size.share * total);
  if (count > total)
    throw new Error(`Cannot sample: ${count} rows are wanted, the input has ${total} that can be used`);
  const tally = new RowTally();
  async function* texts(): AsyncGenerator<Uint8Array, void> {
    const draw = new LineDraw(new Random(JSON.stringify(["sample", seed])), total, count);
    for await (const { line, index } of readObjectLines(files, tally, signal, usable)) {
      onProgress?.(index);
      if (!draw.takes()) {
        tally.drop(NOT_DRAWN);
        continue;
      }
      tally.written += 1;
      yield line;
    }
    await refuseChanged();
    tally.throwIfEmpty("Cannot sample");
  }
  await writeAtomically(output, (partial) => writeTexts(partial, texts()));
  const { dropped, errors: _, ...counts } = tally.report();
  const own = size.kind === "count" ? { count: size.count } : { share: size.share };
  await writeManifest(output, { command: "data sample", options: { ...own, seed }, inputs, counts, dropped }, signal);
  return tally.report();
}
