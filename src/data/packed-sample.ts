import { promptSpans } from "../engine/prompt.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { TrainingSample } from "./training-sample.js";

/** A sample as token ids: one row of a packed file. */
export interface PackedSample {
  readonly sample_id: string;
  readonly group_id: string | null;
  /** The prompt's spans, then the response; each block is tokenized alone; no BOS and no prefix. */
  readonly input_ids: readonly number[];
  /** As long, unshifted: the response's ids at their places, -100 elsewhere. */
  readonly labels: readonly number[];
  /** Of the prompt; the response belongs to the last. */
  readonly span_lengths: readonly number[];
  /** Which spans see all before them; the last does. */
  readonly is_global: readonly boolean[];
  readonly modes: readonly AttentionMode[];
}

/** What an id is where nothing is to be learned. */
const IGNORED_LABEL = -100;

export type PackOutcome =
  | { readonly kind: "packed"; readonly packed: PackedSample }
  | { readonly kind: "dropped"; readonly id: string; readonly reason: string };

export interface PackLimits {
  /** Opening, prompt and response together have fewer tokens than this. */
  readonly maxTokens: number;
  /** Tokens of BOS and prefix, which the trainer adds. */
  readonly numOpeningTokens: number;
}

/**
 * Tokenizes a sample as serving does: each block alone, the response alone, with the end token after it where the
 * response does not end in one.
 *
 * @param endTokenId put after the response; undefined where the tokenizer has none.
 * @see docs/reference.md "Ids of tokens".
 */
export function packSample(
  sample: TrainingSample,
  tokenizer: Tokenizer,
  endTokenId: number | undefined,
  limits: PackLimits,
): PackOutcome {
  const { id, group, modes } = sample;
  const blocks = sample.blocks.map(({ text, trusted }) => tokenizer.encode(text, trusted));
  // The tokenizer's BOS is the trainer's to add, once.
  if (blocks[0] && tokenizer.bosTokenId !== undefined && blocks[0][0] === tokenizer.bosTokenId) blocks[0].shift();
  if (!blocks.at(-1)?.length) return { kind: "dropped", id, reason: "the final block has no tokens" };
  const spans = promptSpans(blocks, undefined, sample.blocks);
  const response = untilEnd(tokenizer.encode(sample.response, "all"), tokenizer.endTokenIds);
  if (response.length === 0) return { kind: "dropped", id, reason: "the response has no tokens" };
  if (endTokenId !== undefined && !tokenizer.endTokenIds.has(response.at(-1) as number)) response.push(endTokenId);
  const prompt = spans.flatMap(({ tokenIds }) => [...tokenIds]);
  if (limits.numOpeningTokens + prompt.length + response.length >= limits.maxTokens) {
    return { kind: "dropped", id, reason: `it has ${limits.maxTokens} tokens or more` };
  }
  return {
    kind: "packed",
    packed: {
      sample_id: id,
      group_id: group ?? null,
      input_ids: [...prompt, ...response],
      labels: [...prompt.map(() => IGNORED_LABEL), ...response],
      span_lengths: spans.map(({ tokenIds }) => tokenIds.length),
      is_global: spans.map(({ kind }) => kind === "global"),
      modes: spans.length > 1 ? modes : ["full"],
    },
  };
}

/** A response ends with its first end token: what a template prints after it is nothing to learn. */
function untilEnd(ids: readonly number[], endTokenIds: ReadonlySet<number>): number[] {
  const end = ids.findIndex((id) => endTokenIds.has(id));
  return end < 0 ? [...ids] : ids.slice(0, end + 1);
}
