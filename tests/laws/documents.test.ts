import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { GenerateOptions, RequestOptions } from "../../src/engine/engine-options.js";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import { temporaryFolder } from "../../src/files/test-files.suite.js";
import { readBlockHead } from "../../src/kv/block-codec.js";
import { LawModels, lawEngine, noEnd } from "./law-models.js";

const models = new LawModels();
const texts = ["The first passage of three.", "Another one, the second of them.", "A third that is a little longer."];
const documents = texts.map((text, n) => ({ id: `document ${n}`, text }));
const options: GenerateOptions & RequestOptions = { maxTokens: 70, logitBias: noEnd, salt: "ours" };

/** The tokens of all blocks and pages in a folder. */
async function tokensIn(folder: string): Promise<readonly (readonly number[])[]> {
  const files = readdirSync(join(folder, "blocks"), { recursive: true, withFileTypes: true }).filter((one) =>
    one.isFile(),
  );
  const heads = files.map(({ parentPath, name }) => {
    const bytes = readFileSync(join(parentPath, name));
    return readBlockHead(bytes.length, (count) => bytes.subarray(0, count));
  });
  return (await Promise.all(heads)).map(({ tokenIds }) => [...tokenIds]);
}

test.each([
  ["block", undefined],
  ["block", 'lead="Read this:\\n",sink=2'],
  ["block", "preamble"],
  ["full", undefined],
] as const)(
  "deleteDocument(): of prompts in %s mode, repair %s, all that saw it goes, and nothing else",
  async (mode, repair) => {
    const store = await temporaryFolder();
    const model = models.huggingFace({ architecture: "llama", seed: 81 });
    const ask = async (engine: LocalEngine, which: readonly number[]) => {
      const some = which.map((n) => documents[n] as (typeof documents)[number]);
      const asked = { ...options, mode, ...(repair && { repair }) };
      return await engine.complete({ question: "Which one is it?", documents: some }, asked);
    };
    const wanted: (readonly number[])[] = [];
    {
      await using alone = await lawEngine(model, { kvType: "f16", store: join(store, "alone") });
      await alone.encode(documents.slice(1), { salt: "ours" });
      await ask(alone, [2, 1]);
      await alone[Symbol.asyncDispose]();
      wanted.push(...(await tokensIn(join(store, "alone"))));
    }
    const folder = join(store, "all");
    {
      await using engine = await lawEngine(model, { kvType: "f16", store: folder });
      await engine.encode(documents, { salt: "ours" });
      for (const which of [[0], [2, 0, 1], [2, 1], [2, 1, 0]]) await ask(engine, which);
    }
    await using engine = await lawEngine(model, { kvType: "f16", store: folder });
    expect(await engine.deleteDocument("document 0", { salt: "theirs" })).toBe(false);
    expect(await engine.deleteDocument("document 0", { salt: "ours" })).toBe(true);
    const { blocks } = await engine.encode(documents, { salt: "ours" });
    expect(blocks.map((one) => one.error === undefined && one.hit)).toEqual([false, true, true]);
    expect(await engine.deleteDocument("document 0", { salt: "ours" })).toBe(true);
    // The system's text before the first document may stay.
    const left = await tokensIn(folder);
    expect(left).toEqual(expect.arrayContaining(wanted));
    const tokens = (await engine.tokenize(texts[0] as string)).join();
    expect(left.filter((ids) => ids.join().includes(tokens))).toEqual([]);
    // Neither do those whose tokens are others', but who saw it.
    const { cutTokenIds } = await engine.tokenizePrompt({ question: "Which one is it?", documents }, { mode });
    const before = mode === "full" ? (cutTokenIds[0]?.length ?? 0) : 0;
    expect((await ask(engine, [0])).usage.reused.prefix).toBeLessThanOrEqual(before);
    const { usage, tokenIds } = await ask(engine, [2, 1]);
    expect(usage.cachedTokens).toBe(usage.promptTokens - 1);
    await using fresh = await lawEngine(model, { kvType: "f16" });
    expect((await ask(engine, [0, 1])).tokenIds).toEqual((await ask(fresh, [0, 1])).tokenIds);
    expect(tokenIds).toEqual((await ask(fresh, [2, 1])).tokenIds);
  },
);
