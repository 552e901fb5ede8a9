import { getEventListeners } from "node:events";
import { queryObjects } from "node:v8";
import { expect, test } from "vitest";
import type { EngineOptions } from "../../src/engine/engine-options.js";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import { type PromptSpan, TokenizedPrompt } from "../../src/engine/prompt.js";
import { StateSession } from "../../src/state/state-session.js";
import { Random } from "../models/random.js";
import {
  copiesEnded,
  drawBlocks,
  drawIds,
  expectIdle,
  expectOnlyBlocks,
  LawModels,
  lawEngine,
  liveCounts,
  noEnd,
} from "./law-models.js";

export interface GrowthSize {
  readonly numRequests: number;
  readonly numTurns: number;
  /** Of a state's session. */
  readonly numFrames: number;
  /** What the process's resident memory may grow by after the first tenth of the requests, where that is judged: what no count sees. */
  readonly marginBytes?: number;
}

/** Nothing grows, however many requests come: memory, native objects, the store's accounts, listeners. */
export function growthSuite(size: GrowthSize, options: Pick<EngineOptions, "hostStoreBytes"> = {}): void {
  const models = new LawModels();

  test("Engine: nothing grows with the number of requests", async () => {
    const model = models.huggingFace({ architecture: "llama", contextLength: 1024, seed: 91 });
    const before = await liveCounts();
    {
      const random = new Random(5, "growth");
      await using engine = await lawEngine(model, { kvType: "f16", storeBytes: 1 << 17, ...options });
      const idle = await liveCounts();
      const passages = drawBlocks(random, 40, 60);
      // Tokens are spelled once each and remembered.
      const { tokenizer } = engine.model;
      tokenizer.decode(Array.from({ length: tokenizer.vocabSize }, (_, id) => id));
      const controller = new AbortController();
      const request = async (i: number) => {
        const chosen = random.order(passages.length).slice(0, random.below(12));
        const blocks = [...chosen.map((index) => passages[index] as number[]), drawIds(random, 1 + random.below(30))];
        const input = { blockTokenIds: blocks };
        const { signal } = i % 2 === 0 ? controller : new AbortController();
        switch (i % 5) {
          case 0:
            await engine.score(input, [1, 2, 3], { signal });
            return;
          case 1:
            for await (const event of engine.generate(input, { signal })) if (event.kind === "token") break;
            return;
          case 2: {
            const abort = new AbortController();
            const answer = engine.complete(input, { signal: abort.signal, logitBias: noEnd });
            setTimeout(() => abort.abort(), random.below(6));
            await answer;
            return;
          }
          case 3:
            await engine.complete({ blockTokenIds: [[-1]] }, { signal }).catch(() => undefined);
            await engine.complete({ blocks: ["one", "two"] }, { signal, temperature: 1, maxTokens: 3, stop: ["e"] });
            return;
          default:
            await engine.complete(input, { signal, maxTokens: 4, logitBias: noEnd });
        }
      };
      const warmUp = Math.ceil(size.numRequests / 3);
      const growth = await Growth.over(size.numRequests, warmUp, engine, request);
      await growth.expectNone(size.numRequests - warmUp, size.marginBytes, engine);
      expect(getEventListeners(controller.signal, "abort")).toEqual([]);
      await expectOnlyBlocks(idle, engine);
    }
    expect(await liveCounts()).toEqual(before);
  });

  test("Engine: nothing grows with the number of turns of conversations", async () => {
    const model = models.huggingFace({ architecture: "llama", contextLength: 1024, seed: 93 });
    const before = await liveCounts();
    {
      const random = new Random(6, "turns");
      await using engine = await lawEngine(model, { kvType: "f16", storeBytes: 1 << 17, ...options });
      const idle = await liveCounts();
      const passages = drawBlocks(random, 20, 60);
      const { tokenizer } = engine.model;
      tokenizer.decode(Array.from({ length: tokenizer.vocabSize }, (_, id) => id));
      /** Conversations that go on side by side, each until it is long. */
      const conversations: PromptSpan[][] = [[], [], [], []];
      const span = (kind: PromptSpan["kind"], ids: readonly number[]) => ({ kind, tokenIds: Int32Array.from(ids) });
      const turn = async (i: number) => {
        const at = random.below(conversations.length);
        const turns = conversations[at] as PromptSpan[];
        if (random.below(8) === 0 || turns.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0) > 500)
          turns.length = 0;
        if (turns.length === 0 || random.below(3) === 0)
          turns.push(span("local", passages[random.below(20)] as number[]));
        // A turn's question goes on with the answer before it.
        const last = turns.at(-1)?.kind === "global" ? (turns.pop() as PromptSpan).tokenIds : [];
        turns.push(span("global", [...last, ...drawIds(random, 1 + random.below(30))]));
        const mode = at === 0 ? "full" : "block";
        const whole = turns.flatMap(({ tokenIds }) => [...tokenIds]);
        const spans = mode === "full" ? [span("global", whole)] : [...turns];
        const prompt = new TokenizedPrompt(mode, spans, [], [], true, true);
        const options = { mode, salt: `${at % 2}`, explain: i % 5 === 0 } as const;
        if (i % 9 === 0) await engine.score(prompt, [1, 2], options);
        const abort = new AbortController();
        if (i % 7 === 0) setTimeout(() => abort.abort(), random.below(6));
        const { tokenIds } = await engine.complete(prompt, {
          ...options,
          maxTokens: random.below(12),
          signal: abort.signal,
        });
        turns.push(span("global", [...(turns.pop() as PromptSpan).tokenIds, ...tokenIds]));
      };
      const warmUp = Math.ceil(size.numTurns / 3);
      const growth = await Growth.over(size.numTurns, warmUp, engine, turn);
      // A page is evicted every second turn or so: of those, too, not every fourth may leave an object.
      await growth.expectNone((size.numTurns - warmUp) / 4, size.marginBytes, engine);
      const { room, replaced } = engine.stats().store.evictionsByReason;
      expect(Math.min(room, replaced)).toBeGreaterThan(size.numTurns / 20);
      await expectOnlyBlocks(idle, engine);
    }
    expect(await liveCounts()).toEqual(before);
  });

  test("StateSession: nothing grows with the number of frames", async () => {
    const model = models.huggingFace({ architecture: "llama", contextLength: 1024, seed: 94 });
    const before = await liveCounts();
    {
      const random = new Random(7, "frames");
      await using engine = await lawEngine(model, { kvType: "f16", storeBytes: 1 << 17, ...options });
      const { tokenizer } = engine.model;
      tokenizer.decode(Array.from({ length: tokenizer.vocabSize }, (_, id) => id));
      // So are words.
      await engine.tokenize(Array.from({ length: 100 }, (_, i) => `:${i} ${i}`).join(" "));
      await using session = new StateSession(engine, { keyFields: ["seat"], onUpdate: "newest" });
      const history: string[] = [];
      const players = Array.from({ length: 4 }, (_, seat) => ({ seat, bet: 0, remain: 1000 }));
      const frame = async (i: number) => {
        history.push(`seat ${random.below(4)} bets ${i % 100}`);
        if (history.length > 6) history.shift();
        Object.assign(players[random.below(4)] as object, { bet: random.below(100) });
        session.update(
          i % 3 === 1
            ? { patch: [{ op: "replace", path: "/pot", value: i % 100 }] }
            : { state: { history, players, pot: i % 100 } },
        );
        const answers = [session.ask("Who?", { maxTokens: 2 }), session.ask("What?", { maxTokens: 1 })];
        if (i % 4 === 0) session.update({ state: { history, players, pot: (i + 1) % 100 } });
        await Promise.allSettled(answers);
      };
      const warmUp = Math.ceil(size.numFrames / 3);
      const growth = await Growth.over(size.numFrames, warmUp, engine, frame);
      await growth.expectNone(size.numFrames - warmUp, size.marginBytes, engine);
    }
    expect(await liveCounts()).toEqual(before);
  });

  test("Engine.load(): nothing stays of engines that were closed", async () => {
    const model = models.huggingFace({ architecture: "qwen2", seed: 92 });
    const before = await liveCounts();
    const times = Math.ceil(size.numRequests / 20);
    const warmUp = Math.ceil(times / 3);
    const growth = new Growth();
    for (let i = 0; i < times; i++) {
      {
        await using engine = await lawEngine(model);
        await engine.complete({ blocks: ["one", "two"] }, { maxTokens: 2 });
      }
      expect(await liveCounts()).toEqual(before);
      if (i === warmUp) await growth.begin();
    }
    await growth.expectNone(times - warmUp, size.marginBytes);
  });
}

