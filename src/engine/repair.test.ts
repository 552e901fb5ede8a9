import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { Engine } from "./engine.js";
import { loadTokenizer, templateOf } from "./model.js";
import { promptSpans, TokenizedPrompt } from "./prompt.js";
import { repairedPrompt, repairField, resolveRepair, tokenizeRepair } from "./repair.js";

const isRepair = (text: string) => repairField.schema.safeParse(text).success;
const own = (modes: readonly ("block" | "full")[], repair?: string) =>
  ({ version: 1, prefix: "", modes, ...(repair !== undefined && { repair }) }) as const;

test.each([
  ["none", {}],
  ["lead", { lead: "auto" }],
  ["lead=auto,first=8", { lead: "auto", first: 8 }],
  ["lead=Read this: ", { lead: { text: "Read this: " } }],
  ['lead="a, \\"b\\"\\n",sink=4', { lead: { text: 'a, "b"\n' }, sink: 4 }],
  ["first=all", { first: Number.POSITIVE_INFINITY }],
  ["preamble,deviation=.15", { preamble: true, deviation: 0.15 }],
  ["look=1", { look: 1 }],
  ["keep=3,lead,look=0.1", { keep: 3, lead: "auto", look: 0.1 }],
  ["lead,temperature=0.9", { lead: "auto", temperature: 0.9 }],
  ["temperature=0.9,scale=0.8", { temperature: 0.9, scale: 0.8 }],
])("resolveRepair(): %s", (text, repair) => {
  expect(isRepair(text)).toBe(true);
  expect(resolveRepair(text, undefined)).toEqual(repair);
});

test.each([
  "",
  ",",
  "lead,",
  "lead,lead",
  "Lead",
  "lead,preamble",
  "first=8,look=0.1",
  "keep=0",
  "keep=0.5",
  "keep",
  "first",
  "first=0",
  "first=1.5",
  "sink=65",
  "deviation=0",
  "deviation=1.1",
  "deviation=",
  "preamble=x",
  "temperature=0",
  "first=8,temperature=0.5",
  "scale=0",
  "look=0.1,scale=0.5",
  'lead="open',
  'lead="\\q"',
  "none,lead",
  "auto,lead",
  "toString",
])("repairField: %j is none", (text) => {
  expect(isRepair(text)).toBe(false);
});

test("resolveRepair(): auto is the model's own, nothing where it was trained for blocks, else a lead-in", () => {
  expect(resolveRepair("auto", undefined)).toEqual({ lead: "auto" });
  expect(resolveRepair("auto", own(["full"]))).toEqual({ lead: "auto" });
  expect(resolveRepair("auto", own(["block", "full"]))).toEqual({});
  expect(resolveRepair("auto", own(["block"], "lead,sink=2"))).toEqual({ lead: "auto", sink: 2 });
});

test("repairedPrompt(): what a repair puts before local blocks but block 0, and nothing before others", async () => {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "llama" });
  const tokenizer = await loadTokenizer(folder);
  const ids = [[1, 5], [6, 7], [8], [9], [10]];
  const kinds = [false, false, true, false, true].map((isGlobal) => ({ isGlobal }));
  const prompt = new TokenizedPrompt("block", promptSpans(ids, undefined, kinds), ids, ["kept"], true);
  const repaired = (text: string) => {
    const repair = tokenizeRepair(resolveRepair(text, undefined), tokenizer, templateOf(tokenizer));
    return repairedPrompt(prompt, repair);
  };
  const rows = (text: string) =>
    repaired(text).spans.map(({ preamble, tokenIds }) => [preamble && [...preamble], [...tokenIds]]);
  const newline = tokenizer.encode("\n", "all");
  const lead = [tokenizer.bosTokenId, ...tokenizer.encode("Read: ", "all")];
  const plain = (i: number) => [undefined, ids[i]];
  expect(rows('lead="Read: "')).toEqual([plain(0), [lead, [6, 7]], plain(2), [lead, [9]], plain(4)]);
  expect(rows("preamble")).toEqual([
    plain(0),
    [
      [1, 5],
      [6, 7],
    ],
    plain(2),
    [[1, 5], [9]],
    plain(4),
  ]);
  const sunk = (i: number) => [undefined, [...newline, ...newline, ...(ids[i] as number[])]];
  expect(rows("sink=2")).toEqual([plain(0), sunk(1), plain(2), sunk(3), plain(4)]);
  expect(repaired("sink=2").numTokens).toBe(prompt.numTokens + 4 * newline.length);
  expect(repaired("sink=2").warnings).toEqual(["kept"]);
});

test("tokenizeRepair(): the model's own lead-in begins as its chat template does", async () => {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "llama" });
  const tokenizer = await loadTokenizer(folder);
  const template = templateOf(tokenizer);
  const lead = (one: typeof template) => [...(tokenizeRepair({ lead: "auto" }, tokenizer, one).lead ?? [])];
  expect(lead(template)).toEqual(lead(templateOf(tokenizer)));
  const opening =
    template?.render(
      [
        { role: "system", content: "a" },
        { role: "user", content: "§" },
      ],
      { addGenerationPrompt: false },
    ) ?? "";
  const first = tokenizer.encode(opening.slice(0, opening.indexOf("§")), "all");
  expect(lead(template).filter((id) => id !== tokenizer.bosTokenId)[0]).toBe(
    first.find((id) => id !== tokenizer.bosTokenId),
  );
  expect(lead(template)).not.toEqual(lead(undefined));
  expect(lead(undefined)[0]).toBe(tokenizer.bosTokenId);
});

