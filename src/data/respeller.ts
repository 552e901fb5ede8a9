import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { Random } from "./random.js";

/** Half of the pieces are cut again, so that words come in two to a few. */
const CUTS_AGAIN = 0.5;

/**
 * Spells words by smaller tokens of the same vocabulary, in one context always the same word by the same ones, so that an
 * answer can still be copied. A model that saw names as whole tokens alone copies no name that it has not seen, for that comes in
 * pieces. As BPE-dropout (Provilkov et al., 2020, arXiv:1910.13267), which draws anew at every place.
 */
export class Respeller {
  /** By the bytes that they spell, a character a byte. */
  readonly #ids = new Map<string, number>();
  readonly #isWord: boolean[] = [];

  /**
   * @param share of the words, 0 to 1, drawn for each context. A word is a token of a capital letter and more letters, with or
   * without a space before.
   */
  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly share: number,
    private readonly seed: string,
  ) {
    for (let id = 0; id < tokenizer.vocabSize; id++) {
      const isSpecial = tokenizer.specialTokenIds.has(id) || tokenizer.endTokenIds.has(id);
      const bytes = isSpecial ? "" : this.#bytesOf(id);
      if (bytes !== "" && !this.#ids.has(bytes)) this.#ids.set(bytes, id);
      this.#isWord.push(/^ ?\p{Lu}\p{L}+$/u.test(Buffer.from(bytes, "latin1").toString("utf8")));
    }
  }

  /** How a context's tokens are spelled. @param context what tells it from others, equal for all that share it. */
  spelling(context: string): (ids: readonly number[]) => number[] {
    const spelled = new Map<number, readonly number[]>();
    return (ids) =>
      ids.flatMap((id) => {
        if (!this.#isWord[id]) return id;
        const pieces = spelled.get(id) ?? this.#draw(id, new Random(JSON.stringify([this.seed, context, id])));
        spelled.set(id, pieces);
        return pieces;
      });
  }

  #draw(id: number, random: Random): readonly number[] {
    return random.chance(this.share) ? this.#cut(this.#bytesOf(id), random) : [id];
  }

  #cut(bytes: string, random: Random): number[] {
    // Tokenizers give a space to the word after it, and none stands alone there.
    const first = bytes.startsWith(" ") ? 2 : 1;
    const cuts: [string, string][] = [];
    for (let at = first; at < bytes.length; at++) {
      const halves: [string, string] = [bytes.slice(0, at), bytes.slice(at)];
      if (halves.every((half) => this.#ids.has(half))) cuts.push(halves);
    }
    if (cuts.length === 0) return [this.#ids.get(bytes) as number];
    return random
      .pick(cuts)
      .flatMap((half) => (random.chance(CUTS_AGAIN) ? this.#cut(half, random) : [this.#ids.get(half) as number]));
  }

  #bytesOf(id: number): string {
    return Buffer.from(this.tokenizer.tokenBytes(id)).toString("latin1");
  }
}