/** What lives in this process once garbage is gone. */
interface Living {
  /** Objects of JavaScript, of every kind. */
  readonly objects: number;
  /** Timers, sockets and the like. */
  readonly resources: number;
  /** Bytes of typed arrays. */
  readonly arrayBytes: number;
  readonly residentBytes: number;
}

/** Counts what lives in this process, at two moments. */
class Growth {
  #before: Living | undefined;
  #numResting = 0;

  /** Does something so many times, with nothing left running in between, and watches what lives from one of them on. */
  static async over(
    numRounds: number,
    warmUp: number,
    engine: LocalEngine,
    round: (i: number) => Promise<void>,
  ): Promise<Growth> {
    const growth = new Growth();
    for (let i = 0; i < numRounds; i++) {
      await round(i);
      await copiesEnded(engine);
      expectIdle(engine);
      if (i === warmUp) await growth.begin(engine);
    }
    return growth;
  }

  async begin(engine?: LocalEngine): Promise<void> {
    this.#numResting = numResting(engine);
    this.#before = await living();
  }

  /** Expects that not every second thing that was done has left an object, and none 100 bytes of arrays, or a timer or socket. */
  async expectNone(numMore: number, marginBytes = Number.POSITIVE_INFINITY, engine?: LocalEngine): Promise<void> {
    const [before, after] = [this.#before!, await living()];
    // Small blocks and large ones come and go: some twenty objects for each that rests below now, and did not before.
    const numDone = numMore + 40 * Math.max(0, numResting(engine) - this.#numResting);
    // The two counts are objects themselves.
    expect(after.objects - before.objects, "objects").toBeLessThan(10 + numDone / 2);
    expect(after.arrayBytes - before.arrayBytes, "bytes of arrays").toBeLessThan(100 * numDone);
    expect(after.resources, "timers and sockets").toBeLessThanOrEqual(before.resources);
    expect(after.residentBytes - before.residentBytes, "resident bytes").toBeLessThan(marginBytes);
  }
}

function numResting(engine: LocalEngine | undefined): number {
  return engine?.stats().store.tiers[0]?.numBlocks ?? 0;
}

async function living(): Promise<Living> {
  let least: Living | undefined;
  for (let i = 0; i < 5; i++) {
    // What is found to be garbage is cleaned up in turns of the event loop.
    await new Promise((resolve) => setTimeout(resolve, 20));
    // Collects the garbage first.
    const objects = queryObjects(Object, { format: "count" });
    const { arrayBuffers, rss } = process.memoryUsage();
    const now = {
      objects,
      resources: process.getActiveResourcesInfo().length,
      arrayBytes: arrayBuffers,
      residentBytes: rss,
    };
    if (least === undefined || now.objects <= least.objects) least = now;
  }
  return least!;
}
