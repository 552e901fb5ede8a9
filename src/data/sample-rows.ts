import { writeAtomically } from "../files/outputs.js";
import { LineDraw } from "./line-draw.js";
import { digestInputs, writeManifest } from "./manifest.js";
import { findUsableRows, readObjectLines, UsableRows, watchFiles } from "./object-lines.js";
import { Random } from "./random.js";
import { type RowReport, RowTally, refusePipes } from "./row-tally.js";
import { dataFiles } from "./rows.js";
import { writeTexts } from "./write-lines.js";

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
