import { Random } from "../data/random.js";
import { readRows } from "../data/rows.js";
import type { LocalEngine } from "../engine/local-engine.js";
import { isJsonObject, type JsonValue } from "../files/bounded-json.js";
import { quote } from "../files/quote.js";
import { type AttentionMode, attentionModes } from "../model/block-attention-config.js";
import type { ModelConfig } from "../model/config.js";
import { quantile } from "./interval.js";
import { linePicture } from "./line-picture.js";
import { documentText } from "./rag-line.js";
import { markdownTable, writeFiles } from "./report.js";

export interface TtftOptions {
  readonly engine: LocalEngine;
  /** As reports call it. */
  readonly model: string;
  /** Of prompts, in tokens, the question counted. */
  readonly lengths: readonly number[];
  /** Tokens of the final block. */
  readonly questionTokens: number;
  /** Tokens of a passage. */
  readonly passageTokens: number;
  /** Runs of each length. */
  readonly repeat: number;
  /** The passages' raw texts, put one after another; undefined: random tokens. */
  readonly texts: readonly string[] | undefined;
  readonly signal: AbortSignal;
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** Medians in milliseconds. */
export interface TtftTimes {
  readonly full: number;
  /** Block mode, no passage in the store. */
  readonly cold: number;
  /** Block mode, every passage in the store, met in another order before. */
  readonly stored: number;
  /** 1 - stored / full. */
  readonly saved: number;
}

export interface TtftRow {
  readonly tokens: number;
  readonly outcome: { readonly kind: "measured"; readonly times: TtftTimes } | { readonly kind: "too_long" };
  /** Multiplications and additions up to the first token, attention counted. */
  readonly fullFlops: number;
  readonly storedFlops: number;
}

export interface TtftTable {
  readonly model: string;
  readonly device: string;
  readonly threads: number;
  readonly questionTokens: number;
  readonly passageTokens: number;
  readonly repeat: number;
  readonly contextLength: number;
  readonly rows: readonly TtftRow[];
}

/** The paper's times in milliseconds at prompt lengths in tokens. @see arXiv:2409.15355v5, Table 3: Llama-3-8B on H20 GPUs. */
const paperTimes: ReadonlyMap<number, { readonly full: number; readonly block: number }> = new Map([
  [50, { full: 26, block: 26 }],
  [512, { full: 50, block: 26 }],
  [1024, { full: 87, block: 26 }],
  [2048, { full: 167, block: 26 }],
  [4096, { full: 330, block: 27 }],
  [8192, { full: 691, block: 29 }],
  [16_384, { full: 1515, block: 34 }],
  [32_768, { full: 3638, block: 45 }],
]);

/**
 * Times to the first token over prompts of given lengths, as the paper's Table 3 has them: in full mode, in block mode with an empty
 * store, and with every passage in the store. Lengths that leave no room in the model's context are told as too long.
 *
 * @throws RangeError if the texts have too few tokens; Error if the device fails; the signal's reason.
 */
export async function measureTtft(options: TtftOptions): Promise<TtftTable> {
  const { engine, model, lengths, questionTokens, passageTokens, repeat, signal } = options;
  const { config } = engine.model.source;
  // A prompt that fills the context leaves no room for a token.
  const fitting = lengths.filter((length) => length < engine.contextLength);
  const ids = tokensOf(options, Math.max(1, ...fitting));
  const total = fitting.length * repeat;
  let done = 0;
  // The first graphs of a process are slower than all others.
  for (const mode of attentionModes) await firstToken(options, cut(ids.slice(0, 2), 1, 1), mode, "warm-up");
  const rows: TtftRow[] = [];
  for (const length of lengths) {
    const finalTokens = Math.min(questionTokens, length);
    const flops = { fullFlops: fullFlops(config, length), storedFlops: storedFlops(config, length, finalTokens) };
    if (!fitting.includes(length)) {
      rows.push({ tokens: length, outcome: { kind: "too_long" }, ...flops });
      continue;
    }
    const blocks = cut(ids.slice(0, length), passageTokens, finalTokens);
    const reversed = [...blocks.slice(0, -1).reverse(), blocks.at(-1) as number[]];
    const times = { full: [] as number[], cold: [] as number[], stored: [] as number[] };
    for (let run = 0; run < repeat; run++) {
      // A salt of its own: none of the blocks is in the store.
      const salt = `ttft ${length} ${run}`;
      times.full.push(await firstToken(options, blocks, "full", salt));
      times.cold.push(await firstToken(options, blocks, "block", salt));
      times.stored.push(await firstToken(options, reversed, "block", salt));
      done += 1;
      options.onProgress?.(done, total);
    }
    const [full, cold, stored] = [median(times.full), median(times.cold), median(times.stored)];
    rows.push({
      tokens: length,
      outcome: { kind: "measured", times: { full, cold, stored, saved: 1 - stored / full } },
      ...flops,
    });
  }
  signal.throwIfAborted();
  return {
    model,
    device: engine.model.backend.device.name,
    threads: engine.model.backend.threads,
    questionTokens,
    passageTokens,
    repeat,
    contextLength: engine.contextLength,
    rows,
  };
}

/** So many ids of the texts, or random ones. @throws RangeError if the texts have fewer. */
function tokensOf({ engine, texts }: TtftOptions, count: number): number[] {
  const { tokenizer } = engine.model;
  if (texts === undefined) {
    const random = new Random("ttft");
    return Array.from({ length: count }, () => random.below(tokenizer.vocabSize));
  }
  const ids: number[] = [];
  for (const text of texts) {
    if (ids.length >= count) break;
    for (const id of tokenizer.encode(text, "none")) ids.push(id);
  }
  if (ids.length < count) {
    throw new RangeError(`Cannot measure ${count} tokens: the texts have ${ids.length}; give more, or other lengths`);
  }
  return ids;
}

/** Passages of equal length, then the question. */
function cut(ids: readonly number[], passageTokens: number, finalTokens: number): number[][] {
  const numLocal = ids.length - finalTokens;
  const blocks: number[][] = [];
  for (let start = 0; start < numLocal; start += passageTokens) {
    blocks.push(ids.slice(start, Math.min(numLocal, start + passageTokens)));
  }
  return [...blocks, ids.slice(numLocal)];
}

async function firstToken(
  { engine, signal }: TtftOptions,
  blockTokenIds: readonly (readonly number[])[],
  mode: AttentionMode,
  salt: string,
): Promise<number> {
  const result = await engine.complete(
    { blockTokenIds },
    { mode, maxTokens: 1, temperature: 0, keepPrefixes: false, salt, signal },
  );
  signal.throwIfAborted();
  if (result.timings.ttftMs === undefined) throw new Error("Cannot measure: the engine gave no token");
  return result.timings.ttftMs;
}

function median(values: readonly number[]): number {
  return quantile(
    [...values].sort((a, b) => a - b),
    0.5,
  );
}

/** A row a length, the head first. */
export function ttftRows({ rows }: TtftTable): string[][] {
  const ms = (value: number) => `${value.toFixed(1)} ms`;
  return [
    [
      "Prompt tokens",
      "Full attention",
      "Block, cold",
      "Block, stored",
      "Saved",
      "FLOPs full",
      "FLOPs block",
      "Paper: full",
      "Paper: block",
    ],
    ...rows.map(({ tokens, outcome, fullFlops: full, storedFlops: stored }) => {
      const paper = paperTimes.get(tokens);
      const ours =
        outcome.kind === "too_long"
          ? ["too long", "", "", ""]
          : [
              ms(outcome.times.full),
              ms(outcome.times.cold),
              ms(outcome.times.stored),
              `${(100 * outcome.times.saved).toFixed(1)}%`,
            ];
      return [
        String(tokens),
        ...ours,
        full.toExponential(2),
        stored.toExponential(2),
        ...(paper === undefined ? ["", ""] : [`${paper.full} ms`, `${paper.block} ms`]),
      ];
    }),
  ];
}

/** What stands above and below the figures. */
export function ttftNotes(table: TtftTable): string[] {
  const { model, device, threads, questionTokens, passageTokens, repeat, contextLength } = table;
  return [
    `${model} on ${device}, ${threads} ${threads === 1 ? "thread" : "threads"}; medians of ${repeat}. A question of ${questionTokens} tokens over passages of ${passageTokens}; the model's context holds ${contextLength}.`,
    "Stored: every passage is in the store, where a prompt with another order has left it. FLOPs count attention, which the paper's leave out. The paper's times are Llama-3-8B's on H20 GPUs: compare how rows grow, not the figures.",
  ];
}

/** What writeTtftTable() writes. */
export const TTFT_FILES = ["ttft.json", "ttft.md", "ttft.svg"];

/** Writes ttft.json, ttft.md and ttft.svg, each whole or not at all. @throws Error that names the file that cannot be written. */
export function writeTtftTable(folder: string, table: TtftTable): Promise<void> {
  const title = "Time to the first token";
  const series = (["full", "cold", "stored"] as const).map((name) => ({
    name: { full: "full attention", cold: "block attention, cold", stored: "block attention, passages in the store" }[
      name
    ],
    points: table.rows.flatMap(({ tokens, outcome }) =>
      outcome.kind === "measured" ? [{ x: tokens, y: outcome.times[name] }] : [],
    ),
  }));
  const [above, below] = ttftNotes(table) as [string, string];
  const markdown = [`# ${title}`, above, markdownTable(ttftRows(table)), `![${title}](ttft.svg)`, below];
  return writeFiles(folder, {
    "ttft.json": `${JSON.stringify(table, null, 2)}\n`,
    "ttft.md": `${markdown.join("\n\n")}\n`,
    "ttft.svg": linePicture({ title, xName: "prompt tokens", yName: "milliseconds", scale: "log", series }),
  });
}

/**
 * Multiplications and additions of computing rows of tokens, attention counted: a row that sees n keys costs 4 · n · D · H a layer.
 * The head counts once, for the last row's logits.
 *
 * @param seenKeys keys that the rows see, all rows together.
 */
function rowFlops(config: ModelConfig, rows: number, seenKeys: number): number {
  const { hiddenSize, intermediateSize, numLayers, numHeads, numKvHeads, headSize, vocabSize } = config;
  const perLayer = hiddenSize * headSize * (2 * numHeads + 2 * numKvHeads) + 3 * hiddenSize * intermediateSize;
  return 2 * rows * numLayers * perLayer + 2 * hiddenSize * vocabSize + 4 * seenKeys * headSize * numHeads * numLayers;
}

/** Of the first token of a prompt in full mode: row i sees i + 1 keys. */
export function fullFlops(config: ModelConfig, promptTokens: number): number {
  return rowFlops(config, promptTokens, triangle(promptTokens));
}

/**
 * Of the first token of a prompt whose passages are all in the store: only the final block's rows are computed. Turning the
 * passages' keys to their places is not counted.
 */
export function storedFlops(config: ModelConfig, promptTokens: number, finalTokens: number): number {
  return rowFlops(config, finalTokens, triangle(promptTokens) - triangle(promptTokens - finalTokens));
}

const triangle = (n: number): number => (n * (n + 1)) / 2;

/**
 * The raw texts of passages: of lines {"title","text"} or {"text"}, and of a set's lines their "documents", each text once.
 *
 * @throws Error for a row that is none of these, or a file that cannot be read or has none; the signal's reason.
 */
export async function readPassageTexts(path: string, signal: AbortSignal): Promise<string[]> {
  const texts = new Set<string>();
  for await (const row of readRows(path, signal)) {
    if (row.kind === "bad") throw new Error(row.error);
    const { documents } = isJsonObject(row.value) ? row.value : {};
    const passages: readonly JsonValue[] = Array.isArray(documents) ? documents : [row.value];
    for (const passage of passages) {
      const text = textOf(passage);
      if (text === undefined) {
        throw new Error(`Cannot use ${row.where}: it has no "text" of text and no "documents" that have`);
      }
      texts.add(text);
    }
  }
  if (texts.size === 0) throw new Error(`Cannot use ${quote(path)}: it holds no passages`);
  return [...texts];
}

function textOf(passage: JsonValue): string | undefined {
  if (typeof passage === "string") return passage;
  if (!isJsonObject(passage) || typeof passage.text !== "string") return undefined;
  const { title, text } = passage;
  return typeof title === "string" ? documentText({ title, text }) : text;
}
