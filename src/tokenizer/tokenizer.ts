import type { Steps } from "./steps.js";

/** A run of a text, in UTF-16 units, end exclusive. */
export interface TextRange {
  readonly start: number;
  readonly end: number;
}

/**
 * Where text that spells a control token becomes that token: everywhere (the caller composed the text), nowhere (a
 * passage), or where the spelling lies wholly inside one of these runs (a template's own text), ascending.
 */
export type TrustedText = "all" | "none" | readonly TextRange[];

/** The longest texts of model files, in UTF-16 units: real ones have far shorter ones, and each is a cost to every prompt. */
export const longest = {
  /** A token as the vocabulary writes it. */
  token: 8192,
  /** An added token, or one that templates name. */
  addedToken: 1024,
  chatTemplate: 2 ** 18,
} as const;

/** Text to ids and back, the same for tokenizer.json and GGUF metadata. Never adds BOS, EOS or anything else by itself. */
export interface Tokenizer {
  readonly vocabSize: number;
  /** Put before a prompt, once; undefined where the tokenizer adds none. */
  readonly bosTokenId: number | undefined;
  /** Any of them ends an answer. */
  readonly endTokenIds: ReadonlySet<number>;
  /** Ids of control tokens (HF `special: true`, GGUF control and unknown), which are not shown in answers. */
  readonly specialTokenIds: ReadonlySet<number>;
  /** Whether every text starts with a dummy space (SPM), which decoding drops at the start of a text only. */
  readonly addsDummySpace: boolean;
  /** The model's own Jinja chat template, and the texts of the tokens that templates name. */
  readonly chatTemplate: string | undefined;
  readonly templateTokens: Readonly<{ bos_token: string; eos_token: string; pad_token: string; unk_token: string }>;
  /**
   * The ids of a text tokenized alone. The text is first split at the trusted control tokens and at user-defined added
   * tokens (which always match); what lies between is tokenized by the model.
   * @throws RangeError for a lone surrogate in the text.
   */
  encode(text: string, trusted: TrustedText): number[];
  /**
   * As `encode`, in steps of a few milliseconds: appends the ids, and yields after each step. Who does not go on has
   * stopped it: after a cancel, or once there are more ids than wanted.
   */
  encodeInSteps(text: string, trusted: TrustedText, ids: number[]): Steps<void>;
  /** The text of an answer's ids, control tokens left out. Bytes that are no UTF-8 become U+FFFD. */
  decode(ids: readonly number[]): string;
  /**
   * What a token alone spells, in UTF-8: possibly part of a character. Control tokens spell their own text.
   * @throws RangeError for an id that the vocabulary does not have.
   */
  tokenBytes(id: number): Uint8Array;
  /**
   * Decodes ids as they come. `push` gives the text that is complete so far, `end` what is left.
   *
   * @param options `goesOn`: other text stands before it, so a space at its start is no dummy.
   */
  stream(options?: { readonly goesOn: boolean }): TokenStream;
  /** SHA-256 over all that decides ids, hex. */
  readonly digest: string;
  /** Where the files contradict themselves, and what was made of it; a sentence each. */
  readonly warnings: readonly string[];
}

export interface TokenStream {
  /** The new text: never half a character, possibly "". */
  push(id: number): string;
  /** What is left, with U+FFFD for a character that never completed. */
  end(): string;
}
