import { afterAll, beforeAll, expect, test } from "vitest";
import { Engine } from "../../engine/engine.js";
import type { ServedBlock } from "../../engine/results.js";
import type { HostEvent, HostGenerateRequest } from "../engine-host.js";
import { LocalEngineHost } from "./local-engine-host.js";

const prompt = { blocks: ["- Title: The key\nThe red key hangs in the hall.\n", "Question: Where is the red key?"] };

function request(more: Partial<HostGenerateRequest> = {}): HostGenerateRequest {
  return { prompt, sampling: { maxTokens: 8 }, salt: "", logprobs: false, echo: false, ...more };
}

async function all<T>(events: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const event of events) list.push(event);
  return list;
}

function ofKind<K extends HostEvent["kind"]>(events: readonly HostEvent[], kind: K) {
  return events.filter((event): event is HostEvent & { kind: K } => event.kind === kind);
}

let host: LocalEngineHost;
beforeAll(async () => {
  host = await LocalEngineHost.load({ threads: 1 });
});
afterAll(() => host[Symbol.asyncDispose]());

test("LocalEngineHost: says what is loaded", () => {
  expect(host.model).toMatchObject({ name: "tiny-rag", defaultMode: "block", trainedModes: ["block", "full"] });
  expect(host.status).toEqual({ state: "ready", restarts: 0 });
});

test("LocalEngineHost.generate(): the engine's own answer, event for event", async () => {
  await using engine = await Engine.load({ threads: 1 });
  const wanted = await engine.complete(prompt, { maxTokens: 8 });
  const events = await all(host.generate(request()));
  expect(events.map(({ kind }) => kind)).toEqual(["prompt", ...wanted.tokenIds.map(() => "token"), "done"]);
  expect(ofKind(events, "token").map(({ tokenId }) => tokenId)).toEqual(wanted.tokenIds);
  const done = ofKind(events, "done")[0]!;
  expect(
    ofKind(events, "token")
      .map(({ text }) => text)
      .join("") + done.text,
  ).toBe(wanted.text);
  expect(done.result).toMatchObject({
    finishReason: wanted.finishReason,
    usage: { promptTokens: wanted.usage.promptTokens },
  });
  expect(ofKind(events, "token")[0]).not.toHaveProperty("logprobs");
});

test("LocalEngineHost.generate(): tokens with their own text, bytes and the likeliest others", async () => {
  const events = await all(host.generate(request({ logprobs: true, sampling: { maxTokens: 4, topLogprobs: 2 } })));
  const tokens = ofKind(events, "token");
  expect(tokens.length).toBeGreaterThan(0);
  for (const { tokenId, logprobs } of tokens) {
    expect(logprobs!.id).toBe(tokenId);
    // Greedy: the token is the likeliest.
    expect(logprobs!.top).toHaveLength(2);
    expect(logprobs!.top[0]).toEqual({
      id: tokenId,
      text: logprobs!.text,
      bytes: logprobs!.bytes,
      logprob: logprobs!.logprob,
    });
    expect(Buffer.from(logprobs!.bytes).toString()).toBe(logprobs!.text);
  }
});

test("LocalEngineHost.generate(): an echo of the prompt's tokens", async () => {
  const events = await all(host.generate(request({ echo: true, sampling: { maxTokens: 0 } })));
  const { promptTokens } = ofKind(events, "prompt")[0]!;
  const echo = ofKind(events, "echo").flatMap(({ tokens }) => tokens);
  expect(echo).toHaveLength(promptTokens);
  const spelled = Buffer.concat(echo.map(({ bytes }) => Buffer.from(bytes))).toString();
  // This model's tokenizer puts a space after each line end, and takes it out of whole texts only.
  expect(spelled.replaceAll("\n ", "\n").endsWith(prompt.blocks.join(""))).toBe(true);
});

test("LocalEngineHost.generate(): an echo with log-probabilities, those of score()", async () => {
  await using engine = await Engine.load({ threads: 1 });
  const [passage, question] = prompt.blocks as [string, string];
  const sampling = { maxTokens: 0, topLogprobs: 2 };
  const events = await all(host.generate(request({ echo: true, logprobs: true, sampling, mode: "full" })));
  const echo = ofKind(events, "echo").flatMap(({ tokens }) => tokens);
  expect(echo[0]).toMatchObject({ logprob: undefined, top: [] });
  const context = engine.model.tokenizer.encode(passage, "all");
  const scored = await engine.score({ blockTokenIds: [context] }, question, { mode: "full", top: 2 });
  const tail = echo.slice(-scored.logprobs.length);
  expect(tail.map(({ id }) => id)).toEqual(scored.continuationTokenIds);
  for (const [i, { logprob, top }] of tail.entries()) {
    expect(logprob).toBeCloseTo(scored.logprobs[i]!, 3);
    expect(top.map(({ id }) => id)).toEqual(scored.top[i]!.map(({ id }) => id));
  }
});

