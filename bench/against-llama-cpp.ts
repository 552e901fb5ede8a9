// How fast are the same products in llama.cpp? The same 1B-shape Q4_K file, the same threads, in turns: prefill of 4,096
// tokens, decoding after it, and a final block of 50 tokens over 4,096 kept ones. And full mode's prefill on the 135M
// shape at the longest lengths of the sweep.
// `npm run bench -- against-llama-cpp [1b|135m] [tokens] [rounds]`
import { Engine } from "../src/engine/engine.js";
import { llamaCppTimings } from "../tests/llama-cpp/llama-cpp-oracle.js";
import { type BenchModel, benchModel } from "./shared/models.js";
import { describeRun, median, printTable, TokenSource } from "./shared/report.js";

const [which = "1b", tokensText = "4096", roundsText = "3"] = process.argv.slice(2);
const tokens = Number(tokensText);
const decoded = 32;
const path = await benchModel(which as BenchModel);
const ours = { prefill: [] as number[], decode: [] as number[], final: [] as number[] };
const theirs = { prefill: [] as number[], decode: [] as number[], final: [] as number[] };
let threads = 0;
for (let round = 0; round < Number(roundsText); round++) {
  {
    await using engine = await Engine.load({ model: path, storeBytes: 2 ** 32, keepPrefixes: false });
    threads = engine.model.backend.threads;
    const source = new TokenSource(engine.model.source.config.vocabSize, round + 1);
    await engine.complete({ blockTokenIds: [source.take(64)] }, { mode: "full", maxTokens: 2 });
    const prompt = source.take(tokens);
    // Decoding counts the values' transposition, which its first step waits for. No end token, so that it goes on.
    const logitBias = Object.fromEntries([...engine.model.endTokenIds].map((id) => [id, -100]));
    const answer = await engine.complete(
      { blockTokenIds: [prompt] },
      { mode: "full", maxTokens: decoded + 1, logitBias },
    );
    ours.prefill.push(answer.timings.prefillMs);
    ours.decode.push(answer.timings.decodeMs / (answer.usage.completionTokens - 1));
    const passages = source.passages(tokens);
    await engine.complete({ blockTokenIds: [...passages, source.take(50)] }, { mode: "block", maxTokens: 1 });
    const hits = await engine.complete(
      { blockTokenIds: [...passages.reverse(), source.take(50)] },
      { mode: "block", maxTokens: 1 },
    );
    ours.final.push(hits.timings.ttftMs as number);
  }
  const sizes = { prefillTokens: tokens, decodeTokens: decoded, finalTokens: 50, repeats: 1 };
  // Its best of both ways of attention, at its own default types.
  const options = { threads, batchSize: 512, kvType: "F16" } as const;
  const runs = [];
  for (const flashAttention of [true, false]) {
    runs.push(await llamaCppTimings(path, sizes, { ...options, flashAttention }, 1_200_000));
  }
  theirs.prefill.push(Math.min(...runs.map((run) => run.prefillMs)));
  theirs.decode.push(Math.min(...runs.map((run) => run.decodeMs as number)) / decoded);
  theirs.final.push(Math.min(...runs.map((run) => run.finalMs as number)));
}
console.log(`${which}, ${tokens} tokens, ${threads} threads, ${describeRun()}\n`);
const row = (what: string, mine: number[], other: number[]) => [
  what,
  median(mine).toFixed(1),
  median(other).toFixed(1),
  `${(median(other) / median(mine)).toFixed(2)} x`,
];
printTable(
  ["", "here, ms", "llama.cpp, ms", "speed"],
  [
    row(`prefill of ${tokens}`, ours.prefill, theirs.prefill),
    row("a decoded token", ours.decode, theirs.decode),
    row(`first token, 50 over ${tokens} kept`, ours.final, theirs.final),
  ],
);
