import type { Decoder } from "../model/decoder.js";
import type { AssembledContext } from "./assemble.js";
import type { GraphRunner } from "./held-rows.js";
import type { PromptSpan, TokenizedPrompt } from "./prompt.js";
import { attended, lookingTokens, maxLooking } from "./recompute.js";

/** How many local blocks but block 0 stay in a prompt, and the question that theirs is compared with. */
export interface Keep {
  readonly count: number;
  /** The tokens of a question that asks for nothing. */
  readonly neutral: Int32Array;
}

/** How much places are looked at. */
type Weights = Map<number, number>;

/** Of a block, so many tokens draw attention whatever they say. */
const numSinkTokens = 4;

/** Rows that a context needs past the prompt's while blocks are chosen. */
export function rowsToLook(keep: Keep | undefined): number {
  return keep === undefined ? 0 : maxLooking + keep.neutral.length;
}

/** What is looked at to choose blocks. */
export interface LookedAt {
  /** The prompt's local spans and its last one. */
  readonly prompt: TokenizedPrompt;
  /** Those that may go: local spans but block 0. */
  readonly moved: ReadonlySet<PromptSpan>;
}

/** What is looked at; undefined where all blocks stay. */
export function lookedAt(prompt: TokenizedPrompt, { count }: Keep): LookedAt | undefined {
  const { spans } = prompt;
  const moved = new Set(spans.filter(({ kind }, i) => kind === "local" && i > 0));
  if (moved.size <= count) return undefined;
  return { prompt: prompt.withSpans(spans.filter((span) => span.kind === "local" || span === spans.at(-1))), moved };
}

/**
 * The spans that go from a prompt: all that may, but those that the question looks at most, compared with how much a question that asks for
 * nothing does. That levels what each place draws by itself, the last blocks most of all.
 *
 * @param parts.context in which the local spans lie.
 * @see Chen et al., "Attention in Large Language Models Yields Efficient Zero-Shot Re-Rankers", arXiv:2410.02642.
 */
export async function spansToDrop(
  { count, neutral }: Keep,
  { prompt, moved }: LookedAt,
  parts: {
    readonly runner: GraphRunner;
    readonly decoder: Decoder;
    readonly context: AssembledContext;
    readonly signal: AbortSignal;
  },
): Promise<ReadonlySet<PromptSpan>> {
  const asking = lookingTokens(prompt.spans);
  const start = prompt.numTokens - (prompt.spans.at(-1)?.tokenIds.length ?? 0);
  const [ofQuestion, ofNothing] = (await attended({ ...parts, prompt }, [
    { tokenIds: asking, position: prompt.numTokens - asking.length },
    { tokenIds: neutral, position: start },
  ])) as [Weights, Weights];
  const worth = new Map<PromptSpan, number>();
  let place = 0;
  for (const span of prompt.spans) {
    const { length } = span.tokenIds;
    const from = place + (length > numSinkTokens ? numSinkTokens : 0);
    place += length;
    if (!moved.has(span)) continue;
    const sumOf = (weights: Weights) => {
      let sum = 0;
      for (let at = from; at < place; at++) sum += weights.get(at) ?? 0;
      return sum;
    };
    worth.set(span, sumOf(ofQuestion) / Math.max(sumOf(ofNothing), Number.MIN_VALUE));
  }
  // The earlier one of equals stays.
  const byWorth = [...worth].sort(([, a], [, b]) => b - a);
  return new Set(byWorth.slice(count).map(([span]) => span));
}
