import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, onTestFinished, test } from "vitest";
import { spmTokenizer } from "../../tests/models/spm-tokenizer.js";
import { readGguf } from "../files/gguf.js";
import { loadTokenizerFromFolder, tokenizerFromGguf } from "./load-tokenizer.js";

const data = "../shared/data";
const skip = existsSync(data) ? undefined : `${data} is not on this machine`;

/** A folder with these files; objects are written as JSON. */
async function folderWith(files: Readonly<Record<string, unknown>>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "tokenizer-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(folder, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return folder;
}

const [mark, b, markA, ab, user] = [259, 261, 262, 263, 264];

/** With two control tokens and a user's own. */
function smallTokenizer(): Record<string, unknown> & { model: Record<string, unknown> } {
  return {
    ...spmTokenizer(),
    added_tokens: [
      { id: 1, content: "<s>", special: true },
      { id: 2, content: "</s>", special: true },
      { id: user, content: "[U]", special: false, normalized: false },
    ],
  };
}

test("loadTokenizerFromFolder(): SPM with a dummy space, byte fallback and added tokens", async () => {
  const tokenizer = await loadTokenizerFromFolder(await folderWith({ "tokenizer.json": smallTokenizer() }));
  expect(tokenizer.vocabSize).toBe(265);
  expect(tokenizer.addsDummySpace).toBe(true);
  expect(tokenizer.encode("", "all")).toEqual([]);
  expect(tokenizer.encode("ab ab", "none")).toEqual([markA, b, markA, b]);
  expect(tokenizer.encode("bab[U]a", "none")).toEqual([mark, b, ab, user, markA]);
  expect(tokenizer.encode("é", "none")).toEqual([mark, 3 + 0xc3, 3 + 0xa9]);
  expect(tokenizer.encode("a</s>", "all")).toEqual([markA, 2]);
  // "<", "/", "s" and ">" are bytes here: the spelling alone makes no control token.
  expect(tokenizer.encode("</s>", "none")).toEqual([mark, ...Buffer.from("</s>").map((byte) => byte + 3)]);
  expect(tokenizer.decode([1, markA, b, markA, user, 3 + 0xc3, 3 + 0xa9, 2])).toBe("ab a[U]é");
});

// The expected ids are those of the Python library tokenizers.
test("loadTokenizerFromFolder(): SPM as Gemma writes it, without a dummy space, cut after spaces", async () => {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  const special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\n\n", "<table>"];
  const tokens = [...special, ...bytes, "▁", "▁▁", "a", "b", "ab", "▁ab", "\n"];
  const replace = (from: string, content: string) => ({ type: "Replace", pattern: { String: from }, content });
  const json = {
    added_tokens: special.map((content, id) => ({ id, content, special: id < 5, normalized: false })),
    normalizer: replace(" ", "▁"),
    pre_tokenizer: { type: "Split", pattern: { String: " " }, behavior: "MergedWithPrevious", invert: false },
    decoder: { type: "Sequence", decoders: [replace("▁", " "), { type: "ByteFallback" }, { type: "Fuse" }] },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      fuse_unk: true,
      byte_fallback: true,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: [
        ["a", "b"],
        ["▁", "ab"],
        ["▁", "▁"],
      ],
    },
  };
  const tokenizer = await loadTokenizerFromFolder(await folderWith({ "tokenizer.json": json }));
  expect(tokenizer.addsDummySpace).toBe(false);
  for (const [text, ids] of [
    ["ab ab", [267, 268]],
    ["  ab\n\nab", [263, 268, 5, 267]],
    ["é a", [202, 176, 263, 265]],
    ["<table> a", [6, 263, 265]],
  ] as const) {
    expect(tokenizer.encode(text, "all")).toEqual(ids);
    expect(tokenizer.decode(ids)).toBe(text);
  }
});