test("a model's own repair holds where nobody names another; what is none is refused while loading", async () => {
  const model = await temporaryFolder();
  writeRandomModel(model, { architecture: "llama" });
  const path = join(model, "config.json");
  const config = JSON.parse(readFileSync(path, "utf8"));
  const write = (repair: string) => {
    const own = { version: 1, prefix: "", modes: ["block"], repair };
    writeFileSync(path, JSON.stringify({ ...config, block_attention: own }));
  };
  write("lead,sink=1");
  const used = async (repair?: string, options: object = {}) => {
    await using engine = await Engine.load({ model, ...options });
    const blocks = ["One.\n", "Two.\n", "What?"];
    return (await engine.score({ blocks }, " Three", { repair })).repair?.text;
  };
  expect(await used()).toBe("lead,sink=1");
  expect(await used("auto")).toBe("lead,sink=1");
  expect(await used("none")).toBeUndefined();
  expect(await used(undefined, { repair: "sink=2" })).toBe("sink=2");
  expect(await used("first=1", { repair: "sink=2" })).toBe("first=1");
  write("lead,lead");
  await expect(Engine.load({ model })).rejects.toThrow('its config says "lead,lead", wanted none, auto, or items');
});

test("encode(): blocks behind a lead-in are found by prompts with the same repair alone", async () => {
  const model = await temporaryFolder();
  writeRandomModel(model, { architecture: "llama" });
  await using engine = await Engine.load({ model });
  const passages = ["One passage.\n", "Another one.\n"];
  await engine.encode(passages, { repair: "lead" });
  const hits = async (repair: string) => {
    const result = await engine.complete(
      { blocks: ["System.\n", ...passages, "What?"] },
      { mode: "block", repair, maxTokens: 1 },
    );
    return result.blocks.map(({ hit }) => hit);
  };
  expect(await hits("none")).toEqual([false, false, false]);
  expect(await hits("lead")).toEqual([true, true, true]);
  // The lead-in is in the id.
  expect(await hits('lead="Read: "')).toEqual([true, false, false]);
});

test("a named repair means block mode, sinks count as tokens of the prompt, an echo with log-probabilities wants no token twice", async () => {
  const model = await temporaryFolder();
  writeRandomModel(model, { architecture: "llama" });
  const blocks = ["One passage.\n", "Another one.\n", "What?"];
  const { length } = await (async () => {
    await using engine = await Engine.load({ model });
    expect(engine.defaultMode).toBe("full");
    const used = async (repair: string) => (await engine.complete({ blocks }, { repair, maxTokens: 1 })).mode;
    expect([await used("lead"), await used("auto"), await used("none")]).toEqual(["block", "full", "full"]);
    const echo = { echo: true, maxTokens: 1, logprobs: true } as const;
    await expect(engine.complete({ blocks }, { ...echo, repair: "first=2" })).rejects.toMatchObject({
      code: "invalid",
    });
    await expect(engine.complete({ blocks }, { ...echo, repair: "keep=1" })).rejects.toThrow(
      "takes some of its blocks out",
    );
    await engine.complete({ blocks }, { ...echo, repair: "lead" });
    return await engine.tokenize(blocks.join(""), {});
  })();
  await using engine = await Engine.load({ model, maxPromptTokens: length + 8 });
  await engine.complete({ blocks }, { repair: "lead", maxTokens: 1 });
  const tooLong = engine.complete({ blocks }, { repair: "sink=60", maxTokens: 1 });
  await expect(tooLong).rejects.toMatchObject({ code: "too_long" });
});

test("keep: blocks that are taken out are told of as served, and answers side by side have the same prompt", async () => {
  const model = await temporaryFolder();
  writeRandomModel(model, { architecture: "llama" });
  await using engine = await Engine.load({ model });
  const blocks = ["One passage.\n", "Another one, longer.\n", "A third one is here.\n", "What?"];
  const options = { repair: "keep=1", maxTokens: 4, logitBias: { 1: -100, 2: -100 } } as const;
  const first = await engine.complete({ blocks }, options);
  const kept = first.repair?.kept ?? [];
  expect(kept).toHaveLength(2);
  expect(first.blocks.map(({ hit }) => hit)).toEqual([false, false, false]);
  const again = await engine.complete({ blocks }, options);
  expect(again.blocks.map(({ hit }) => hit)).toEqual([true, true, true]);
  expect(again.usage.cachedTokens).toBe(again.usage.promptTokens - 1);
  const few = blocks.filter((_, i) => i === 3 || kept.includes(i));
  const { tokenIds } = await engine.complete({ blocks: few }, { ...options, repair: "none", mode: "block" });
  const answers: (readonly number[])[] = [];
  for await (const event of engine.generate({ blocks }, { ...options, n: 2 })) {
    if (event.kind === "done") answers.push(event.result.tokenIds);
  }
  expect([first.tokenIds, again.tokenIds, ...answers]).toEqual([tokenIds, tokenIds, tokenIds, tokenIds]);
});

test("explain: a block behind a lead-in is compared with those behind the same one", async () => {
  const model = await temporaryFolder();
  writeRandomModel(model, { architecture: "llama" });
  await using engine = await Engine.load({ model });
  const passage = "The lamp in the hall of the old house is red and was made in Oslo.\n";
  const ask = async (text: string) =>
    (
      await engine.complete(
        { blocks: ["System.\n", text, "What?"] },
        { mode: "block", repair: "lead", explain: true, maxTokens: 1 },
      )
    ).misses;
  await ask(passage);
  expect(await ask(passage.replace("Oslo", "Rome"))).toEqual([expect.objectContaining({ kind: "block" })]);
});
