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
  // The sums of the weights up to each rank: a random share of the last one falls to a passage.
  let sum = 0;
  const sums = passages.map((_, rank) => {
    sum += 1 / (rank + 1) ** zipfExponent;
    return sum;
  });
  return Array.from({ length: numRequests }, () => {
    const wanted = between(ragTraffic.passagesPerQuestion);
    const chosen = new Set<number>();
    while (chosen.size < wanted) {
      const share = (random.bits() / 2 ** 32) * sum;
      chosen.add(sums.findIndex((upTo) => share < upTo));
    }
    const ranks = [...chosen];
    // Drawn one after another the wanted ones come first: retrieval knows no such order.
    const order = random.order(ranks.length);
    return {
      passages: order.map((i) => passages[ranks[i] as number] as string),
      question: letters(random, questionTokens),
    };
  });
}

/**
 * The prompt's ids in the random models' tokenizer: BOS, then a token for each byte. It holds for capital letters and
 * spaces, which no merge of that tokenizer joins.
 */
export function ragTokenIds({ passages, question }: RagRequest): number[] {
  return [makeTokenizer().bosTokenId, ...Buffer.from(passages.join("") + question, "latin1")];
}

/** Words of capital letters, `length` characters in all. */
function letters(random: Random, length: number): string {
  let text = "";
  while (text.length < length) {
    const word = Array.from({ length: 2 + random.below(7) }, () => String.fromCharCode(65 + random.below(26)));
    text += `${word.join("")} `;
  }
  return text.slice(0, length);
}
