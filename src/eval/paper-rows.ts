/** Best-subspan match in percent, as the paper has it. */
export interface PaperRow {
  readonly name: string;
  readonly twoWiki: number;
  readonly hotpotQA: number;
  readonly nq: number;
  readonly triviaQA: number;
}

/**
 * The paper's rows that a row of ours may stand beside.
 *
 * @see arXiv:2409.15355v5, Llama-3-8B.
 */
export const PAPER_ROWS = {
  full: { name: "full-attention fine-tune", twoWiki: 73.2, hotpotQA: 74.8, nq: 61.5, triviaQA: 75.8 },
  full_in_block: {
    name: "block mode without block fine-tuning",
    twoWiki: 42.9,
    hotpotQA: 42.1,
    nq: 48.3,
    triviaQA: 66.5,
  },
  block: { name: "block fine-tune, block mode", twoWiki: 72.2, hotpotQA: 72.3, nq: 60.4, triviaQA: 75.1 },
  block_in_full: { name: "block fine-tune, full mode", twoWiki: 73.6, hotpotQA: 75.2, nq: 62.2, triviaQA: 76.2 },
  no_reencoding: {
    name: "block fine-tune without position re-encoding",
    twoWiki: 68.9,
    hotpotQA: 69.9,
    nq: 59.2,
    triviaQA: 74.4,
  },
  sft: { name: "SFT only", twoWiki: 62.0, hotpotQA: 68.4, nq: 58.6, triviaQA: 75.7 },
} as const satisfies Readonly<Record<string, PaperRow>>;

export type PaperRowName = keyof typeof PAPER_ROWS;
export const PAPER_ROW_NAMES = Object.keys(PAPER_ROWS) as PaperRowName[];

/** Over the four sets, in percent. @example paperAverage(PAPER_ROWS.full) is 71.325 */
export function paperAverage({ twoWiki, hotpotQA, nq, triviaQA }: PaperRow): number {
  return (twoWiki + hotpotQA + nq + triviaQA) / 4;
}

const setNames = { twoWiki: /^2wiki/i, hotpotQA: /^(hqa|hotpot)/i, nq: /^(nq|natural)/i, triviaQA: /^(tqa|trivia)/i };

/** Which of the paper's sets a name means. @example paperSetOf("hqa.dev") is "hotpotQA" */
export function paperSetOf(name: string): keyof typeof setNames | undefined {
  return (Object.keys(setNames) as (keyof typeof setNames)[]).find((set) => setNames[set].test(name));
}
