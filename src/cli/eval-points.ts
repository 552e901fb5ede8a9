import type { RagDocument } from "../blocks/block.js";
import { ragDocument } from "../data/rag/rag-row.js";
import { readRows } from "../data/rows.js";
import { type GoldLine, type ReadLines, readGoldLines } from "../eval/rag-line.js";
import type { QuestionSet } from "../eval/sets-run.js";
import { pointLines, sweepSet } from "../eval/sweep-lines.js";
import { wholeNumber } from "../files/options.js";
import { listOf, someWords } from "../files/settings.js";
import { type FlagsOf, flag } from "./command.js";
import type { NamedText } from "./eval-entrants.js";
import { badLinesNotes, tellBadLines } from "./eval-report.js";
import type { Terminal } from "./terminal.js";

/** Prompts of so many passages each, the gold ones at random places. */
export const pointFlags = {
  passages: flag("<list>", "passages of a prompt (default: 10)", listOf(wholeNumber(1, 10_000), { isUnique: true })),
  pool: flag("<file>", 'passages to fill lines up with, beside other lines\': JSON lines {"title","text"}', someWords),
  seed: flag("<text>", "which passages of others a line gets (default: repair)", someWords),
};

type PointFlags = FlagsOf<typeof pointFlags> & {
  readonly input: readonly NamedText[];
  readonly limit: number | undefined;
};

const defaultPassages = [10];

/** The names of the sets that `readPoints()` gives, but for those that have no line. */
export function pointNames({ input, passages = defaultPassages }: PointFlags): { readonly name: string }[] {
  return input.flatMap(({ name }) => passages.map((count) => ({ name: nameOf(name, count) })));
}

function nameOf(name: string, count: number): string {
  return `${name}, ${count} passages`;
}

/** A set of each input for each number of passages. @throws Error for a file that cannot be read or used; the signal's reason. */
export async function readPoints(
  { input, passages = defaultPassages, pool: poolPath, seed = "repair", limit }: PointFlags,
  terminal: Terminal,
): Promise<{ readonly sets: readonly QuestionSet[]; readonly hasBadLines: boolean }> {
  const { signal } = terminal;
  const pool = poolPath === undefined ? [] : await readPool(poolPath, signal);
  const sets: QuestionSet[] = [];
  let hasBadLines = false;
  for (const { name, text: path } of input) {
    const read: ReadLines<GoldLine> = await readGoldLines(path, signal);
    if (tellBadLines(read, terminal)) hasBadLines = true;
    // Lines past the limit lend their passages too, so that a larger limit goes on where a smaller one ended.
    const set = await sweepSet(read.lines, { maxPassages: Math.max(...passages), seed, pool, signal });
    for (const count of passages) {
      const { lines, moreGold, fewOthers } = pointLines(set, count, "shuffled");
      const left = set.missingSupport + set.noGold + moreGold + fewOthers;
      const notes = [
        ...badLinesNotes(read),
        ...(left > 0 ? [`${left} lines have no ${count} passages with the gold ones among them.`] : []),
      ];
      if (lines.length > 0) sets.push({ name: nameOf(name, count), lines: lines.slice(0, limit), notes });
    }
  }
  return { sets, hasBadLines };
}

async function readPool(path: string, signal: AbortSignal): Promise<(string | RagDocument)[]> {
  const documents: (string | RagDocument)[] = [];
  for await (const row of readRows(path, signal)) {
    if (row.kind === "bad") throw new Error(`Cannot use ${row.where}: ${row.error}`);
    documents.push(ragDocument(row.value, documents.length, Error));
  }
  return documents;
}
