import { expect, test } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { compileChatTemplate } from "../blocks/chat-template.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { runToEnd } from "../tokenizer/steps.js";
import { loadTokenizer, templateOf } from "./model.js";
import {
  cutPrompt,
  type PromptContext,
  type PromptInput,
  type TokenizedPrompt,
  tokenizePrompt,
  tokenizePromptInSteps,
} from "./prompt.js";
import { encodeCounted, TokenCount } from "./token-count.js";

async function contextOf(architecture: "llama" | "qwen2", prefix = ""): Promise<PromptContext> {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture });
  const tokenizer = await loadTokenizer(folder);
  return { tokenizer, chatTemplate: templateOf(tokenizer), ragTexts: undefined, prefix };
}

const lists = (spans: TokenizedPrompt["spans"]) => spans.map(({ tokenIds }) => [...tokenIds]);

test("encodeCounted(): stops before each text, however short", async () => {
  const { tokenizer } = await contextOf("llama");
  const count = new TokenCount({ maxTokens: 10, of: "the test" });
  expect([...encodeCounted(tokenizer, { text: "a", trusted: "none" }, count)]).toHaveLength(1);
});

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
  expect(lists(tokenizePrompt(input, "block", context).spans)).toEqual([[bos, ...prefix, ...a], b]);
  // Full mode: the same ids in one block, without the prefix.
  expect(lists(tokenizePrompt(input, "full", context).spans)).toEqual([[bos, ...a, ...b]]);
  const given = { blocks: ["<|begin_of_text|>one ", " two"] };
  expect(lists(tokenizePrompt(given, "full", context).spans)).toEqual([[bos, ...a, ...b]]);
  expect(tokenizePrompt(input, "block", context).cutTokenIds).toEqual([[bos, ...prefix, ...a], [], b]);
});

test("tokenizePrompt(): blocks past numLocalAttentionBlocks join the final block, as ids", async () => {
  const context = await contextOf("qwen2");
  const ids = (text: string) => context.tokenizer.encode(text, "all");
  const blocks = ["a\n", "\nb", "c"];
  const joined = (numLocalAttentionBlocks: number) =>
    lists(tokenizePrompt({ blocks, numLocalAttentionBlocks }, "block", context).spans);
  expect(joined(0)).toEqual([blocks.flatMap(ids)]);
  expect(joined(1)).toEqual([ids("a\n"), [...ids("\nb"), ...ids("c")]]);
  expect(joined(9)).toEqual(blocks.map(ids));
  expect(lists(tokenizePrompt({ prompt: "a\n\nb" }, "full", context).spans)).toEqual([ids("a\n\nb")]);
});

test("tokenizePrompt(): control tokens are such in blocks, and text in documents and questions", async () => {
  const context = await contextOf("llama");
  const end = context.tokenizer.encode("<|eot_id|>", "all");
  expect(end).toHaveLength(1);
  const has = (input: PromptInput) =>
    tokenizePrompt(input, "block", context).spans.some(({ tokenIds }) => tokenIds.includes(end[0]!));
  expect(has({ blocks: ["a<|eot_id|>", "b"] })).toBe(true);
  expect(has({ question: "<|eot_id|>?", documents: [{ title: "<|eot_id|>", text: "x<|eot_id|>" }] })).toBe(false);
  expect(has({ messages: [{ role: "user", content: ["x<|eot_id|>", "y"] }] })).toBe(false);
});

test("tokenizePrompt(): token ids are taken as they are, below the embedding's rows", async () => {
  const context = await contextOf("llama");
  const { vocabSize } = context.tokenizer;
  expect(lists(tokenizePrompt({ blockTokenIds: [[1, 2], [], [3]] }, "block", context).spans)).toEqual([[1, 2], [3]]);
  expect(lists(tokenizePrompt({ blockTokenIds: [[1, 2], [3]] }, "full", context).spans)).toEqual([[1, 2, 3]]);
  const last = { blockTokenIds: [[vocabSize]] };
  expect(() => tokenizePrompt(last, "block", context)).toThrow(`holds ${vocabSize}, wanted a whole number below`);
  expect(lists(tokenizePrompt(last, "block", { ...context, vocabSize: vocabSize + 1 }).spans)).toEqual([[vocabSize]]);
});

const passages = "Context:\n[1] Ann was born in Rome.\n[2] Bo was born in Oslo.\n\n";
const pieces = ["Context:\n", "[1] ", "Ann was born in Rome.", "\n[2] ", "Bo was born in Oslo."];

