import { getEventListeners } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import type { EngineOptions, GenerateOptions, RequestOptions } from "../../src/engine/engine-options.js";
import { KVMemory } from "../../src/engine/kv-memory.js";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import type { AttentionMode } from "../../src/model/block-attention-config.js";
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

export interface StressSize {
  readonly numRounds: number;
  readonly requestsPerRound: number;
  /** Default 0. */
  readonly firstSeed?: number;
}

/** A round is over long before, on the busiest machine: else somebody waits for ever. */
const maxRoundMs = 60_000;
const maxAnswers = 64;
const maxContinuationTokens = 700;

type Asked =
  | { readonly kind: "generate"; readonly blocks: number[][]; readonly options: GenerateOptions & RequestOptions }
  | { readonly kind: "score"; readonly blocks: number[][]; readonly texts: number[][]; readonly stepwise: boolean }
  | { readonly kind: "encode"; readonly passages: string[] };

/** What becomes of a request's reader. */
type Manner = "reads" | "aborts" | "leaves" | "stalls" | "drops";

/** How the device fails in a round, one call of so many. */
interface Faults {
  readonly compute: number;
  readonly allocate: number;
}

const injected = "Cannot compute: the test wants it so";

/** A round's requests, all owners' at once, on an engine with hardly room for them. */
class Round {
  readonly #random: Random;
  readonly #signals: AbortSignal[] = [];
  /** Of those that are under way, for the message where they hang. */
  readonly #open = new Set<string>();
  #numAnswers = 0;

  constructor(
    seed: number,
    private readonly engine: LocalEngine,
    private readonly alone: (asked: Asked) => Promise<unknown>,
    private readonly isFaultless: boolean,
    private readonly isClosed: boolean,
  ) {
    this.#random = new Random(seed, "requests");
  }

