// What do the engine's own process, HTTP and JSON add to the first token? The same questions over stored passages, one
// after another, go to an engine in this process, to one in a process of its own, and to the server, in turn. What a way
// adds is a request's time to the first token as its reader saw it, less the time that the engine itself took for it.
// The last row is the floor: a bare Node server that has a forked process compute for 16 ms and send the request back.
// `npm run bench -- serve-overhead [requests] [embedded|135m] [threads]`
import { Agent } from "node:http";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { Engine } from "../src/engine/engine.js";
import { embeddedModelPath } from "../src/engine/model.js";
import { benchModel } from "./shared/models.js";
import { describeRun, median, percentile, printTable } from "./shared/report.js";
import { ServingProcess, startBlockAttention } from "./shared/serving-process.js";
import { postStream } from "./shared/stream-client.js";

const [requestsText = "200", modelName = "embedded", threadsText = "1"] = process.argv.slice(2);
const [numRequests, threads] = [Number(requestsText), Number(threadsText)];
/** Until Node has compiled what is used. */
const numWarmUp = 200;
/** Each way is asked so often in a row: a server under traffic is not asleep. */
const runLength = 50;
const storeBytes = 2 ** 30;
const model = modelName === "embedded" ? embeddedModelPath() : await benchModel("135m");
const passages = Array.from(
  { length: 8 },
  (_, i) =>
    `- Title: Room ${i}\nIn room ${i} there is a box with ${i + 2} keys, and the ${i}th lamp stands beside the door.\n`,
);

/** A request's time to the first token in ms: as its reader saw it, and as the engine counted it. */
interface FirstToken {
  readonly seenMs: number;
  readonly engineMs: number;
}

type Way = (blocks: readonly string[]) => Promise<FirstToken>;

function viaEngine(engine: Engine): Way {
  return async (blocks) => {
    const from = performance.now();
    let seenMs = Number.NaN;
    for await (const event of engine.generate({ blocks }, { maxTokens: 2, mode: "block" })) {
      if (event.kind !== "prompt") seenMs = Number.isNaN(seenMs) ? performance.now() - from : seenMs;
      if (event.kind === "done") return { seenMs, engineMs: event.result.timings.ttftMs ?? Number.NaN };
    }
    throw new Error("Cannot measure: the answer did not end");
  };
}

/** Clients keep their connection from one request to the next. */
const agent = new Agent({ keepAlive: true });

const completion = (blocks: readonly string[]) => ({
  block_attention: { mode: "block", blocks },
  max_tokens: 2,
  temperature: 0,
  stream: true,
});

/** A completion's first event is its first token. */
function viaHttp(url: string): Way {
  return async (blocks) => {
    const answer = await postStream(`${url}/v1/completions`, completion(blocks), agent);
    const told = answer.events.map((event) => (event.timings as { ttft_ms?: number } | undefined)?.ttft_ms);
    return { seenMs: answer.ttftMs, engineMs: told.findLast((ms) => ms !== undefined) ?? Number.NaN };
  };
}

/** Others' processes sleep while the engine computes, and wake up the slower for it. */
const computeMs = 16;

function viaBareServer(url: string): Way {
  return async (blocks) => {
    const answer = await postStream(url, { ...completion(blocks), computeMs }, agent);
    return { seenMs: answer.ttftMs, engineMs: computeMs };
  };
}

async function ready(engine: Engine): Promise<void> {
  while (engine.status.state === "loading") await new Promise((resolve) => setTimeout(resolve, 10));
  if (engine.status.state !== "ready") throw new Error(`Cannot measure: ${engine.status.lastError}`);
}

const modulePath = pathToFileURL(join("dist", "server", "engine-process", "spawn-engine.js")).href;
const { spawnEngine } = (await import(modulePath)) as typeof import("../src/server/engine-process/spawn-engine.js");
await using engine = await Engine.load({ model, threads, storeBytes });
await using child = spawnEngine({ model, threads, storeBytes });
await using server = await startBlockAttention({ model, threads, storeBytes });
await using bare = await ServingProcess.start(process.execPath, [join("bench", "shared", "bare-server.mjs")], "/");
await ready(child);

const ways: readonly (readonly [name: string, way: Way, measured: FirstToken[]])[] = [
  ["engine in this process", viaEngine(engine), []],
  ["engine in a process of its own", viaEngine(child), []],
  ["server, over HTTP", viaHttp(server.url), []],
  ["bare Node server and process", viaBareServer(bare.url), []],
];
for (let i = 0; i < numWarmUp + numRequests; i += runLength) {
  for (const [, way, measured] of ways) {
    for (let k = i; k < i + runLength; k++) {
      // The passages in another order each time, as retrieval gives them.
      const order = [...passages.slice(k % passages.length), ...passages.slice(0, k % passages.length)];
      const token = await way([...order, `Question: Which room has ${k} keys?`]);
      if (k >= numWarmUp) measured.push(token);
    }
  }
}

console.log(`${describeRun()}\n${numRequests} requests each way, ${modelName} model, ${threads} thread(s), in ms\n`);
printTable(
  ["way", "first token p50", "p95", "added p50", "added p95"],
  ways.map(([name, , measured]) => {
    const seen = measured.map(({ seenMs }) => seenMs);
    const added = measured.map(({ seenMs, engineMs }) => seenMs - engineMs);
    return [name, median(seen), percentile(seen, 0.95), median(added), percentile(added, 0.95)].map((cell) =>
      typeof cell === "number" ? cell.toFixed(2) : cell,
    );
  }),
);
agent.destroy();