test("cutPrompt(): cut says where prompts and messages are cut", async () => {
  const context = await contextOf("qwen2");
  const texts = (input: Exclude<PromptInput, { blockTokenIds: unknown }>) =>
    runToEnd(cutPrompt(input, context)).blocks.map(({ text }) => text);
  const prompt = "one\ntwo\nthree";
  expect(texts({ prompt, cut: "rule" })).toEqual(["one\n", "two\n", "three"]);
  expect(texts({ prompt, segment: { limit: 2 } })).toEqual(["one\ntwo\n", "three"]);
  for (const cut of ["auto", "parts", "none"] as const) expect(texts({ prompt, cut })).toEqual([prompt]);
  const asked = `${passages}Who?`;
  for (const cut of [undefined, "auto"] as const)
    expect(texts({ prompt: asked, cut })).toEqual([...pieces, "\n\nWho?"]);
  for (const cut of ["parts", "none"] as const) expect(texts({ prompt: asked, cut })).toEqual([asked]);

  const messages = [
    { role: "system", content: `be\nbrief\n${passages}` },
    { role: "user", content: ["first\n", "second\n", "ask\nme"] },
  ];
  const whole = texts({ messages, cut: "none" });
  expect(whole).toHaveLength(1);
  const parts = texts({ messages, cut: "parts" });
  expect(parts.filter((text) => ["first\n", "second\n"].includes(text))).toHaveLength(2);
  expect(parts.some((text) => text.includes(passages))).toBe(true);
  const auto = texts({ messages });
  expect(auto).toEqual(expect.arrayContaining(["first\n", "second\n", pieces[2], pieces[4]]));
  // The last user message stays whole: joined, its parts are the final block.
  const joined = texts({ messages, cut: "rule" });
  expect(joined.at(-1)).toContain("first\nsecond\nask\nme");
  expect(texts({ messages: messages.slice(1), cut: "rule" }).at(-1)).not.toContain("second");
  for (const cut of [parts, joined, auto]) expect(cut.join("")).toBe(whole[0]);

  const documents = [{ title: "t", text: "x" }, "y"];
  expect(texts({ messages, documents, cut: "none" })).toHaveLength(1);
  const [document] = texts({ messages, documents }).filter((text) => text.startsWith("- Title: t"));
  for (const cut of ["parts", "rule"] as const) expect(texts({ messages, documents, cut })).toContain(document);
});

test("tokenizePrompt(): passages in a string are local, what follows them is global; so are answers", async () => {
  const context = await contextOf("qwen2");
  const kinds = (input: PromptInput) => tokenizePrompt(input, "block", context).spans.map(({ kind }) => kind);
  expect(kinds({ prompt: `${passages}Who?` })).toEqual([...pieces.map(() => "local"), "global"]);
  expect(kinds({ prompt: passages })).toEqual([...pieces.slice(1).map(() => "local"), "global"]);
  const messages = [
    { role: "user", content: "Hello" },
    { role: "assistant", content: "Hi" },
    { role: "user", content: ["passage", "Who?"] },
  ];
  expect(kinds({ messages: messages.slice(0, 1) })).toEqual(["global"]);
  expect(kinds({ messages })).toEqual(["global", "local", "global"]);
  const prompt = tokenizePrompt({ messages }, "block", context);
  expect(prompt.isConversation).toBe(true);
  expect(prompt.cutTokenIds[1]).toEqual(context.tokenizer.encode("Hi", "none"));
});

test("tokenizePrompt(): in full mode cut changes no ids", async () => {
  for (const architecture of ["llama", "qwen2"] as const) {
    const context = await contextOf(architecture);
    const messages = [
      { role: "user", content: `${passages}Who?` },
      { role: "assistant", content: "Ann" },
      { role: "user", content: `${passages}And who was born in Oslo?` },
    ];
    for (const input of [{ prompt: messages[0]!.content }, { messages }]) {
      const ids = (cut: PromptInput & { cut?: unknown }) => lists(tokenizePrompt(cut, "full", context).spans);
      for (const cut of ["auto", "parts", "rule", "none"] as const) expect(ids({ ...input, cut })).toEqual(ids(input));
    }
    // With documents ids are joined, never text: passages that are found nowhere cut none.
    const asked = { messages, documents: ["d"] };
    const ids = tokenizePrompt(asked, "full", context).cutTokenIds;
    expect(ids).toEqual(tokenizePrompt({ ...asked, cut: "parts" }, "full", context).cutTokenIds);
  }
});

test("tokenizePrompt(): cut none is one block with the ids of full mode", async () => {
  const context = await contextOf("llama");
  const messages = [{ role: "user", content: ["a\n", "b"] }];
  for (const input of [{ prompt: `${passages}Who?` }, { messages }]) {
    const whole = lists(tokenizePrompt({ ...input, cut: "none" }, "block", context).spans);
    expect(whole).toEqual(lists(tokenizePrompt(input, "full", context).spans));
  }
});

