import "@huggingface/tokenizers";

declare module "@huggingface/tokenizers" {
  /** Exported by the package; its type files name no file endings, so Node's resolution does not find the declaration. */
  export class SplitPreTokenizer {
    constructor(config: { type: "Split"; pattern: { Regex: string }; behavior: "Isolated"; invert: false });
    /** The expression in JavaScript's words, with flags g and u. */
    readonly pattern: RegExp | null;
  }
}
