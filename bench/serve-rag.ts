// How many RAG questions a second does the server answer, and how long until the first token, against llama.cpp's
// llama-server? Traffic of 500 passages of about 100 tokens, drawn by Zipf, 5 to 10 a question in random order, 32 greedy
// tokens an answer; both sides start cold, with the same model file, threads and token ids, and take turns.
// `npm run bench -- serve-rag [requests] [clients,…] [threads]`, for instance `npm run bench -- serve-rag 50 4`
// The client shares the cores with the server that it asks. The peer: `node bench/build-llama-server.mjs`.
import { makeTokenizer } from "../tests/models/random-tokenizer.js";
import { benchModel } from "./shared/models.js";
import { makeRagTraffic, type RagRequest, ragTokenIds, ragTraffic } from "./shared/rag-traffic.js";
import { countArgument, describeRun, percentile, printTable } from "./shared/report.js";
import {
  describeLlamaServer,
  findLlamaServer,
  type ServingProcess,
  startBlockAttention,
  startLlamaServer,
} from "./shared/serving-process.js";
import { fetchText, postStream, runClients, type StreamedAnswer } from "./shared/stream-client.js";

const [requestsText = "200", clientsText = "1,4,16", threadsText = "2"] = process.argv.slice(2);
const numRequests = countArgument("requests", requestsText);
const clientCounts = clientsText.split(",").map((text) => countArgument("clients", text));
const threads = countArgument("threads", threadsText);
const answerTokens = 32;
const storeBytes = 2 ** 31;
const peerSlots = { numSlots: 16, slotTokens: 2048 };
const { eosTokenId, endOfTurnTokenId } = makeTokenizer();

interface Side {
  readonly name: string;
  start(): Promise<ServingProcess>;
  ask(server: ServingProcess, request: RagRequest): Promise<StreamedAnswer>;
  /** The ids that the server's own tokenizer gives a text. */
  tokenize(server: ServingProcess, text: string): Promise<number[]>;
  count(answer: StreamedAnswer): { readonly prompt: number; readonly cached: number; readonly answer: number };
}

interface Run {
  readonly seconds: number;
  readonly ttftMs: readonly number[];
  /** Prompt tokens of all requests. */
  readonly promptTokens: number;
  readonly cachedTokens: number;
  /** The client's share of one core. */
  readonly clientShare: number;
  readonly command: string;
}

const model = await benchModel("135m");

const here: Side = {
  name: "here",
  start: () => startBlockAttention({ model, threads, storeBytes }),
  ask: (server, { passages, question }) =>
    postStream(`${server.url}/v1/completions`, {
      block_attention: { mode: "block", blocks: [...passages, question] },
      max_tokens: answerTokens,
      temperature: 0,
      logit_bias: { [eosTokenId]: -100, [endOfTurnTokenId]: -100 },
      stream: true,
      stream_options: { include_usage: true },
    }),
  tokenize: async (server, text) => {
    const { tokens } = JSON.parse(await fetchText(`${server.url}/v1/tokenize`, { text })) as {
      tokens: { id: number }[];
    };
    return tokens.map(({ id }) => id);
  },
  count: ({ events }) => {
    const usage = events.at(-1)?.usage as {
      prompt_tokens: number;
      completion_tokens: number;
      prompt_tokens_details: { cached_tokens: number };
    };
    const cached = usage.prompt_tokens_details.cached_tokens;
    return { prompt: usage.prompt_tokens, cached, answer: usage.completion_tokens };
  },
};

const peer = (program: string): Side => ({
  name: "llama-server",
  start: () => startLlamaServer(program, { model, threads, ...peerSlots }),
  ask: (server, request) =>
    postStream(`${server.url}/completion`, {
      prompt: ragTokenIds(request),
      n_predict: answerTokens,
      temperature: 0,
      top_k: 1,
      ignore_eos: true,
      cache_prompt: true,
      stream: true,
    }),
  tokenize: async (server, text) => {
    const { tokens } = JSON.parse(await fetchText(`${server.url}/tokenize`, { content: text })) as { tokens: number[] };
    return tokens;
  },
  count: ({ events }) => {
    const last = events.at(-1) as { tokens_evaluated: number; tokens_predicted: number; timings: { cache_n: number } };
    return { prompt: last.tokens_evaluated, cached: last.timings.cache_n, answer: last.tokens_predicted };
  },
});

