import type { RagDocument } from "../blocks/block.js";
import { Random } from "../data/random.js";
import { normalizeAnswer } from "./normalize.js";
import type { AnsweredLine, RagLine } from "./rag-line.js";

/**
 * Readers that cheat: what they get, nobody needs to read for. `random-name`: a name or date of the passages. `question-name`: a
 * name of the passages that stands in the question too; of two candidates it takes one. `first-hop`: what the first hop
 * leads to, where the line tells and another follows. The fourth, the question alone, is a run with no documents.
 */
export const BASELINES = ["random-name", "question-name", "first-hop"] as const;
export type Baseline = (typeof BASELINES)[number];

/** What a baseline answers to each line; no answer where it has none to give. Equal lines get equal answers. */
export function baselineAnswers(baseline: Baseline, lines: readonly RagLine[]): AnsweredLine[] {
  return lines.map((line, i) => ({
    ...line,
    id: line.id ?? String(i),
    generated: answerOf(baseline, line) ?? "",
    error: undefined,
  }));
}

function answerOf(baseline: Baseline, line: RagLine): string | undefined {
  const { question, documents, answers, firstHop } = line;
  const random = new Random(`${baseline} ${question} ${JSON.stringify(documents)}`);
  const pick = (names: readonly string[]) => (names.length === 0 ? undefined : random.pick(names));
  switch (baseline) {
    case "random-name":
      return pick(namesIn(documents));
    case "question-name": {
      const asked = ` ${normalizeAnswer(question)} `;
      return pick(namesIn(documents).filter((name) => asked.includes(` ${normalizeAnswer(name)} `)));
    }
    case "first-hop":
      // A question of a single hop has no place to stop before its answer.
      return firstHop === undefined || answers.includes(firstHop) ? undefined : firstHop;
    default:
      return baseline satisfies never;
  }
}

const word = String.raw`\p{Lu}[\p{L}\p{M}'’.-]*[\p{L}\p{M}]`;
const particle = "(?:of|the|and|de|da|di|van|von|der|den|du|la|le|al|bin) ";
/** Two capitalized words or more. */
const nameRun = new RegExp(`${word}(?: (?:${particle}){0,3}${word})+`, "gu");
const date =
  /\b(?:\d{1,2} )?(?:January|February|March|April|May|June|July|August|September|October|November|December) (?:\d{1,2}, )?\d{4}\b|\b\d{4}\b/g;

/** Names and dates in passages, each once: titles without their brackets, runs of capitalized words, dates and years. */
function namesIn(documents: readonly (string | RagDocument)[]): string[] {
  const names = new Map<string, string>();
  const add = (name: string): void => {
    const key = normalizeAnswer(name);
    if (key !== "" && !names.has(key)) names.set(key, name);
  };
  for (const document of documents) {
    const { title, text } = typeof document === "string" ? { title: "", text: document } : document;
    add(title.replace(/ \([^)]*\)$/, ""));
    for (const [name] of text.matchAll(nameRun)) add(name);
    for (const [name] of text.matchAll(date)) add(name);
  }
  return [...names.values()];
}
