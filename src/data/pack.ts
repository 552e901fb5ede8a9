import { rm, writeFile } from "node:fs/promises";
import { writeAtomically } from "../files/outputs.js";
import { openDatabase } from "./duckdb.js";
import { Histogram, histogramPicture } from "./histogram.js";
import { digestInputs, writeManifest } from "./manifest.js";
import { mapInOrder } from "./ordered-workers.js";
import { type PackedRows, type PackSettings, packTools, packWork } from "./pack-work.js";
import { dataFiles, type Row, readRows } from "./rows.js";
import { writeTexts } from "./write-lines.js";

export interface PackOptions extends PackSettings {
  /** Files or folders, read in this order. */
  readonly inputs: readonly string[];
  /** The Parquet file to write; its report, its picture and its manifest stand beside it. */
  readonly output: string;
  /** Threads that tokenize; 0 does it on this one. */
  readonly numWorkers: number;
  readonly signal: AbortSignal;
  /** Told now and then of the rows read so far. */
  readonly onProgress?: ((rows: number) => void) | undefined;
}

/** What went in and came out. */
export interface PackReport {
  readonly rows: number;
  /** Rows that were none: no JSON, or of no known form. */
  readonly bad: number;
  /** Samples that the rows made; kept + all that was dropped. */
  readonly samples: number;
  readonly kept: number;
  /** Kept samples that are trained in block mode too. */
  readonly keptBlock: number;
  readonly dropped: Readonly<Record<string, number>>;
  readonly tokens: number;
  readonly responseTokens: number;
  readonly blocks: number;
  /** Of the first rows that could not be used. */
  readonly errors: readonly string[];
  readonly tokenizerDigest: string;
  readonly settings: PackSettings;
}

const rowsPerPiece = 64;
const rowGroupSize = 4096;
const lengthStep = 128;
const maxErrors = 20;

/**
 * Packs training data: rows become samples, cut and tokenized by the code that serves, and a Parquet file that the
 * trainer reads. Files of any size are streamed; the same input, settings and seed give the same bytes, whatever the number
 * of threads.
 *
 * @returns the report, which also stands at `output` + ".report.json", with a picture of lengths at
 * ".lengths.svg" and a manifest.
 * @throws Error for files that cannot be read or written, or if nothing is left to write; the signal's reason. No half
 * file stays.
 */
export async function packTrainingData(options: PackOptions): Promise<PackReport> {
  const { inputs, output, signal } = options;
  const settings = {
    model: options.model,
    template: options.template,
    prefix: options.prefix,
    maxTokens: options.maxTokens,
    singleProbability: options.singleProbability,
    seed: options.seed,
    conversations: options.conversations,
  } satisfies PackSettings;
  const files = (await Promise.all(inputs.map(dataFiles))).flat();
  const manifestInputs = await digestInputs(files, signal);
  const { tokenizer, prefix } = await packTools(settings);
  const digest = tokenizer.digest;
  const counts = new Counts();
  const rowsPath = `${output}.rows.partial`;
  await writeAtomically(output, async (partial) => {
    try {
      await writeTexts(rowsPath, packedTexts(files, settings, options, counts));
      if (counts.kept === 0) {
        const why = counts.errors[0] ?? Object.keys(counts.dropped)[0] ?? "there were no rows";
        throw new Error(`Cannot pack: no sample is left of ${counts.rows} rows; ${why}`);
      }
      signal.throwIfAborted();
      await writeParquet(rowsPath, partial, digest, settings);
    } finally {
      await rm(rowsPath, { force: true });
    }
  });
  const report: PackReport = { ...counts.report(), tokenizerDigest: digest, settings };
  await writeAtomically(`${output}.lengths.svg`, (partial) =>
    writeFile(partial, histogramPicture(counts.lengths, "Lengths of packed samples", "tokens")),
  );
  await writeAtomically(`${output}.report.json`, (partial) =>
    writeFile(partial, `${JSON.stringify(report, null, 2)}\n`),
  );
  const { template, maxTokens, singleProbability, seed, conversations } = settings;
  const { rows, bad, samples, kept, keptBlock, dropped, tokens, responseTokens, blocks } = report;
  const manifest = {
    command: "data pack",
    // The tokenizer's digest says what of the model counts, its path does not.
    options: {
      template,
      prefix,
      max_tokens: maxTokens,
      single_probability: singleProbability,
      seed,
      ...(conversations && { conversations }),
    },
    inputs: manifestInputs,
    tokenizerDigest: digest,
    counts: { rows, bad, samples, kept, kept_block: keptBlock, tokens, response_tokens: responseTokens, blocks },
    dropped,
  };
  await writeManifest(output, manifest, signal);
  return report;
}