const traffic = makeRagTraffic({ numRequests, seed: 1, name: "measured" });
const program = findLlamaServer();
const sides = program === undefined ? [here] : [here, peer(program)];
console.log(`RAG traffic, 135m in Q4_0, ${threads} threads, ${describeRun()}\n`);
console.log(`${numRequests} requests: ${JSON.stringify(ragTraffic)}, ${answerTokens} greedy tokens an answer`);
console.log(describeLlamaServer(program));

const runs: { readonly numClients: number; readonly bySide: ReadonlyMap<Side, Run> }[] = [];
for (const [i, numClients] of clientCounts.entries()) {
  const bySide = new Map<Side, Run>();
  for (const side of i % 2 === 0 ? sides : sides.toReversed()) {
    const run = await measure(side, numClients);
    bySide.set(side, run);
    if (i === 0) console.log(`${side.name}: ${run.command}`);
    console.error(`${side.name}, ${numClients} clients: ${run.seconds.toFixed(1)} s`);
  }
  runs.push({ numClients, bySide });
}

console.log();
printTable(
  [
    "clients",
    "",
    "requests/s",
    "TTFT p50 ms",
    "TTFT p95 ms",
    "total s",
    "prompt tokens",
    "from the store",
    "client's share of a core",
  ],
  runs.flatMap(({ numClients, bySide }) =>
    sides.map((side) => {
      const run = bySide.get(side) as Run;
      return [
        numClients,
        side.name,
        (numRequests / run.seconds).toFixed(3),
        percentile(run.ttftMs, 0.5).toFixed(0),
        percentile(run.ttftMs, 0.95).toFixed(0),
        run.seconds.toFixed(1),
        run.promptTokens,
        `${((100 * run.cachedTokens) / run.promptTokens).toFixed(1)}%`,
        `${(100 * run.clientShare).toFixed(1)}%`,
      ];
    }),
  ),
);
const [, other] = sides;
if (other !== undefined) {
  console.log();
  printTable(
    ["clients", "requests/s, here to there", "TTFT p50, here to there", "TTFT p95, here to there"],
    runs.map(({ numClients, bySide }) => {
      const [mine, theirs] = [bySide.get(here) as Run, bySide.get(other) as Run];
      const ratio = (share: number) => percentile(mine.ttftMs, share) / percentile(theirs.ttftMs, share);
      return [
        numClients,
        `${(theirs.seconds / mine.seconds).toFixed(2)} x`,
        `${ratio(0.5).toFixed(3)} x`,
        `${ratio(0.95).toFixed(3)} x`,
      ];
    }),
  );
}

/** All the traffic at a server just started. @throws Error where an answer has not the tokens that it should. */
async function measure(side: Side, numClients: number): Promise<Run> {
  await using server = await side.start();
  // Buffers and threads are there before the clock runs; nothing of the traffic is.
  for (const request of makeRagTraffic({ numRequests: 2, seed: 1, name: "warm-up" })) {
    await side.ask(server, request);
    await checkTokenizer(side, server, request);
  }
  const ttftMs: number[] = [];
  let promptTokens = 0;
  let cachedTokens = 0;
  const clientStart = process.cpuUsage();
  const startedMs = performance.now();
  await runClients(traffic, numClients, async (request) => {
    const answer = await side.ask(server, request);
    const count = side.count(answer);
    const wanted = ragTokenIds(request).length;
    if (count.prompt !== wanted || count.answer !== answerTokens) {
      throw new Error(
        `Cannot compare "${side.name}": ${count.prompt} tokens in and ${count.answer} out, wanted ${wanted} and ${answerTokens}`,
      );
    }
    ttftMs.push(answer.ttftMs);
    promptTokens += count.prompt;
    cachedTokens += count.cached;
  });
  const seconds = (performance.now() - startedMs) / 1000;
  const { user, system } = process.cpuUsage(clientStart);
  const clientShare = (user + system) / 1e6 / seconds;
  return { seconds, ttftMs, promptTokens, cachedTokens, clientShare, command: server.command };
}

/** Both sides must see the same ids, whether they get them or the text. */
async function checkTokenizer(side: Side, server: ServingProcess, request: RagRequest): Promise<void> {
  for (const text of [...request.passages, request.question]) {
    const ids = await side.tokenize(server, text);
    const wanted = ragTokenIds({ passages: [text], question: "" }).slice(1);
    if (ids.join() !== wanted.join()) {
      throw new Error(`Cannot compare "${side.name}": it reads "${text}" as ${ids.join()}, wanted ${wanted.join()}`);
    }
  }
}
