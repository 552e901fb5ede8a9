export type AttentionMode = "block" | "full";

/** The model's own word on how it was trained: config.json key `block_attention`, GGUF keys `block_attention.*`. */
export interface BlockAttentionConfig {
  readonly version: 1;
  /** Text put before block 0 in block mode, tokenized alone, for instance "[Block-Attention]". */
  readonly prefix: string;
  /** The modes that the model was trained in. */
  readonly modes: readonly AttentionMode[];
}