test("loadTokenizerFromFolder(): BOS as the tokenizer would add it, with a warning where its files differ", async () => {
  const read = async (config: unknown, hasTemplate = true) => {
    const json = { ...smallTokenizer(), ...(hasTemplate ? {} : { post_processor: null }) };
    const folder = await folderWith({ "tokenizer.json": json, "tokenizer_config.json": config });
    const { bosTokenId, warnings } = await loadTokenizerFromFolder(folder);
    return [bosTokenId, ...warnings.map((warning) => warning.replaceAll(folder, ""))];
  };
  expect(await read({})).toEqual([1]);
  expect(await read({ bos_token: "<s>", add_bos_token: true })).toEqual([1]);
  expect(await read({ bos_token: "<s>" }, false)).toEqual([undefined]);
  expect(await read({ bos_token: "<s>", add_bos_token: false }, false)).toEqual([undefined]);
  expect(await read({ bos_token: "<s>", tokenizer_class: "LlamaTokenizer" }, false)).toEqual([1]);
  const says = (adds: boolean, puts: string, put: string) =>
    `"/tokenizer_config.json" has "add_bos_token": ${adds}, but the post-processor of "/tokenizer.json" puts ${puts} first: ${put} is put before a prompt`;
  expect(await read({ bos_token: { content: "<s>" }, add_bos_token: true }, false)).toEqual([
    1,
    says(true, "no token", '"<s>"'),
  ]);
  expect(await read({ bos_token: "<s>", add_bos_token: false })).toEqual([undefined, says(false, '"<s>"', "no token")]);
  expect(await read({ bos_token: "</s>", add_bos_token: true })).toEqual([2, says(true, '"<s>"', '"</s>"')]);
});

test("loadTokenizerFromFolder(): every end id that any file names", async () => {
  const folder = await folderWith({
    "tokenizer.json": smallTokenizer(),
    "tokenizer_config.json": { eos_token: "</s>" },
    "generation_config.json": { eos_token_id: [5, 6] },
    "config.json": { eos_token_id: 7 },
  });
  expect((await loadTokenizerFromFolder(folder)).endTokenIds).toEqual(new Set([2, 5, 6, 7]));
});

test("loadTokenizerFromFolder(): the chat template's own file wins, then the list's default", async () => {
  const templates = [
    { name: "tool_use", template: "T" },
    { name: "default", template: "D" },
  ];
  const files = {
    "tokenizer.json": smallTokenizer(),
    "tokenizer_config.json": { chat_template: templates, eos_token: "</s>" },
  };
  const fromList = await loadTokenizerFromFolder(await folderWith(files));
  expect(fromList.chatTemplate).toBe("D");
  expect(fromList.templateTokens).toEqual({ bos_token: "", eos_token: "</s>", pad_token: "", unk_token: "" });
  const json = { ...files, "chat_template.json": { chat_template: "J" } };
  expect((await loadTokenizerFromFolder(await folderWith(json))).chatTemplate).toBe("J");
  const jinja = { ...json, "chat_template.jinja": "F" };
  expect((await loadTokenizerFromFolder(await folderWith(jinja))).chatTemplate).toBe("F");
});

test("Tokenizer.digest: changes with what decides ids, not with what does not", async () => {
  const digestOf = async (change: (json: ReturnType<typeof smallTokenizer>) => void, config: unknown = {}) => {
    const json = smallTokenizer();
    change(json);
    return (
      await loadTokenizerFromFolder(await folderWith({ "tokenizer.json": json, "tokenizer_config.json": config }))
    ).digest;
  };
  const digest = await digestOf(() => {});
  expect(digest).toMatch(/^[0-9a-f]{64}$/);
  expect(await digestOf(() => {}, { chat_template: "x" })).toBe(digest);
  expect(await digestOf((json) => Object.assign(json.model, { merges: ["a b"] }))).not.toBe(digest);
  expect(await digestOf((json) => Object.assign(json, { normalizer: null }))).not.toBe(digest);
  expect(await digestOf(() => {}, { add_bos_token: false })).not.toBe(digest);
});

test("Tokenizer: what is no text, no trust or no list of ids is told in our words", async () => {
  const tokenizer = await loadTokenizerFromFolder(await folderWith({ "tokenizer.json": smallTokenizer() }));
  const calls: [() => unknown, string][] = [
    [() => tokenizer.encode(3 as never, "none"), "Cannot tokenize the text: it is 3, wanted text"],
    [() => tokenizer.encode(undefined as never, "none"), "Cannot tokenize the text: it is undefined, wanted text"],
    [
      () => (tokenizer.encode as (text: string) => unknown).call(tokenizer, "ab"),
      'Cannot tokenize the text: trusted is undefined, wanted "all", "none" or runs of the text',
    ],
    [() => tokenizer.decode("ab" as never), 'Cannot decode tokens: they are "ab", wanted an array'],
  ];
  for (const [call, message] of calls) expect(call).toThrow(new TypeError(message));
  expect(() => tokenizer.decode([undefined as never])).toThrow("Cannot decode token undefined: the vocabulary has ids");
});