test("LocalEngineHost.generate(): what cannot be used is a HostError of code invalid", async () => {
  const run = (more: Partial<HostGenerateRequest>) => all(host.generate(request(more)));
  const error = (code: string, message: string) => expect.objectContaining({ name: "HostError", code, message });
  await expect(run({ sampling: { temperature: -1 } })).rejects.toEqual(
    error("invalid", "Cannot generate: temperature is -1, wanted a finite number from 0 on"),
  );
  await expect(run({ prompt: { blocks: [] } })).rejects.toMatchObject({ name: "HostError", code: "invalid" });
  const tooLong = { blockTokenIds: [Array.from({ length: 3000 }, () => 5)] };
  await expect(run({ prompt: tooLong })).rejects.toMatchObject({ name: "HostError", code: "too_long" });
});

test("LocalEngineHost.generate(): an abort ends with a cancelled result, leaving the loop with nothing running", async () => {
  const stop = new AbortController();
  const events: HostEvent[] = [];
  for await (const event of host.generate(request({ sampling: { maxTokens: 100 } }), stop.signal)) {
    events.push(event);
    if (event.kind === "token") stop.abort();
  }
  expect(ofKind(events, "done")[0]!.result.finishReason).toBe("cancelled");
  for await (const event of host.generate(request())) if (event.kind === "token") break;
  expect((await host.stats()).requests.running).toBe(0);
});

test("LocalEngineHost.encode(): one event a passage, in order; the second time all are hits", async () => {
  const passages = ["one passage\n", "another passage\n", { title: "A", text: "a third" }];
  const first = await all(host.encode({ passages, salt: "" }));
  expect(first.map((event) => [event.passage.index, event.error === undefined && event.hit])).toEqual([
    [0, false],
    [1, false],
    [2, false],
  ]);
  const second = await all(host.encode({ passages, salt: "" }));
  expect(second).toEqual(first.map((event) => ({ ...event, hit: true })));
  expect(await all(host.encode({ passages: ["", "one passage\n"], salt: "" }))).toEqual([
    { passage: { index: 0 }, error: { code: "invalid", message: "Cannot encode passage 1: it is empty" } },
    { ...second[0], passage: { index: 1 } },
  ]);
  await expect(all(host.encode({ passages, salt: "" }, AbortSignal.abort(new Error("gone"))))).rejects.toThrow("gone");
});

test("LocalEngineHost: a tenant's blocks are its own", async () => {
  const encode = async (salt: string) =>
    (await all(host.encode({ passages: ["a passage of tenants\n"], salt })))[0] as ServedBlock;
  const ours = await encode("ours");
  expect((await encode("theirs")).hit).toBe(false);
  expect((await encode("ours")).hit).toBe(true);
  expect(await host.block(ours.id, "ours")).toMatchObject({ id: ours.id, tokens: ours.tokens, inUse: false });
  expect(await host.block(ours.id, "theirs")).toBeUndefined();
  expect(await host.block("no id", "ours")).toBeUndefined();
  const answer = async (salt: string) => {
    const asked = { blocks: ["a passage of tenants\n", "Question: Who?"] };
    return ofKind(await all(host.generate(request({ prompt: asked, salt }))), "prompt")[0]!;
  };
  expect((await answer("nobody")).cachedTokens).toBe(0);
  expect(await host.deleteBlock(ours.id, "theirs")).toBe(false);
  expect(await host.deleteBlock(ours.id, "ours")).toBe(true);
  expect(await host.block(ours.id, "ours")).toBeUndefined();
  expect((await host.stats()).store.evictions).toMatchObject({ deleted: 1 });
});

test("LocalEngineHost.generate(): more requests than may wait are refused as queue_full", async () => {
  await using own = await LocalEngineHost.load({ threads: 1, maxRunning: 1, maxQueued: 1 });
  const asked = Array.from({ length: 3 }, () => all(own.generate(request())).catch((error: unknown) => error));
  const answers = await Promise.all(asked);
  expect(answers.filter((answer) => Array.isArray(answer))).toHaveLength(2);
  expect(answers.filter((answer) => !Array.isArray(answer))).toMatchObject([{ name: "HostError", code: "queue_full" }]);
});

