import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test, vi } from "vitest";
import { temporaryFolder } from "../../src/files/test-files.suite.js";
import type { BlockMemory } from "../../src/kv/block-kv.js";
import { LowerTier } from "../../src/kv/lower-tier.js";
import { architectureModels } from "../models/architecture-models.js";
import { Random } from "../models/random.js";
import type { RandomModelShape } from "../models/random-shape.js";
import { drawIds, LawModels, lawEngine, noEnd } from "./law-models.js";
import { answers, promptsOf } from "./store-prompts.js";

const models = new LawModels();

const filesOf = (folder: string) =>
  readdirSync(join(folder, "blocks"), { recursive: true, withFileTypes: true })
    .filter((one) => one.isFile())
    .map(({ parentPath, name }) => join(parentPath, name));

test.each([
  ...Object.keys(architectureModels).map((name) => [name, "f16"] as const),
  ["llama", "f32"] as const,
  ["llama", "bf16"] as const,
  ["qwen3", "q8_0"] as const,
  ["mistral", "q4_0"] as const,
])("store: the next process finds all blocks and pages of %s, KV %s, and answers alike", async (name, kvType) => {
  const model = models.huggingFace({ ...(architectureModels[name] as RandomModelShape), seed: 61 });
  const prompts = promptsOf(new Random(5, name));
  for (const repair of [undefined, 'lead="Read this:\\n"']) {
    const store = await temporaryFolder();
    await using fresh = await lawEngine(model, { kvType });
    const wanted = await answers(fresh, prompts, repair);
    {
      await using first = await lawEngine(model, { kvType, store });
      expect(await answers(first, prompts, repair)).toEqual(wanted);
    }
    const before = filesOf(store).length;
    await using second = await lawEngine(model, { kvType, store });
    // What begins like a prompt, and goes on with an answer, is found once all files have been looked at.
    await expect.poll(() => second.stats().store.tiers[0]?.numBlocks).toBe(before);
    const found = await answers(second, prompts, repair);
    expect(found.map(({ tokenIds }) => tokenIds)).toEqual(wanted.map(({ tokenIds }) => tokenIds));
    expect(found.flatMap(({ hits }) => hits)).not.toContain(false);
    // All but each last token.
    expect(found.map(({ cached }) => cached)).toEqual(
      prompts.map(({ blockTokenIds }) => blockTokenIds.flat().length - 1),
    );
    expect(second.stats().store.misses).toBe(0);
    expect(filesOf(store)).toHaveLength(before);
  }
});

test("store: passages that are encoded ahead are in the folder when that is told; a folder that is damaged or emptied is no harm", async () => {
  const store = await temporaryFolder();
  const model = models.huggingFace({ architecture: "llama", seed: 62 });
  const passages = ["One passage.\n", "Another passage.\n", "A third, longer than the others by some words.\n"];
  const prompt = { blocks: [...passages, "why"] };
  const options = { mode: "block", maxTokens: 4, logitBias: noEnd, keepPrefixes: false } as const;
  await using fresh = await lawEngine(model, { kvType: "f16" });
  const wanted = (await fresh.complete(prompt, options)).tokenIds;
  {
    await using first = await lawEngine(model, { kvType: "f16", store });
    const { blocks } = await first.encode(passages);
    expect(blocks.map((one) => one.error === undefined && one.durable)).toEqual([true, true, true]);
    expect(filesOf(store)).toHaveLength(3);
    await using other = await lawEngine(model, { kvType: "f16", store });
    const read = await other.encode([passages[0] as string, "new"]);
    expect(read.blocks.map((one) => one.error === undefined && [one.hit, one.durable])).toEqual([
      [true, true],
      [false, true],
    ]);
  }
  const random = new Random(7, "damage");
  for (const file of filesOf(store)) {
    const bytes = readFileSync(file);
    const at = random.below(bytes.length);
    bytes[at] = (bytes[at] as number) ^ (1 << random.below(8));
    writeFileSync(file, bytes);
  }
  {
    await using second = await lawEngine(model, { kvType: "f16", store });
    const { tokenIds, blocks } = await second.complete(prompt, options);
    expect(tokenIds).toEqual(wanted);
    expect(blocks.map(({ hit }) => hit)).toEqual([false, false, false]);
    rmSync(join(store, "blocks"), { recursive: true });
    expect((await second.complete({ blocks: [passages[1] as string, "x", "why"] }, options)).tokenIds).toHaveLength(4);
    expect((await second.encode(["again"])).blocks).toMatchObject([{ durable: true }]);
  }
  expect(existsSync(join(store, "writer.lock"))).toBe(false);
  // No other model's block.
  await using other = await lawEngine(models.huggingFace({ architecture: "llama", seed: 63 }), {
    kvType: "f16",
    store,
  });
  expect((await other.complete(prompt, options)).blocks.map(({ hit }) => hit)).toEqual([false, false, false]);
});

test("store: what one call tells to be durable is there at its end, however much it encodes, and goes for the next call's", async () => {
  const folder = await temporaryFolder();
  const model = models.huggingFace({ architecture: "llama", seed: 64 });
  await using engine = await lawEngine(model, { kvType: "f16", store: `${folder}?cap=400000` });
  const passages = (call: string) => Array.from({ length: 200 }, (_, n) => `Passage ${n} of ${call}.`);
  for (const call of ["one", "another"]) {
    const { blocks } = await engine.encode(passages(call));
    const durable = blocks.flatMap((one) => (one.error === undefined && one.durable ? [one.id] : []));
    expect(durable.length).toBeGreaterThan(20);
    expect(durable.length).toBeLessThan(200);
    expect(filesOf(folder).map((path) => path.slice(-67, -3))).toEqual(expect.arrayContaining(durable));
  }
});

test("store: a folder that takes longer than computing is not waited for, and answers are the same", async () => {
  const store = await temporaryFolder();
  const model = models.huggingFace({ architecture: "llama", seed: 64 });
  const prompts = promptsOf(new Random(6, "slow"));
  await using first = await lawEngine(model, { kvType: "f16", store });
  const wanted = await answers(first, prompts);
  await first[Symbol.asyncDispose]();
  const { load } = LowerTier.prototype;
  const slowly = vi.spyOn(LowerTier.prototype, "load").mockImplementation(async function (
    this: LowerTier<BlockMemory>,
    request,
  ) {
    await new Promise((resolve) => setTimeout(resolve, 800));
    return await load.call(this, request);
  });
  await using second = await lawEngine(model, { kvType: "f16", store });
  // Until then a second would be waited for; now it is known how long computing takes.
  await second.complete({ blockTokenIds: [drawIds(new Random(7, "known"), 90)] }, { mode: "full", maxTokens: 1 });
  const found = await answers(second, prompts);
  expect(found.map(({ tokenIds }) => tokenIds)).toEqual(wanted.map(({ tokenIds }) => tokenIds));
  expect(found[0]?.hits).toEqual([false, false, false]);
  expect(second.stats().store.tiers[0]).toMatchObject({ loads: 0 });
  slowly.mockRestore();
});
