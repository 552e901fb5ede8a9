import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { type MixOptions, mergeRows, mixRows, type SampleOptions, sampleRows } from "./mix-rows.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-mix-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

const lines = (name: string, count: number) =>
  Array.from({ length: count }, (_, i) => `${JSON.stringify({ from: name, i, text: "é".repeat(i % 7) })}\n`).join("");
writeFileSync(at("a.jsonl"), lines("a", 900));
writeFileSync(at("b.jsonl"), lines("b", 400));
writeFileSync(at("bad.jsonl"), `{no json\n${lines("c", 3)}7\n`);

const signal = new AbortController().signal;
const mix = (more: Partial<MixOptions> = {}) =>
  mixRows({ inputs: [at("a.jsonl"), at("b.jsonl")], output: at("mixed.jsonl"), seed: "1", signal, ...more });
const sample = (more: Partial<SampleOptions> = {}) =>
  sampleRows({
    input: at("a.jsonl"),
    output: at("sample.jsonl"),
    size: { kind: "count", count: 90 },
    seed: "1",
    signal,
    ...more,
  });
type Line = { from: string; i: number; text: string };
const rowsOf = (name: string) =>
  readFileSync(at(name), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);
const bytes = (name: string) => readFileSync(at(name)).toString("hex");

test("mixRows(): equal numbers of each input, none twice, in random order, the same for a seed", async () => {
  const report = await mix();
  expect(report).toMatchObject({ rows: 1300, written: 800, bad: 0, dropped: { "not drawn": 500 }, taken: [400, 400] });
  const rows = rowsOf("mixed.jsonl");
  for (const [from, total] of [
    ["a", 900],
    ["b", 400],
  ] as const) {
    const numbers = rows.filter((row) => row.from === from).map(({ i }) => i);
    expect(new Set(numbers).size).toBe(400);
    expect(numbers.every((i) => i < total)).toBe(true);
    expect(numbers).not.toEqual([...numbers].sort((x, y) => x - y));
  }
  expect(rows.every(({ i, text }) => text === "é".repeat(i % 7))).toBe(true);
  // Of 400 places in the first half each input has half, give or take five standard deviations (7.1 of 200).
  const early = rows.slice(0, 400).filter((row) => row.from === "a").length;
  expect(Math.abs(early - 200)).toBeLessThan(50);
  const before = bytes("mixed.jsonl");
  const manifest = bytes("mixed.jsonl.manifest.json");
  await mix();
  expect([bytes("mixed.jsonl"), bytes("mixed.jsonl.manifest.json")]).toEqual([before, manifest]);
  await mix({ seed: "2" });
  expect(bytes("mixed.jsonl")).not.toBe(before);
  expect(readdirSync(folder).filter((name) => name.includes("partial"))).toEqual([]);
});

test("mixRows(): shares, a total, and what cannot be had", async () => {
  expect((await mix({ shares: [3, 1], count: 100 })).taken).toEqual([75, 25]);
  expect(rowsOf("mixed.jsonl").length).toBe(100);
  expect(JSON.parse(readFileSync(at("mixed.jsonl.manifest.json"), "utf8"))).toMatchObject({
    command: "data mix",
    options: { shares: [3, 1], count: 100, seed: "1" },
    counts: { written: 100, input_1: 75, input_2: 25 },
  });
  const before = bytes("mixed.jsonl");
  await expect(mix({ count: 1000 })).rejects.toThrow("500 rows of input 2 are wanted, it has 400");
  await expect(mix({ inputs: [at("a.jsonl"), at("nowhere")] })).rejects.toThrow("no such file");
  expect(bytes("mixed.jsonl")).toBe(before);
});

test("sampleRows(): exactly as many rows as asked, in their order, the same for a seed", async () => {
  expect(await sample()).toMatchObject({ rows: 900, written: 90, dropped: { "not drawn": 810 } });
  const numbers = rowsOf("sample.jsonl").map(({ i }) => i);
  expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b));
  const before = bytes("sample.jsonl");
  await sample();
  expect(bytes("sample.jsonl")).toBe(before);
  await sample({ seed: "2" });
  expect(bytes("sample.jsonl")).not.toBe(before);
  expect(await sample({ size: { kind: "share", share: 0.25 } })).toMatchObject({ written: 225 });
  expect(await sample({ size: { kind: "count", count: 900 } })).toMatchObject({ written: 900 });
  expect(bytes("sample.jsonl")).toBe(bytes("a.jsonl"));
});

