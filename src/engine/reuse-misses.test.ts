import { expect, test } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { commonLength } from "../kv/block-index.js";
import { loadTokenizer } from "./model.js";
import { TokenizedPrompt } from "./prompt.js";
import type { PromptPart } from "./prompt-parts.js";
import { ReuseMisses } from "./reuse-misses.js";

async function setUp({ isConversation = false, place = 0 } = {}) {
  const folder = await temporaryFolder();
  writeRandomModel(folder, { architecture: "llama" });
  const tokenizer = await loadTokenizer(folder);
  const ids = (text: string) => Int32Array.from(tokenizer.encode(text, "all"));
  /** What is said of a part where something else is stored. */
  const explain = (what: "block" | "page", asked: string | Int32Array, stored?: string | Int32Array) => {
    const [tokenIds, others] = [asked, stored].map((one) => (typeof one === "string" ? ids(one) : one));
    const part = { kind: what, place, tokenIds, span: { passage: { index: 3 } } } as unknown as PromptPart;
    const match = others && { tokenIds: others, numShared: commonLength(tokenIds as Int32Array, others) };
    const spans = [new Int32Array(place), tokenIds as Int32Array].map(
      (ids) => ({ kind: "global", tokenIds: ids }) as const,
    );
    const misses = new ReuseMisses(tokenizer, new TokenizedPrompt("block", spans, [], [], true, isConversation));
    if (what === "block") misses.ofBlock(part, match);
    else misses.ofPage(part, match);
    expect(misses.found.length).toBeLessThan(2);
    return misses.found[0];
  };
  return { ids, explain };
}

test.each([
  ["what changes", "one two three 4", "one two three 5", "the text differs from here on"],
  ["white space at the end", "one two three ", "one two three", "white space stands here in one of the two alone"],
  ["white space at the stored one's end", "one two three", "one two three\n\n", "white space stands here"],
  ["white space between", "one two three, four", "one two three, \n four", "only white space differs"],
  [
    "a beginning of what is stored",
    "one two three",
    "one two three four",
    "the text ends here, and the stored one goes on",
  ],
  ["more than what is stored", "one two three four", "one two three", "the text goes on here, and the stored one ends"],
  ["an earlier text that ends", "one two three<|end_of_text|>", "one two three four", "the text ends here"],
  ["the template", "one two three<|end_of_text|>", "one two three<|user|>", "the chat template writes this"],
  ["the stored one's template", "one two three four", "one two three<|user|>", "the chat template writes this"],
])("ReuseMisses.ofBlock(): %s", async (_, asked, stored, reason) => {
  const { explain } = await setUp({ place: 100 });
  const miss = explain("block", asked, stored);
  expect(miss).toMatchObject({ kind: "block", passage: { index: 3 } });
  expect(miss?.reason).toContain(reason);
});

test("ReuseMisses.ofBlock(): the same text as other tokens", async () => {
  const { ids, explain } = await setUp();
  const [begin, end] = ["it reads alike up to here", " question of the day"];
  const drawn = [...end].flatMap((letter) => [...ids(letter)]);
  const miss = explain("block", `${begin}${end}`, Int32Array.from([...ids(begin), ...drawn]));
  expect(miss).toMatchObject({ asked: " question of the day", stored: " question of" });
  expect(miss?.reason).toContain("the same text is other tokens");
});

test("ReuseMisses.ofBlock(): shows twelve tokens from the first that differs, and says where it stands", async () => {
  const { explain } = await setUp({ place: 100 });
  const miss = explain("block", "abcdefghijklmnopqrstuvwxyz0123", "abcdefghijklmnopqrstuvwxyz9876543210+-*/");
  expect(miss).toMatchObject({ token: 126, before: "opqrstuvwxyz", asked: "0123", stored: "9876543210+-" });
});

test("ReuseMisses.ofBlock(): nothing is said of a block that has less than half in common with another", async () => {
  const { explain } = await setUp();
  expect(explain("block", "abcdefgh", "abc.....")).toBeUndefined();
  expect(explain("block", "abcdefgh", "abcd....")).toMatchObject({ kind: "block", token: 4 });
  expect(explain("block", "abcdefgh")).toBeUndefined();
});

test("ReuseMisses.ofPage(): says nothing where all that is stored was used, or all that was asked for is there", async () => {
  for (const isConversation of [false, true]) {
    for (const place of [0, 64]) {
      const { explain } = await setUp({ isConversation, place });
      expect(explain("page", "one two three", "one two")).toBeUndefined();
      expect(explain("page", "one two", "one two three")).toBeUndefined();
      expect(explain("page", "one two", "one two")).toBeUndefined();
      const miss = explain("page", "two", "ten");
      expect(miss).toMatchObject({ kind: isConversation ? "conversation" : "prefix", token: place + 1 });
    }
  }
});

test("ReuseMisses.ofPage(): nothing stored is a miss in the midst of a conversation alone", async () => {
  for (const [isConversation, place, isMiss] of [
    [false, 0, false],
    [false, 64, false],
    [true, 0, false],
    [true, 64, true],
  ] as const) {
    const { explain } = await setUp({ isConversation, place });
    const miss = explain("page", "one two");
    expect(miss !== undefined).toBe(isMiss);
    if (miss) expect(miss.reason).toContain("nothing is stored that saw exactly what stands before it");
  }
});
