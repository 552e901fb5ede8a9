import { expect, test } from "vitest";
import { parseJson } from "../files/bounded-json.js";
import type { GgufValue } from "../files/gguf.js";
import { overrideBlockAttention, parseBlockAttentionConfig, readGgufBlockAttention } from "./block-attention-config.js";

const parse = (value: unknown) => parseBlockAttentionConfig(parseJson(JSON.stringify(value), "t"), '"config.json"');
const sound = { version: 1, prefix: "[Block-Attention]", modes: ["block", "full"] };

test("parseBlockAttentionConfig(): reads version, prefix, modes and the RAG prompt's texts", () => {
  expect(parseBlockAttentionConfig(undefined, "t")).toBeUndefined();
  expect(parse(null)).toBeUndefined();
  expect(parse(sound)).toEqual(sound);
  const rag = { preamble: "p", final: "f" };
  expect(parse({ ...sound, rag_prompt: rag })).toEqual({ ...sound, ragPrompt: rag });
  expect(parse({ ...sound, repair: "lead", rag_prompt: rag })).toEqual({ ...sound, repair: "lead", ragPrompt: rag });
});

test.each([
  [3, /"block_attention" is no object/],
  [{ ...sound, version: 2, extra: 1 }, /its version is 2, version 1 is read/],
  [{ ...sound, version: "1" }, /"version" is "1"/],
  [{ prefix: "", modes: ["block"] }, /"version" is missing/],
  [{ version: 1, modes: ["block"] }, /"prefix" is missing/],
  [{ version: 1, prefix: "" }, /"modes" is missing/],
  [{ ...sound, prefix: 3 }, /"prefix" is 3, a text is wanted/],
  [{ ...sound, prefix: "\ud800" }, /a text is wanted/],
  [{ ...sound, prefix: "a".repeat(2 ** 20) }, /"prefix" has 1048576 UTF-16 units, at most 16384/],
  [{ ...sound, rag_prompt: { passage: "a".repeat(2 ** 20) } }, /"passage" has 1048576 UTF-16 units/],
  [{ ...sound, modes: [] }, /"modes" is a list/],
  [{ ...sound, modes: ["block", "block"] }, /"modes" is a list/],
  [{ ...sound, modes: ["half"] }, /"block", "full" or both is wanted/],
  [{ ...sound, modes: "block" }, /"modes" is "block"/],
  [{ ...sound, prefixx: "" }, /"prefixx" is not known/],
  [{ ...sound, repair: 1 }, /"repair" is 1, a text is wanted/],
  [{ ...sound, rag_prompt: [] }, /"rag_prompt" is no object/],
  [{ ...sound, rag_prompt: { final: 1 } }, /"final" is 1/],
  [{ ...sound, rag_prompt: { other: "" } }, /"other" is not known/],
])("parseBlockAttentionConfig(): refuses %.200j", (value, message) => {
  expect(() => parse(value)).toThrow(message);
});

test("readGgufBlockAttention(): reads the same from GGUF keys", () => {
  const keys = (entries: Record<string, GgufValue>) =>
    readGgufBlockAttention(
      new Map(Object.entries(entries).map(([key, value]) => [`block_attention.${key}`, value])),
      '"a.gguf"',
    );
  expect(readGgufBlockAttention(new Map([["general.name", "x"]]), "t")).toBeUndefined();
  const read = keys({ version: 1, prefix: "P", modes: ["full"], "rag_prompt.passage": "x" });
  expect(read).toEqual({ version: 1, prefix: "P", modes: ["full"], ragPrompt: { passage: "x" } });
  expect(() => keys({ version: 2 })).toThrow(/its version is 2/);
  expect(() => keys({ version: 1, prefix: "" })).toThrow(/"modes" is missing/);
  expect(() => keys({ version: 1, prefix: "", modes: ["full"], other: 1 })).toThrow(/"other" is not known/);
});

test("overrideBlockAttention(): the user's word stands over the model's own", () => {
  const own = { version: 1, prefix: "a", modes: ["full"] } as const;
  expect(overrideBlockAttention(own, {})).toBe(own);
  expect(overrideBlockAttention(undefined, {})).toBeUndefined();
  expect(overrideBlockAttention(own, { prefix: "" })).toEqual({ ...own, prefix: "" });
  expect(overrideBlockAttention(own, { trainedModes: ["block"] })).toEqual({ ...own, modes: ["block"] });
  expect(overrideBlockAttention(undefined, { prefix: "b" })).toEqual({ ...sound, prefix: "b" });
  expect(() => overrideBlockAttention(own, { trainedModes: [] })).toThrow(RangeError);
  expect(() => overrideBlockAttention(own, { prefix: "a".repeat(2 ** 20) })).toThrow(RangeError);
});
