import type { TensorEntry } from "../files/tensor-source.js";
import type { Architecture } from "./architecture.js";
import type { BlockAttentionConfig } from "./block-attention-config.js";
import type { ModelConfig } from "./config.js";
import type { RopeConfig } from "./rope.js";

/** A run of bytes of a file. */
export type FilePart = Pick<TensorEntry, "path" | "offset" | "byteLength">;

/** A weight, and where its bytes lie. */
export interface WeightEntry extends Omit<TensorEntry, "path" | "offset"> {
  /** Its bytes, one part after the other: more than one where a file holds experts one by one, or fused with others. */
  readonly parts: readonly FilePart[];
  /** What is added to every number when it is read. Absent: nothing. */
  readonly added?: number;
  /** In memory it is F32, whatever type the others are asked to have. */
  readonly isPrecise?: true;
  /** Whether an adapter adds to it, so that its numbers are quantized anew. */
  readonly isMerged?: true;
}

/** The parts that hold bytes `offset` to `offset + byteLength` of a weight, cut to them. */
export function* partsWithin({ parts }: WeightEntry, offset: number, byteLength: number): Generator<FilePart> {
  let start = 0;
  for (const part of parts) {
    const from = Math.max(offset, start);
    const to = Math.min(offset + byteLength, start + part.byteLength);
    if (from < to) yield { path: part.path, offset: part.offset + from - start, byteLength: to - from };
    start += part.byteLength;
  }
}

/** What an adapter adds to rows of a weight: scale * left * right, [rows, rank] times [rank, columns]. */
export interface LowRankUpdate {
  readonly left: LowRankFactor;
  readonly right: LowRankFactor;
  readonly scale: number;
  /** Where the rows begin within the weight. */
  readonly firstRow: number;
  readonly numRows: number;
  readonly rank: number;
  /** How an adapter has rows of queries and keys that RoPE turns in pairs; undefined for others. */
  readonly pairs: RopeConfig["pairs"] | undefined;
}

/** A matrix of an adapter's file. */
export interface LowRankFactor {
  readonly entry: TensorEntry;
  /** Whether the file's last dimension is the rank. */
  readonly rankIsInner: boolean;
  /** Along the rank the file has those of so many matrices in turn, of which this is one. Absent: this alone. */
  readonly turn?: { readonly index: number; readonly of: number };
}

/** An adapter's files, read as far as their headers. */
export interface Adapter {
  /** Absolute. */
  readonly path: string;
  readonly scale: number;
  /** Every file that decides what it changes. */
  readonly files: readonly string[];
  /** By llama.cpp's name of the weight. */
  readonly updates: ReadonlyMap<string, readonly LowRankUpdate[]>;
  /** Weights that it has whole, in place of the model's, whatever its scale. */
  readonly whole: ReadonlyMap<string, WeightEntry>;
  /** Its own word on how it was trained, over the model's. */
  readonly blockAttention: BlockAttentionConfig | undefined;
}

/** A model's files, read as far as their headers: what it is, and where each weight lies. */
export interface ModelSource {
  readonly kind: "hugging-face" | "gguf";
  /** The folder or .gguf file. */
  readonly path: string;
  readonly architecture: Architecture;
  readonly config: ModelConfig;
  /**
   * Every weight that the architecture needs, none missing, shapes checked against the config, under llama.cpp's names, such as
   * token_embd.weight and blk.0.attn_q.weight.
   */
  readonly tensors: ReadonlyMap<string, WeightEntry>;
  /** Every file whose bytes decide the model's arithmetic or its token ids, absolute paths. */
  readonly files: readonly string[];
  /**
   * Ids that end an answer, as the model's files say: `eos_token_id` of config.json and generation_config.json, or GGUF's
   * eos, eot and eom.
   */
  readonly endTokenIds: readonly number[];
  /** Merged into the weights while they are loaded, in this order. */
  readonly adapters?: readonly Adapter[];
  /** Where the files contradict themselves, and what was made of it; a sentence each. */
  readonly warnings: readonly string[];
}
