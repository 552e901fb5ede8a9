/** How fast more of the same word stops to count. */
export const BM25_K1 = 1.2;
/** How much a passage's length counts, 0 to 1. */
export const BM25_B = 0.75;

/**
 * Okapi BM25 over passages that are given first: `add` each, then ask for `scores`. Only how many passages hold a word is
 * kept, so memory grows with the vocabulary alone.
 *
 * A word's weight is ln(1 + (N − n + 0.5) / (n + 0.5)) for n of N passages, which is never below 0. A word that stands twice
 * in the question counts twice.
 *
 * @see Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009.
 */
export class Bm25 {
  readonly #numHolding = new Map<string, number>();
  #numPassages = 0;
  #numWords = 0;

  add(passage: readonly string[]): void {
    this.#numPassages += 1;
    this.#numWords += passage.length;
    for (const word of new Set(passage)) this.#numHolding.set(word, (this.#numHolding.get(word) ?? 0) + 1);
  }

  /** How well each passage fits a question: 0 or more, higher is better. */
  scores(question: readonly string[], passages: readonly (readonly string[])[]): number[] {
    const averageLength = this.#numWords / Math.max(1, this.#numPassages);
    return passages.map((passage) => {
      const counts = new Map<string, number>();
      for (const word of passage) counts.set(word, (counts.get(word) ?? 0) + 1);
      let score = 0;
      for (const word of question) {
        const count = counts.get(word);
        // A passage that holds a word has a length, and so has the average.
        if (count === undefined) continue;
        const length = 1 - BM25_B + (BM25_B * passage.length) / averageLength;
        score += (this.#weight(word) * count * (BM25_K1 + 1)) / (count + BM25_K1 * length);
      }
      return score;
    });
  }

  #weight(word: string): number {
    const n = this.#numHolding.get(word) ?? 0;
    return Math.log(1 + (this.#numPassages - n + 0.5) / (n + 0.5));
  }
}