test("LocalEngineHost.tokenize(): texts and bytes put together give the text back", async () => {
  const tokensOf = async (text: string, special: boolean) =>
    (await all(host.tokenize({ text, special }))).flatMap(({ tokens }) => tokens);
  const text = "Größe 你好 <|eos|>";
  const tokens = await tokensOf(text, false);
  expect(Buffer.concat(tokens.map(({ bytes }) => Buffer.from(bytes))).toString()).toBe(text);
  const special = await tokensOf(text, true);
  expect(special.length).toBeLessThan(tokens.length);
  expect(special.at(-1)!.text).toBe("<|eos|>");
  await expect(tokensOf("\ud800", false)).rejects.toMatchObject({ code: "invalid" });
  const long = await all(host.tokenize({ text: "key ".repeat(1000), special: false }));
  expect(long.length).toBeGreaterThan(3);
  expect(long.flatMap(({ tokens }) => tokens)).toHaveLength(long[0]!.numTokens);
  await expect(all(host.tokenize({ text: "key ".repeat(1000), special: false, maxTokens: 10 }))).rejects.toMatchObject({
    code: "too_long",
  });
  await expect(all(host.tokenize({ text: "a", special: false }, AbortSignal.abort(new Error("gone"))))).rejects.toThrow(
    "gone",
  );
});

test("LocalEngineHost.generate(): answers of one prompt share its tokenizing; one that is given up takes it from nobody", async () => {
  let numReads = 0;
  const counted = () => ({
    get blocks() {
      numReads += 1;
      return prompt.blocks;
    },
  });
  await all(host.generate(request({ prompt: counted() })));
  const readsOfOne = numReads;
  expect(readsOfOne).toBeGreaterThan(0);
  numReads = 0;
  const shared = request({ prompt: counted() });
  const leaving = new AbortController();
  const answers = [leaving.signal, undefined, undefined].map((signal) => all(host.generate(shared, signal)));
  leaving.abort();
  const [left, first, second] = await Promise.all(answers);
  expect(numReads).toBe(readsOfOne);
  expect(ofKind(left!, "done")[0]!.result.finishReason).toBe("cancelled");
  expect(ofKind(first!, "done")[0]!.result.usage).toEqual(ofKind(second!, "done")[0]!.result.usage);
  expect(ofKind(first!, "done")[0]!.result.timings.tokenizeMs).toBeGreaterThan(0);
});

test("LocalEngineHost.generate(): more log-probabilities than wanted are refused before anything is computed", async () => {
  const sampling = { maxTokens: 10, topLogprobs: 4 };
  const ask = (maxLogprobs: number, echo = false) =>
    all(host.generate(request({ sampling, logprobs: true, echo, maxLogprobs })));
  await ask(50);
  const { store } = await host.stats();
  await expect(ask(49)).rejects.toMatchObject({
    code: "invalid",
    message: expect.stringContaining("there could be 50"),
  });
  await expect(ask(50, true)).rejects.toMatchObject({ code: "invalid" });
  expect((await host.stats()).store).toEqual(store);
});

test("LocalEngineHost: closed, it refuses as unavailable and says so, once however often it is disposed", async () => {
  const own = await LocalEngineHost.load({ threads: 1 });
  const states: string[] = [];
  own.onStatus(({ state }) => states.push(state));
  const unwanted = own.onStatus(() => states.push("unwanted"));
  unwanted();
  const running = own.generate(request({ sampling: { maxTokens: 100 } }));
  await running.next();
  const rest = all(running).catch((error: unknown) => error);
  await Promise.all([own[Symbol.asyncDispose](), own[Symbol.asyncDispose]()]);
  expect(await rest).toMatchObject({ name: "HostError", code: "unavailable" });
  expect(states).toEqual(["closed"]);
  const unavailable = { name: "HostError", code: "unavailable" };
  await expect(all(own.generate(request()))).rejects.toMatchObject(unavailable);
  await expect(all(own.encode({ passages: ["a"], salt: "" }))).rejects.toMatchObject(unavailable);
  await expect(all(own.tokenize({ text: "a", special: false }))).rejects.toMatchObject(unavailable);
  await expect(own.stats()).rejects.toMatchObject(unavailable);
});
