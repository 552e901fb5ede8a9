import { join } from "node:path";
import { z } from "zod";
import type { RagDocument } from "../blocks/block.js";
import { Engine } from "../engine/engine.js";
import type { LocalEngine } from "../engine/local-engine.js";
import { embeddedModelPath } from "../engine/model.js";
import type { GenerateResult } from "../engine/results.js";
import { formatBytes } from "../files/format-bytes.js";
import { openInput, readJsonLines } from "../files/json-lines.js";
import { wholeNumber } from "../files/options.js";
import { architectures } from "../model/architectures/registry.js";
import { command, type FlagsOf, flag, withDefault } from "./command.js";
import { engineFlag } from "./options.js";
import { fetchDefaultModel } from "./pull-model.js";
import { formatMs, formatTable, type Terminal, write } from "./terminal.js";

const passageSet = z.strictObject({
  documents: z.array(z.strictObject({ title: z.string(), text: z.string() })).min(2),
  questions: z.array(z.strictObject({ question: z.string(), answers: z.array(z.string()).min(1) })).min(1),
});
type PassageSet = z.infer<typeof passageSet>;

/** Runs of each prompt in the closing table, of which the median is told; fewer once they have taken so long. */
const numRuns = 5;
const longMs = 2_000;

const embeddedNote = `The model is tiny and reads only simple passages like these, chosen from the kind
it can mostly do; it shows the road, not what a real model answers.`;
const realNote = `The passages and questions are SQuAD's, taken by a fixed rule before any was asked
(models/smollm2-rag/README.md); the model is among the smallest that there are.`;

const demoFlags = {
  threads: engineFlag("threads"),
  seed: withDefault(flag("<n>", "decides the orders of the passages", wholeNumber(0, 2 ** 31)), 1),
};

export const demoCommand = command({
  name: "demo",
  summary: "Asks the default model questions over passages in any order.",
  flags: demoFlags,
  run: runDemo,
  help: `
The model is a small one that was trained for blocks. Its base, smollm2-135m (98 MB), is fetched first where it is not on the disk;
where it cannot be, or HF_HUB_OFFLINE is 1, the demo runs on an even smaller one that comes with the package, with easier questions.

Examples:
  block-attention demo`,
});

/**
 * Encodes passages once, asks the default model questions over shuffled orders of them, and compares what full and
 * block attention take. @returns the exit code.
 */
async function runDemo(flags: FlagsOf<typeof demoFlags>, terminal: Terminal): Promise<number> {
  const { colors, signal } = terminal;
  const say = (text: string) => write(terminal.stdout, `${text}\n`, signal);
  const model = await fetchDefaultModel(terminal);
  const sets = await readSets(join(model, "demo.jsonl"), terminal);
  const documents = sets.flatMap((set) => set.documents);
  const random = randomFrom(flags.seed);

  await using engine = await Engine.load({ model, threads: flags.threads, mode: "block", signal });
  const { threads } = engine.model.backend;
  const numWeights = [...engine.model.source.tensors.values()]
    .map(({ shape }) => shape.reduce((product, size) => product * size, 1))
    .reduce((sum, count) => sum + count, 0);
  await say(
    colors.bold("Block attention: each passage is encoded once, kept, and used at any place of any prompt.") +
      `\nModel: ${engine.info.name}, ${(numWeights / 1e6).toFixed(1)} million weights, ${formatBytes(engine.stats().weightBytes)} in memory, ${threads} CPU ${threads === 1 ? "thread" : "threads"}.\n`,
  );

  const encodingFrom = performance.now();
  const { blocks } = await engine.encode(documents, { signal });
  const numTokens = blocks.reduce((sum, block) => sum + (block.error === undefined ? block.tokens : 0), 0);
  await say(
    `${documents.length} passages (${numTokens} tokens) encoded in ${formatMs(performance.now() - encodingFrom)}, each on its own; the store holds ${formatBytes(engine.stats().store.leasedBytes + engine.stats().store.idleBytes)} of keys and values.\n`,
  );

  let numAsked = 0;
  let numRight = 0;
  for (const set of sets) {
    for (const { question, answers } of set.questions) {
      const ordered = shuffle(set.documents, random);
      await say(`${colors.bold(question)}\n  passages: ${ordered.map(({ title }) => title).join(" | ")}`);
      const result = await stream(engine, question, ordered, terminal);
      const isRight = answers.some((answer) => containsAnswer(result.text, answer));
      const mark = isRight ? colors.green("right") : colors.red("wrong");
      const { promptTokens, cachedTokens } = result.usage;
      const isAllHits = result.blocks.every(({ hit }) => hit);
      await say(`  expected: ${answers.join(" or ")} (${mark})`);
      await say(
        colors.dim(
          `  ${cachedTokens} of ${promptTokens} prompt tokens from the store${isAllHits ? ", all but the final block" : ""}, first token after ${formatMs(result.timings.ttftMs ?? 0)}\n`,
        ),
      );
      numAsked += 1;
      if (isRight) numRight += 1;
    }
  }
  await say(
    `${numRight} of ${numAsked} answers hold an expected one. ${model === embeddedModelPath() ? embeddedNote : realNote}\n`,
  );
  await say(await compare(engine, model, sets, flags, terminal));
  await say(`
${colors.bold("With your own model")}: a Hugging Face folder, a .gguf file, or hf:OWNER/REPO (${architectures.map(({ name }) => name).join(", ")})
  npx block-attention info --model PATH
  npx block-attention generate --model PATH --question "…" --documents passages.jsonl
  npx block-attention generate --model hf:ldsjmdy/Tulu3-Block-FT --prefix "[Block-Attention]" --question "…" --documents passages.jsonl
  npx block-attention bench --model PATH --tokens 512,1024,2048
passages.jsonl holds a line {"title": "…", "text": "…"} for each passage. In this folder, "node dist/cli/main.js" stands for
"npx block-attention".`);
  return 0;
}

