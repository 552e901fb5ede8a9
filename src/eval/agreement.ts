import { PAPER_ROWS, type PaperRowName, paperAverage } from "./paper-rows.js";
import { compareRuns, type NamedRun } from "./summary.js";
import type { TableResult } from "./table-markdown.js";

/**
 * One sentence on where the order of rows agrees with the paper's averages: for each two rows that both have, whether the
 * same one stands higher. Two rows whose paired interval holds 0 are not told apart.
 */
export function orderAgreement(
  rows: readonly Pick<TableResult, "name" | "paper">[],
  scored: ReadonlyMap<string, NamedRun>,
): string {
  const known = rows.flatMap(({ name, paper }) => {
    const run = scored.get(name);
    return run === undefined || paper === undefined ? [] : [{ name, run, average: averageOf(paper) }];
  });
  const same: string[] = [];
  const opposite: string[] = [];
  const open: string[] = [];
  for (const [i, first] of known.entries()) {
    for (const second of known.slice(i + 1)) {
      if (first.average === second.average) continue;
      const [higher, lower] = first.average > second.average ? [first, second] : [second, first];
      const { low, high } = compareRuns(higher.run, lower.run, { lastSentence: true }).differences.word;
      const pair = `${higher.name} over ${lower.name}`;
      (low > 0 ? same : high < 0 ? opposite : open).push(pair);
    }
  }
  const total = same.length + opposite.length + open.length;
  if (total === 0) return "Fewer than two of the paper's rows are here, so there is no order to compare.";
  const list = (pairs: readonly string[]) => (pairs.length === 0 ? "" : ` (${pairs.join("; ")})`);
  return `Of ${total} pairs of rows that the paper has too, ${same.length} stand in the paper's order${list(same)}, ${opposite.length} in the opposite${list(opposite)}, and ${open.length} are not told apart, their interval holds 0${list(open)}.`;
}

function averageOf(name: PaperRowName): number {
  return paperAverage(PAPER_ROWS[name]);
}
