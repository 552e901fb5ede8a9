// A state of 100, 300 and 1,000 blocks goes to the model each frame; a value changes, its length changes, a player joins. How long until the
// first token in block mode and in full mode, how many tokens are computed, and what does llama-server make of the same prompts with its
// prompt cache? Of all frames of a size, p95 against the median; with seconds named, how many frames a second for so long, and the memory.
// `npm run bench -- game-frame [model] [blocks,…] [frames] [seconds] [threads]`, for instance `npm run bench -- game-frame 135m 300 20 600`
// Full mode is asked once a kind, and not beyond 300 blocks. The peer: `node bench/build-llama-server.mjs`.
import { loadavg } from "node:os";
import { Engine } from "../src/engine/engine.js";
import type { LocalEngine } from "../src/engine/local-engine.js";
import type { JsonPatchOperation } from "../src/state/json-patch.js";
import { StateSession } from "../src/state/state-session.js";
import { modelFile } from "./shared/models.js";
import { countArgument, describeRun, median, percentile, printTable } from "./shared/report.js";
import {
  describeLlamaServer,
  findLlamaServer,
  type ServingProcess,
  startLlamaServer,
} from "./shared/serving-process.js";
import { postStream } from "./shared/stream-client.js";

const [modelName = "135m", blocksText = "100,300,1000", framesText = "10", secondsText = "0", threadsText = "2"] =
  process.argv.slice(2);
const sizes = blocksText.split(",").map((text) => countArgument("blocks", text));
const numFrames = countArgument("frames", framesText);
const seconds = secondsText === "0" ? 0 : countArgument("seconds", secondsText);
const threads = countArgument("threads", threadsText);
/** Beyond it a prompt in full mode takes many minutes. */
const maxFullBlocks = 300;
const question = "It is your turn. Name one action: fold, call or raise.\nAction:";

interface Player {
  readonly bet: number;
  readonly id: number;
  readonly in: number;
}

const player = (id: number, chips = 990): Player => ({ bet: 10, id, in: chips });
/** Of so many blocks in all: a bracket before the players, and what closes the state. */
const stateOf = (numBlocks: number) => ({
  players: Array.from({ length: numBlocks - 2 }, (_, i) => player(i)),
  pot: 500,
});

/** What changes in a frame, by its number. */
const kinds: readonly { readonly name: string; patch(numPlayers: number, frame: number): JsonPatchOperation[] }[] = [
  {
    name: "a value changed",
    patch: (numPlayers, frame) => [
      { op: "replace", path: `/players/${(frame * 37) % numPlayers}/in`, value: 100 + ((frame * 7) % 890) },
    ],
  },
  {
    name: "a length changed",
    patch: (numPlayers, frame) => [
      {
        op: "replace",
        path: `/players/${(frame * 37) % numPlayers}/in`,
        value: frame % 2 === 0 ? frame : 10_000 + frame,
      },
    ],
  },
  {
    name: "a player joined",
    patch: (numPlayers, frame) => [
      { op: "add", path: `/players/${1 + ((frame * 37) % (numPlayers - 1))}`, value: player(numPlayers + frame) },
    ],
  },
];

const model = await modelFile(modelName);
const program = findLlamaServer();
console.log(`Game frame, ${modelName}, ${threads} threads, load ${loadavg()[0]?.toFixed(1)}, ${describeRun()}\n`);
console.log(`${numFrames} frames of each kind, medians; times are ratios where the machine is shared`);
console.log(`${describeLlamaServer(program)}\n`);

const rows: (string | number)[][] = [];
for (const numBlocks of sizes) {
  await using engine = await Engine.load({ model, threads });
  await using server = program === undefined ? undefined : await startPeer(program, numBlocks);
  await measure(engine, server, numBlocks);
}
printTable(
  [
    "blocks",
    "frame",
    "tokens",
    "computed",
    "block ms",
    "p95 / median",
    "full ms",
    "full / block",
    "llama-server ms",
    "computed there",
  ],
  rows,
);
if (seconds > 0) await sustain(300);

function startPeer(file: string, numBlocks: number): Promise<ServingProcess> {
  return startLlamaServer(file, { model, threads, numSlots: 1, slotTokens: 40 * numBlocks + 1000 });
}

