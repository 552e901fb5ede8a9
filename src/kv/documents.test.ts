import { expect, test, vi } from "vitest";
import type { BlockId } from "./block-id.js";
import { Documents, MemoryTexts } from "./documents.js";

const block = (name: string) => ({ id: name.padEnd(64, "0") as BlockId, tokens: 1, name });
const entry = (id: string, digest: string, ...names: string[]) => ({ id, digest, blocks: names.map(block) });

test("Documents: what is interrupted while blocks are forgotten is done again; blocks of other models are added, and go too", async () => {
  const forgotten: string[][] = [];
  let fails = false;
  const documents = new Documents(new MemoryTexts(), async (names) => {
    if (fails) throw new Error("Cannot forget blocks");
    forgotten.push([...names].sort());
  });
  await documents.put("us", [entry("a", "1", "x"), entry("b", "1", "y")]);
  await documents.put("us", [entry("a", "1", "z")]);
  expect((await documents.list("us", 9)).map(({ blocks }) => blocks.map(({ name }) => name)).sort()).toEqual([
    ["x", "z"],
    ["y"],
  ]);
  fails = true;
  await expect(documents.put("us", [entry("a", "2", "y")])).rejects.toThrow("Cannot forget");
  await expect(documents.delete("us", "a")).rejects.toThrow("Cannot forget");
  fails = false;
  expect(forgotten).toEqual([]);
  // What takes its place has one of the blocks, another document the other one.
  await documents.put("us", [entry("c", "1", "z")]);
  await documents.put("us", [entry("a", "2", "y")]);
  expect(forgotten).toEqual([["x"]]);
  expect(await documents.delete("us", "b")).toBe(true);
  expect(await documents.delete("us", "a")).toBe(true);
  expect(forgotten).toEqual([["x"], ["y"]]);
  expect(await documents.list("them", 9)).toEqual([]);
  await documents.put("us", [entry("d", "1", "p", "q")]);
  await documents.put("us", [entry("d", "2", "q")]);
  expect(forgotten.at(-1)).toEqual(["p"]);
});

test("Documents: blocks are forgotten by their ids too, but for those that another document has", async () => {
  const forgotten: string[] = [];
  const documents = new Documents(new MemoryTexts(), async (_names, _owner, ids) => void forgotten.push(...ids));
  await documents.put("us", [entry("a", "1", "x", "y"), entry("b", "1", "y")]);
  expect(await documents.delete("us", "a")).toBe(true);
  expect(forgotten).toEqual([block("x").id]);
});

test("Documents: what is there as it is given is not written again", async () => {
  const texts = new MemoryTexts();
  const put = vi.spyOn(texts, "put");
  const documents = new Documents(texts, async () => undefined);
  const one = { ...entry("a", "1", "x", "y"), metadata: { page: 1, lines: undefined } };
  for (let n = 0; n < 3; n++) await documents.put("us", [one]);
  expect(put).toHaveBeenCalledTimes(1);
  await documents.put("us", [{ ...one, metadata: { page: 2 } }]);
  await documents.put("us", [entry("a", "1", "z")]);
  expect(put).toHaveBeenCalledTimes(3);
});

test("MemoryTexts: the oldest go where there are too many", async () => {
  const texts = new MemoryTexts(100);
  for (let n = 0; n < 20; n++) await texts.put(`a/${n}`, "0123456789");
  const names: string[] = [];
  for await (const name of texts.list("a")) names.push(name);
  expect(names).toEqual(Array.from({ length: 10 }, (_, n) => `a/${n + 10}`));
});
