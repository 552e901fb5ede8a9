// How many tokens a second do 1, 4 and 16 sequences give together, when their tokens share graphs? And what does one
// sequence wait for a token, over short and long contexts?
// `npm run bench -- decode-throughput`, or with models, threads and a device: `npm run bench -- decode-throughput 135m,1b 2 CUDA0`
import { Engine } from "../src/engine/engine.js";
import type { LocalEngine } from "../src/engine/local-engine.js";
import { type BenchModel, benchModel } from "./shared/models.js";
import { describeRun, median, printTable, TokenSource } from "./shared/report.js";

const [names = "135m", threads, device] = process.argv.slice(2);
const promptTokens = 512;
const answerTokens = 48;
const longPrompt = 4096;

/** Sequences at the same time, over prompts of their own, and the ms from graph to graph while all of them decode. */
async function stepMs(engine: LocalEngine, numSequences: number, prompt: number, answer: number): Promise<number> {
  const source = new TokenSource(engine.model.source.config.vocabSize, 7);
  const options = { mode: "full", maxTokens: answer, logprobs: false, logitBias: noEnd(engine) } as const;
  const arrivals: number[][] = Array.from({ length: numSequences }, () => []);
  await Promise.all(
    arrivals.map(async (times) => {
      const input = { blockTokenIds: [source.take(prompt)] };
      for await (const event of engine.generate(input, options)) {
        if (event.kind === "token") times.push(performance.now());
      }
    }),
  );
  // From the last sequence's second token, when all decode, to the first one's end.
  const from = Math.max(...arrivals.map((times) => times[1] as number));
  const until = Math.min(...arrivals.map((times) => times.at(-1) as number));
  const gaps = arrivals.flatMap((times) => {
    const inside = times.filter((time) => time >= from && time <= until);
    return inside.slice(1).map((time, i) => time - (inside[i] as number));
  });
  return median(gaps);
}

function noEnd(engine: LocalEngine): Record<string, number> {
  return Object.fromEntries([...engine.model.endTokenIds].map((id) => [id, -100]));
}

console.log(`Decoding, ${describeRun()}\n`);
for (const name of names.split(",") as BenchModel[]) {
  await using engine = await Engine.load({
    keepPrefixes: false,
    model: await benchModel(name),
    ...(threads !== undefined && { threads: Number(threads) }),
    device,
  });
  console.log(
    `${name}, ${engine.model.backend.device.name}, ${engine.model.backend.threads} threads, greedy, prompts of ${promptTokens} tokens of their own`,
  );
  const rows: (string | number)[][] = [];
  let alone = 0;
  for (const numSequences of [1, 4, 16]) {
    // Prompts come in one after another: answers are long enough that all decode together for a while.
    const answer = answerTokens + numSequences * 16;
    const times: number[] = [];
    for (let i = 0; i < 3; i++) times.push(await stepMs(engine, numSequences, promptTokens, answer));
    const perSecond = (1000 * numSequences) / median(times);
    if (numSequences === 1) alone = perSecond;
    rows.push([numSequences, median(times).toFixed(2), perSecond.toFixed(0), `${(perSecond / alone).toFixed(2)} x`]);
  }
  const long: number[] = [];
  for (let i = 0; i < 3; i++) long.push(await stepMs(engine, 1, longPrompt, answerTokens));
  rows.push([`1 over ${longPrompt}`, median(long).toFixed(2), (1000 / median(long)).toFixed(0), ""]);
  printTable(["sequences", "ms a step", "tokens a second", "against one"], rows);
  console.log();
}
