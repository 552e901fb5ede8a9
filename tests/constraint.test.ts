import { afterAll, beforeAll, expect, test } from "vitest";
import type { ToolForm } from "../src/blocks/tools.js";
import type { Constraint } from "../src/engine/constraint/constraint.js";
import type { Grammars as BuiltGrammars } from "../src/engine/constraint/grammars.js";
import type { Engine as BuiltEngine } from "../src/engine/engine.js";
import type { LocalEngine } from "../src/engine/local-engine.js";
import { embeddedModelPath } from "../src/engine/model.js";
import type { GenerateEvent } from "../src/engine/results.js";
import { buildDist } from "./build-dist.js";

// Grammars are compiled in threads of the build: a thread has no TypeScript.
let engine: LocalEngine;
beforeAll(async () => {
  await buildDist();
  const { Engine } = (await import("../dist/index.js" as string)) as { readonly Engine: typeof BuiltEngine };
  engine = await Engine.load({ model: embeddedModelPath(), threads: 1 });
}, 120_000);
afterAll(async () => await engine[Symbol.asyncDispose]());

const prompt = { prompt: "Tell of somebody:" };
const person = {
  type: "object",
  properties: {
    name: { type: "string", maxLength: 12 },
    age: { type: "integer", minimum: 0, maximum: 150 },
    tags: { type: "array", items: { enum: ["a", "b"] }, maxItems: 3 },
  },
  required: ["name", "age", "tags"],
  additionalProperties: false,
} as const;

const held: readonly [name: string, constraint: Constraint, holds: (text: string) => boolean][] = [
  ["json", { type: "json" }, (text) => !Array.isArray(JSON.parse(text)) && typeof JSON.parse(text) === "object"],
  [
    "jsonSchema",
    { type: "jsonSchema", schema: person },
    (text) => {
      const { name, age, tags, ...rest } = JSON.parse(text);
      return (
        typeof name === "string" &&
        Number.isInteger(age) &&
        tags.every((tag: string) => ["a", "b"].includes(tag)) &&
        Object.keys(rest).length === 0
      );
    },
  ],
  ["regex", { type: "regex", pattern: "[0-9]{3}-(a|b)+x" }, (text) => /^[0-9]{3}-(a|b)+x$/.test(text)],
  ["grammar", { type: "grammar", ebnf: 'root ::= "<" [a-c]{2,4} ">"' }, (text) => /^<[a-c]{2,4}>$/.test(text)],
  [
    "choice",
    { type: "choice", choices: ["ja", 'n"ein\\', "vielleicht – 日本 🎲"] },
    (text) => ["ja", 'n"ein\\', "vielleicht – 日本 🎲"].includes(text),
  ],
];

test.each(held)(
  "Engine.generate(): answers that end by themselves are what %s takes, drawn or not",
  async (_, constraint, holds) => {
    let numEnded = 0;
    for (const temperature of [0, 2]) {
      const texts = new Set<string>();
      const options = { constraint, temperature, seed: 1, n: 4, maxTokens: 300 };
      for await (const event of engine.generate(prompt, options)) {
        if (event.kind !== "done") continue;
        texts.add(event.result.text);
        if (event.result.finishReason !== "stop") continue;
        numEnded += 1;
        expect(holds(event.result.text), event.result.text).toBe(true);
      }
      if (temperature > 0) expect(texts.size).toBeGreaterThan(1);
    }
    expect(numEnded).toBeGreaterThan(0);
  },
);

test("Engine.generate(): without a constraint the same answers do not hold", async () => {
  const { text } = await engine.complete(prompt, { maxTokens: 20 });
  expect(held.filter(([, , holds]) => tried(holds, text))).toEqual([]);
});

function tried(holds: (text: string) => boolean, text: string): boolean {
  try {
    return holds(text);
  } catch {
    return false;
  }
}

test("Engine.complete(): log-probabilities are the model's own, and stop texts end an answer as ever", async () => {
  const constraint = { type: "choice", choices: ["abc def", "xyz"] } as const;
  const events: GenerateEvent[] = [];
  for await (const event of engine.generate(prompt, { constraint, logprobs: true, topLogprobs: 3 })) events.push(event);
  const [first] = events.flatMap((event) => (event.kind === "token" ? [event] : []));
  // The likeliest of the model's are told, whether they may be chosen or not.
  const free = await engine.score(prompt, [first!.tokenId], { top: 3 });
  expect(first!.logprob).toBeCloseTo(free.logprobs[0]!, 4);
  expect(first!.top.map(({ id }) => id)).toEqual(free.top[0]!.map(({ id }) => id));
  const stopped = await engine.complete(prompt, {
    constraint: { type: "choice", choices: ["abc def"] },
    stop: ["c d"],
  });
  expect([stopped.text, stopped.finishReason]).toEqual(["ab", "stop"]);
});

