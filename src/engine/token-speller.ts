import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { LikelyToken, SpelledToken, Token } from "./results.js";

/** Tokens with their own text and bytes, each spelled once and kept: at most the vocabulary. */
export class TokenSpeller {
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  readonly #tokens: (Token | undefined)[] = [];

  constructor(private readonly tokenizer: Pick<Tokenizer, "vocabSize" | "tokenBytes">) {}

  /** Ids from the vocabulary's size on, rows that pad the embedding, have no text. */
  token(id: number): Token {
    const known = this.#tokens[id];
    if (known !== undefined) return known;
    const bytes = id < this.tokenizer.vocabSize ? this.tokenizer.tokenBytes(id) : new Uint8Array();
    const token: Token = { id, text: this.#decoder.decode(bytes), bytes: [...bytes] };
    this.#tokens[id] = token;
    return token;
  }

  spell({ id, logprob, top }: LikelyToken): SpelledToken {
    return { ...this.token(id), logprob, top: top.map((one) => ({ ...this.token(one.id), logprob: one.logprob })) };
  }
}
