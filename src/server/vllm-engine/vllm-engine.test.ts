import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, expect, test } from "vitest";
import type { GenerateOptions, RequestOptions } from "../../engine/engine-options.js";
import { embeddedModelPath } from "../../engine/model.js";
import type { GenerateEvent } from "../../engine/results.js";
import { hashFields } from "../../kv/hash-fields.js";
import { VllmEngine } from "./vllm-engine.js";

interface Body {
  readonly prompt: readonly number[];
  readonly stream?: boolean;
  readonly kv_transfer_params?: {
    readonly block_attention: { readonly blocks?: readonly number[]; readonly encode?: true };
  };
  readonly [field: string]: unknown;
}
type Answer = (body: Body, response: ServerResponse) => void;

const open: { close: () => void }[] = [];
afterEach(() => {
  for (const one of open.splice(0)) one.close();
});

/** What vLLM's server says, as far as the engine asks. @param answer what follows the headers of a stream. */
async function fakeVllm(
  answer: Answer = words,
  port = 0,
): Promise<{ readonly url: string; readonly asked: Body[]; authorized: string[] }> {
  const asked: Body[] = [];
  const authorized: string[] = [];
  const serve = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    authorized.push(request.headers.authorization ?? "");
    if (request.url === "/v1/models") {
      response.end(JSON.stringify({ data: [{ id: "served", max_model_len: 512 }] }));
      return;
    }
    if (request.url === "/health") {
      response.end();
      return;
    }
    let text = "";
    for await (const part of request) text += part;
    const body = JSON.parse(text) as Body;
    asked.push(body);
    if (body.stream) answer(body, response);
    else {
      const ids = [hashFields("test", [JSON.stringify(body.prompt)])];
      response.end(JSON.stringify({ kv_transfer_params: { block_attention: { ids, tokens: body.prompt.length } } }));
    }
  };
  const server = createServer((request, response) => void serve(request, response));
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  open.push({ close: () => server.close().closeAllConnections() });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, asked, authorized };
}

function words(_body: Body, response: ServerResponse): void {
  const logprobs = { token_logprobs: [-0.5], top_logprobs: [{ "token_id:7": -0.5, "token_id:9": -1 }] };
  say(response, { index: 0, text: "The", token_ids: [7], logprobs });
  say(response, { index: 0, text: " end", token_ids: [8, 1], logprobs: null, finish_reason: "stop" });
  response.end("data: [DONE]\n\n");
}

function say(response: ServerResponse, choice: object): void {
  response.write(`data: ${JSON.stringify({ choices: [choice] })}\n\n`);
}

const load = (...urls: string[]) => VllmEngine.load({ model: embeddedModelPath(), urls, key: "secret" });
const prompt = { blocks: ["The red key.\n", "The blue key.\n", "Question: Which?"] };

async function all(engine: VllmEngine, options: GenerateOptions & RequestOptions = {}): Promise<GenerateEvent[]> {
  const events: GenerateEvent[] = [];
  for await (const event of engine.generate(prompt, options)) events.push(event);
  return events;
}

const encodes = (asked: readonly Body[]) => asked.filter(({ stream }) => stream !== true);

test("VllmEngine: encodes blocks once, then answers with their lengths", async () => {
  const vllm = await fakeVllm();
  await using engine = await load(vllm.url);
  expect(engine.info).toMatchObject({ name: "tiny-rag", contextLength: 512, defaultMode: "block" });
  // Two at once share the encoding.
  const [events] = await Promise.all([all(engine, { topLogprobs: 1 }), all(engine)]);
  expect(encodes(vllm.asked)).toHaveLength(2);
  expect(new Set(vllm.authorized)).toEqual(new Set(["Bearer secret"]));
  const answer = vllm.asked.find(({ stream }) => stream === true)!;
  const lengths = encodes(vllm.asked).map((body) => body.prompt.length);
  expect(answer.kv_transfer_params?.block_attention.blocks).toEqual(lengths);
  expect(answer.prompt.slice(0, lengths[0])).toEqual(encodes(vllm.asked)[0]!.prompt);
  expect(answer).toMatchObject({ model: "served", temperature: 0, n: 1, ignore_eos: true });
  expect(events.map(({ kind }) => kind)).toEqual(["prompt", "token", "token", "done"]);
  expect(events[1]).toMatchObject({ tokenId: 7, text: "The", logprob: -0.5, top: [{ id: 7, logprob: -0.5 }] });
  expect(events.at(-1)).toMatchObject({
    result: {
      ...{ text: "The end", tokenIds: [7, 8], endToken: { id: 1 }, finishReason: "stop", mode: "block" },
      usage: { promptTokens: answer.prompt.length, completionTokens: 2 },
    },
  });
  const [again] = await all(engine);
  expect(again).toMatchObject({ cachedTokens: lengths[0]! + lengths[1]!, blocks: [{ hit: true }, { hit: true }] });
  expect(encodes(vllm.asked)).toHaveLength(2);
  // Another tenant's are others.
  await all(engine, { salt: "b" });
  expect(encodes(vllm.asked)).toHaveLength(4);
  expect(vllm.asked.slice(-3).map((body) => body.kv_transfer_params?.block_attention)).toEqual([
    { encode: true, salt: "b" },
    { encode: true, salt: "b" },
    { blocks: lengths, salt: "b" },
  ]);
});

