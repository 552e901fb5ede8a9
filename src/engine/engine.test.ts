import { expect, test } from "vitest";
import { noEnd } from "../../tests/laws/law-models.js";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { askEngine, distanceFromOracle, logprobBounds, oracleAnswer } from "../../tests/oracles/compare-engine.js";
import { OnePassModel } from "../../tests/oracles/one-pass.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { Engine } from "./engine.js";
import { EngineError } from "./engine-error.js";
import type { EngineOptions } from "./engine-options.js";
import type { LocalEngine } from "./local-engine.js";
import type { PromptInput } from "./prompt.js";
import type { GenerateEvent } from "./results.js";

async function smallEngine(options: EngineOptions = {}, numLayers = 2): Promise<LocalEngine> {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "llama", contextLength: 512, numLayers });
  return Engine.load({
    model: folder,
    threads: 1,
    mode: "block",
    storeBytes: 1 << 24,
    contextBytes: 1 << 24,
    ...options,
  });
}

async function all(events: AsyncIterable<GenerateEvent>): Promise<GenerateEvent[]> {
  const list: GenerateEvent[] = [];
  for await (const event of events) list.push(event);
  return list;
}

const passages = ["A first passage.\n", "A second one.\n"];
const input = { blocks: [...passages, "A question?"] };

test("Engine: what is the caller's fault is an EngineError with a code and its reason", async () => {
  await using engine = await smallEngine({ contextBytes: 1_000 });
  const bad = (value: unknown) => value as never;
  const calls: [code: string, () => Promise<unknown>][] = [
    ["invalid", () => engine.complete({ blocks: [] })],
    ["invalid", () => engine.complete(bad({}))],
    ["invalid", () => engine.complete(input, { temperature: -1 })],
    ["invalid", () => engine.complete(input, bad({ nonsense: 1 }))],
    ["invalid", () => engine.complete(input, { logitBias: { 999999: 1 } })],
    ["invalid", () => engine.complete(input, { mode: bad("both") })],
    ["invalid", () => engine.complete(input, { salt: bad(1) })],
    ["invalid", () => engine.complete(input, bad({ n: 2 }))],
    ["invalid", () => engine.generate(input, { n: 0 }).next()],
    ["invalid", () => engine.complete({ prompt: "a", cut: bad("some") })],
    ["invalid", () => engine.complete({ prompt: "a", cut: "none", segment: { limit: 3 } })],
    ["invalid", () => engine.score(input, "")],
    ["invalid", () => engine.score(input, [999_999])],
    ["invalid", () => engine.encode([bad(7)])],
    ["invalid", () => engine.encode([bad({ titel: "A", text: "B" })])],
    ["invalid", () => engine.block("0".repeat(64), { salt: bad(null) })],
    ["too_long", () => engine.complete({ blockTokenIds: [Array.from({ length: 513 }, () => 1)] })],
    ["too_long", () => engine.complete({ blockTokenIds: [Array.from({ length: 500 }, () => 1)] })],
    ["too_long", () => engine.score({ blockTokenIds: [Array.from({ length: 510 }, () => 1)] }, [1, 2, 3])],
  ];
  for (const [i, [code, call]] of calls.entries()) {
    const error = await call().then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error, `call ${i}`).toBeInstanceOf(EngineError);
    expect(error, `call ${i}`).toMatchObject({ code, message: expect.stringMatching(/^Cannot [^\n]+$/) });
    if (code === "invalid") expect((error as EngineError).cause).toBeInstanceOf(Error);
  }
  expect(engine.stats().requests).toMatchObject({ queued: 0, running: 0, finished: 0 });
});

