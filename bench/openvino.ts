// What OpenVINO saves beside ggml's own products, in one run and in turn: full prefill, a question over stored passages, tokens after it.
// `npm run bench -- openvino MODEL [TOKENS] [THREADS]`, of a model with quantized weights. OpenVINO must be installed: `doctor` says how.
import { LocalEngine } from "../src/engine/local-engine.js";
import { benchModel } from "./shared/models.js";
import { countArgument, describeRun, median, printTable, TokenSource } from "./shared/report.js";

const rounds = 5;
const blockTokens = 128;
const questionTokens = 50;
const answerTokens = 48;

const [model = await benchModel("135m"), tokensText = "2048", threadsText = "2"] = process.argv.slice(2);
const numTokens = countArgument("TOKENS", tokensText);
const threads = countArgument("THREADS", threadsText);

const engines = [];
for (const products of ["ggml", "openvino"] as const) {
  const start = performance.now();
  const engine = await LocalEngine.load({ model, threads, products });
  engines.push({
    products,
    engine,
    loadMs: performance.now() - start,
    rows: { full: [], stored: [], token: [] } as Times,
  });
}

interface Times {
  readonly full: number[];
  readonly stored: number[];
  readonly token: number[];
}

const tokens = new TokenSource(engines[0]?.engine.model.source.config.vocabSize ?? 1);
const passages = tokens.passages(numTokens, blockTokens);

const noEnd = Object.fromEntries([...(engines[0]?.engine.model.endTokenIds ?? [])].map((id) => [id, -100]));

/** The times to the first token and between tokens, in ms. */
async function ask(engine: LocalEngine, blockTokenIds: readonly number[][], mode: "block" | "full", maxTokens: number) {
  for await (const event of engine.generate({ blockTokenIds }, { mode, maxTokens, logitBias: noEnd })) {
    if (event.kind !== "done") continue;
    const { ttftMs = 0, decodeMs = 0 } = event.result.timings;
    return { ttftMs, tokenMs: decodeMs / Math.max(1, event.result.tokenIds.length - 1) };
  }
  throw new Error("Cannot measure: an answer has no end");
}

for (const { engine } of engines) await ask(engine, [...passages, tokens.take(questionTokens)], "block", 2);
for (let round = 0; round < rounds; round++) {
  const fresh = tokens.passages(numTokens, blockTokens);
  const question = tokens.take(questionTokens);
  for (const { engine, rows } of round % 2 === 0 ? engines : engines.toReversed()) {
    rows.full.push((await ask(engine, [...fresh, question], "full", 1)).ttftMs);
    const stored = await ask(engine, [...passages, question], "block", answerTokens);
    rows.stored.push(stored.ttftMs);
    rows.token.push(stored.tokenMs);
  }
}
console.log(`OpenVINO beside ggml, ${describeRun()}, ${threads} threads, medians of ${rounds} in turn\n`);
const [ggml, openVino] = engines.map(({ rows, loadMs }) => ({
  [`full prefill of ${numTokens + questionTokens}`]: median(rows.full),
  [`first token over ${numTokens} stored`]: median(rows.stored),
  "a token after it": median(rows.token),
  loading: loadMs,
}));
printTable(
  ["", "ggml, ms", "OpenVINO, ms", "ratio"],
  Object.entries(ggml ?? {}).map(([name, ms]) => {
    const other = openVino?.[name] ?? Number.NaN;
    return [name, ms.toFixed(1), other.toFixed(1), (ms / other).toFixed(2)];
  }),
);
for (const { engine } of engines) await engine[Symbol.asyncDispose]();