test("Tokenizer.encode(): a lone surrogate is a RangeError, a pair is not", async () => {
  const tokenizer = await loadTokenizerFromFolder(await folderWith({ "tokenizer.json": smallTokenizer() }));
  expect(() => tokenizer.encode("ab\ud800", "none")).toThrow(
    new RangeError("Cannot tokenize the text: UTF-16 unit 2 is a lone surrogate, not a character"),
  );
  expect(() => tokenizer.encode("\udc00a", "all")).toThrow(RangeError);
  expect(tokenizer.decode(tokenizer.encode("a 🙂", "none"))).toBe("a 🙂");
});

test("Tokenizer.stream(): what goes on after other text keeps its first space", async () => {
  const tokenizer = await loadTokenizerFromFolder(await folderWith({ "tokenizer.json": smallTokenizer() }));
  const textOf = (goesOn: boolean) => {
    const stream = tokenizer.stream({ goesOn });
    return [markA, b, markA].map((id) => stream.push(id!)).join("") + stream.end();
  };
  expect([textOf(false), textOf(true)]).toEqual(["ab a", " ab a"]);
});

test("Tokenizer.decode(): an id that the vocabulary does not have is a RangeError", async () => {
  const tokenizer = await loadTokenizerFromFolder(await folderWith({ "tokenizer.json": smallTokenizer() }));
  for (const id of [-1, 265, 0.5, Number.NaN]) expect(() => tokenizer.decode([id])).toThrow(RangeError);
});

