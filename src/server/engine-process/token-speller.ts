import type { TokenLogprob } from "../../engine/results.js";
import type { Tokenizer } from "../../tokenizer/tokenizer.js";
import type { HostLogprobs, HostToken, HostTokenLogprob } from "../engine-host.js";

/** Tokens with their own text and bytes, each spelled once and kept: at most the vocabulary. */
export class TokenSpeller {
  readonly #tokenizer: Pick<Tokenizer, "vocabSize" | "tokenBytes">;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  readonly #tokens: (HostToken | undefined)[] = [];

  constructor(tokenizer: Pick<Tokenizer, "vocabSize" | "tokenBytes">) {
    this.#tokenizer = tokenizer;
  }

  /** Ids from the vocabulary's size on, rows that pad the embedding, have no text. */
  token(id: number): HostToken {
    const known = this.#tokens[id];
    if (known !== undefined) return known;
    const bytes = id < this.#tokenizer.vocabSize ? this.#tokenizer.tokenBytes(id) : new Uint8Array();
    const token: HostToken = { id, text: this.#decoder.decode(bytes), bytes: [...bytes] };
    this.#tokens[id] = token;
    return token;
  }

  logprobs(token: {
    readonly id: number;
    readonly logprob: number | undefined;
    readonly top: readonly TokenLogprob[];
  }): HostLogprobs {
    const top = token.top.map(({ id, logprob }): HostTokenLogprob => ({ ...this.token(id), logprob }));
    return { ...this.token(token.id), logprob: token.logprob, top };
  }
}
