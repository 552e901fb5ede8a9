import "@huggingface/tokenizers";

declare module "@huggingface/tokenizers" {
  /** Exported by the package; its type files name no file endings, so Node's resolution does not find the declaration. */
  export class Tokenizer {
    /** @param tokenizer tokenizer.json. @param config tokenizer_config.json. */
    constructor(tokenizer: object, config: object);
    /** With the special tokens of its template; neither truncated nor padded. */
    encode(text: string): { readonly ids: number[] };
  }
  /** As above. */
  export class SplitPreTokenizer {
    constructor(config: { type: "Split"; pattern: { Regex: string }; behavior: "Isolated"; invert: false });
    /** The expression in JavaScript's words, with flags g and u. */
    readonly pattern: RegExp | null;
  }
}
