import { Random } from "../../tests/models/random.js";
import { makeTokenizer } from "../../tests/models/random-tokenizer.js";

/** A question with its passages, all texts whose tokens are their letters. */
export interface RagRequest {
  /** In the order in which the prompt holds them. */
  readonly passages: readonly string[];
  readonly question: string;
}

export interface RagTrafficOptions {
  readonly numRequests: number;
  readonly seed: number;
  /** Told apart from another stream of the same seed; a warm-up shares no passage with what is measured. */
  readonly name: string;
}

/** What the traffic is made of, for the head of a result. */
export const ragTraffic = {
  numPassages: 500,
  /** The r-th most wanted passage is asked for in proportion to 1 / r^s. */
  zipfExponent: 1,
  /** In tokens, evenly spread: 100 on average. */
  passageTokens: [80, 120],
  passagesPerQuestion: [5, 10],
  questionTokens: 30,
} as const;

/**
 * Questions over a set of passages as users ask them: some passages are wanted again and again, most seldom, and each
 * question finds its own in an order of its own. The same seed gives the same traffic.
 */
export function makeRagTraffic({ numRequests, seed, name }: RagTrafficOptions): RagRequest[] {
  const random = new Random(seed, name);
  const { numPassages, zipfExponent, questionTokens } = ragTraffic;
  const between = ([least, most]: readonly [number, number]) => least + random.below(most - least + 1);
  const passages = Array.from({ length: numPassages }, () => letters(random, between(ragTraffic.passageTokens)));
  const drawRanks = zipf(random, numPassages, zipfExponent);
  return Array.from({ length: numRequests }, () => ({
    passages: drawRanks(between(ragTraffic.passagesPerQuestion)).map((rank) => passages[rank] as string),
    question: letters(random, questionTokens),
  }));
}

/** Draws `count` different ranks below `numRanks`, rank r in proportion to 1 / (r + 1)^exponent, in random order. */
export function zipf(random: Random, numRanks: number, exponent: number): (count: number) => number[] {
  // The sums of the weights up to each rank: a random share of the last one falls to a rank.
  let sum = 0;
  const sums = Array.from({ length: numRanks }, (_, rank) => {
    sum += 1 / (rank + 1) ** exponent;
    return sum;
  });
  return (count) => {
    const chosen = new Set<number>();
    while (chosen.size < count) {
      const share = (random.bits() / 2 ** 32) * sum;
      chosen.add(sums.findIndex((upTo) => share < upTo));
    }
    const ranks = [...chosen];
    // Drawn one after another, the likely ranks come first: retrieval knows no such order.
    return random.order(ranks.length).map((i) => ranks[i] as number);
  };
}

/**
 * The prompt's ids in the random models' tokenizer: BOS, then a token for each byte. It holds for capital letters and
 * spaces, which no merge of that tokenizer joins.
 */
export function ragTokenIds({ passages, question }: RagRequest): number[] {
  return [makeTokenizer().bosTokenId, ...Buffer.from(passages.join("") + question, "latin1")];
}

/** Words of capital letters, `length` characters in all. */
export function letters(random: Random, length: number): string {
  let text = "";
  while (text.length < length) {
    const word = Array.from({ length: 2 + random.below(7) }, () => String.fromCharCode(65 + random.below(26)));
    text += `${word.join("")} `;
  }
  return text.slice(0, length);
}