test("sampleRows(): rows that cannot be used are none to draw from", async () => {
  const report = await sample({ input: at("bad.jsonl"), size: { kind: "count", count: 3 } });
  expect(report).toMatchObject({ rows: 5, written: 3, bad: 2 });
  expect(report.errors).toEqual([expect.stringMatching(/line 1 of/), expect.stringMatching(/no object.*line 5 of/)]);
  const wanted = sample({ input: at("bad.jsonl"), size: { kind: "count", count: 4 } });
  await expect(wanted).rejects.toThrow("Cannot sample: 4 rows are wanted, the input has 3 that can be used");
  const none = sample({ input: at("bad.jsonl"), size: { kind: "share", share: 0.01 }, output: at("none.jsonl") });
  await expect(none).rejects.toThrow("Cannot sample: no row is left of 5");
  expect(existsSync(at("none.jsonl"))).toBe(false);
});

test("mergeRows(): files one after another, of any kind", async () => {
  writeFileSync(at("array.json"), `[${lines("d", 2).trimEnd().replaceAll("\n", ",")}]`);
  const inputs = [at("b.jsonl"), at("bad.jsonl"), at("array.json")];
  const report = await mergeRows({ inputs, output: at("merged.jsonl"), signal });
  expect(report).toMatchObject({ rows: 407, written: 405, bad: 2 });
  expect(readFileSync(at("merged.jsonl"), "utf8")).toBe(lines("b", 400) + lines("c", 3) + lines("d", 2));
  const manifest = JSON.parse(readFileSync(at("merged.jsonl.manifest.json"), "utf8"));
  expect(manifest.inputs.map(({ path }: { path: string }) => path)).toEqual(inputs);
  writeFileSync(at("empty.jsonl"), "\n");
  await expect(mergeRows({ inputs: [at("empty.jsonl")], output: at("e.jsonl"), signal })).rejects.toThrow(
    "Cannot merge: no row is left of 0; there were no rows",
  );
});

test("mergeRows(), sampleRows(), mixRows(): rows keep their spelling, and each is one line", async () => {
  const kept = ['{"id": 12345678901234567890, "x":1.0}', '{"text":"\\u00e9 née\\/ 東京"}'];
  writeFileSync(at("own.jsonl"), `\ufeff  ${kept[0]}\t\r\n\n${kept[1]}`);
  writeFileSync(at("own.json"), `[\n  {\n    "a": [1,\r\n 2]\n  },\n  ${kept[0]}\n]\n`);
  const all = [...kept, '{"a":[1,2]}', kept[0]];
  await mergeRows({ inputs: [at("own.jsonl"), at("own.json")], output: at("own.merged.jsonl"), signal });
  expect(readFileSync(at("own.merged.jsonl"), "utf8")).toBe(`${all.join("\n")}\n`);
  await sample({ input: at("own.merged.jsonl"), size: { kind: "share", share: 1 } });
  expect(readFileSync(at("sample.jsonl"), "utf8")).toBe(`${all.join("\n")}\n`);
  await mix({ inputs: [at("own.jsonl"), at("own.json")] });
  expect(readFileSync(at("mixed.jsonl"), "utf8").trimEnd().split("\n").sort()).toEqual(all.sort());
});

test("sampleRows(), mixRows(): an input that changes between the two times it is read is an error", async () => {
  writeFileSync(at("changing.jsonl"), lines("a", 50));
  const change = () => writeFileSync(at("changing.jsonl"), `${lines("a", 49)}{half\n`);
  const options = { output: at("none.jsonl"), onProgress: change };
  await expect(sample({ ...options, input: at("changing.jsonl"), size: { kind: "share", share: 1 } })).rejects.toThrow(
    /changing.jsonl": it changed while it was read/,
  );
  await expect(mix({ ...options, inputs: [at("a.jsonl"), at("changing.jsonl")] })).rejects.toThrow(/it changed while/);
  expect(readdirSync(folder).filter((name) => name.startsWith("none"))).toEqual([]);
});
