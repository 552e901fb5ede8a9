import type { TensorEntry } from "../files/tensor-source.js";
import type { Architecture } from "./architecture.js";
import type { ModelConfig } from "./config.js";

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
  /** Every file whose bytes decide the model's arithmetic or its ids, absolute paths: the fingerprint covers them. */
  readonly files: readonly string[];
  /**
   * Ids that end an answer, as the model's files say: `eos_token_id` of config.json and generation_config.json, or GGUF's
   * eos, eot and eom.
   */
  readonly endTokenIds: readonly number[];
  /** Where the files contradict themselves, and what was made of it; a sentence each. */
  readonly warnings: readonly string[];
}
