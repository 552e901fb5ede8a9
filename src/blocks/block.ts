import type { TrustedText } from "../tokenizer/tokenizer.js";

/**
 * One block of a prompt as text. The last block of a prompt is the final block: it sees everything before it.
 * The texts of a prompt's blocks, put together, are the prompt, always.
 */
export interface TextBlock {
  readonly text: string;
  /** Where control tokens are recognized: the template's and the caller's own text, never a passage's. */
  readonly trusted: TrustedText;
}

/** A prompt cut into blocks: one or more; the last is the final block. */
export interface SegmentedPrompt {
  readonly blocks: readonly TextBlock[];
  /** What the caller should hear, for instance that a template rewrites content; empty where all is well. */
  readonly warnings: readonly string[];
}

export interface ChatMessage {
  readonly role: string;
  /** Text parts: each part of an array is a block. A plain string is cut by rule. */
  readonly content: string | readonly string[];
}

export interface RagDocument {
  readonly title: string;
  readonly text: string;
}