test("loadTokenizerFromFolder(): says what is wrong, in one line", async () => {
  const errorOf = async (change: (json: ReturnType<typeof smallTokenizer>) => unknown, more = {}) => {
    const json = smallTokenizer();
    const changed = change(json);
    const files = { "tokenizer.json": typeof changed === "string" ? changed : json, ...more };
    const error: unknown = await loadTokenizerFromFolder(await folderWith(files)).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(Error);
    const { message } = error as Error;
    expect(message).toMatch(/^Cannot read "[^\n]*[^.\n]$/);
    return message;
  };
  const vocab = (json: ReturnType<typeof smallTokenizer>) => json.model.vocab as Record<string, unknown>;
  expect(await errorOf((json) => Object.assign(json.model, { type: "Unigram" }))).toContain(
    '"Unigram" is not supported',
  );
  expect(await errorOf((json) => Object.assign(vocab(json), { b: 260 }))).toContain(
    'tokens "a" and "b" both have the id 260',
  );
  expect(await errorOf((json) => Object.assign(vocab(json), { b: 1e9 }))).toContain('"b" has the id "1000000000"');
  expect(await errorOf((json) => Object.assign(vocab(json), { b: "x" }))).toContain('"b" has the id "x"');
  expect(await errorOf((json) => Object.assign(json.model, { vocab: [] }))).toContain("model.vocab: it is no object");
  expect(await errorOf((json) => Object.assign(json.model, { merges: ["a a"] }))).toContain("merge 0");
  expect(await errorOf((json) => Object.assign(json.model, { merges: [7] }))).toContain("merge 0 is not two tokens");
  expect(await errorOf((json) => Object.assign(json.model, { unk_token: "?" }))).toContain("unk_token");
  expect(await errorOf((json) => Object.assign(json.model, { dropout: 0.1 }))).toContain("dropout");
  expect(
    await errorOf((json) =>
      Object.assign(json, { pre_tokenizer: { type: "Split", pattern: { Regex: "(" }, behavior: "Isolated" } }),
    ),
  ).toContain("is not understood");
  expect(await errorOf((json) => Object.assign(json, { normalizer: { type: "Precompiled" } }))).toContain(
    '"Precompiled" is not supported',
  );
  expect(await errorOf((json) => Object.assign(json, { added_tokens: [{ id: 1, content: "x" }] }))).toContain(
    'tokens "<s>" and "x" both have the id 1',
  );
  expect(await errorOf((json) => Object.assign(json, { decoder: null }))).toContain("decoder");
  expect(await errorOf(() => "[]")).toContain("it is no object");
  expect(await errorOf(() => "[".repeat(100_000))).toContain("nested");
  expect(await errorOf(() => undefined, { "generation_config.json": { eos_token_id: "x" } })).toContain("eos_token_id");
  expect(await errorOf(() => undefined, { "tokenizer_config.json": "no JSON" })).toContain("it is no JSON");
  await expect(loadTokenizerFromFolder(await folderWith({}))).rejects.toThrow(
    /tokenizer\.json": no such file or folder$/,
  );
});

const megabyte = "a".repeat(2 ** 20);
const twice = { type: "Replace", pattern: { String: "a" }, content: "aa" };
const explodes = { Regex: "(a|a)*b" };
test.each([
  ["an empty Metaspace", { pre_tokenizer: { type: "Metaspace", replacement: "" } }, "not one character"],
  ["a long Metaspace", { pre_tokenizer: { type: "Metaspace", replacement: megabyte } }, "not one character"],
  ["an expression that explodes", { pre_tokenizer: { type: "Split", pattern: explodes } }, "explodes over"],
  ["a thousand steps", { pre_tokenizer: sequence("pretokenizers", { type: "Digits" }, 1000) }, "more than 32 steps"],
  ["a long prepend", { normalizer: { type: "Prepend", prepend: megabyte } }, '"prepend" has 1048576 UTF-16 units'],
  ["an empty pattern", { normalizer: { ...twice, pattern: { String: "" } } }, "has 0 UTF-16 units"],
  ["a long replacement", { normalizer: { ...twice, content: megabyte } }, '"content" has 1048576 UTF-16 units'],
  ["steps that double", { normalizer: sequence("normalizers", twice, 10) }, "more than 32 times as long"],
  ["a normalizer that explodes", { normalizer: { ...twice, pattern: explodes } }, "explodes over"],
  ["a normalizer that may backtrack", { normalizer: { ...twice, pattern: { Regex: "a+b" } } }, "may backtrack"],
  ["a decoder that doubles", { decoder: sequence("decoders", twice, 10) }, "more than 32 times as long"],
  ["a decoder of nothing", { decoder: { ...twice, pattern: { String: "" } } }, "has 0 UTF-16 units"],
  ["an empty decoding Metaspace", { decoder: { type: "Metaspace", replacement: "" } }, "not one character"],
  ["a long added token", { added_tokens: [{ id: 9, content: megabyte }] }, '"content" has 1048576 UTF-16 units'],
  ["a long token", { model: { type: "BPE", vocab: { [megabyte]: 0 }, merges: [] } }, "token 0 has 1048576 UTF-16"],
])("loadTokenizerFromFolder(): refuses a tokenizer.json with %s", async (_, change, part) => {
  const folder = await folderWith({ "tokenizer.json": { ...smallTokenizer(), ...change } });
  const error: unknown = await loadTokenizerFromFolder(folder).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(Error);
  expect((error as Error).message).toMatch(/^Cannot read "[^\n]{10,400}[^.\n]$/);
  expect((error as Error).message).toContain(part);
});

function sequence(list: string, step: object, count: number): object {
  return { type: "Sequence", [list]: new Array(count).fill(step) };
}

test.each([
  ["tokenizer_config.json", { bos_token: megabyte }],
  ["tokenizer_config.json", { eos_token: { content: megabyte } }],
  ["tokenizer_config.json", { chat_template: megabyte }],
  ["tokenizer_config.json", { chat_template: [{ name: "default", template: megabyte }] }],
  ["chat_template.json", { chat_template: megabyte }],
  ["chat_template.jinja", megabyte],
])("loadTokenizerFromFolder(): refuses a %s with a text of 1 MB", async (name, content) => {
  const folder = await folderWith({ "tokenizer.json": smallTokenizer(), [name]: content });
  await expect(loadTokenizerFromFolder(folder)).rejects.toThrow(/^Cannot read "[^\n]* 1048576 [^\n]*[^.\n]$/);
});

test("Tokenizer.encodeInSteps(): an expression that explodes over a text lets others in, and ends in an error", async () => {
  const json = {
    ...smallTokenizer(),
    pre_tokenizer: { type: "Split", pattern: { Regex: "a+b" }, behavior: "Isolated" },
  };
  const tokenizer = await loadTokenizerFromFolder(await folderWith({ "tokenizer.json": json }));
  const steps = tokenizer.encodeInSteps("a".repeat(100_000), "all", []);
  let numSteps = 0;
  expect(() => {
    while (steps.next().done !== true) numSteps++;
  }).toThrow(/^Cannot tokenize the text: an expression of the tokenizer explodes over "▁a{39}…"$/);
  expect(numSteps).toBeGreaterThan(5);
});

test("Tokenizer.encode(): a text that a normalizer makes too long is a RangeError", async () => {
  // Only a text of z grows, and no text that is tried at load holds one.
  const normalizers = ["zd", "de", "ef", "fg"].map((pair) => ({
    type: "Replace",
    pattern: { Regex: `[${pair[0]}]` },
    content: pair[1]!.repeat(3),
  }));
  const json = { ...smallTokenizer(), normalizer: { type: "Sequence", normalizers } };
  const tokenizer = await loadTokenizerFromFolder(await folderWith({ "tokenizer.json": json }));
  expect(() => tokenizer.encode("z".repeat(10_000), "all")).toThrow(
    new RangeError("Cannot tokenize the text: normalized it has more than 324096 UTF-16 units"),
  );
});

test("loadTokenizerFromFolder(): a file cut anywhere is an error", async () => {
  const whole = JSON.stringify(smallTokenizer());
  const folder = await folderWith({});
  for (let i = 0; i < 50; i++) {
    await writeFile(join(folder, "tokenizer.json"), whole.slice(0, Math.floor((whole.length * i) / 50)));
    await expect(loadTokenizerFromFolder(folder)).rejects.toThrow(/^Cannot read "[^\n]*$/);
  }
});

// Expected ids: Python's tokenizers 0.22 over the same file.
test("loadTokenizerFromFolder(): the embedded model's ids, with and without its control tokens", async (context) => {
  if (skip !== undefined) return context.skip(skip);
  const tokenizer = await loadTokenizerFromFolder(`${data}/tiny-rag`);
  const question = "Who is the mother of Xaveryel Małgorzata in 1984?\n";
  const questionIds = [
    416, 278, 276, 407, 272, 830, 495, 3082, 308, 757, 1192, 74, 2409, 2612, 298, 224, 20, 28, 27, 23, 34,
  ];
  const text = `<|user|>\n${question}<|assistant|>\n`;
  expect(tokenizer.encode(text, "all")).toEqual([2, 202, ...questionIds, 377, 3, 377]);
  expect(tokenizer.encode(text, "none")).toEqual([346, 563, 347, 202, ...questionIds, 202, 360, 345, 347, 377]);
  expect(tokenizer.encode("naïve 東京 🙂", "none")).toEqual([
    602, 131, 111, 1646, 224, 166, 255, 113, 164, 122, 109, 224, 176, 257, 251, 228,
  ]);
  // Only ASCII digits are digits in JavaScript; here all numbers stand alone.
  expect(tokenizer.encode("①②③ Ⅷ ८", "none")).toEqual([
    162, 243, 258, 162, 243, 98, 162, 243, 99, 224, 162, 231, 104, 224, 160, 102, 110,
  ]);
  expect(tokenizer.bosTokenId).toBeUndefined();
  expect(tokenizer.endTokenIds).toEqual(new Set([1]));
  expect(tokenizer.decode(tokenizer.encode(question, "none"))).toBe(question);
});

test("Tokenizer.stream(): gives what decode() gives, for real text and for any ids", async (context) => {
  if (skip !== undefined) return context.skip(skip);
  const tokenizer = await loadTokenizerFromFolder(`${data}/tiny-rag`);
  const passages = (await readFile(`${data}/2wiki_passages.jsonl`, "utf8")).slice(0, 20_000);
  const ids = tokenizer.encode(passages, "none");
  expect(tokenizer.decode(ids)).toBe(passages);
  const scattered = ids.map((id, i) => (id * 31 + i * 17) % tokenizer.vocabSize);
  const stream = tokenizer.stream();
  const texts = [...scattered.map((id) => stream.push(id)), stream.end()];
  expect(texts.join("")).toBe(tokenizer.decode(scattered));
  for (const text of texts) expect(text).not.toMatch(/\p{Surrogate}/u);
});

for (const [name, bos, ends] of [
  ["llama-bpe", 128000, [128009, 128001]],
  ["llama-spm", 1, [2]],
  ["qwen2", undefined, [151645, 151643, 128247]],
] as const) {
  test(`tokenizerFromGguf(): ${name} gives the expected ids`, async (context) => {
    if (skip !== undefined) return context.skip(skip);
    const path = `${data}/vocab/ggml-vocab-${name}.gguf`;
    const tokenizer = tokenizerFromGguf((await readGguf(path)).metadata);
    // A separator and a newline follow the last case too.
    const texts = readFileSync(`${path}.inp`, "utf8").split("\n__ggml_vocab_test__\n").slice(0, -1);
    const expected = readFileSync(`${path}.out`, "utf8").split("\n").slice(0, -1);
    expect(texts).toHaveLength(46);
    expect(texts.map((text) => tokenizer.encode(text, "none").join(" "))).toEqual(expected.map((line) => line.trim()));
    for (const text of texts) expect(tokenizer.decode(tokenizer.encode(text, "none"))).toBe(text);
    expect(tokenizer.bosTokenId).toBe(bos);
    expect(tokenizer.endTokenIds).toEqual(new Set(ends));
  });
}

test("Tokenizer.encode(): one word of a million letters takes seconds", { timeout: 20_000 }, async (context) => {
  if (skip !== undefined) return context.skip(skip);
  const tokenizer = tokenizerFromGguf((await readGguf(`${data}/vocab/ggml-vocab-llama-spm.gguf`)).metadata);
  const text = "é".repeat(2 ** 20);
  expect(tokenizer.decode(tokenizer.encode(text, "all"))).toBe(text);
});

test("TextTokenizer.tokenBytes(): what each token of tokenizer.json spells alone", async () => {
  const tokenizer = await loadTokenizerFromFolder(await folderWith({ "tokenizer.json": smallTokenizer() }));
  const spelled = (id: number) => Buffer.from(tokenizer.tokenBytes(id)).toString("latin1");
  expect([1, 3 + 0xc3, mark, markA, ab, user].map((id) => spelled(id!))).toEqual([
    "<s>",
    "\xc3",
    " ",
    " a",
    "ab",
    "[U]",
  ]);
  expect(() => tokenizer.tokenBytes(265)).toThrow("Cannot decode token 265: the vocabulary has ids 0 to 264");
});

test("TextTokenizer.tokenBytes(): what a decoder replaces after joining is replaced in one token too", async () => {
  const file = smallTokenizer();
  const decoders = [
    { type: "ByteFallback" },
    { type: "Fuse" },
    { type: "Replace", pattern: { String: "▁" }, content: " " },
  ];
  const tokenizer = await loadTokenizerFromFolder(
    await folderWith({ "tokenizer.json": { ...file, decoder: { type: "Sequence", decoders } } }),
  );
  expect(Buffer.from(tokenizer.tokenBytes(markA!)).toString()).toBe(" a");
  expect([...tokenizer.tokenBytes(3 + 0xe2)]).toEqual([0xe2]);
});

test("Tokenizer.encode(): words that are remembered do not keep their texts in memory", async () => {
  const tokenizer = await loadTokenizerFromFolder("models/tiny-rag");
  setFlagsFromString("--expose_gc");
  const collect = runInNewContext("gc") as () => void;
  const filling = "the quick brown fox ".repeat(25_000);
  const heapAfter = (numTexts: number): number => {
    for (let i = 0; i < numTexts; i++)
      tokenizer.encode(`${Buffer.from(filling)} word${i}withoutanend${"x".repeat(i)}`, "none");
    collect();
    return process.memoryUsage().heapUsed;
  };
  const before = heapAfter(1);
  expect(heapAfter(64) - before).toBeLessThan(10_000_000);
});
