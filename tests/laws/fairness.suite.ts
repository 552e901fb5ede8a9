import { expect, test } from "vitest";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import type { EncodedPassage } from "../../src/engine/results.js";
import { Random } from "../models/random.js";
import { drawIds, expectIdle, LawModels, lawEngine, noEnd } from "./law-models.js";

export interface FairnessSize {
  /** Graphs of decoding, and of prompts and blocks, in which tokens are counted. */
  readonly numSteps: number;
  readonly numRowGraphs: number;
  /** Requests that a caller has under way at a time. */
  readonly width: number;
  /** How often the line is filled. */
  readonly numLines: number;
}

/** How much more of the device one owner may have than the other, as a share of what the other has. */
const maxLead = 0.1;
/**
 * How often it is counted. On a busy machine an owner's line may run empty while its next texts are tokenized, and the other
 * rightly has the rest: such a count says nothing of who waits. An owner who is passed over is behind in every one.
 */
const numCounts = 3;
const [busy, modest] = ["busy", "modest"];

/** Makes one request of an owner; tells each time how many of its tokens have been computed. */
type Ask = (owner: string, signal: AbortSignal, onComputed: (numTokens: number) => void) => Promise<unknown>;

/** Owners who want more than their share get as much as each other, by count, however many calls one of them makes. */
export function fairnessSuite(size: FairnessSize): void {
  const models = new LawModels();
  const model = () => models.huggingFace({ architecture: "llama", seed: 141 });

  /**
   * Has eight callers of one owner, and later one of another, ask again and again, and expects as many tokens of each.
   * @param numToldLate the most tokens of an owner that have been computed and not told.
   */
  async function expectFair(
    engine: LocalEngine,
    graphs: "decodeGraphs" | "rowGraphs",
    width: number,
    ask: Ask,
    numToldLate = 0,
  ): Promise<void> {
    const numGraphs = graphs === "rowGraphs" ? size.numRowGraphs : size.numSteps;
    const over = new AbortController();
    let counted: Record<string, number> = {};
    const callers = (count: number, owner: string) =>
      Array.from({ length: count * width }, async () => {
        while (!over.signal.aborted) {
          await ask(owner, over.signal, (numTokens) => {
            counted[owner] = (counted[owner] ?? 0) + numTokens;
          }).catch((error: unknown) => expect(error).toBe(over.signal.reason));
        }
      });
    const passGraphs = async (count: number) => {
      const from = engine.stats().batching[graphs];
      while (engine.stats().batching[graphs] < from + count) await new Promise(setImmediate);
    };
    const all = callers(8, busy);
    await passGraphs(numGraphs / 20);
    all.push(...callers(1, modest));
    // The other's first texts are tokenized, and what ran before has ended.
    while (counted[modest] === undefined) await new Promise(setImmediate);
    await passGraphs(numGraphs / 20);
    const counts: { readonly lead: number; readonly of: string }[] = [];
    while (counts.length < numCounts && !counts.some(({ lead }) => lead < maxLead)) {
      counted = {};
      await passGraphs(numGraphs);
      const [ofBusy = 0, ofModest = 0] = [counted[busy], counted[modest]];
      const lead = (Math.abs(ofBusy - ofModest) - numToldLate) / Math.min(ofBusy, ofModest);
      counts.push({ lead, of: `${ofBusy} and ${ofModest}` });
    }
    over.abort();
    await Promise.all(all);
    expect(Math.min(...counts.map(({ lead }) => lead)), counts.map((one) => one.of).join(", ")).toBeLessThan(maxLead);
    expectIdle(engine);
  }

  test.each([
    ["as long", 20, 20],
    ["twice as long", 40, 20],
    ["half as long", 20, 40],
  ])(
    "Engine.generate(): eight callers have as many tokens computed as another owner's one, answers %s",
    async (_, ofBusy, ofModest) => {
      // Far fewer places than requests: each owner waits for more.
      await using engine = await lawEngine(model(), { maxRunning: 8, maxQueued: 9 * size.width, mode: "full" });
      const random = new Random(7, "fair answers");
      await expectFair(engine, "decodeGraphs", size.width, async (owner, signal, onComputed) => {
        const maxTokens = owner === busy ? ofBusy : ofModest;
        const options = { salt: owner, maxTokens, logitBias: noEnd, logprobs: false, signal };
        for await (const event of engine.generate({ blockTokenIds: [drawIds(random, 4)] }, options)) {
          if (event.kind === "prompt") onComputed(event.promptTokens);
          if (event.kind === "token") onComputed(1);
        }
      });
    },
  );

  test("Engine.encode(): eight callers have as many rows computed as another owner's one", async () => {
    // A place for every request: what is shared are the graphs. Each has one passage, so that what is told is what was
    // computed, and there are many: a line that runs empty while texts are tokenized would leave its share to the other.
    // Passages are told when their turn on the event loop comes, so that the count lacks some of those under way.
    const width = 8 * size.width;
    await using engine = await lawEngine(model(), { maxRunning: 9 * width });
    const random = new Random(8, "fair encoding");
    const maxPassageTokens = 80;
    const ask: Ask = (owner, signal, onComputed) => {
      const passage = Array.from({ length: 20 }, () => random.below(1000)).join(" ");
      const onBlock = (block: EncodedPassage) => {
        const tokens = block.error ? 0 : block.tokens;
        expect(tokens).toBeLessThanOrEqual(maxPassageTokens);
        onComputed(tokens);
      };
      return engine.encode([passage], { salt: owner, signal, onBlock });
    };
    await expectFair(engine, "rowGraphs", width, ask, width * maxPassageTokens);
  });

  test("Engine.generate(): who has nothing waiting is not turned away, however full another has made the line", async () => {
    await using engine = await lawEngine(model(), { maxRunning: 2, maxQueued: 6, mode: "full" });
    const random = new Random(9, "a full line");
    const ask = (owner: string) =>
      engine.complete({ blockTokenIds: [drawIds(random, 4)] }, { salt: owner, maxTokens: 12, logitBias: noEnd });
    let numRefused = 0;
    const fill = async (): Promise<void> => {
      try {
        await ask(busy);
      } catch (error) {
        expect(error).toMatchObject({ code: "queue_full" });
        numRefused += 1;
      }
    };
    for (let i = 0; i < size.numLines; i++) {
      const others = Array.from({ length: 8 + random.below(8) }, fill);
      for (let turn = 0; turn < random.below(4); turn++) await new Promise(setImmediate);
      others.push(...Array.from({ length: 8 }, fill));
      expect((await ask(modest)).usage.completionTokens).toBe(12);
      await Promise.all(others);
    }
    expect(numRefused).toBeGreaterThan(size.numLines);
    expectIdle(engine);
  });
}