test("Engine: no salt's blocks are hit, seen or deleted by another", async () => {
  await using engine = await smallEngine();
  const first = await engine.complete(input, { maxTokens: 1, salt: "a" });
  expect(first.usage.cachedTokens).toBe(0);
  expect((await engine.complete(input, { maxTokens: 1, salt: "b" })).usage.cachedTokens).toBe(0);
  expect((await engine.complete(input, { maxTokens: 1 })).usage.cachedTokens).toBe(0);
  const again = await engine.complete(input, { maxTokens: 1, salt: "a" });
  expect(again.blocks.every(({ hit }) => hit)).toBe(true);
  expect((await engine.encode(passages, { salt: "a" })).blocks[1]).toMatchObject({ hit: true });
  expect((await engine.score(input, "x", { salt: "c" })).usage.cachedTokens).toBe(0);

  const { id, tokens } = again.blocks[0]!;
  const info = await engine.block(id, { salt: "a" });
  expect(info).toMatchObject({ id, tokens, inUse: false });
  expect(info?.bytes).toBeGreaterThan(0);
  for (const salt of ["b", "", undefined]) expect(await engine.block(id, { salt })).toBeUndefined();
  expect(await engine.deleteBlock(id, { salt: "b" })).toBe(false);
  expect(await engine.deleteBlock(id, { salt: "a" })).toBe(true);
  expect(await engine.deleteBlock(id, { salt: "a" })).toBe(false);
  expect(await engine.block("no id", { salt: "a" })).toBeUndefined();
  expect((await engine.complete(input, { maxTokens: 1, salt: "a" })).blocks.map(({ hit }) => hit)).toEqual([
    false,
    true,
  ]);
});

