/**
 * One block of a prompt as text. The last block of a prompt is the final block: it sees everything before it.
 * The texts of a prompt's blocks, put together, are the prompt, always.
 */
export interface TextBlock {
  readonly text: string;
  /**
   * Runs of the text that are the template's or the caller's own, where control tokens are recognized; the rest is
   * content, where they are plain text. In UTF-16 units, ascending, not overlapping. The tokenizer is given each block
   * as a whole where all of it is of one kind, else run by run.
   */
  readonly trusted: readonly { readonly start: number; readonly end: number }[];
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
