import { expect, test } from "vitest";
import { type EvaluationReport, paperTableRows, type SetsReport, setsTable } from "./report.js";
import { summarizeRun } from "./summary.js";

/** A set over which each run has so many of four questions right. */
function setOf(title: string, rights: Readonly<Record<string, number>>): SetsReport["sets"][number] {
  const runs = Object.entries(rights).map(([name, numRight]) => {
    const asked = { kind: undefined, answers: ["yes"], error: undefined };
    const answers = Array.from({ length: 4 }, (_, i) => {
      return { ...asked, id: `${i}`, question: `Q${i}`, generated: i < numRight ? "yes" : "no" };
    });
    return summarizeRun({ name, answers });
  });
  const report: EvaluationReport = { title, lastSentence: false, runs, comparisons: [], notes: [] };
  return { ...report, folder: title };
}

const reportOf = (...sets: SetsReport["sets"]): SetsReport => ({ title: "T", lastSentence: false, sets });

test("setsTable(): a column a set and their average; a run that a set lacks has none", () => {
  const report = reportOf(setOf("one", { block: 1, full: 4 }), setOf("two", { block: 2 }));
  const [head, block, full] = setsTable(report, "word") as [string[], string[], string[]];
  expect(head).toEqual(["Word borders", "one", "two", "Average"]);
  expect(block.map((cell) => cell.replace(/ \[.*/, ""))).toEqual(["block", "25.0", "50.0", "37.5"]);
  expect(full.slice(2)).toEqual(["", ""]);
});

test("paperTableRows(): the paper's figures under sets that are called as its own", () => {
  const four = ["2wiki.dev", "hqa.dev", "nq.test", "tqa.test"].map((title) => setOf(title, { block: 1 }));
  const block = paperTableRows(reportOf(...four)).find(([name]) => name === "Paper: block fine-tune, block mode");
  expect(block).toEqual(["Paper: block fine-tune, block mode", "72.2", "72.3", "60.4", "75.1", "70.0"]);
  const two = paperTableRows(reportOf(setOf("mine", { block: 1 }), setOf("HotpotQA", { block: 1 })));
  expect(two.find(([name]) => name === "Paper: SFT only")).toEqual(["Paper: SFT only", "", "68.4", ""]);
  expect(paperTableRows(reportOf(setOf("mine", { block: 1 })))).toEqual([]);
});
