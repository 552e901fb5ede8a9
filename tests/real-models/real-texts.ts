import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

interface RealPassage {
  readonly title: string;
  readonly text: string;
}

interface RealQuestion {
  readonly question: string;
  /** The passages that answer it. */
  readonly passages: readonly RealPassage[];
}

const root = fileURLToPath(new URL("../..", import.meta.url));
const shared = join(root, "../shared/data/qa");
const hasShared = existsSync(join(shared, "passages_hotpot.jsonl"));

/** Passages of Wikipedia; where they are absent, paragraphs of this repository's documents and code. */
export function realPassages(): readonly RealPassage[] {
  if (hasShared) return jsonLines<RealPassage>("passages_hotpot");
  return ["docs", "src", "tests"].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })
      .filter((file) => /\.(md|ts)$/.test(file))
      .sort()
      .flatMap((file) => {
        const paragraphs = readFileSync(join(root, folder, file), "utf8").split("\n\n");
        return paragraphs.filter((text) => text.trim() !== "").map((text) => ({ title: file, text }));
      }),
  );
}

/** Questions with the passages that answer them; where they are absent, about paragraphs of this repository. */
export function realQuestions(): readonly RealQuestion[] {
  if (!hasShared) {
    const passages = realPassages().filter(({ text }) => text.length > 200);
    return passages.map((passage) => ({ question: `What does "${passage.title}" say?`, passages: [passage] }));
  }
  type Row = { readonly question: string; readonly documents: readonly (RealPassage & { readonly gold?: true })[] };
  return jsonLines<Row>("hotpotqa_test").map(({ question, documents }) => ({
    question,
    passages: documents.filter(({ gold }) => gold),
  }));
}

function jsonLines<Row>(name: string): readonly Row[] {
  const lines = readFileSync(join(shared, `${name}.jsonl`), "utf8")
    .trimEnd()
    .split("\n");
  return lines.map((line) => JSON.parse(line));
}