test("Engine: requests beyond maxRunning wait, those beyond maxQueued are turned away, and both are counted", async () => {
  await using engine = await smallEngine({ maxRunning: 1, maxQueued: 1 });
  // More than it computes ahead of its reader.
  const running = engine.generate(input, { maxTokens: 100, logitBias: noEnd });
  await running.next();
  const controller = new AbortController();
  const waiting = engine.complete(input, { maxTokens: 2, logitBias: noEnd, signal: controller.signal });
  await new Promise((resolve) => setImmediate(resolve));
  expect(engine.stats().requests).toMatchObject({ running: 1, queued: 1 });
  await expect(engine.score(input, "x")).rejects.toMatchObject({ code: "queue_full" });
  controller.abort();
  expect((await waiting).finishReason).toBe("cancelled");
  let hasEnded = false;
  const next = engine.complete(input, { maxTokens: 2, logitBias: noEnd }).finally(() => {
    hasEnded = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect([hasEnded, engine.stats().requests]).toEqual([false, expect.objectContaining({ running: 1, queued: 1 })]);
  await running.return();
  const { timings } = await next;
  expect(timings.queueMs).toBeGreaterThan(0);
  expect(engine.stats().requests).toEqual({ queued: 0, running: 0, finished: 1, cancelled: 2, failed: 1 });
  for (const options of [{ maxRunning: 0 }, { maxQueued: -1 }, { maxRunning: 1.5 }]) {
    await expect(smallEngine(options)).rejects.toThrow("wanted a whole number from");
  }
});

test("Engine.generate(): without logprobs the same tokens come, and no log-probability", async () => {
  await using engine = await smallEngine();
  for (const sampling of [
    { temperature: 0 },
    { temperature: 0.8, seed: 3 },
    { temperature: 0, repetitionPenalty: 1.3 },
  ]) {
    const options = { ...sampling, maxTokens: 6, logitBias: noEnd };
    const told = (await all(engine.generate(input, options))).filter((event) => event.kind === "token");
    const plain = await all(engine.generate(input, { ...options, logprobs: false }));
    const tokens = plain.filter((event) => event.kind === "token");
    expect(tokens.map(({ tokenId }) => tokenId)).toEqual(told.map(({ tokenId }) => tokenId));
    for (const { logprob, top } of tokens) expect({ logprob, top }).toEqual({ logprob: undefined, top: [] });
    for (const { logprob } of told) expect(logprob).toBeLessThan(0);
  }
});

test("Engine.generate(): with an echo the answer is the same, and its room is given back", async () => {
  await using engine = await smallEngine();
  const options = { maxTokens: 4, logitBias: noEnd };
  const plain = await engine.complete(input, options);
  const told = await all(engine.generate(input, { ...options, echo: true }));
  const done = told.at(-1) as GenerateEvent & { kind: "done" };
  expect(done.result.tokenIds).toEqual(plain.tokenIds);
  expect(told[0]).toMatchObject({ kind: "echo", tokens: expect.any(Array) });
  expect(engine.stats().contexts.usedBytes).toBe(0);
});

test("Engine.encode(): a passage that has too many parts fails, the others have their blocks", async () => {
  await using engine = await smallEngine();
  const long = "A sentence of the story. ".repeat(20);
  const { blocks: parts } = await engine.encode([long], { splitLong: 100 });
  const encode = (maxBlocks: number) => engine.encode([long, "short", long, "end"], { splitLong: 100, maxBlocks });
  const [all, some] = [await encode(2 * parts.length + 2), await encode(2 * parts.length + 1)];
  expect([all.failed, some.failed]).toEqual([0, 1]);
  expect(all.blocks).toHaveLength(2 * parts.length + 2);
  expect(some.blocks.map(({ passage }) => passage.index)).toEqual([...parts.map(() => 0), 1, 2, 3]);
  expect(some.blocks.at(-2)?.error).toEqual({
    code: "invalid",
    message: `Cannot split passage 3: it has more than the ${parts.length - 1} parts that it may have`,
  });
});

test("Engine.encode(): splitLong makes a long passage parts that a prompt which splits it finds again", async () => {
  await using engine = await smallEngine();
  const text = "A sentence of the story. ".repeat(40);
  const documents = [{ id: "long", title: "T", text }, { text: "A short one." }];
  const { blocks: whole, failed } = await engine.encode(documents);
  expect(failed).toBe(1);
  expect(whole[0]).toMatchObject({ passage: { index: 0, id: "long" }, error: { code: "too_long" } });
  await expect(engine.complete({ question: "q", documents })).rejects.toMatchObject({ code: "too_long" });

  for (const splitLong of [true, 100]) {
    const told: unknown[] = [];
    const encoded = await engine.encode(documents, { splitLong, onBlock: (block) => told.push(block) });
    expect(encoded.failed).toBe(0);
    expect(told).toEqual(encoded.blocks);
    const parts = encoded.blocks.filter(({ passage }) => passage.index === 0);
    expect(parts.map(({ passage }) => passage.part)).toEqual(parts.map((_, i) => i));
    for (const part of parts) {
      if (part.error !== undefined) throw new Error(part.error.message);
      expect(part.passage.id).toBe("long");
      expect(part.tokens).toBeLessThanOrEqual(splitLong === true ? 256 : 100);
      // A part is a passage of its own, too.
      const alone = await engine.encode([{ title: "T", text: part.passage.text as string }]);
      expect(alone.blocks[0]).toMatchObject({ id: part.id, hit: true });
    }
    expect(parts.map(({ passage }) => passage.text).join("")).toBe(text);
  }

  // In a prompt: the parts in their order, whatever the order of the documents.
  const short = { ...documents[0]!, text: "A sentence of the story. ".repeat(9) };
  const ask = (splitLong: boolean | number, mode: "block" | "full" = "block") =>
    engine.complete(
      { question: "q", documents: [documents[1]!, short], rag: { splitLong, order: "best-last" } },
      { maxTokens: 1, mode },
    );
  const index = await engine.encode([documents[1]!, short], { splitLong: 80 });
  const answer = await ask(80);
  const inPrompt = answer.blocks.filter(({ passage }) => passage !== undefined);
  expect(inPrompt.length).toBeGreaterThan(3);
  expect(inPrompt.every(({ hit }) => hit)).toBe(true);
  expect(inPrompt.map(({ passage }) => [passage?.index, passage?.part])).toEqual([
    ...index.blocks.slice(1).map((_, i) => [1, i]),
    [0, undefined],
  ]);
  expect((await ask(false)).blocks.filter(({ hit }) => !hit)).toHaveLength(1);
  expect((await ask(80, "full")).usage.promptTokens).toBe(answer.usage.promptTokens);
});

test("Engine: the RAG prompt's words are the call's, else the engine's, else the defaults", async () => {
  const texts = { preamble: "Read:\n", passage: "<{title}> {text}\n", final: "Now: {question}" };
  await using engine = await smallEngine({ ragTexts: texts });
  const spell = (ids: readonly number[]) => engine.model.tokenizer.decode(ids);
  const promptOf = async (rag: object) => {
    const form = { question: "why", documents: [{ title: "A", text: "B" }], rag };
    const asMessages = { messages: [{ role: "user", content: "why" }], documents: form.documents, rag };
    const { cutTokenIds, ...tokenized } = await engine.tokenizePrompt(form);
    expect((await engine.tokenizePrompt(asMessages)).cutTokenIds).toEqual(cutTokenIds);
    expect(tokenized.warnings).toEqual([]);
    return spell(cutTokenIds.flat());
  };
  expect(await promptOf({})).toContain("Read:\n<A> B\nNow: why");
  const own = { final: "{question}, now", passage: undefined };
  expect(await promptOf({ texts: own })).toContain("Read:\n<A> B\nwhy, now");
  const [byEngine] = (await engine.encode([{ title: "A", text: "B" }])).blocks;
  const [byCall] = (await engine.encode(["<A> B!\n"], { texts: { passage: "<{title}> {text}!\n" } })).blocks;
  const [same] = (await engine.encode([{ title: "A", text: "B" }], { texts: { passage: "<{title}> {text}!\n" } }))
    .blocks;
  expect(same).toMatchObject({ ...byCall, hit: true });
  expect(byEngine).not.toMatchObject({ id: (same as { id: string }).id });

  const refused = { code: "invalid", message: expect.stringMatching(/^Cannot [^\n]+$/) };
  const documents = ["a"];
  for (const rag of [
    { texts: { final: "no place" } },
    { texts: { preamble: "x".repeat(20_001) } },
    { splitLong: 15 },
  ]) {
    await expect(engine.complete({ question: "q", documents, rag })).rejects.toMatchObject(refused);
  }
  const messages = [{ role: "user", content: "q" }];
  await expect(engine.complete({ messages, rag: {} })).rejects.toMatchObject(refused);
  await expect(engine.encode(["a"], { texts: { preamble: "x" } as object })).rejects.toMatchObject(refused);
  await expect(smallEngine({ ragTexts: { final: "no place" } })).rejects.toThrow(
    'Cannot use the texts of the RAG prompt: final is "no place", wanted up to 20000 characters with "{question}" once',
  );
});

test("Engine.encode(): with the repair preamble, blocks are those of prompts that begin with these words", async () => {
  await using engine = await smallEngine();
  const documents = ["A first passage.\n", "A second one.\n"];
  const messages = [
    { role: "system", content: "Be brief." },
    { role: "user", content: "q" },
  ];
  const texts = { preamble: "Read:\n" };
  const repair = "preamble,sink=2";
  const hits = async (prompt: PromptInput) =>
    (await engine.complete(prompt, { repair, maxTokens: 1 })).blocks.map(({ hit }) => hit);
  for (const [prompt, options] of [
    [{ question: "q", documents }, {}],
    [{ question: "q", documents, rag: { texts } }, { texts }],
    [{ messages, documents }, { system: "Be brief." }],
  ] as const) {
    await engine.encode(documents, { repair, ...options });
    // Block 0 too: it is what they were encoded behind.
    expect(await hits(prompt)).toEqual([true, true, true]);
  }
  await engine.encode(documents, { repair, system: "Be long." });
  expect(await hits({ messages: [{ role: "system", content: "Be quick." }, ...messages.slice(1)], documents })).toEqual(
    [false, false, false],
  );
  for (const options of [{ system: "Be brief." }, { texts, repair: "lead" }]) {
    await expect(engine.encode(documents, options)).rejects.toThrow(
      'is given, and changes no block but with the repair "preamble"',
    );
  }
});

test("Engine: an answer's log-probabilities are those that score() finds for the same tokens, to the last bit", async () => {
  await using engine = await smallEngine();
  const input = { blocks: ["a passage\n", "a question"] };
  const told: (number | undefined)[] = [];
  for await (const event of engine.generate(input, { maxTokens: 6, temperature: 1, seed: 4 })) {
    if (event.kind === "token") told.push(event.logprob);
    if (event.kind !== "done") continue;
    expect((await engine.score(input, event.result.tokenIds, { stepwise: true })).logprobs).toEqual(told);
  }
  expect(told.length).toBeGreaterThan(3);
});

test("Engine: a model of one layer, whose blocks are keys and values of no attention, answers as in one pass", async () => {
  await using engine = await smallEngine({ kvType: "f32" }, 1);
  const prompt = {
    blockTokenIds: [
      [5, 9, 2],
      [7, 1],
      [3, 8],
    ],
    continuationTokenIds: [4, 6],
  };
  const oracle = new OnePassModel(engine.model.source);
  const { vocabSize } = oracle.config;
  const expected = oracleAnswer(oracle.score(prompt), prompt);
  for (const stepwise of [false, true]) {
    const found = await askEngine(engine, prompt, { stepwise, vocabSize });
    expect(distanceFromOracle(found, expected)).toBeLessThan(logprobBounds.f32);
  }
});
