import type { TensorEntry } from "../files/tensor-source.js";
import type { Architecture } from "./architecture.js";
import type { ModelConfig } from "./config.js";

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
  readonly tensors: ReadonlyMap<string, TensorEntry>;
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