class Counts {
  rows = 0;
  bad = 0;
  samples = 0;
  kept = 0;
  keptBlock = 0;
  tokens = 0;
  responseTokens = 0;
  blocks = 0;
  readonly dropped: Record<string, number> = {};
  readonly errors: string[] = [];
  readonly lengths = new Histogram(lengthStep);

  add({ lines, dropped, numSamples, errors, numBad }: PackedRows): void {
    this.bad += numBad;
    this.samples += numSamples;
    for (const [reason, count] of Object.entries(dropped)) this.dropped[reason] = (this.dropped[reason] ?? 0) + count;
    this.errors.push(...errors.slice(0, maxErrors - this.errors.length));
    for (const { numTokens, numResponseTokens, numBlocks, isBlock } of lines) {
      this.kept += 1;
      this.keptBlock += isBlock ? 1 : 0;
      this.tokens += numTokens;
      this.responseTokens += numResponseTokens;
      this.blocks += numBlocks;
      this.lengths.add(numTokens);
    }
  }

  report(): Omit<PackReport, "tokenizerDigest" | "settings"> {
    const { rows, bad, samples, kept, keptBlock, tokens, responseTokens, blocks, errors } = this;
    const dropped = Object.fromEntries(Object.entries(this.dropped).sort(([a], [b]) => (a < b ? -1 : 1)));
    return { rows, bad, samples, kept, keptBlock, dropped, tokens, responseTokens, blocks, errors };
  }
}

/** The packed rows as JSON lines, for DuckDB to read. */
async function* packedTexts(
  files: readonly string[],
  settings: PackSettings,
  { numWorkers, signal, onProgress }: PackOptions,
  counts: Counts,
): AsyncGenerator<string, void> {
  async function* pieces(): AsyncGenerator<readonly Row[], void> {
    for (const file of files) {
      let piece: Row[] = [];
      for await (const row of readRows(file, signal)) {
        counts.rows += 1;
        piece.push(row);
        if (piece.length < rowsPerPiece) continue;
        yield piece;
        piece = [];
        onProgress?.(counts.rows);
      }
      if (piece.length > 0) yield piece;
    }
  }
  const workers = { data: { kind: "pack", ...settings } as const, numWorkers, inline: () => packWork(settings) };
  for await (const piece of mapInOrder(pieces(), workers, signal)) {
    counts.add(piece);
    yield piece.lines.map(({ json }) => `${json}\n`).join("");
  }
}

/**
 * One thread, so that the bytes do not depend on the machine.
 *
 * Where only the last span of a prompt is global, the spans are its blocks, and lengths say all. Otherwise the lengths
 * have another name, so that a reader of blocks alone refuses the file instead of taking every span for a local one.
 */
async function writeParquet(
  rows: string,
  path: string,
  digest: string,
  { conversations }: Pick<PackSettings, "conversations">,
): Promise<void> {
  const [packing, lengths] =
    conversations === "spans" ? ["2", "span_lengths, is_global"] : ["1", "span_lengths AS block_lengths"];
  const instance = await openDatabase({ threads: "1", memory_limit: "1GB" });
  try {
    const connection = await instance.connect();
    try {
      const columns =
        "{sample_id: 'VARCHAR', group_id: 'VARCHAR', input_ids: 'INTEGER[]', labels: 'INTEGER[]', span_lengths: 'INTEGER[]', is_global: 'BOOLEAN[]', modes: 'VARCHAR[]'}";
      const literal = (text: string) => `'${text.replaceAll("'", "''")}'`;
      await connection.run(
        `COPY (SELECT sample_id, group_id, input_ids, labels, ${lengths}, modes FROM read_ndjson(${literal(rows)}, columns = ${columns}, maximum_object_size = ${2 ** 28})) TO ${literal(path)} ` +
          `(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE ${rowGroupSize}, KV_METADATA {tokenizer_digest: ${literal(digest)}, block_attention_packing: '${packing}'})`,
      );
    } finally {
      connection.closeSync();
    }
  } finally {
    instance.closeSync();
  }
}