async function readSets(path: string, terminal: Terminal): Promise<PassageSet[]> {
  const sets: PassageSet[] = [];
  for await (const line of readJsonLines(await openInput(path, terminal.stdin, terminal.signal), terminal.signal)) {
    const set = line.kind === "value" ? passageSet.safeParse(line.value) : undefined;
    if (!set?.success) throw new Error(`Cannot read "${path}": line ${line.number} holds no passages and questions`);
    sets.push(set.data);
  }
  return sets;
}

async function stream(
  engine: LocalEngine,
  question: string,
  documents: readonly RagDocument[],
  { stdout, signal, colors }: Terminal,
): Promise<GenerateResult> {
  await write(stdout, "  answer:   ", signal);
  for await (const event of engine.generate({ question, documents }, { maxTokens: 60, signal })) {
    signal.throwIfAborted();
    if (!("text" in event)) continue;
    await write(stdout, colors.cyan(event.text.replace(/\s+/g, " ")), signal);
    if (event.kind !== "done") continue;
    await write(stdout, "\n", signal);
    return event.result;
  }
  throw new Error("Cannot run the demo: the answer did not end");
}

/** Time to the first token, and tokens computed and reused, over the passages of one question and over all of them. */
async function compare(
  engine: LocalEngine,
  model: string,
  sets: readonly PassageSet[],
  { threads }: FlagsOf<typeof demoFlags>,
  { signal, colors }: Terminal,
): Promise<string> {
  const [first] = sets as [PassageSet];
  const { question } = first.questions[0] as PassageSet["questions"][number];
  // A store without room keeps nothing: every block is a miss.
  await using forgetful = await Engine.load({ model, threads, storeBytes: 0, signal });
  const all = sets.flatMap((set) => set.documents);
  const rows: string[][] = [["", "first token", "computed", "from the store"]];
  for (const documents of [first.documents, all]) {
    const input = { question, documents };
    const runs = [
      ["full attention", forgetful, "full"],
      ["block attention, the first time", forgetful, "block"],
      ["block attention, passages in the store", engine, "block"],
    ] as const;
    for (const [i, [name, runner, mode]] of runs.entries()) {
      let times: number[] = [];
      let result: GenerateResult | undefined;
      const startedMs = performance.now();
      while (times.length === 0 || (times.length <= numRuns && performance.now() - startedMs < longMs)) {
        result = await runner.complete(input, { mode, maxTokens: 1, keepPrefixes: false, signal });
        signal.throwIfAborted();
        times.push(result.timings.ttftMs ?? 0);
      }
      // The first run warms up, which is nothing to a long one, and puts the preamble into the store.
      if (times.length > 1) times = times.slice(1);
      const { promptTokens, cachedTokens } = (result as GenerateResult).usage;
      if (i === 0) rows.push([`${documents.length} passages, ${promptTokens} tokens`, "", "", ""]);
      const median = times.sort((a, b) => a - b)[times.length >> 1] as number;
      rows.push([`  ${name}`, formatMs(median), `${promptTokens - cachedTokens}`, `${cachedTokens}`]);
    }
  }
  return `${colors.bold(`Time to the first token, median of up to ${numRuns}; tokens of the prompt`)}\n${formatTable(rows)}`;
}

/** Best-subspan match on word borders: the answer stands in the text, case, punctuation and articles aside. @see docs/reference.md "Scores" */
function containsAnswer(text: string, answer: string): boolean {
  const wanted = normalize(answer);
  return wanted !== "" && ` ${normalize(text)} `.includes(` ${wanted} `);
}

function normalize(text: string): string {
  return text
    .toLowerCase()
    .replace(/\p{P}/gu, "")
    .replace(/\b(a|an|the)\b/g, " ")
    .replace(/\s+/g, " ")
    .trim();
}

function shuffle<T>(items: readonly T[], random: () => number): T[] {
  const shuffled = [...items];
  for (let i = shuffled.length - 1; i > 0; i -= 1) {
    const j = Math.floor(random() * (i + 1));
    [shuffled[i], shuffled[j]] = [shuffled[j] as T, shuffled[i] as T];
  }
  return shuffled;
}

/** Numbers from 0 to 1 by a linear congruential generator (Numerical Recipes). */
function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}
