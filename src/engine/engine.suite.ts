import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import type { Engine } from "./engine.js";
import type { GenerateOptions, RequestOptions } from "./engine-options.js";
import type { EncodedPassage, GenerateEvent, ServedBlock, Token } from "./results.js";

const prompt = { blocks: ["- Title: The key\nThe red key hangs in the hall.\n", "Question: Where is the red key?"] };
/** The embedded model's end tokens, banned so that an answer has its length. */
const noEnd = { 0: -100, 1: -100, 2: -100, 3: -100 };
/** A place is free within 200 ms where the machine is not busy. */
const freed = { timeout: 3000 };

async function all<T>(events: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const event of events) list.push(event);
  return list;
}

function ofKind<K extends GenerateEvent["kind"]>(events: readonly GenerateEvent[], kind: K) {
  return events.filter((event): event is GenerateEvent & { kind: K } => event.kind === kind);
}

/** An EngineError, of another process's module as well. */
function error(code: string, message = expect.any(String) as unknown) {
  return expect.objectContaining({ name: "EngineError", code, message });
}

/**
 * What every engine must hold.
 *
 * @param make an engine that is ready, or will be; its answers have a few tokens at least, up to `maxTokens` where `noEnd`
 *   bans the ends.
 */
export function engineSuite(name: string, make: () => Promise<Engine>): void {
  describe(name, () => {
    let engine: Engine;
    beforeAll(async () => {
      engine = await make();
    });
    afterAll(() => engine[Symbol.asyncDispose]());

    const generate = (options: GenerateOptions & RequestOptions = {}) => all(engine.generate(prompt, options));
    const requests = async () => (await engine.stats()).requests;
    const idle = () => vi.waitFor(async () => expect((await requests()).running).toBe(0), freed);

    test("says what is loaded and that it is ready", () => {
      expect(engine.status).toEqual({ state: "ready", restarts: 0 });
      expect(engine.info).toEqual({
        name: expect.any(String),
        contextLength: expect.any(Number),
        vocabSize: expect.any(Number),
        kvType: "f16",
        defaultMode: "block",
        trainedModes: ["block", "full"],
        hasChatTemplate: true,
        loadedAt: expect.any(Number),
      });
    });

    test("generate(): the prompt, tokens, and an end that has them all", async () => {
      const { finished } = await requests();
      const events = await generate({ maxTokens: 4 });
      const tokens = ofKind(events, "token");
      expect(events.map(({ kind }) => kind)).toEqual(["prompt", ...tokens.map(() => "token"), "done"]);
      expect(tokens.length).toBeGreaterThan(0);
      const [told] = ofKind(events, "prompt");
      const [done] = ofKind(events, "done");
      const { result } = done!;
      expect(result).toMatchObject({
        mode: "block",
        text: events.map((event) => ("text" in event ? event.text : "")).join(""),
        tokenIds: tokens.map(({ tokenId }) => tokenId),
        usage: { promptTokens: told!.promptTokens, cachedTokens: told!.cachedTokens, completionTokens: tokens.length },
        blocks: told!.blocks,
      });
      expect(told!.blocks).toHaveLength(1);
      expect(told!.blocks[0]!.tokens).toBeLessThan(told!.promptTokens);
      for (const event of tokens) {
        expect(event).toMatchObject({ index: 0, top: [] });
        expect(event.logprob).toBeLessThanOrEqual(0);
        expect(event).not.toHaveProperty("spelled");
      }
      const [again] = ofKind(await generate({ maxTokens: 4, logprobs: false }), "done");
      expect(again!.result.tokenIds).toEqual(result.tokenIds);
      expect(again!.result.usage.reused.blocks).toBe(told!.blocks[0]!.tokens);
      const [full] = ofKind(await generate({ maxTokens: 0, mode: "full" }), "done");
      expect(full!.result).toMatchObject({ mode: "full", tokenIds: [], finishReason: "length", blocks: [] });
      expect((await requests()).finished).toBe(finished + 3);
    });

    test("generate(): what was reused adds up, and at least one token is computed", async () => {
      const salt = "reuse";
      for (const asked of [
        {},
        {},
        { mode: "full" },
        { mode: "full", keepPrefixes: false },
        { explain: true },
      ] as const) {
        const events = await generate({ ...asked, salt, maxTokens: 2 });
        const { usage, misses } = ofKind(events, "done")[0]!.result;
        const { promptTokens, cachedTokens, reused } = usage;
        expect(ofKind(events, "prompt")[0]).toMatchObject({ promptTokens, cachedTokens, reused });
        expect(reused.blocks + reused.prefix + reused.conversation).toBe(cachedTokens);
        expect(promptTokens - cachedTokens).toBeGreaterThan(0);
        expect(misses).toEqual("explain" in asked ? expect.any(Array) : undefined);
      }
      for (const name of ["keepPrefixes", "explain"]) {
        await expect(generate({ [name]: 1 })).rejects.toEqual(
          error("invalid", `Cannot generate: ${name} is 1, wanted true or false`),
        );
      }
    });

    test("generate(): a repair of block mode is named in the result; in full mode it is refused unless it is auto", async () => {
      const repairOf = async (asked: object) =>
        ofKind(await generate({ maxTokens: 1, ...asked }), "done")[0]!.result.repair;
      expect(await repairOf({ mode: "block" })).toBeUndefined();
      expect(await repairOf({ mode: "block", repair: "none" })).toBeUndefined();
      const used = await repairOf({ mode: "block", repair: "lead=auto,sink=2" });
      expect(used).toEqual({ text: "lead,sink=2", recomputedTokens: 0 });
      expect(await repairOf({ repair: "lead" })).toMatchObject({ text: "lead" });
      expect(await repairOf({ mode: "full", repair: "auto" })).toBeUndefined();
      await expect(repairOf({ mode: "full", repair: "lead" })).rejects.toEqual(
        error("invalid", 'Cannot use the repair "lead": the mode is full, which loses nothing'),
      );
      await expect(repairOf({ mode: "block", repair: "lead,first=0" })).rejects.toMatchObject({ code: "invalid" });
    });

    test("generate(): n answers of one prompt, each with its tokens, its end and its seed", async () => {
      const sampling = { maxTokens: 3, temperature: 1, seed: Number.MAX_SAFE_INTEGER - 1, logitBias: noEnd };
      const events = await generate({ ...sampling, n: 3, echo: true });
      expect(events.findIndex(({ kind }) => kind === "prompt")).toBe(ofKind(events, "echo").length);
      expect(ofKind(events, "prompt")).toHaveLength(1);
      const seeds = [sampling.seed, sampling.seed + 1, 0];
      for (const [index, seed] of seeds.entries()) {
        const own = events.filter((event) => "index" in event && event.index === index);
        expect(own.map(({ kind }) => kind)).toEqual(["token", "token", "token", "done"]);
        const { result } = ofKind(own, "done")[0]!;
        expect(result).toMatchObject({ seed, tokenIds: ofKind(own, "token").map(({ tokenId }) => tokenId) });
        const [alone] = ofKind(await generate({ ...sampling, seed }), "done");
        expect(result.tokenIds).toEqual(alone!.result.tokenIds);
      }
    });

    test("generate(): tokens are spelled where asked, and the likeliest others with them", async () => {
      const tokens = ofKind(await generate({ maxTokens: 4, spell: true, topLogprobs: 2 }), "token");
      for (const { tokenId, logprob, top, spelled } of tokens) {
        expect(spelled).toMatchObject({ id: tokenId, logprob });
        expect(Buffer.from(spelled!.bytes).toString()).toBe(spelled!.text);
        expect(spelled!.top).toMatchObject(top);
        // Greedy: the token is the likeliest.
        expect(spelled!.top).toHaveLength(2);
        expect(spelled!.top[0]).toEqual({ id: tokenId, text: spelled!.text, bytes: spelled!.bytes, logprob });
      }
    });

    test("generate(): an echo comes before the prompt event, with log-probabilities where they are asked for", async () => {
      for (const logprobs of [false, true]) {
        const events = await generate({ echo: true, maxTokens: 0, logprobs, topLogprobs: logprobs ? 2 : 0 });
        const echoes = ofKind(events, "echo");
        expect(events.map(({ kind }) => kind)).toEqual([...echoes.map(() => "echo"), "prompt", "done"]);
        const tokens = echoes.flatMap((echo) => echo.tokens);
        expect(tokens).toHaveLength(ofKind(events, "prompt")[0]!.promptTokens);
        const spelled = Buffer.concat(tokens.map(({ bytes }) => Buffer.from(bytes))).toString();
        // A tokenizer may put a space after each line end, and take it out of whole texts only.
        expect(spelled.replaceAll("\n ", "\n").endsWith(prompt.blocks.join(""))).toBe(true);
        expect(tokens[0]).toMatchObject({ logprob: undefined, top: [] });
        for (const { logprob, top } of tokens.slice(1)) {
          expect(logprob === undefined).toBe(!logprobs);
          expect(top).toHaveLength(logprobs ? 2 : 0);
        }
      }
    });

    test("generate(): more log-probabilities than wanted are refused before anything is computed", async () => {
      const ask = (maxLogprobs: number, echo = false) => generate({ maxTokens: 10, topLogprobs: 4, echo, maxLogprobs });
      await ask(50);
      const { store } = await engine.stats();
      await expect(ask(49)).rejects.toEqual(error("invalid", expect.stringContaining("there could be 50")));
      await expect(ask(50, true)).rejects.toEqual(error("invalid"));
      expect((await engine.stats()).store).toEqual(store);
    });

    test("generate(): what cannot be used is an EngineError with a code", async () => {
      await expect(generate({ temperature: -1 })).rejects.toEqual(
        error("invalid", "Cannot generate: temperature is -1, wanted a finite number from 0 on"),
      );
      await expect(generate({ n: 0 })).rejects.toEqual(error("invalid"));
      await expect(generate({ heat: 1 } as object)).rejects.toEqual(
        error("invalid", expect.stringContaining('"heat"')),
      );
      await expect(all(engine.generate({ blocks: [""] }))).rejects.toEqual(error("invalid"));
      const ids = Array.from({ length: engine.info!.contextLength + 1 }, () => 5);
      await expect(all(engine.generate({ blockTokenIds: [ids] }))).rejects.toEqual(error("too_long"));
      await idle();
    });

    test("generate(): after an abort each answer ends as cancelled, at whatever moment", async () => {
      const { cancelled } = await requests();
      for (const n of [1, 2]) {
        const stop = new AbortController();
        const events: GenerateEvent[] = [];
        for await (const event of engine.generate(prompt, {
          n,
          maxTokens: 1000,
          logitBias: noEnd,
          signal: stop.signal,
        })) {
          events.push(event);
          if (event.kind === "token") stop.abort();
        }
        expect(events.at(-1)?.kind).toBe("done");
        expect(ofKind(events, "done").map(({ result }) => result.finishReason)).toEqual(Array(n).fill("cancelled"));
      }
      const [before] = await generate({ signal: AbortSignal.abort() });
      expect(before).toMatchObject({ kind: "done", text: "", result: { finishReason: "cancelled", tokenIds: [] } });
      await idle();
      expect((await requests()).cancelled).toBe(cancelled + 4);
      // At any moment of an answer, its end among them.
      for (let ms = 0; ms < 40; ms += 4) {
        const abort = new AbortController();
        const reading = generate({ maxTokens: 3, signal: abort.signal });
        await new Promise((resolve) => setTimeout(resolve, ms));
        abort.abort();
        expect((await reading).at(-1)?.kind).toBe("done");
      }
      await idle();
    });

    test("generate(): leaving the loop frees the place", async () => {
      for (const n of [1, 3]) {
        for await (const event of engine.generate(prompt, { n, maxTokens: 1000, logitBias: noEnd })) {
          if (event.kind === "token") break;
        }
        await idle();
      }
    });

    test("generate(): a slow reader stops its own answer, and nobody else's", async () => {
      const { finished } = await requests();
      const asked = { maxTokens: 100, logitBias: noEnd };
      const slow = engine.generate(prompt, asked)[Symbol.asyncIterator]();
      await slow.next();
      for (let i = 0; i < 3; i++) await generate(asked);
      expect(await requests()).toMatchObject({ running: 1, finished: finished + 3 });
      const rest = await all({ [Symbol.asyncIterator]: () => slow });
      const { result } = ofKind(rest, "done")[0]!;
      expect(ofKind(rest, "token")).toHaveLength(result.tokenIds.length);
      expect(await requests()).toMatchObject({ running: 0, finished: finished + 4 });
    });

    test("encode(): passages in order, each handed over once the one before was taken; found again, the second time", async () => {
      const passages = ["one passage\n", "another passage\n", { title: "A", text: "a third" }];
      const told: EncodedPassage[] = [];
      let isTaking = false;
      const first = await engine.encode(passages, {
        async onBlock(block) {
          expect(isTaking).toBe(false);
          isTaking = true;
          await new Promise((resolve) => setTimeout(resolve, 2));
          told.push(block);
          isTaking = false;
        },
      });
      expect(told).toEqual(first.blocks);
      expect(first.blocks.map(({ passage }) => passage.index)).toEqual([0, 1, 2]);
      expect(first.blocks.map((block) => block.error === undefined && block.hit)).toEqual([false, false, false]);
      const second = await engine.encode(passages);
      expect(second).toEqual({ blocks: first.blocks.map((block) => ({ ...block, hit: true })), failed: 0 });
    });

    test("encode(): a passage that cannot be encoded has its error in its place", async () => {
      const { blocks, failed } = await engine.encode(["", "a passage beside\n"]);
      expect(failed).toBe(1);
      expect(blocks).toEqual([
        { passage: { index: 0 }, error: { code: "invalid", message: "Cannot encode passage 1: it is empty" } },
        { passage: { index: 1 }, id: expect.any(String), tokens: expect.any(Number), hit: false },
      ]);
    });

    test("encode(): an abort rejects with its reason, and what onBlock throws with that; nothing goes on", async () => {
      const passages = Array.from({ length: 100 }, (_, i) => `A passage of its own, number ${i}.\n`);
      const gone = new Error("gone");
      const stop = new AbortController();
      const encoding = engine.encode(passages, { signal: stop.signal, onBlock: () => stop.abort(gone) });
      await expect(encoding).rejects.toBe(gone);
      await expect(engine.encode(passages, { signal: AbortSignal.abort(gone) })).rejects.toBe(gone);
      const onBlock = (): void => {
        throw gone;
      };
      await expect(engine.encode(passages, { onBlock })).rejects.toBe(gone);
      await idle();
    });

    test("a tenant's blocks are its own", async () => {
      const text = "a passage of tenants\n";
      const encode = async (salt: string) => (await engine.encode([text], { salt })).blocks[0] as ServedBlock;
      const [ours, theirs] = [{ salt: "ours" }, { salt: "theirs" }];
      const { id, tokens } = await encode("ours");
      expect((await encode("theirs")).hit).toBe(false);
      expect((await encode("ours")).hit).toBe(true);
      expect(await engine.block(id, ours)).toMatchObject({ id, tokens, bytes: expect.any(Number), inUse: false });
      expect(await engine.block(id, theirs)).toBeUndefined();
      expect(await engine.block("no id", ours)).toBeUndefined();
      const answer = async (salt: string) =>
        ofKind(await all(engine.generate({ blocks: [text, "Who?"] }, { salt, maxTokens: 0 })), "prompt")[0]!;
      expect((await answer("nobody")).cachedTokens).toBe(0);
      expect((await answer("ours")).cachedTokens).toBe(tokens);
      expect(await engine.deleteBlock(id, theirs)).toBe(false);
      expect(await engine.deleteBlock(id, ours)).toBe(true);
      expect(await engine.deleteBlock(id, ours)).toBe(false);
      expect(await engine.block(id, ours)).toBeUndefined();
      expect((await engine.stats()).store.evictionsByReason.deleted).toBe(1);
    });

    test("documents: passages with an id are listed, replaced and deleted with their blocks, each tenant's alone", async () => {
      const [ours, theirs] = [{ salt: "library" }, { salt: "archive" }];
      const texts = ["a common passage of documents\n", "a passage of the first\n", "another one instead\n"] as const;
      const passage = (id: string | number, text: string) => ({ id, text, metadata: { page: 1 } });
      const encode = async (passages: Parameters<Engine["encode"]>[0], of = ours) => {
        const { blocks } = await engine.encode(passages, of);
        return blocks.map((one) => (one as ServedBlock).id as string);
      };
      const first = [passage("one", texts[0]), passage("one", texts[1])];
      const [common = "", own = ""] = await encode([
        ...first,
        passage(2, texts[0]),
        passage("", texts[2]),
        "no document\n",
      ]);
      await encode([passage("one", texts[0])], theirs);
      const listed = async (options = {}) => {
        const documents = await engine.documents({ ...ours, ...options });
        return documents.map(({ id, blocks }) => [id, blocks.map((block) => block.id)] as const);
      };
      const all = await listed();
      expect(Object.fromEntries(all)).toEqual({ one: [common, own], 2: [common] });
      expect(await listed({ limit: 1 })).toEqual(all.slice(0, 1));
      expect(await listed({ after: String(all[0]?.[0]) })).toEqual(all.slice(1));
      expect((await engine.documents(ours))[0]?.metadata).toEqual({ page: 1 });
      // The same text once more changes nothing, another one forgets the blocks that no other document has.
      await encode(first);
      expect(Object.fromEntries(await listed())).toEqual(Object.fromEntries(all));
      const [instead = ""] = await encode([passage("one", texts[2])]);
      expect(await engine.block(own, ours)).toBeUndefined();
      expect(await engine.block(common, ours)).toBeDefined();
      expect(await engine.deleteDocument("one", { salt: "nobody" })).toBe(false);
      expect(await engine.deleteDocument("one", ours)).toBe(true);
      expect(await engine.deleteDocument("one", ours)).toBe(false);
      expect(await engine.block(instead, ours)).toBeUndefined();
      expect(await engine.deleteDocument("2", ours)).toBe(true);
      expect(await engine.block(common, ours)).toBeUndefined();
      expect(await listed()).toEqual([]);
      expect(await engine.documents(theirs)).toHaveLength(1);
    });

    test("tokenize(): ids, and spelled tokens in parts that put together give the text back", async () => {
      for (const text of ["Größe 你好 <|eos|>", "key ".repeat(1000).trim(), ""]) {
        const tokens: Token[] = [];
        const sizes = new Set<number>();
        const onTokens = async (some: readonly Token[], numTokens: number): Promise<void> => {
          tokens.push(...some);
          sizes.add(numTokens);
        };
        const ids = await engine.tokenize(text, { onTokens });
        expect(tokens.map(({ id }) => id)).toEqual(ids);
        expect([...sizes]).toEqual([ids.length]);
        expect(Buffer.concat(tokens.map(({ bytes }) => Buffer.from(bytes))).toString()).toBe(text);
        expect(await engine.tokenize(text)).toEqual(ids);
      }
      await expect(engine.tokenize("a b c d ".repeat(10), { maxTokens: 10 })).rejects.toEqual(error("too_long"));
      const gone = new Error("gone");
      await expect(engine.tokenize("a", { signal: AbortSignal.abort(gone) })).rejects.toBe(gone);
    });

    test("scoreEach(): each continuation's tokens and how likely they are", async () => {
      const texts = [" In the hall.", " Nobody knows where it may be."];
      const results = await engine.scoreEach(prompt, texts, { top: 1 });
      expect(results).toHaveLength(2);
      for (const { logprobs, top, continuationTokenIds, usage } of results) {
        expect(continuationTokenIds.length).toBeGreaterThan(0);
        expect(logprobs).toHaveLength(continuationTokenIds.length);
        for (const logprob of logprobs) expect(logprob).toBeLessThanOrEqual(0);
        expect(top.map((ones) => ones.length)).toEqual(logprobs.map(() => 1));
        expect(usage.completionTokens).toBe(continuationTokenIds.length);
      }
      const ids = results.map(({ continuationTokenIds }) => continuationTokenIds);
      const again = await engine.scoreEach(prompt, ids, { top: 1 });
      for (const [i, { continuationTokenIds, logprobs }] of again.entries()) {
        expect(continuationTokenIds).toEqual(ids[i]);
        for (const [k, logprob] of logprobs.entries()) expect(logprob).toBeCloseTo(results[i]!.logprobs[k]!, 2);
      }
      expect(await engine.scoreEach(prompt, [])).toEqual([]);
      await expect(engine.scoreEach(prompt, ["a", ""])).rejects.toEqual(error("invalid"));
      const gone = new Error("gone");
      await expect(engine.scoreEach(prompt, texts, { signal: AbortSignal.abort(gone) })).rejects.toBe(gone);
    });

    test("stats(): the store's bytes add up, and what ended is counted", async () => {
      await idle();
      const { store, contexts, requests } = await engine.stats();
      expect(store.leasedBytes + store.idleBytes + store.freeBytes).toBe(store.capBytes);
      expect(store).toMatchObject({ leasedBytes: 0, unkeptBytes: 0 });
      expect(store.hits).toBeGreaterThan(0);
      expect(contexts.usedBytes).toBe(0);
      expect(requests).toMatchObject({ queued: 0, running: 0 });
    });

    test("closed, it ends what runs and refuses what comes, once however often it is disposed", async () => {
      const own = await make();
      const states: string[] = [];
      own.onStatus(({ state }) => states.push(state));
      own.onStatus(() => states.push("unwanted"))();
      const running = own.generate(prompt, { maxTokens: 1000, logitBias: noEnd })[Symbol.asyncIterator]();
      await running.next();
      const rest = all({ [Symbol.asyncIterator]: () => running }).catch((thrown: unknown) => thrown);
      await Promise.all([own[Symbol.asyncDispose](), own[Symbol.asyncDispose]()]);
      expect(await rest).toEqual(error("unavailable"));
      expect(states).toEqual(["closed"]);
      expect(own.status.state).toBe("closed");
      const calls = [
        () => all(own.generate(prompt)),
        () => all(own.generate(prompt, { n: 2 })),
        () => own.scoreEach(prompt, ["a"]),
        () => own.encode(["a"]),
        () => own.tokenize("a"),
        () => own.block("0".repeat(64)),
        () => own.deleteBlock("0".repeat(64)),
        () => own.documents(),
        () => own.deleteDocument("a"),
      ];
      for (const call of calls) await expect(call()).rejects.toEqual(error("unavailable"));
    });
  });
}