  async run(count: number): Promise<void> {
    const all = Array.from({ length: count }, (_, i) => this.#request(i));
    if (this.isClosed) {
      await this.#turns(this.#random.below(400));
      await this.engine[Symbol.asyncDispose]();
    }
    const isOver = await Promise.race([Promise.all(all).then(() => true), sleep(maxRoundMs, false, { ref: false })]);
    expect(isOver, `wait for ever: ${[...this.#open].join("; ")} ${JSON.stringify(this.engine.stats().requests)}`).toBe(
      true,
    );
    for (const signal of this.#signals) expect(getEventListeners(signal, "abort")).toEqual([]);
    if (this.isClosed) return;
    // Those that were dropped end by themselves.
    await expect.poll(() => this.engine.stats().requests).toMatchObject({ running: 0, queued: 0 });
    const { finished, cancelled, failed } = this.engine.stats().requests;
    expect(finished + cancelled + failed).toBe(this.#numAnswers);
    await copiesEnded(this.engine);
    expectIdle(this.engine);
  }

  async #request(i: number): Promise<void> {
    const random = new Random(this.#random.bits(), "request");
    const asked = drawAsked(random);
    const owner = `owner ${random.below(4)}`;
    const manner = (["reads", "reads", "reads", "aborts", "leaves", "stalls", "drops"] as const)[
      random.below(7)
    ] as Manner;
    const controller = new AbortController();
    this.#signals.push(controller.signal);
    await this.#turns(random.below(200));
    const name = `${i}: ${describeAsked(asked)}, ${owner}, ${manner}`;
    this.#open.add(name);
    this.#numAnswers += asked.kind === "generate" ? (asked.options.n ?? 1) : 1;
    if (manner === "aborts")
      void this.#turns(random.below(300)).then(() => controller.abort(new Error("aborted by the test")));
    try {
      const found = await this.#ask(asked, owner, manner, controller.signal, random);
      if (found !== undefined) expect(found, name).toEqual(nearly(await this.alone(asked)));
    } catch (error) {
      if (!this.#isExpected(error, manner)) throw new Error(`${name}: ${error}`, { cause: error });
    } finally {
      this.#open.delete(name);
    }
  }

  #isExpected(error: unknown, manner: Manner): boolean {
    const { code, message, cause } = error as { code?: string; message: string; cause?: { message: string } };
    if (message === "aborted by the test") return manner === "aborts";
    if (code === "slow_reader") return manner === "stalls";
    if (code === "unavailable") return this.isClosed;
    if (code === "failed") return !this.isFaultless && `${message} ${cause?.message}`.includes(injected);
    return code === "queue_full" || code === "too_long";
  }

  /** What was computed, where nothing disturbed it. */
  async #ask(asked: Asked, salt: string, manner: Manner, signal: AbortSignal, random: Random): Promise<unknown> {
    if (asked.kind !== "generate") return await ask(this.engine, asked, { salt, signal });
    const events = this.engine.generate({ blockTokenIds: asked.blocks }, { ...asked.options, salt, signal });
    const after = random.below(12);
    if (manner === "drops") {
      for (let i = 0; i <= after; i++) if ((await events.next()).done) break;
      dropped.push(events);
      return undefined;
    }
    const answers: number[][] = [];
    let numEvents = 0;
    let isCancelled = false;
    for await (const event of events) {
      if (event.kind === "done") {
        answers[event.index] = [...event.result.tokenIds];
        isCancelled ||= event.result.finishReason === "cancelled";
      }
      numEvents += 1;
      if (numEvents <= after) continue;
      if (manner === "leaves") return undefined;
      if (manner === "stalls" && numEvents === after + 1) await sleep(random.below(80));
    }
    return isCancelled ? undefined : answers;
  }

  async #turns(count: number): Promise<void> {
    for (let i = 0; i < count; i++) await new Promise(setImmediate);
  }
}

/** Graphs of other sizes round otherwise. */
function nearly(expected: unknown): unknown {
  if (Array.isArray(expected)) return expected.map(nearly);
  return typeof expected === "number" && !Number.isInteger(expected) ? expect.closeTo(expected, 2) : expected;
}

/** Held, so that nothing but the engine ends them. */
const dropped: unknown[] = [];

function describeAsked(asked: Asked): string {
  switch (asked.kind) {
    case "generate":
      return `generate ${asked.blocks.map(({ length }) => length)} n ${asked.options.n} of ${asked.options.maxTokens} ${asked.options.mode}`;
    case "score":
      return `score ${asked.blocks.map(({ length }) => length)} stepwise ${asked.stepwise} ${asked.texts.map(({ length }) => length)}`;
    default:
      return `encode ${asked.passages.length}`;
  }
}

function drawAsked(random: Random): Asked {
  const numBlocks = random.below(4);
  const longest = [1, 12, 80, 300][random.below(4)] as number;
  const blocks = [
    ...drawBlocks(random, numBlocks, longest),
    drawIds(random, random.below(2) ? 1 : 1 + random.below(90)),
  ];
  const kind = random.below(5);
  if (kind === 0)
    return {
      kind: "encode",
      passages: Array.from({ length: random.below(5) }, () => `w${random.below(40)} `.repeat(1 + random.below(60))),
    };
  if (kind === 1) {
    const isLong = random.below(4) === 0;
    const texts = Array.from({ length: random.below(31) }, () =>
      drawIds(random, 1 + random.below(isLong ? maxContinuationTokens : 9)),
    );
    const stepwise = random.below(3) === 0;
    return {
      kind: "score",
      blocks,
      texts: stepwise ? texts.slice(0, 3).map((text) => text.slice(0, 30)) : texts,
      stepwise,
    };
  }
  const n = random.below(2) ? 1 : 1 + random.below(random.below(6) === 0 ? maxAnswers : 6);
  const mode: AttentionMode = random.below(3) === 0 ? "full" : "block";
  const options: GenerateOptions & RequestOptions = {
    ...{ n, mode, maxTokens: random.below(40), temperature: 0 },
    ...{
      positionReencoding: random.below(4) !== 0,
      logprobs: random.below(2) === 0,
      echo: random.below(4) === 0,
      spell: random.below(4) === 0,
    },
    ...(random.below(3) === 0 ? { stop: ["a", "th"] } : {}),
    logitBias: random.below(4) === 0 ? {} : noEnd,
  };
  return { kind: "generate", blocks, options };
}

async function ask(engine: LocalEngine, asked: Asked, options: RequestOptions): Promise<unknown> {
  if (asked.kind === "encode")
    return (await engine.encode(asked.passages, options)).blocks.map(({ error, passage }) => [passage, error?.code]);
  if (asked.kind === "generate") {
    const answers: number[][] = [];
    for await (const event of engine.generate({ blockTokenIds: asked.blocks }, { ...asked.options, ...options })) {
      if (event.kind === "done") answers[event.index] = [...event.result.tokenIds];
    }
    return answers;
  }
  const { stepwise } = asked;
  const scores = await engine.scoreEach({ blockTokenIds: asked.blocks }, asked.texts, { ...options, stepwise, top: 2 });
  return scores.map(({ logprobs }) => logprobs);
}

/** Whatever requests, readers and the device do: each request ends, once, and leaves nothing; who was not disturbed gets what it gets alone. */
export function stressSuite(
  { numRounds, requestsPerRound, firstSeed = 0 }: StressSize,
  options: Pick<EngineOptions, "hostStoreBytes"> = {},
): void {
  const models = new LawModels();
  const shapes = [
    { architecture: "llama", contextLength: 2048, logitScale: 8, seed: 31 },
    { architecture: "qwen3", numLayers: 3, contextLength: 1500, logitScale: 8, seed: 32 },
    { architecture: "mistral", numLayers: 3, contextLength: 1500, slidingWindow: 1400, logitScale: 8, seed: 33 },
  ] as const;

  test.each(Array.from({ length: numRounds }, (_, i) => firstSeed + i))(
    "Engine: round %d of everything at once",
    { timeout: 2 * maxRoundMs },
    async (seed) => {
      const random = new Random(seed, "round");
      const model = models.huggingFace(shapes[random.below(shapes.length)]!);
      const before = await liveCounts();
      {
        await using quiet = await lawEngine(model);
        // What barely fits: the longest request, and little more.
        const contextBytes = (1 << 17) * [2, 4, 16, 40, 1600][random.below(5)]!;
        const storeBytes = [1, 1 << 19, 1 << 22][random.below(3)]!;
        const faults: Faults = { compute: [0, 0, 60][random.below(3)]!, allocate: [0, 0, 12][random.below(3)]! };
        const isClosed = random.below(5) === 0;
        const limits = { maxRunning: 1 + random.below(4), maxQueued: random.below(3) === 0 ? random.below(6) : 500 };
        const idle = await liveCounts();
        await using engine = await lawEngine(model, {
          contextBytes,
          storeBytes,
          readerTimeoutMs: 40,
          ...limits,
          ...options,
        });
        const own = await liveCounts();
        using _ = failSometimes(engine, faults, random);
        const isFaultless = faults.compute + faults.allocate === 0;
        const round = new Round(seed, engine, (asked) => ask(quiet, asked, {}), isFaultless, isClosed);
        await round.run(requestsPerRound);
        dropped.length = 0;
        if (isClosed) await expectOnlyBlocks(idle, quiet);
        else await expectOnlyBlocks(own, engine, quiet);
      }
      expect(await liveCounts()).toEqual(before);
    },
  );
}

/** @returns what ends it. */
function failSometimes({ model: { backend } }: LocalEngine, faults: Faults, random: Random): Disposable {
  const { compute } = backend;
  const { allocate } = KVMemory.prototype;
  const isNow = (oneOf: number) => oneOf > 0 && random.below(oneOf) === 0;
  backend.compute = async <T>(...args: Parameters<typeof compute>): Promise<T> => {
    if (isNow(faults.compute)) {
      if (random.below(2)) await new Promise(setImmediate);
      throw new Error(injected);
    }
    return (await compute.apply(backend, args)) as T;
  };
  KVMemory.prototype.allocate = function (this: KVMemory, ...args) {
    if (this.backend === backend && isNow(faults.allocate)) throw new Error(injected);
    return allocate.apply(this, args);
  };
  return {
    [Symbol.dispose]: () => {
      KVMemory.prototype.allocate = allocate;
    },
  };
}
