import { expect, test } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { loadTokenizer, templateOf } from "./model.js";
import { type PromptContext, type PromptInput, tokenizePrompt } from "./prompt.js";

async function contextOf(architecture: "llama" | "qwen2", prefix = ""): Promise<PromptContext> {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture });
  const tokenizer = await loadTokenizer(folder);
  return { tokenizer, chatTemplate: templateOf(tokenizer), ragTexts: undefined, prefix };
}

const lists = (blocks: readonly Int32Array[]) => blocks.map((block) => [...block]);

test("tokenizePrompt(): BOS and prefix once, each block alone; empty blocks add nothing", async () => {
  const context = await contextOf("llama", "[Block-Attention]");
  const { tokenizer } = context;
  const bos = tokenizer.bosTokenId as number;
  const [a, b, prefix] = ["one ", " two", "[Block-Attention]"].map((text) => tokenizer.encode(text, "all")) as [
    number[],
    number[],
    number[],
  ];
  const input = { blocks: ["one ", "", " two"] };
  expect(lists(tokenizePrompt(input, "block", context).blocks)).toEqual([[bos, ...prefix, ...a], b]);
  // Full mode: the same ids in one block, without the prefix.
  expect(lists(tokenizePrompt(input, "full", context).blocks)).toEqual([[bos, ...a, ...b]]);
  const given = { blocks: ["<|begin_of_text|>one ", " two"] };
  expect(lists(tokenizePrompt(given, "full", context).blocks)).toEqual([[bos, ...a, ...b]]);
  expect(tokenizePrompt(input, "block", context).cutTokenIds).toEqual([[bos, ...prefix, ...a], [], b]);
});

test("tokenizePrompt(): blocks past numLocalAttentionBlocks join the final block, as ids", async () => {
  const context = await contextOf("qwen2");
  const ids = (text: string) => context.tokenizer.encode(text, "all");
  const blocks = ["a\n", "\nb", "c"];
  const joined = (numLocalAttentionBlocks: number) =>
    lists(tokenizePrompt({ blocks, numLocalAttentionBlocks }, "block", context).blocks);
  expect(joined(0)).toEqual([blocks.flatMap(ids)]);
  expect(joined(1)).toEqual([ids("a\n"), [...ids("\nb"), ...ids("c")]]);
  expect(joined(9)).toEqual(blocks.map(ids));
  expect(lists(tokenizePrompt({ prompt: "a\n\nb" }, "full", context).blocks)).toEqual([ids("a\n\nb")]);
});

test("tokenizePrompt(): control tokens are such in blocks, and text in documents and questions", async () => {
  const context = await contextOf("llama");
  const end = context.tokenizer.encode("<|eot_id|>", "all");
  expect(end).toHaveLength(1);
  const has = (input: PromptInput) =>
    tokenizePrompt(input, "block", context).blocks.some((ids) => ids.includes(end[0]!));
  expect(has({ blocks: ["a<|eot_id|>", "b"] })).toBe(true);
  expect(has({ question: "<|eot_id|>?", documents: [{ title: "<|eot_id|>", text: "x<|eot_id|>" }] })).toBe(false);
  expect(has({ messages: [{ role: "user", content: ["x<|eot_id|>", "y"] }] })).toBe(false);
});

test("tokenizePrompt(): token ids are taken as they are, below the embedding's rows", async () => {
  const context = await contextOf("llama");
  const { vocabSize } = context.tokenizer;
  expect(lists(tokenizePrompt({ blockTokenIds: [[1, 2], [], [3]] }, "block", context).blocks)).toEqual([[1, 2], [3]]);
  expect(lists(tokenizePrompt({ blockTokenIds: [[1, 2], [3]] }, "full", context).blocks)).toEqual([[1, 2, 3]]);
  const last = { blockTokenIds: [[vocabSize]] };
  expect(() => tokenizePrompt(last, "block", context)).toThrow(`holds ${vocabSize}, wanted a whole number below`);
  expect(lists(tokenizePrompt(last, "block", { ...context, vocabSize: vocabSize + 1 }).blocks)).toEqual([[vocabSize]]);
});