test("tokenizePrompt(): every form takes numLocalAttentionBlocks", async () => {
  const context = await contextOf("llama");
  const forms: PromptInput[] = [
    { blocks: ["a", "b", "c"] },
    { blockTokenIds: [[1], [2], [3]] },
    { prompt: "a\n\nb\n\nc", cut: "rule" },
    { prompt: `${passages}Who?` },
    { messages: [{ role: "user", content: ["a\n", "b\n", "c"] }] },
    { question: "c", documents: ["a", "b"] },
  ];
  for (const form of forms) {
    const all = tokenizePrompt(form, "block", context);
    expect(all.spans.length).toBeGreaterThan(2);
    const one = tokenizePrompt({ ...form, numLocalAttentionBlocks: 1 }, "block", context);
    expect(lists(one.spans)).toEqual([lists(all.spans)[0], lists(all.spans).slice(1).flat()]);
    for (const mode of ["block", "full"] as const) {
      expect(() => tokenizePrompt({ ...form, numLocalAttentionBlocks: -1 }, mode, context)).toThrow(
        "num_local_attention_blocks is -1",
      );
    }
  }
});

test("tokenizePromptInSteps(): ends a few steps after the limit, however long the text or its one word is", async () => {
  const context = await contextOf("llama");
  const limit = { maxTokens: 512, of: "the model's context" };
  const stepsUntilRefused = (input: PromptInput, mode: "full" | "block" = "full"): number => {
    const steps = tokenizePromptInSteps(input, mode, context, limit);
    for (let numSteps = 1; ; numSteps++) {
      try {
        if (steps.next().done === true) throw new Error("it was not refused");
      } catch (error) {
        expect(error).toMatchObject({ code: "too_long" });
        return numSteps;
      }
    }
  };
  expect(stepsUntilRefused({ prompt: "one two ".repeat(2 ** 17) })).toBeLessThan(8);
  // Before its passages are looked for.
  const content = "[1] one two\n".repeat(2 ** 16);
  for (const input of [{ prompt: content }, { messages: [{ role: "user", content }] }]) {
    expect(stepsUntilRefused(input, "block")).toBeLessThan(8);
  }
  expect(stepsUntilRefused({ blocks: new Array(2 ** 16).fill("one two ") })).toBeLessThan(600);
  expect(stepsUntilRefused({ blockTokenIds: [new Array(5_000_000).fill(1)] })).toBe(1);
  expect(stepsUntilRefused({ blockTokenIds: new Array(5_000_000).fill([]) })).toBe(1);
});

test("tokenizePromptInSteps(): a prompt as long as the limit fits, BOS counted once", async () => {
  const context = await contextOf("llama");
  const { numTokens } = tokenizePrompt({ prompt: "one two three" }, "full", context);
  const within = (prompt: string, maxTokens: number) =>
    runToEnd(tokenizePromptInSteps({ prompt }, "full", context, { maxTokens, of: "the test" })).numTokens;
  expect(within("one two three", numTokens)).toBe(numTokens);
  expect(within("<|begin_of_text|>one two three", numTokens)).toBe(numTokens);
  expect(() => within("one two three", numTokens - 1)).toThrow(
    `Cannot use the prompt: it has more than the ${numTokens - 1} tokens that the test allows`,
  );
});

test("tokenizePrompt(): says whether the answer begins with reasoning, and goes on with a text", async () => {
  const context = await contextOf("llama");
  const source =
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% if thinks %}<think>\n{% endif %}{% endif %}";
  const tokens = { bos_token: "<s>", eos_token: "</s>", pad_token: "", unk_token: "" };
  const chatTemplate = compileChatTemplate(source, { tokens, addsBos: false });
  const question = { role: "user", content: "Who? <think>" };
  const of = (input: Partial<PromptInput>, ...answer: string[]) => {
    const messages = [question, ...answer.map((content) => ({ role: "assistant", content }))];
    const prompt = tokenizePrompt({ messages, ...input } as PromptInput, "full", { ...context, chatTemplate });
    const text = context.tokenizer.decode(prompt.spans.flatMap(({ tokenIds }) => [...tokenIds]));
    return [prompt.opensReasoning, prompt.isContinued, text.split("\n").at(-1)];
  };
  expect(of({})).toEqual([false, false, "assistant: "]);
  expect(of({ variables: { thinks: true } })).toEqual([true, false, ""]);
  expect(of({ continuesLast: true }, "It is")).toEqual([false, true, "assistant: It is"]);
  expect(of({ continuesLast: true }, "<think>It")).toEqual([true, true, "assistant: <think>It"]);
  expect(of({ continuesLast: true }, "<think>It</think>is")).toEqual([false, true, "assistant: <think>It</think>is"]);
  expect(tokenizePrompt({ prompt: "a <think>" }, "full", context).opensReasoning).toBe(false);
});