/** Compiling it takes minutes. */
function explosive(depth: number): object {
  return depth === 0
    ? { type: "string" }
    : { oneOf: [explosive(depth - 1), { type: "array", items: explosive(depth - 1) }] };
}

test("Engine.complete(): what is no grammar, or takes too long, is refused; others go on meanwhile", async () => {
  const refused = (constraint: unknown) =>
    engine.complete(prompt, { constraint: constraint as Constraint, maxTokens: 3 }).then(
      ({ text }) => text,
      ({ code, message }) => `${code}: ${message}`,
    );
  const exploding = refused({ type: "jsonSchema", schema: explosive(9) });
  const others = await Promise.all(Array.from({ length: 3 }, () => engine.complete(prompt, { maxTokens: 3 })));
  expect(others.map(({ usage }) => usage.completionTokens)).toEqual([3, 3, 3]);
  expect(await exploding).toBe("invalid: Cannot constrain the answer: compiling it takes over 2000 ms");
  const startedAt = performance.now();
  expect(await refused({ type: "jsonSchema", schema: explosive(9) })).toContain("takes over 2000 ms");
  // It is known: nothing is compiled.
  expect(performance.now() - startedAt).toBeLessThan(2000);
  expect(await refused({ type: "regex", pattern: "([0-9" })).toContain("invalid: Cannot constrain the answer: Regex");
  expect(await refused({ type: "grammar", ebnf: "root ::= (" })).toMatch(/^invalid: .*EBNF parser error at line 1/);
  expect(await refused({ type: "jsonSchema", schema: { $ref: "#/no" } })).toContain("Cannot find field no");
  expect(await refused({ type: "yaml" })).toContain("invalid: Cannot generate: constraint is");
  let deep: object = { type: "string" };
  for (let i = 0; i < 200; i++) deep = { type: "array", items: deep };
  expect(await refused({ type: "jsonSchema", schema: deep })).toContain("64 levels");
});

test("Engine.complete(): more grammars at a time than threads, some given up, all others answered", async () => {
  const leaving = new AbortController();
  const answers = Array.from({ length: 20 }, async (_, i) => {
    const constraint = { type: "choice", choices: [`answer ${i}`] } as const;
    const signal = i % 4 === 3 ? leaving.signal : undefined;
    const { text, finishReason } = await engine.complete(prompt, { constraint, signal });
    return finishReason === "cancelled" ? "cancelled" : text;
  });
  setTimeout(() => leaving.abort(), 200);
  for (const [i, text] of (await Promise.all(answers)).entries()) {
    expect(i % 4 === 3 ? [`answer ${i}`, "cancelled"] : [`answer ${i}`]).toContain(text);
  }
});

const city = { type: "object", properties: { city: { type: "string", maxLength: 9 } }, required: ["city"] } as const;
const tools = [{ name: "weather", parameters: { ...city, additionalProperties: false } }, { name: "now" }];
const rome = '{"name": "weather", "arguments": {"city": "Rome"}}';
const now = '{"name": "now", "arguments": {}}';
const hermes = (call: string) => `<tool_call>\n${call}\n</tool_call>`;
const wrong = rome.replace("Rome", "a city of a long name");

