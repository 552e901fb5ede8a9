// How much sooner do tokens come when they are guessed from the passages? The same prompts with and without drafts, in turn, so that both meet
// the same load: questions that a few words answer, a passage to repeat, facts to list, and a text that is in no passage.
// `npm run bench -- drafts [model] [adapter or -] [weights] [threads or all] [drafts] [file] [task]`: a file has lines as
// models/smollm2-rag/demo.jsonl, and a task is one whose name begins so.
import { readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { Engine } from "../src/engine/engine.js";
import type { GenerateOptions } from "../src/engine/engine-options.js";
import type { LocalEngine } from "../src/engine/local-engine.js";
import type { PromptInput } from "../src/engine/prompt.js";
import type { GenerateResult } from "../src/engine/results.js";
import type { WeightsConversion } from "../src/files/element-types.js";
import { modelFile } from "./shared/models.js";
import { describeRun, printTable } from "./shared/report.js";

const [
  name = "SmolLM2-135M-Instruct.Q4_1.gguf",
  adapter = "models/smollm2-rag",
  weights = "q8_0",
  threads = "all",
  drafts = "auto",
  file = "models/smollm2-rag/demo.jsonl",
  only = "",
] = process.argv.slice(2);

interface Line {
  readonly documents: readonly { readonly title: string; readonly text: string }[];
  readonly questions: readonly { readonly question: string }[];
}
const lines = readFileSync(file, "utf8")
  .split("\n")
  .filter((line) => line !== "")
  .map((line) => JSON.parse(line) as Line);

const asked: [string, PromptInput[], GenerateOptions][] = [
  [
    "answer in few words",
    lines.flatMap(({ documents, questions }) => questions.map(({ question }) => ({ question, documents }))),
    {},
  ],
  [
    "repeat a passage",
    lines.map(({ documents }) => ({
      question: `Repeat the passage "${documents[1]?.title}" word for word.`,
      documents,
    })),
    {},
  ],
  [
    "list facts",
    lines.map(({ documents }) => ({ question: "List the facts that the passages tell, a sentence each.", documents })),
    {},
  ],
  [
    "list facts, temperature 0.7",
    lines.map(({ documents }) => ({ question: "List the facts that the passages tell, a sentence each.", documents })),
    { temperature: 0.7, topP: 0.9, seed: 1 },
  ],
  ["a text of its own", lines.map((_, i) => ({ prompt: `Chapter ${i + 1}. On that morning the captain` })), {}],
];

const model = await modelFile(name);
const load = (how: "off" | "auto" | number): Promise<LocalEngine> =>
  Engine.load({
    model,
    ...(threads !== "all" && { threads: Number(threads) }),
    drafts: how,
    weights: weights as WeightsConversion,
    ...(adapter !== "-" && { adapters: [{ path: adapter }] }),
  });
await using plain = await load("off");
await using drafted = await load(drafts === "auto" ? drafts : Number(drafts));

/** An answer, and what it took from its first token on: by the clock, and of the cores. */
interface Timed {
  readonly result: GenerateResult;
  readonly ms: number;
  readonly cpuMs: number;
}

async function timed(engine: LocalEngine, input: PromptInput, options: GenerateOptions): Promise<Timed> {
  let [from, cpu] = [0, process.cpuUsage()];
  for await (const event of engine.generate(input, options)) {
    if (event.kind === "token" && from === 0) [from, cpu] = [performance.now(), process.cpuUsage()];
    if (event.kind !== "done") continue;
    const { user, system } = process.cpuUsage(cpu);
    return { result: event.result, ms: from === 0 ? 0 : performance.now() - from, cpuMs: (user + system) / 1000 };
  }
  throw new Error("Cannot time the answer: it did not end");
}

console.log(
  `Drafts "${drafts}", ${name}, weights ${weights}, ${plain.model.backend.threads} threads, ${describeRun()}\n`,
);
const rows: (string | number)[][] = [];
for (const [task, inputs, sampling] of asked.filter(([name]) => name.startsWith(only))) {
  const options = { maxTokens: 160, logprobs: false, ...sampling };
  const sums = { tokens: 0, accepted: 0, rejected: 0, same: 0 };
  const times = { plain: { ms: 0, cpuMs: 0 }, drafted: { ms: 0, cpuMs: 0 } };
  for (const [i, input] of inputs.entries()) {
    // Blocks are in the store before anything is measured.
    for (const engine of [plain, drafted]) await engine.complete(input, { ...options, maxTokens: 1 });
    const results: Timed[] = [];
    for (const engine of i % 2 === 0 ? [plain, drafted] : [drafted, plain]) {
      results.push(await timed(engine, input, options));
    }
    if (i % 2 === 1) results.reverse();
    for (const [of, { ms, cpuMs }] of [
      [times.plain, results[0] as Timed],
      [times.drafted, results[1] as Timed],
    ] as const) {
      of.ms += ms;
      of.cpuMs += cpuMs;
    }
    const [one, other] = results.map(({ result }) => result) as [GenerateResult, GenerateResult];
    sums.tokens += one.usage.completionTokens;
    sums.accepted += other.usage.drafts?.accepted ?? 0;
    sums.rejected += other.usage.drafts?.rejected ?? 0;
    if (one.tokenIds.join() === other.tokenIds.join()) sums.same += 1;
  }
  console.error(`${task}: done`);
  rows.push([
    task,
    (sums.tokens / inputs.length).toFixed(1),
    (times.plain.ms / sums.tokens).toFixed(2),
    (times.drafted.ms / sums.tokens).toFixed(2),
    `${(times.plain.ms / times.drafted.ms).toFixed(2)} x`,
    `${(times.plain.cpuMs / times.drafted.cpuMs).toFixed(2)} x`,
    sums.accepted,
    sums.rejected,
    `${sums.same} of ${inputs.length}`,
  ]);
}
printTable(
  [
    "asked to",
    "tokens an answer",
    "ms a token without",
    "with",
    "faster",
    "less CPU",
    "accepted",
    "rejected",
    "same answers",
  ],
  rows,
);
console.log(`\nLoad of the machine at the end: ${loadavg()[0]?.toFixed(1)}`);
