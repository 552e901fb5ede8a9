// Proves that training and test questions share nothing: node scripts/check-disjoint.mjs --train FILE … --test FILE …
// By id, question, and the articles and passages that answers rest on; nor may training show a passage that an answer of a test
// rests on. Files are JSON lines: RAG lines (gold documents by "gold" or "supports"), paragraphs with "questions", or questions with
// "title" and "text" of their own. Texts are compared without case, punctuation and white space. The exit code is 1 where
// something is shared; with --output-dir FOLDER the training files are written there, less the rows that share something.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    train: { type: "string", multiple: true, default: [] },
    test: { type: "string", multiple: true, default: [] },
    "output-dir": { type: "string" },
  },
});
if (values.train.length === 0 || values.test.length === 0) {
  console.error("Cannot compare: wanted --train FILE and --test FILE, each once or more");
  process.exit(2);
}

const plain = (text) =>
  text
    .normalize("NFKC")
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "");

/** What a row is known by, of each kind; `shown` are all its passages. */
function keysOf(row, where) {
  const asked = row.questions ?? [row];
  const passages = row.documents ?? [row];
  const supports = row.supports ?? passages.flatMap(({ gold }, place) => (gold ? [place] : []));
  const isGold = (place) => (row.documents === undefined ? asked.length > 0 : supports.includes(place));
  const gold = passages.filter((_, place) => isGold(place));
  if (![...asked.map(({ question }) => question), ...passages.map(({ text }) => text)].every((text) => text)) {
    throw new Error(`Cannot read ${where}: it is no RAG line, paragraph or question with its passage`);
  }
  return {
    id: asked.flatMap(({ id }) => (id === undefined ? [] : [String(id)])),
    question: asked.map(({ question }) => plain(question)),
    article: gold.map(({ title }) => plain(title)),
    "gold passage": gold.map(({ text }) => plain(text)),
    "shown passage": passages.map(({ text }) => plain(text)),
  };
}

const read = (path) =>
  readFileSync(path, "utf8")
    .split("\n")
    .flatMap((line, i) =>
      line.trim() === "" ? [] : [{ line, keys: keysOf(JSON.parse(line), `line ${i + 1} of "${path}"`) }],
    );

const kinds = ["id", "question", "article", "gold passage", "shown passage"];
const tests = values.test.map((path) => {
  const rows = read(path);
  // What training shows is held against what answers of a test rest on.
  const of = (kind) => new Set(rows.flatMap(({ keys }) => keys[kind === "shown passage" ? "gold passage" : kind]));
  return { name: basename(path), known: Object.fromEntries(kinds.map((kind) => [kind, of(kind)])) };
});
let numShared = 0;
for (const path of values.train) {
  const rows = read(path);
  const shared = new Set();
  for (const { name, known } of tests) {
    const counts = kinds.map((kind) => {
      const found = rows.filter(({ keys }) => keys[kind].some((key) => known[kind].has(key)));
      for (const row of found) shared.add(row);
      return `${kind} ${found.length}`;
    });
    console.log(`${basename(path)}: rows that share with ${name}: ${counts.join(", ")}`);
  }
  numShared += shared.size;
  if (values["output-dir"] === undefined) continue;
  mkdirSync(values["output-dir"], { recursive: true });
  const kept = rows.filter((row) => !shared.has(row)).map(({ line }) => `${line}\n`);
  writeFileSync(join(values["output-dir"], basename(path)), kept.join(""));
  console.log(`${basename(path)}: ${kept.length} of ${rows.length} rows kept`);
}
console.log(numShared === 0 ? "Nothing is shared" : `${numShared} rows share something`);
process.exit(numShared === 0 || values["output-dir"] !== undefined ? 0 : 1);
