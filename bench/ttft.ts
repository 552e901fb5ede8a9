// How long does the first token take, against the length of the prompt? The paper's sweep: a question of 50 tokens over
// passages, in full mode, in block mode with nothing in the store, and with every passage there in another order.
// `npm run bench -- ttft [135m|embedded] [longest]`; a prompt that fills the context leaves no room for a token.
import { AssembledContext, assemble } from "../src/engine/assemble.js";
import { Engine } from "../src/engine/engine.js";
import type { LocalEngine } from "../src/engine/local-engine.js";
import { Scheduler } from "../src/engine/scheduler.js";
import { fullFlops, storedFlops } from "../src/eval/ttft-table.js";
import { causalMask } from "../src/ggml/attention-mask.js";
import { Graph } from "../src/ggml/graph.js";
import type { RopeParameters, Tensor } from "../src/ggml/tensor.js";
import type { KVRows } from "../src/model/kv-rows.js";
import { benchModel } from "./shared/models.js";
import { describeRun, median, printTable, TokenSource } from "./shared/report.js";

const question = 50;
const lengths = [50, 512, 1024, 2048, 4096, 8192, 16_384, 32_768];

async function ttft(engine: LocalEngine, blocks: number[][], mode: "full" | "block"): Promise<number> {
  const result = await engine.complete({ blockTokenIds: blocks }, { mode, maxTokens: 1, keepPrefixes: false });
  return result.timings.ttftMs ?? Number.NaN;
}

/** The kernels of a prompt whose passages are all there, each measured alone: rotation, products, attention, in ms. */
async function kernelTimes(
  engine: LocalEngine,
  passages: number[][],
): Promise<{ rotation: number; products: number; attention: number }> {
  const { backend, decoder } = engine.model;
  const { config, weights } = decoder;
  const rows = passages.reduce((sum, passage) => sum + passage.length, 0);
  const blocks = [];
  const scheduler = new Scheduler(backend, decoder, engine.kvType);
  using context = new AssembledContext(scheduler.memory, rows + question);
  for await (const block of scheduler.encode(passages.map((ids) => Int32Array.from(ids)))) blocks.push(block);
  let place = 0;
  const laid = blocks.map((block) => {
    const { numTokens } = block.shape;
    place += numTokens;
    return { block, numRows: numTokens, place: place - numTokens, position: place - numTokens };
  });
  await assemble(scheduler.runnerOf(), decoder, context, laid);
  context.length = rows;
  for (const block of blocks) block[Symbol.dispose]();

  const time = async (build: (graph: Graph) => void): Promise<number> => {
    const times: number[] = [];
    for (let i = 0; i < 4; i++) {
      using graph = new Graph(decoder.ggml);
      build(graph);
      let started = 0;
      started = performance.now();
      await backend.compute(graph, () => undefined);
      times.push(performance.now() - started);
    }
    return Math.min(...times);
  };
  const { headSize, numHeads, numKvHeads, numLayers } = config;
  const heads = numLayers * numKvHeads;
  const rotation = await time((graph) => {
    const step = Math.max(1, Math.floor((1 << 23) / (heads * headSize)));
    for (let first = 0; first < rows; first += step) {
      const count = Math.min(step, rows - first);
      const keys = context.keys.asOneLayer(graph, first, count);
      const at = graph.input(
        "positions",
        "I32",
        [count],
        Int32Array.from({ length: count }, (_, i) => first + i),
      );
      graph.expand(graph.rope(keys, at, weights.ropes[0] as RopeParameters, true));
    }
  });
  const products = await time((graph) => {
    const x = (width: number) =>
      graph.input("x", "F32", [width, question], new Float32Array(width * question).fill(0.01));
    const hidden = x(config.hiddenSize);
    const attended = x(headSize * numHeads);
    const inner = x(config.intermediateSize);
    const weight = (name: string) => weights.tensors.get(`${name}.weight`) as Tensor;
    for (let layer = 0; layer < numLayers; layer++) {
      for (const name of ["attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"])
        graph.expand(graph.mulMat(weight(`blk.${layer}.${name}`), hidden));
      graph.expand(graph.mulMat(weight(`blk.${layer}.attn_output`), attended));
      graph.expand(graph.mulMat(weight(`blk.${layer}.ffn_down`), inner));
    }
    graph.expand(graph.mulMat(weight("output"), graph.view(hidden, [config.hiddenSize, 1])));
  });
  const attention = await time((graph) => {
    const q: Tensor = graph.input(
      "q",
      "F32",
      [headSize, numHeads, question],
      new Float32Array(headSize * numHeads * question).fill(0.01),
    );
    const kernels = decoder.device.kernels(graph, "rows");
    const mask = causalMask(question, rows);
    const all = (from: KVRows, layer: number) => from.layer(graph, layer, 0, rows + question);
    for (let layer = 0; layer < numLayers; layer++) {
      const [k, v] = [all(context.keys, layer), all(context.values, layer)];
      graph.expand(kernels.attention(q, k, v, mask, 1 / Math.sqrt(headSize)));
    }
  });
  return { rotation, products, attention };
}

const [which = "135m", longest = "32768"] = process.argv.slice(2);
const path = which === "embedded" ? undefined : await benchModel("135m");
await using engine = await Engine.load({ ...(path !== undefined && { model: path }) });
const { config } = engine.model.source;
console.log(`TTFT, ${which}, ${engine.model.backend.threads} threads, ${describeRun()}\n`);
const source = new TokenSource(config.vocabSize);
await ttft(engine, [source.take(64)], "full");

const rows: (string | number)[][] = [];
for (const length of lengths.filter((n) => n < engine.contextLength && n <= Number(longest))) {
  const repeats = length <= 4096 ? 3 : 1;
  const final = source.take(Math.min(question, length));
  const local = length - final.length;
  const full: number[] = [];
  const miss: number[] = [];
  const hit: number[] = [];
  let passages: number[][] = [];
  for (let i = 0; i < repeats; i++) {
    passages = source.passages(local);
    full.push(await ttft(engine, [...passages, final], "full"));
    miss.push(await ttft(engine, [...passages, final], "block"));
    for (let j = 0; j < 3; j++) hit.push(await ttft(engine, [...[...passages].reverse(), final], "block"));
  }
  const alone = local > 0 ? await kernelTimes(engine, passages) : { rotation: 0, products: 0, attention: 0 };
  const sum = alone.rotation + alone.products + alone.attention;
  rows.push([
    length,
    median(full).toFixed(1),
    median(miss).toFixed(1),
    median(hit).toFixed(1),
    `${(100 * (1 - median(hit) / median(full))).toFixed(2)}%`,
    fullFlops(config, length).toExponential(2),
    storedFlops(config, length, final.length).toExponential(2),
    local > 0 ? `${alone.rotation.toFixed(1)} + ${alone.products.toFixed(1)} + ${alone.attention.toFixed(1)}` : "",
    local > 0 ? (median(hit) / sum).toFixed(2) : "",
  ]);
  console.error(rows.at(-1)?.join("  "));
}
printTable(
  [
    "tokens",
    "full ms",
    "misses ms",
    "hits ms",
    "less",
    "FLOPs full",
    "FLOPs hits",
    "rotation + products + attention alone, ms",
    "hits / alone",
  ],
  rows,
);
