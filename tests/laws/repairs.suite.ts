import { describe, expect, test } from "vitest";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import { tokenizeRepair } from "../../src/engine/repair.js";
import { openModel } from "../../src/model/open-model.js";
import { architectureModels } from "../models/architecture-models.js";
import { Random } from "../models/random.js";
import { askEngine, distanceFromOracle, logprobBounds, oracleAnswer } from "../oracles/compare-engine.js";
import { expectOnlyRight } from "../oracles/faults.js";
import { OnePassModel } from "../oracles/one-pass.js";
import { keptBlocks, type RepairedPrompt, repairedReading } from "../oracles/repairs.js";
import { drawIds, LawModels, lawEngine, noEnd } from "./law-models.js";

export interface RepairsSize {
  /** Of the blocks of the longest prompt, in tokens. */
  readonly blockTokens: readonly number[];
}

/** Each repair equals one pass with its mask, and no pass with another's. */
export function repairsSuite({ blockTokens }: RepairsSize): void {
  const models = new LawModels();
  describe.each(Object.entries(architectureModels))("repairs of %s", (_, options) => {
    // In two layers all that deviations are found in is all there is.
    const folder = models.huggingFace({ ...options, numLayers: 4 });
    const random = new Random(options.seed ?? 0, "repairs");
    const continuation = drawIds(random, 6);
    const blocks = [drawIds(random, 7), ...blockTokens.map((count) => drawIds(random, count)), drawIds(random, 9)];
    const conversation = { blocks: [...blocks, drawIds(random, 30), drawIds(random, 12), drawIds(random, 70)] };
    const kinds = [...blocks.map((_, i) => i === blocks.length - 1), true, false, true];

    test("each equals one pass with its mask, from encoded and from stored blocks, also in a conversation", async () => {
      const oracle = new OnePassModel(await openModel(folder));
      await using engine = await lawEngine(folder);
      const { vocabSize } = oracle.config;
      const ids = (text: string) => engine.model.tokenizer.encode(text, "all");
      const bos = engine.model.tokenizer.bosTokenId;
      const lead = [...(bos === undefined ? [] : [bos]), ...ids("Read this:\n")];
      const sinks = Array.from({ length: 3 }, () => ids("\n")).flat();
      const asked: Readonly<
        Record<string, Pick<RepairedPrompt, "before" | "sinks" | "again" | "temperature" | "scale">>
      > = {
        none: {},
        'lead="Read this:\\n"': { before: lead },
        preamble: { before: "block 0" },
        "sink=3": { sinks },
        "first=2": { again: { kind: "first", count: 2 } },
        "deviation=0.3": { again: { kind: "deviation", share: 0.3 } },
        "look=0.3": { again: { kind: "look", share: 0.3 } },
        'lead="Read this:\\n",sink=3,first=4': { before: lead, sinks, again: { kind: "first", count: 4 } },
        'lead="Read this:\\n",look=0.2': { before: lead, again: { kind: "look", share: 0.2 } },
        "temperature=0.5": { temperature: 0.5 },
        'lead="Read this:\\n",temperature=1.5': { before: lead, temperature: 1.5 },
        "scale=0.6": { scale: 0.6 },
        'lead="Read this:\\n",temperature=0.8,scale=1.2': { before: lead, temperature: 0.8, scale: 1.2 },
        "preamble,deviation=0.2": { before: "block 0", again: { kind: "deviation", share: 0.2 } },
      };
      const prompts = [
        { blockTokenIds: blocks, continuationTokenIds: continuation },
        { blockTokenIds: conversation.blocks, isGlobal: kinds, continuationTokenIds: continuation },
      ];
      for (const prompt of prompts) {
        const answers = new Map(
          Object.entries(asked).map(([name, repair]) => {
            const reading = repairedReading({ ...prompt, ...repair }, oracle);
            return [name, oracleAnswer(oracle.read(reading, continuation.length), prompt)] as const;
          }),
        );
        for (const time of ["encoded", "stored"]) {
          for (const repair of Object.keys(asked)) {
            const found = await askEngine(engine, prompt, { repair, vocabSize, stepwise: time === "stored" });
            expect(found.repair?.text).toBe(repair === "none" ? undefined : repair);
            const distances = [...answers].map(([name, answer]) => [name, distanceFromOracle(found, answer)] as const);
            const wrong = Object.fromEntries(distances.filter(([name]) => name !== repair));
            const right = distances.find(([name]) => name === repair)![1];
            expectOnlyRight(logprobBounds.f32, right, wrong, `${repair}, ${time}`);
          }
        }
      }
    });

    test("recomputing all is full mode over the same ids; requests with different repairs share stored blocks", async () => {
      await using engine = await lawEngine(folder);
      const score = async (mode: "block" | "full", repair?: string) =>
        await engine.score({ blockTokenIds: blocks }, continuation, { mode, repair, keepPrefixes: false });
      const full = await score("full");
      for (const repair of ["first=all", "deviation=1", "look=1", "lead,first=all"]) {
        const { logprobs } = await score("block", repair);
        expect(Math.max(...logprobs.map((x, i) => Math.abs(x - full.logprobs[i]!))), repair).toBeLessThan(1e-3);
      }
      const before = await numBlocks(engine);
      for (const repair of ["first=3", "deviation=0.5", "look=0.5", "lead,first=5", "lead"]) {
        const { usage, repair: used } = await score("block", repair);
        // All of them are there, and what was computed again is not counted as reused.
        const local = blocks.slice(0, -1).flat().length;
        expect(usage.cachedTokens, repair).toBe(local - used!.recomputedTokens);
      }
      expect(await numBlocks(engine)).toBe(before);
    });

    test("keep=N leaves the blocks that the question looks at most, and is the prompt of those alone", async () => {
      const oracle = new OnePassModel(await openModel(folder));
      await using engine = await lawEngine(folder);
      const { tokenizer, chatTemplate } = engine.model;
      const { neutral = [] } = tokenizeRepair({ keep: 1 }, tokenizer, chatTemplate).keep ?? {};
      const last = blocks.length - 1;
      for (const lead of ["", 'lead="Read this:\\n",']) {
        const { lead: before } = tokenizeRepair(
          lead === "" ? {} : { lead: { text: "Read this:\n" } },
          tokenizer,
          chatTemplate,
        );
        for (const count of [1, 2]) {
          const wanted = keptBlocks(
            { blockTokenIds: blocks, before: before && [...before] },
            [...neutral],
            count,
            oracle,
          );
          const repair = `${lead}keep=${count}`;
          const options = { mode: "block", keepPrefixes: false } as const;
          const found = await engine.score({ blockTokenIds: blocks }, continuation, { ...options, repair });
          expect(found.repair?.kept, repair).toEqual([0, ...wanted]);
          const few = blocks.filter((_, i) => i === 0 || i === last || wanted.includes(i));
          const alone = await engine.score({ blockTokenIds: few }, continuation, {
            ...options,
            repair: lead.slice(0, -1) || "none",
          });
          expect(found.logprobs, repair).toEqual(alone.logprobs);
          // The others make a difference.
          const all = await engine.score({ blockTokenIds: blocks }, continuation, {
            ...options,
            repair: lead.slice(0, -1) || "none",
          });
          expect(all.logprobs, repair).not.toEqual(alone.logprobs);
          expect(found.usage.promptTokens).toBe(blocks.flat().length);
        }
      }
      // In a conversation the last question chooses, and what was said before is said of what stays.
      const { vocabSize } = oracle.config;
      const talk = { blockTokenIds: conversation.blocks, isGlobal: kinds, continuationTokenIds: continuation };
      const stay = keptBlocks(talk, [...neutral], 2, oracle);
      const isThere = kinds.map((isGlobal, i) => isGlobal || i === 0 || stay.includes(i));
      const few = conversation.blocks.filter((_, i) => isThere[i]);
      const alone = { ...talk, blockTokenIds: few, isGlobal: kinds.filter((_, i) => isThere[i]) };
      for (const time of ["encoded", "stored"]) {
        const found = await askEngine(engine, talk, { repair: "keep=2", vocabSize });
        const { logprobs } = await askEngine(engine, alone, { repair: "none", vocabSize });
        // Pages that were found and rows that were computed differ in last bits.
        expect(Math.max(...logprobs.map((x, i) => Math.abs(x - found.logprobs[i]!))), time).toBeLessThan(1e-4);
        const local = [...kinds.keys()].filter((i) => !kinds[i]);
        expect(found.repair?.kept?.map((i) => local[i])).toEqual([0, ...stay]);
      }
      const all = await engine.score({ blockTokenIds: blocks }, continuation, {
        mode: "block",
        repair: `keep=${last}`,
      });
      expect(all.repair?.kept).toEqual(blocks.slice(0, -1).map((_, i) => i));
    });

    test("scale holds in forks of a context as in the context itself", async () => {
      await using engine = await lawEngine(folder);
      const answers = async (n: number) => {
        const ids: number[][] = [];
        const options = {
          n,
          maxTokens: 6,
          temperature: 0,
          mode: "block",
          repair: "scale=0.4",
          logitBias: noEnd,
        } as const;
        for await (const event of engine.generate({ blockTokenIds: blocks }, options)) {
          if (event.kind === "done") ids.push([...event.result.tokenIds]);
        }
        return ids;
      };
      const [alone] = await answers(1);
      expect(alone).toHaveLength(6);
      expect(await answers(3)).toEqual([alone, alone, alone]);
    });
  });
}

async function numBlocks(engine: LocalEngine): Promise<number> {
  return (await engine.stats()).store.numBlocks;
}