test("VllmEngine: full mode sends no blocks, and keeps tenants apart", async () => {
  const vllm = await fakeVllm();
  await using engine = await load(vllm.url);
  await all(engine, { mode: "full", salt: "b" });
  expect(vllm.asked).toHaveLength(1);
  expect(vllm.asked[0]).not.toHaveProperty("kv_transfer_params");
  expect(vllm.asked[0]!.cache_salt).toMatch(/^[0-9a-f]{64}$/);
});

test("VllmEngine: a lost block is encoded again, once", async () => {
  let failures = 1;
  const vllm = await fakeVllm((body, response) => {
    if (failures-- <= 0) return words(body, response);
    response.end(`data: ${JSON.stringify({ error: { message: "KV load failure" } })}\n\ndata: [DONE]\n\n`);
  });
  await using engine = await load(vllm.url);
  expect((await all(engine)).at(-1)).toMatchObject({ result: { text: "The end" } });
  expect(encodes(vllm.asked)).toHaveLength(4);
  failures = 2;
  await expect(all(engine)).rejects.toMatchObject({ code: "failed", message: "vLLM failed: KV load failure" });
  expect((await engine.stats()).requests).toMatchObject({ running: 0, finished: 1, failed: 1 });
});

test.each(["end", "destroy"] as const)("VllmEngine: an answer that breaks off is an error: %s", async (how) => {
  const breaking = await fakeVllm((_, response) => {
    say(response, { index: 0, text: "The", token_ids: [7] });
    setTimeout(() => response[how](), 50);
  });
  await using broken = await load(breaking.url);
  await expect(all(broken)).rejects.toMatchObject({ code: "died" });
});

test("VllmEngine: a server that cannot be reached is passed over", async () => {
  const [gone, there] = [await fakeVllm(), await fakeVllm()];
  await using two = await load(gone.url, there.url);
  open.splice(0, 1)[0]!.close();
  expect((await all(two)).at(-1)).toMatchObject({ result: { text: "The end" } });
  expect(there.asked).toHaveLength(3);
  await expect(load("http://127.0.0.1:1")).rejects.toMatchObject({ code: "unavailable" });
});

test("VllmEngine: a passage's requests go to one server, another's elsewhere, none has far more than the mean", async () => {
  const waiting: (() => void)[] = [];
  let waits = false;
  const answer: Answer = (body, response) => {
    if (waits) waiting.push(() => words(body, response));
    else words(body, response);
  };
  const servers = [await fakeVllm(answer), await fakeVllm(answer), await fakeVllm(answer)];
  await using engine = await load(...servers.map(({ url }) => url));
  const ask = async (passage: string) => {
    for await (const _ of engine.generate({ blocks: ["System.\n", passage, "Why?"] }));
  };
  const passage = (i: number) =>
    `Passage ${i} tells of the red key, of the blue key, of the green key and of the yellow key.\n`;
  for (let i = 0; i < 24; i++) {
    const before = servers.map(({ asked }) => asked.length);
    for (let again = 0; again < 3; again++) await ask(passage(i));
    expect(servers.filter(({ asked }, at) => asked.length > before[at]!)).toHaveLength(1);
  }
  expect(servers.filter(({ asked }) => asked.length === 0)).toHaveLength(0);
  // Twelve over one passage at once: its server has no more than 1.25 times the mean, rounded up.
  waits = true;
  const many = Promise.all(Array.from({ length: 12 }, () => ask(passage(0))));
  await expect.poll(() => waiting.length).toBe(12);
  const running = engine.status.replicas!.map((one) => one.running);
  expect(running.reduce((sum, one) => sum + one)).toBe(12);
  expect(Math.max(...running)).toBe(5);
  for (const end of waiting) end();
  await many;
  expect(engine.status.replicas!.map((one) => one.running)).toEqual([0, 0, 0]);
});

