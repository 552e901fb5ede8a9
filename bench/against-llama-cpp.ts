// How fast are the same products in llama.cpp? The same file, the same threads, in turns: prefill, decoding after it, and a
// final block of 50 tokens over as many kept ones. A shape with random weights, a .gguf file, a real model by its file's name,
// or "real": all of tests/real-models, with a row each for docs/models.md.
// `npm run bench -- against-llama-cpp [1b|135m|real|NAME|PATH] [tokens] [rounds]`
import { Engine } from "../src/engine/engine.js";
import { formatBytes } from "../src/files/format-bytes.js";
import { llamaCppTimings } from "../tests/llama-cpp/llama-cpp-oracle.js";
import { realModels } from "../tests/real-models/real-models.js";
import { modelFile } from "./shared/models.js";
import { describeRun, median, printTable, TokenSource } from "./shared/report.js";

const [which = "1b", tokensText = "4096", roundsText = "3"] = process.argv.slice(2);
const tokens = Number(tokensText);
const decoded = 32;
const rows: string[][] = [];
for (const name of which === "real" ? realModels.map(({ file }) => file) : [which]) rows.push(await compare(name));
if (which === "real") {
  const head = ["file", "weights", "a block KV token", "prefill, tokens/s", "decoding, tokens/s", "against llama.cpp"];
  printTable(head, rows);
}

/** Prints a model's times beside llama.cpp's. @returns its row: sizes in memory and speeds. */
async function compare(name: string): Promise<string[]> {
  const path = await modelFile(name);
  const ours = { prefill: [] as number[], decode: [] as number[], final: [] as number[] };
  const theirs = { prefill: [] as number[], decode: [] as number[], final: [] as number[] };
  let threads = 0;
  let sizes: string[] = [];
  for (let round = 0; round < Number(roundsText); round++) {
    {
      await using engine = await Engine.load({ model: path, storeBytes: 2 ** 32, keepPrefixes: false });
      const { source, weights, backend, endTokenIds } = engine.model;
      const { vocabSize, numLayers, numKvHeads, headSize } = source.config;
      threads = backend.threads;
      sizes = [formatBytes(weights.byteLength), formatBytes(2 * 2 * numLayers * numKvHeads * headSize)];
      const ids = new TokenSource(vocabSize, round + 1);
      await engine.complete({ blockTokenIds: [ids.take(64)] }, { mode: "full", maxTokens: 2 });
      const prompt = ids.take(tokens);
      // Decoding counts the values' transposition, which its first step waits for. No end token, so that it goes on.
      const logitBias = Object.fromEntries([...endTokenIds].map((id) => [id, -100]));
      const answer = await engine.complete(
        { blockTokenIds: [prompt] },
        { mode: "full", maxTokens: decoded + 1, logitBias },
      );
      ours.prefill.push(answer.timings.prefillMs);
      ours.decode.push(answer.timings.decodeMs / (answer.usage.completionTokens - 1));
      const passages = ids.passages(tokens);
      await engine.complete({ blockTokenIds: [...passages, ids.take(50)] }, { mode: "block", maxTokens: 1 });
      const hits = await engine.complete(
        { blockTokenIds: [...passages.reverse(), ids.take(50)] },
        { mode: "block", maxTokens: 1 },
      );
      ours.final.push(hits.timings.ttftMs as number);
    }
    const asked = { prefillTokens: tokens, decodeTokens: decoded, finalTokens: 50, repeats: 1 };
    // Its best of both ways of attention, at its own default types.
    const options = { threads, batchSize: 512, kvType: "F16" } as const;
    const runs = [];
    for (const flashAttention of [true, false]) {
      runs.push(await llamaCppTimings(path, asked, { ...options, flashAttention }, 1_200_000));
    }
    theirs.prefill.push(Math.min(...runs.map((run) => run.prefillMs)));
    theirs.decode.push(Math.min(...runs.map((run) => run.decodeMs as number)) / decoded);
    theirs.final.push(Math.min(...runs.map((run) => run.finalMs as number)));
  }
  console.log(`${name}, ${tokens} tokens, ${threads} threads, ${describeRun()}\n`);
  const ratio = (part: keyof typeof ours) => `${(median(theirs[part]) / median(ours[part])).toFixed(2)} x`;
  const row = (what: string, part: keyof typeof ours) => [
    what,
    median(ours[part]).toFixed(1),
    median(theirs[part]).toFixed(1),
    ratio(part),
  ];
  printTable(
    ["", "here, ms", "llama.cpp, ms", "speed"],
    [
      row(`prefill of ${tokens}`, "prefill"),
      row("a decoded token", "decode"),
      row(`first token, 50 over ${tokens} kept`, "final"),
    ],
  );
  console.log();
  const speeds = [(1000 * tokens) / median(ours.prefill), 1000 / median(ours.decode)].map((speed) => speed.toFixed(0));
  return [name, ...sizes, ...speeds, (["prefill", "decode", "final"] as const).map(ratio).join(", ")];
}