async function measure(engine: LocalEngine, server: ServingProcess | undefined, numBlocks: number): Promise<void> {
  await using session = new StateSession(engine, { keyFields: ["id"] });
  session.update({ state: stateOf(numBlocks) });
  const first = await session.ask(question, { maxTokens: 1 });
  const there = server && (await askPeer(server, engine, session.texts));
  const ttft = first.timings.ttftMs as number;
  rows.push(
    row([numBlocks, "the first", first.usage.promptTokens, first.computed.tokens, ttft.toFixed(0), "", "", "", there]),
  );
  for (const { name, patch } of kinds) {
    const blockMs: number[] = [];
    const computed: number[] = [];
    const peers: PeerAnswer[] = [];
    let promptTokens = 0;
    for (let frame = 1; frame <= numFrames; frame++) {
      session.update({ patch: patch(numBlocks - 2, frame) });
      const answer = await session.ask(question, { maxTokens: 1 });
      blockMs.push(answer.timings.ttftMs as number);
      promptTokens = answer.usage.promptTokens;
      // The question is computed with every frame.
      computed.push(promptTokens - answer.usage.cachedTokens);
      if (server) peers.push(await askPeer(server, engine, session.texts));
    }
    const block = median(blockMs);
    const full = numBlocks > maxFullBlocks ? undefined : await session.ask(question, { maxTokens: 1, mode: "full" });
    const fullMs = full?.timings.ttftMs;
    const peer =
      peers.length === 0
        ? undefined
        : { ms: median(peers.map(({ ms }) => ms)), computed: median(peers.map((one) => one.computed)) };
    const spread = (percentile(blockMs, 0.95) / block).toFixed(2);
    const share = fullMs === undefined ? "" : (fullMs / block).toFixed(1);
    rows.push(
      row([
        numBlocks,
        name,
        promptTokens,
        median(computed),
        block.toFixed(0),
        spread,
        fullMs?.toFixed(0) ?? "",
        share,
        peer,
      ]),
    );
    console.error(`${numBlocks} blocks, ${name}: ${block.toFixed(0)} ms`);
  }
}

interface PeerAnswer {
  readonly ms: number;
  /** Prompt tokens that were not in its cache. */
  readonly computed: number;
}

function row(cells: [...(string | number)[], PeerAnswer | undefined]): (string | number)[] {
  const peer = cells.at(-1) as PeerAnswer | undefined;
  return [...(cells.slice(0, -1) as (string | number)[]), peer?.ms.toFixed(0) ?? "", peer?.computed ?? ""];
}

/** The same state and question as one prompt, in the server's one slot, whose cache has the frame before. */
async function askPeer(server: ServingProcess, engine: LocalEngine, texts: readonly string[]): Promise<PeerAnswer> {
  const prompt = await engine.tokenize(`${texts.join("")}\n${question}`);
  const options = { n_predict: 1, temperature: 0, top_k: 1, ignore_eos: true, cache_prompt: true, stream: true };
  const { ttftMs, events } = await postStream(`${server.url}/completion`, { prompt, ...options });
  const last = events.at(-1) as { tokens_evaluated: number; timings: { cache_n: number } };
  return { ms: ttftMs, computed: last.tokens_evaluated - last.timings.cache_n };
}

/** Frames one after another, each with a changed value, and what the process takes. */
async function sustain(numBlocks: number): Promise<void> {
  await using engine = await Engine.load({ model, threads });
  await using session = new StateSession(engine, { keyFields: ["id"] });
  session.update({ state: stateOf(numBlocks) });
  await session.ask(question, { maxTokens: 1 });
  const times: number[] = [];
  const resident: number[] = [];
  const endMs = performance.now() + seconds * 1000;
  for (let frame = 1; performance.now() < endMs; frame++) {
    const startMs = performance.now();
    session.update({ patch: (kinds[frame % 2] as (typeof kinds)[number]).patch(numBlocks - 2, frame) });
    await session.ask(question, { maxTokens: 1 });
    times.push(performance.now() - startMs);
    resident.push(process.memoryUsage.rss());
  }
  const tenth = Math.ceil(resident.length / 10);
  const mib = (bytes: readonly number[]) => (median(bytes) / 2 ** 20).toFixed(0);
  console.log(
    `\n${numBlocks} blocks for ${seconds} s: ${(times.length / seconds).toFixed(2)} frames a second, median ${median(times).toFixed(0)} ms, ` +
      `p95 ${(percentile(times, 0.95) / median(times)).toFixed(2)} x; resident ${mib(resident.slice(tenth, 2 * tenth))} MiB in the second tenth, ${mib(resident.slice(-tenth))} in the last`,
  );
}