test.each<[ToolForm, "auto" | "required", boolean | undefined, taken: string[], refused: string[]]>([
  [
    "hermes",
    "auto",
    undefined,
    ["", "a < b", `Well. ${hermes(rome)}`, `${hermes(rome)}\n${hermes(now)}`],
    [hermes(wrong), hermes('{"name": "no')],
  ],
  ["hermes", "auto", false, ["Well.", hermes(rome)], [`${hermes(rome)}\n${hermes(now)}`]],
  ["generic", "required", undefined, [hermes(rome), `${hermes(rome)}\n${hermes(now)}`], ["", "Well.", hermes(wrong)]],
  ["hermes", "required", false, [hermes(now)], [`${hermes(rome)}\n${hermes(now)}`]],
  ["mistral", "auto", undefined, ["Well.", `[TOOL_CALLS][${rome}, ${now}]`], [`[TOOL_CALLS][${wrong}]`]],
  ["mistral", "required", false, [`[TOOL_CALLS][${rome}]`], ["Well.", `[TOOL_CALLS][${rome}, ${now}]`]],
  ["llama", "auto", undefined, ["", "Well {", rome.replace("arguments", "parameters")], [rome, '{"a": 1}']],
  ["llama", "required", true, [now.replace("arguments", "parameters")], ["", "Well", rome]],
])("Grammars: calls of tools as %s writes them, %s, parallel %s", async (form, choice, parallel, taken, refused) => {
  const { Grammars } = (await import("../dist/engine/constraint/grammars.js" as string)) as {
    readonly Grammars: typeof BuiltGrammars;
  };
  // A token a byte, the marks, which are control tokens, and one that ends an answer.
  const marks = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]"];
  const end = 256 + marks.length;
  const tokenizer = {
    vocabSize: end + 1,
    tokenBytes: (id: number) => (id < 256 ? Uint8Array.of(id) : Buffer.from(marks[id - 256] ?? "</s>")),
    specialTokenIds: new Set([256, 257, 258, end]),
  };
  await using grammars = new Grammars(tokenizer, new Set([end]), end + 1, form);
  const constraint = { type: "toolCalls", tools, choice, parallel } as const;
  using _one = await grammars.lease({ ...constraint, tools: [{ name: "one" }] }, new AbortController().signal);
  using grammar = await grammars.lease(constraint, new AbortController().signal);
  const takes = async (text: string, useMarks: boolean) => {
    using matcher = grammar.open();
    const pieces = useMarks ? text.split(/(<\/?tool_call>|\[TOOL_CALLS\])/) : [text];
    const ids = pieces.flatMap((piece) => {
      const mark = marks.indexOf(piece);
      return mark >= 0 ? [256 + mark] : [...Buffer.from(piece)];
    });
    for (const id of [...ids, end]) {
      await matcher.ready;
      if ((((matcher.mask as Int32Array)[id >> 5] as number) >> (id & 31)) % 2 === 0) return false;
      if (id !== end) matcher.accept(id);
    }
    return true;
  };
  for (const useMarks of form === "generic" ? [false] : [false, true]) {
    for (const text of taken) expect(await takes(text, useMarks), text).toBe(true);
    for (const text of refused) expect(await takes(text, useMarks), text).toBe(false);
  }
});

test("Engine.generate(): with tools required every answer that ended is a call", async () => {
  const messages = [{ role: "user", content: "What time is it?" }];
  const constraint = { type: "toolCalls", tools, choice: "required", parallel: false } as const;
  const { text, finishReason } = await engine.complete(
    { messages, tools },
    { constraint, maxTokens: 300, temperature: 0 },
  );
  if (finishReason === "stop")
    expect(text).toMatch(/^<tool_call>\n\{"name": "(now|weather)", "arguments": \{.*\}\}\n<\/tool_call>$/s);
  else expect(text).toMatch(/^<tool_call>\n\{"name": "/);
});

test("Engine.complete(): where tools' schemas take too long, arguments are objects at least", async () => {
  const slow = [{ name: "slow", parameters: { type: "object", properties: { a: explosive(9) }, required: ["a"] } }];
  const constraint = { type: "toolCalls", tools: slow, choice: "required" } as const;
  const { text } = await engine.complete(prompt, { constraint, maxTokens: 40, temperature: 0 });
  expect(text).toMatch(/^<tool_call>\n\{"name": "slow", "arguments": \{/);
});

test("Engine.generate(): constrained answers are the same with drafts, whose tokens the masks take one by one", async () => {
  const { Engine } = (await import("../dist/index.js" as string)) as { readonly Engine: typeof BuiltEngine };
  const load = (drafts: "off" | number) => Engine.load({ model: embeddedModelPath(), threads: 1, drafts });
  await using plain = await load("off");
  await using drafted = await load(7);
  const list = { type: "array", items: { enum: ["alpha", "beta"] }, minItems: 6, maxItems: 6 } as const;
  const schema = { type: "object", properties: { list }, required: ["list"], additionalProperties: false } as const;
  let accepted = 0;
  for (const options of [
    {},
    { temperature: 1, seed: 2 },
    { temperature: 1, seed: 3 },
    { n: 2, temperature: 1, seed: 4 },
  ]) {
    const answers = async (of: LocalEngine): Promise<string[]> => {
      const texts: string[] = [];
      const constraint = { type: "jsonSchema", schema } as const;
      for await (const event of of.generate(prompt, { ...options, constraint, maxTokens: 120, logprobs: false })) {
        if (event.kind !== "done") continue;
        texts[event.index] = event.result.text;
        accepted += event.result.usage.drafts?.accepted ?? 0;
      }
      return texts;
    };
    const texts = await answers(plain);
    expect(await answers(drafted)).toEqual(texts);
  }
  expect(accepted).toBeGreaterThan(10);
});