test("VllmEngine: a server that dies gets no requests until it lives again, and each is told of once", async () => {
  const [mortal, there] = [await fakeVllm(), await fakeVllm()];
  await using engine = await VllmEngine.load({
    model: embeddedModelPath(),
    urls: [mortal.url, there.url],
    checkMs: 20,
  });
  const told: (boolean | undefined)[] = [];
  engine.onStatus(({ state, replicas }) => {
    if (state === "ready") told.push(replicas![0]!.downReason === undefined);
  });
  open.splice(0, 1)[0]!.close();
  await expect.poll(() => told).toEqual([false]);
  await all(engine);
  expect(mortal.asked).toHaveLength(0);
  await new Promise((resolve) => setTimeout(resolve, 100));
  const back = await fakeVllm(words, Number(new URL(mortal.url).port));
  await expect.poll(() => told).toEqual([false, true]);
  await Promise.all([all(engine), all(engine), all(engine)]);
  expect(back.asked.length).toBeGreaterThan(0);
  expect(told).toEqual([false, true]);
});

test("VllmEngine: a server that dies in mid-answer ends that answer with an error, the next goes elsewhere", async () => {
  let index = 0;
  const close: (() => void)[] = [];
  const answer: Answer = (body, response) => {
    if (index++ > 0) return words(body, response);
    say(response, { index: 0, text: "The", token_ids: [7] });
    setTimeout(() => close.find((_, at) => servers[at]!.asked.includes(body))?.(), 20);
  };
  const servers = [await fakeVllm(answer), await fakeVllm(answer)];
  close.push(...open.map((one) => one.close));
  await using engine = await load(...servers.map(({ url }) => url));
  await expect(all(engine)).rejects.toMatchObject({ code: "died", message: expect.stringContaining("Cannot go on") });
  expect((await all(engine)).at(-1)).toMatchObject({ result: { text: "The end" } });
  await expect.poll(() => engine.status.replicas!.filter((one) => one.downReason !== undefined)).toHaveLength(1);
});

test("VllmEngine: where no server is up the status says so, and requests are refused until one is", async () => {
  const vllm = await fakeVllm();
  await using engine = await load(vllm.url);
  open.splice(0, 1)[0]!.close();
  await expect(all(engine)).rejects.toMatchObject({ code: "unavailable" });
  expect(engine.status).toMatchObject({ state: "restarting", lastError: expect.stringContaining("Cannot reach vLLM") });
  await fakeVllm(words, Number(new URL(vllm.url).port));
  expect((await all(engine)).at(-1)).toMatchObject({ result: { text: "The end" } });
  expect(engine.status.state).toBe("ready");
});

test("VllmEngine: starts where one of its servers is down, refuses one that is named twice", async () => {
  const vllm = await fakeVllm();
  await using engine = await load("http://127.0.0.1:1", vllm.url);
  expect(engine.status.replicas).toMatchObject([
    { downReason: expect.stringContaining("Cannot reach") },
    { running: 0 },
  ]);
  expect((await all(engine)).at(-1)).toMatchObject({ result: { text: "The end" } });
  await expect(load(vllm.url, vllm.url.replace(/\/$/, ""))).rejects.toMatchObject({ code: "invalid" });
});

test("VllmEngine: an abort ends the answer, and vLLM's request", async () => {
  let isClosed = false;
  const vllm = await fakeVllm((_, response) => {
    response.on("close", () => {
      isClosed = true;
    });
    say(response, { index: 0, text: "The", token_ids: [7] });
  });
  await using engine = await load(vllm.url);
  const stopping = new AbortController();
  const events: GenerateEvent[] = [];
  for await (const event of engine.generate(prompt, { signal: stopping.signal })) {
    events.push(event);
    if (event.kind === "token") stopping.abort();
  }
  expect(events.at(-1)).toMatchObject({ kind: "done", result: { finishReason: "cancelled", text: "The" } });
  await expect.poll(() => isClosed).toBe(true);
});

test.each([
  [{ repair: "lead" }, 'the repair "lead"'],
  [{ echo: true }, "echo"],
  [{ explain: true }, "explain"],
  [{ prediction: "The" }, "prediction"],
  [{ positionReencoding: false }, "positionReencoding false"],
])("VllmEngine: refuses %j by name", async (options, name) => {
  const vllm = await fakeVllm();
  await using engine = await load(vllm.url);
  await expect(all(engine, options)).rejects.toMatchObject({ code: "invalid", message: expect.stringContaining(name) });
  expect(vllm.asked).toHaveLength(0);
});

test("VllmEngine: encode() gives ids, tokenize() tokens", async () => {
  const vllm = await fakeVllm();
  await using engine = await load(vllm.url);
  const { blocks, failed } = await engine.encode(["one", "", "two"]);
  expect(blocks.map((block) => ("error" in block && block.error ? block.error.code : block))).toMatchObject([
    { id: expect.stringMatching(/^[0-9a-f]{64}$/), hit: false },
    "invalid",
    { hit: false },
  ]);
  expect(failed).toBe(1);
  expect(await engine.tokenize("one")).toEqual(encodes(vllm.asked)[0]!.prompt);
  await expect(engine.scoreEach()).rejects.toMatchObject({ code: "invalid" });
});
