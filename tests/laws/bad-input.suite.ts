import { cpSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import type { PromptInput } from "../../src/engine/prompt.js";
import { isInputError } from "../../src/files/input-error.js";
import { placesIn } from "../../src/files/test-files.suite.js";
import * as library from "../../src/index.js";
import { expectIdle, expectRefusal, LawModels, lawEngine, lawFolder, liveCounts } from "./law-models.js";

const base = { architecture: "mistral", contextLength: 512, seed: 81 } as const;

const chat = library.compileChatTemplate("{% for m in messages %}{{ m.content }}\n{% endfor %}", {
  tokens: { bos_token: "", eos_token: "", pad_token: "", unk_token: "" },
  addsBos: false,
});
const hello = [{ role: "user", content: "hello" }];

/** A session that has a state. */
function stateSession(engine: LocalEngine): library.StateSession {
  const session = new library.StateSession(engine);
  session.update({ state: { pot: 1 } });
  return session;
}

/** Every call of the library that takes options, by them alone. */
function optionCalls(engine: LocalEngine): [name: string, call: (options: unknown) => unknown][] {
  const input = { blocks: ["a", "b"] };
  const rag = { question: "q", documents: ["a"] };
  const of =
    <T>(call: (options: T) => unknown) =>
    (options: unknown) =>
      call(options as T);
  return [
    ["Engine.load", of((options: object) => library.Engine.load(options))],
    ["generate", of((options: object) => engine.generate(input, options).next())],
    ["complete", of((options: object) => engine.complete(input, options))],
    ["score", of((options: object) => engine.score(input, "c", options))],
    ["scoreEach", of((options: object) => engine.scoreEach(input, ["c"], options))],
    ["encode", of((options: object) => engine.encode(["a"], options))],
    ["tokenize", of((options: object) => engine.tokenize("a", options))],
    ["tokenizePrompt", of((options: object) => engine.tokenizePrompt(input, options))],
    ["block", of((options: object) => engine.block("0".repeat(64), options))],
    ["deleteBlock", of((options: object) => engine.deleteBlock("0".repeat(64), options))],
    ["documents", of((options: object) => engine.documents(options))],
    ["deleteDocument", of((options: object) => engine.deleteDocument("a", options))],
    ["prompt.segment", of((segment: object) => engine.complete({ prompt: "a", segment }))],
    ["prompt.rag", of((options: object) => engine.complete({ ...rag, rag: options }))],
    ["segmentText", of((options: object) => library.segmentText("a", options))],
    ["segmentMessages", of((options: object) => library.segmentMessages(hello, chat, options))],
    ["ragPrompt", of((options: object) => library.ragPrompt(rag, options))],
    ["ragPrompt.texts", of((texts: object) => library.ragPrompt(rag, { texts }))],
    [
      "inContextPrompt",
      of((options: object) => library.inContextPrompt({ demonstrations: [], query: "q" }, chat, options)),
    ],
    ["ChatTemplate.render", of((options: object) => chat.render(hello, options))],
    ["StateSession", of((options: object) => new library.StateSession(engine, options))],
    ["StateSession.ask", of((options: object) => stateSession(engine).ask("q", options))],
    ["jsonStateBlocks", of((options: object) => library.jsonStateBlocks({ a: 1 }, options))],
    ["compileChatTemplate", of((options: never) => library.compileChatTemplate("", options))],
    ["segmentDemonstrations", of((rule: never) => library.segmentDemonstrations("a\nb", rule))],
    ["inContextPrompt.input", of((asked: never) => library.inContextPrompt(asked, chat))],
    ["demonstration", of((one: never) => library.inContextPrompt({ demonstrations: [one], query: "q" }, chat))],
    ["message", of((message: never) => library.segmentMessages([message], chat))],
    ["pull", of((options: object) => library.pull("no name", options))],
  ];
}

/** Every argument of the library that is not its options, and the kinds that are right. */
function argumentCalls(engine: LocalEngine): [name: string, call: (value: never) => unknown, accepted?: string[]][] {
  const input = { blocks: ["a", "b"] };
  const question = "q";
  return [
    ["generate(input)", (value) => engine.generate(value).next()],
    ["complete(input)", (value) => engine.complete(value)],
    ["tokenizePrompt(input)", (value) => engine.tokenizePrompt(value)],
    ["score(input)", (value) => engine.score(value, "c")],
    ["score(continuation)", (value) => engine.score(input, value)],
    ["score(ids)", (value) => engine.score(input, [value]), ["number"]],
    ["scoreEach(input)", (value) => engine.scoreEach(value, ["c"])],
    ["scoreEach(continuations)", (value) => engine.scoreEach(input, value), ["array"]],
    ["scoreEach([continuation])", (value) => engine.scoreEach(input, [value])],
    ["encode(passages)", (value) => engine.encode(value), ["array"]],
    ["encode([passage])", (value) => engine.encode([value])],
    ["pull(name)", (value) => library.pull(value)],
    ["tokenize(text)", (value) => engine.tokenize(value)],
    ["block(id)", (value) => engine.block(value)],
    ["deleteBlock(id)", (value) => engine.deleteBlock(value)],
    ["deleteDocument(id)", (value) => engine.deleteDocument(value)],
    ["blocks", (blocks) => engine.complete({ blocks })],
    ["blockTokenIds", (blockTokenIds) => engine.complete({ blockTokenIds })],
    ["prompt", (prompt) => engine.complete({ prompt })],
    ["cut", (cut) => engine.complete({ prompt: "a", cut }), ["undefined"]],
    ["messages", (messages) => engine.complete({ messages })],
    ["content", (content) => engine.complete({ messages: [{ role: "user", content }] })],
    ["documents", (documents) => engine.complete({ question, documents }), ["array"]],
    ["question", (asked) => engine.complete({ question: asked, documents: [] })],
    [
      "numLocalAttentionBlocks",
      (n) => engine.complete({ ...input, numLocalAttentionBlocks: n }),
      ["undefined", "number"],
    ],
    ["ToolCallReader(names)", (names) => new library.ToolCallReader(names)],
    ["ToolCallReader.push(text)", (text) => new library.ToolCallReader(new Set()).push(text)],
    ["segmentText(text)", (value) => library.segmentText(value)],
    ["segmentMessages(messages)", (value) => library.segmentMessages(value, chat)],
    ["ChatTemplate.render(messages)", (value) => chat.render(value), ["array"]],
    ["ChatTemplate.render([message])", (value) => chat.render([value])],
    ["segmentMessages(template)", (value) => library.segmentMessages(hello, value)],
    ["ragPrompt(input)", (value) => library.ragPrompt(value)],
    ["ragPrompt(template)", (template) => library.ragPrompt({ question, documents: [] }, { template }), ["undefined"]],
    ["inContextPrompt(input)", (value) => library.inContextPrompt(value, chat)],
    ["inContextPrompt(template)", (value) => library.inContextPrompt({ demonstrations: [], query: "q" }, value)],
    ["segmentDemonstrations(text)", (value) => library.segmentDemonstrations(value, { after: "\n" })],
    ["segmentDemonstrations(rule)", (value) => library.segmentDemonstrations("a\nb", value)],
    [
      "compileChatTemplate(source)",
      (value) => library.compileChatTemplate(value, { tokens: {} as never, addsBos: false }),
    ],
    ["joinLocalBlocks(numBlocks)", (value) => library.joinLocalBlocks(value, 1), ["number"]],
    ["joinLocalBlocks(numLocal)", (value) => library.joinLocalBlocks(3, value), ["number", "undefined"]],
    ["StateSession(engine)", (value) => new library.StateSession(value)],
    ["StateSession.ask(question)", (value) => stateSession(engine).ask(value)],
    [
      "StateSession.update({ state })",
      (state) => stateSession(engine).update({ state }),
      ["array", "object", "boolean", "number"],
    ],
    ["StateSession.update(frame)", (frame) => stateSession(engine).update(frame)],
    ["StateSession.update({ json })", (json) => stateSession(engine).update({ json })],
    ["StateSession.update({ patch })", (patch) => stateSession(engine).update({ patch }), ["array"]],
    ["jsonStateBlocks(state)", (value) => library.jsonStateBlocks(value), ["array", "object", "boolean", "number"]],
  ];
}

/** Expects a call to refuse in one line of our own, now or later, with an error that its class tells from a fault of ours. */
async function refusal(call: () => unknown, part: string | RegExp, what: string): Promise<string> {
  const called = (async () => call())();
  try {
    const message = await expectRefusal(called, part);
    await expect(called).rejects.toSatisfy((error) => isInputError(error) || error instanceof library.EngineError);
    return message;
  } catch (error) {
    throw new Error(what, { cause: error });
  }
}

/** What no engine must be made of, or asked: each a one-line error, nothing left behind, and the engine goes on. */
export function badInputSuite(numCuts: number): void {
  const models = new LawModels();
  const folder = lawFolder();
  let numCopies = 0;

  /** A copy of a model folder, changed. */
  const changed = (change: (copy: string) => void): string => {
    const copy = join(folder, `copy ${numCopies++}`);
    cpSync(models.huggingFace(base), copy, { recursive: true });
    change(copy);
    return copy;
  };

  /** Loading must fail, with nothing left; the message may name the file, but nothing else of the machine. */
  const refused = async (model: string, part: string | RegExp): Promise<void> => {
    const before = await liveCounts();
    const message = await expectRefusal(lawEngine(model), part);
    expect(message.length).toBeLessThan(600);
    expect(await liveCounts()).toEqual(before);
  };

  test.each(["config.json", "model.safetensors", "tokenizer.json"])("Engine.load(): %s is missing", async (name) => {
    await refused(
      changed((copy) => rmSync(join(copy, name))),
      name,
    );
  });

  test("Engine.load(): no such model", async () => {
    await refused(join(folder, "nothing"), "nothing");
    await refused(join(folder, "nothing.gguf"), "nothing.gguf");
    await refused("", "Cannot");
  });

  test("Engine.load(): model files cut at any place", async () => {
    const gguf = await models.gguf({ architecture: "llama", type: "Q8_0", seed: 82 });
    const ggufBytes = readFileSync(gguf);
    const whole = join(models.huggingFace(base), "model.safetensors");
    const cut = changed(() => undefined);
    const length = readFileSync(whole).length;
    for (const place of placesIn(length, numCuts)) {
      cpSync(whole, join(cut, "model.safetensors"));
      truncateSync(join(cut, "model.safetensors"), place);
      await refused(cut, "model.safetensors");
    }
    for (const place of placesIn(ggufBytes.length, numCuts)) {
      const path = join(folder, "cut.gguf");
      writeFileSync(path, ggufBytes.subarray(0, place));
      await refused(path, "cut.gguf");
    }
    for (const name of ["config.json", "tokenizer.json"]) {
      const text = readFileSync(join(models.huggingFace(base), name));
      for (const place of placesIn(text.length, numCuts)) {
        const copy = changed((at) => writeFileSync(join(at, name), text.subarray(0, place)));
        await refused(copy, name);
        rmSync(copy, { recursive: true });
      }
    }
  });

  test("Engine.load(): a header that claims 2^60 bytes", async () => {
    await refused(
      changed((copy) => {
        const path = join(copy, "model.safetensors");
        const bytes = readFileSync(path);
        bytes.writeBigUInt64LE(1n << 60n);
        writeFileSync(path, bytes);
      }),
      "model.safetensors",
    );
  });

  const config = (change: Record<string, unknown>) => (copy: string) => {
    const path = join(copy, "config.json");
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...change }));
  };
  test.each([
    ["an unknown architecture", { model_type: "mamba", architectures: ["MambaForCausalLM"] }, "mamba"],
    ["another width", { hidden_size: 128 }, /128|shape/],
    ["more layers than weights", { num_hidden_layers: 3 }, "layers.2"],
    ["a head size that does not fit", { head_dim: 15 }, "Cannot"],
    ["2^53 layers", { num_hidden_layers: 2 ** 53 }, "num_hidden_layers"],
    ["a smaller vocabulary than the tokenizer's", { vocab_size: 100 }, /vocab|shape|tokens/],
    ["dynamic NTK", { rope_parameters: { rope_type: "dynamic", factor: 2, rope_theta: 10000 } }, "dynamic"],
    ["a newer block-attention config", { block_attention: { version: 9, prefix: "", modes: ["block"] } }, "version"],
  ] as const)("Engine.load(): config.json with %s", async (_, change, part) => {
    await refused(changed(config(change)), part);
  });

  test("Engine.load(): a tokenizer with more tokens than the embedding", async () => {
    const copy = changed((at) => {
      const path = join(at, "tokenizer.json");
      const json = JSON.parse(readFileSync(path, "utf8"));
      json.added_tokens.push({ ...json.added_tokens.at(-1), id: 5000, content: "<|far|>" });
      writeFileSync(path, JSON.stringify(json));
    });
    await refused(copy, /token/);
  });

  test("Engine.load(): files that are not UTF-8 or not JSON", async () => {
    for (const name of ["config.json", "tokenizer.json"]) {
      await refused(
        changed((copy) => writeFileSync(join(copy, name), Uint8Array.of(0x7b, 0xff, 0xfe, 0x7d))),
        name,
      );
      await refused(
        changed((copy) => writeFileSync(join(copy, name), "[".repeat(100_000))),
        name,
      );
    }
    const path = join(folder, "noise.gguf");
    writeFileSync(path, Buffer.alloc(1000, 0xff));
    await refused(path, "noise.gguf");
  });

  test.each([
    [{ threads: 0 }, "threads is 0"],
    [{ threads: 1.5 }, "threads is 1.5"],
    [{ threads: 100_000 }, "threads is 100000"],
    [{ storeBytes: -1 }, "storeBytes is -1"],
    [{ storeBytes: Number.NaN }, "storeBytes is NaN"],
    [{ contextBytes: 1.5 }, "contextBytes is 1.5"],
    [{ kvType: "q8" as "f16" }, 'kvType is "q8"'],
    [{ kvType: "q8_0" }, "as q8_0: the model's heads have 16 elements, wanted a multiple of 32"],
    [{ mode: "half" as "full" }, "half"],
    [{ device: "TPU7" }, 'device "TPU7"'],
    [{ weights: "q2" as "f16" }, "q2"],
    [{ backend: "abacus" as "cpu" }, "abacus"],
    [{ trainedModes: ["half" as "full"] }, "half"],
  ] as const)("Engine.load(): option %o", async (options, part) => {
    const before = await liveCounts();
    await expectRefusal(lawEngine(models.huggingFace(base), options), part);
    expect(await liveCounts()).toEqual(before);
  });

  test("Engine: weights that are no numbers are refused when the logits show it", async () => {
    const copy = changed((at) => {
      const path = join(at, "model.safetensors");
      const bytes = readFileSync(path);
      const header = 8 + Number(bytes.readBigUInt64LE(0));
      for (let i = 0; i < 2000; i++) bytes.writeFloatLE(Number.NaN, header + 352 * 64 * 4 + 4 * i);
      writeFileSync(path, bytes);
    });
    await using engine = await lawEngine(copy);
    await expectRefusal(engine.complete({ blocks: ["a", "b"] }), /logit.* NaN/);
    await expectRefusal(engine.score({ blocks: ["a", "b"] }, "c"), /logit.* NaN/);
    await expectRefusal(engine.score({ blocks: ["a", "b"] }, "c", { stepwise: true }), /logit.* NaN/);
    expectIdle(engine);
  });

  const ids = (...blocks: unknown[]) => ({ blockTokenIds: blocks }) as PromptInput;
  const badPrompts: readonly (readonly [string, unknown, string | RegExp])[] = [
    ["no blocks", { blocks: [] }, "there are none"],
    ["an empty final block", { blocks: ["a", ""] }, "final block is empty"],
    ["an empty prompt", { prompt: "" }, "empty"],
    ["a block of 1 MB", { blocks: ["a".repeat(1 << 20), "b"] }, /more than the 512 tokens/],
    ["a final block of 1 MB", { blocks: ["a", "é\n".repeat(1 << 18)] }, /more than the 512 tokens/],
    ["300,000 blocks", { blocks: new Array(300_000).fill("ab") }, /more than the 512 tokens/],
    ["a prompt one token too long", ids(new Array(500).fill(5), new Array(13).fill(6)), /more than the 512 tokens/],
    ["a lone surrogate", { blocks: ["a\ud800b", "c"] }, "surrogate"],
    ["a lone surrogate at the end", { prompt: "a\udc00" }, "surrogate"],
    ["blocks that are no texts", { blocks: ["a", 5] }, "block 2 is 5"],
    ["blocks that are no list", { blocks: "ab" }, "wanted an array"],
    ["a prompt that is no text", { prompt: 7 }, "the prompt: it is 7, wanted text"],
    ["nothing", {}, "none of"],
    ["null", null, "Cannot"],
    ["a text", "hello", "Cannot"],
    ["messages that are no list", { messages: "hi" }, "Cannot"],
    ["no messages", { messages: [] }, "Cannot"],
    ["a message without a role", { messages: [{ content: "a" }] }, "Cannot"],
    ["a question that is no text", { question: 1, documents: [] }, "Cannot"],
    ["documents that are no list", { question: "q", documents: 3 }, "Cannot"],
    ["a document without text", { question: "q", documents: [{ title: "t" }] }, "Cannot"],
    ["no documents", { question: "q" }, "Cannot"],
    ["an id past the vocabulary", ids([1], [352]), "holds 352"],
    ["a negative id", ids([-1]), "holds -1"],
    ["half an id", ids([1.5]), "holds 1.5"],
    ["an id that is text", ids(["1"]), 'holds "1"'],
    ["ids that are no list", ids(1), "block 1 is no array"],
    ["no ids", ids(), "no blocks"],
    ["no final ids", ids([1], []), "final block is empty"],
    ["minus one local block", { blocks: ["a", "b"], numLocalAttentionBlocks: -1 }, "-1"],
    ["half a local block", { blocks: ["a", "b"], numLocalAttentionBlocks: 0.5 }, "0.5"],
  ];

  test("Engine: prompts that cannot be used", async () => {
    await using engine = await lawEngine(models.huggingFace(base));
    const answer = async (of: LocalEngine) => (await of.complete({ blocks: ["a b", "c"] }, { maxTokens: 3 })).tokenIds;
    const expected = await answer(engine);
    const before = await liveCounts();
    for (const [name, input, part] of badPrompts) {
      for (const mode of ["block", "full"] as const) {
        const from = performance.now();
        await refusal(() => engine.complete(input as PromptInput, { mode }), part, `${name}, ${mode}`);
        expect(performance.now() - from, name).toBeLessThan(10_000);
      }
    }
    for (const input of [undefined, {}, { blocks: [] }, ids([352])]) {
      await expectRefusal(engine.score(input as PromptInput, "a"));
    }
    expectIdle(engine);
    expect(await liveCounts()).toEqual(before);
    expect(await answer(engine)).toEqual(expected);
  });

  test("library calls: options that do not exist, and values of no kind, are refused by name", async () => {
    await using engine = await lawEngine(models.huggingFace(base));
    const before = await liveCounts();
    for (const [name, call] of optionCalls(engine)) {
      for (const options of [null, 5, "text", [], new Map(), Promise.resolve({}), () => 1, Symbol("s")]) {
        await refusal(() => call(options), /wanted an object$/, `${name} ${String(options)}`);
      }
      const message = await refusal(() => call({ nonsense: 1 }), '"nonsense"', name);
      const known = [...message.replace(/.*, wanted /, "").matchAll(/"(\w+)"/g)].map(([, option]) => option as string);
      expect(known.length, message).toBeGreaterThan(0);
      for (const option of known) {
        for (const value of [null, Symbol("s"), new Map()]) {
          await refusal(() => call({ [option]: value }), /^Cannot /, `${name} ${option} ${String(value)}`);
        }
        await refusal(() => call({ [`${option}s`]: 1 }), new RegExp(`, wanted .*"${option}"`), `${name} ${option}s`);
      }
    }
    expectIdle(engine);
    expect(await liveCounts()).toEqual(before);
  });

  test("library calls: an error that JavaScript throws inside a check is no refusal", async () => {
    await using engine = await lawEngine(models.huggingFace(base));
    /** Throws V8's own error, whose words begin as ours do, at the n-th look at it. */
    const trapped = (target: object, n: number): { value: never; error: () => unknown } => {
      let numLooks = 0;
      let error: unknown;
      const look = () => {
        if (++numLooks < n) return;
        try {
          BigInt(1) + (1 as unknown as bigint);
        } catch (mixed) {
          error ??= mixed;
        }
        throw error;
      };
      const handler = Object.fromEntries(
        (["get", "has", "ownKeys", "getOwnPropertyDescriptor", "getPrototypeOf"] as const).map((trap) => [
          trap,
          (...args: unknown[]) => {
            look();
            return (Reflect[trap] as (...args: unknown[]) => unknown)(...args);
          },
        ]),
      );
      return { value: new Proxy(target, handler) as never, error: () => error };
    };
    let numThrown = 0;
    for (const [name, call] of [...optionCalls(engine), ...argumentCalls(engine)]) {
      for (const target of [{}, [], ["a"], { text: "a", question: "q", blocks: ["a"] }]) {
        for (let n = 1; n <= 12; n++) {
          const { value, error } = trapped(target, n);
          const thrown = await (async () => call(value))().then(
            () => undefined,
            (reason: unknown) => reason,
          );
          const failure = thrown as Error & { code?: string };
          if (thrown === error() || (failure?.code === "failed" && failure.cause === error())) numThrown += 1;
          else expect((thrown as Error | undefined)?.message ?? "", `${name}, look ${n}`).not.toContain("BigInt");
        }
      }
    }
    expect(numThrown).toBeGreaterThan(200);
    expectIdle(engine);
  });

  test("library calls: arguments of no kind are refused in our words", async () => {
    await using engine = await lawEngine(models.huggingFace(base));
    const names = [...optionCalls(engine), ...argumentCalls(engine)].map(([name]) => name.replace(/[.(].*$/, ""));
    const methods = Object.getOwnPropertyNames(Object.getPrototypeOf(engine)).filter(
      (name) => !["constructor", "status", "onStatus", "defaultMode", "promptContext", "stats"].includes(name),
    );
    const functions = Object.entries(library).filter(([, value]) => typeof value === "function");
    const others = ["EngineError", "FrameReplacedError", "embeddedModelPath", "defaultModel"];
    for (const name of [...methods, ...functions.map(([name]) => name)]) {
      if (!others.includes(name)) expect(names).toContain(name);
    }
    const values: unknown[] = [null, undefined, 5, Number.NaN, true, [], {}, new Map(), () => 1, Symbol("s"), 1n];
    for (const [name, call, accepted = []] of argumentCalls(engine)) {
      for (const value of values) {
        if (accepted.some((kind) => Object.is(kind, typeof value) || (kind === "array" && Array.isArray(value))))
          continue;
        await refusal(() => call(value as never), /^Cannot /, `${name} ${String(value)}`);
      }
    }
    // Lists of no kind of thing, those with nothing at a place among them.
    const { tokenizer } = engine.model;
    for (const list of [[null], new Array(1), [-5], [{ text: 1 }], [Symbol("s")]] as never[]) {
      await refusal(() => chat.render(list), "the messages are", "ChatTemplate.render");
      await refusal(() => tokenizer.encode("a", list), "trusted run", "Tokenizer.encode");
      await refusal(() => tokenizer.decode(list), "Cannot decode token", "Tokenizer.decode");
      const asked = { question: "q", documents: ["a"] };
      const partsOf = () => Array.from<never>(list);
      await refusal(() => library.ragPrompt(asked, { partsOf }), '"partsOf" returned', "ragPrompt.partsOf");
    }
    expectIdle(engine);
  });

  test("Engine: options and continuations that cannot be used", async () => {
    await using engine = await lawEngine(models.huggingFace(base));
    const input = { blocks: ["a b", "c"] };
    for (const [options, part] of [
      [{ temperature: -1 }, "temperature is -1"],
      [{ temperature: Number.NaN }, "temperature is NaN"],
      [{ maxTokens: -1 }, "maxTokens is -1"],
      [{ topP: 0 }, "topP is 0"],
      [{ seed: -5 }, "seed is -5"],
      [{ stop: [""] }, "stop"],
      [{ logitBias: { 352: 1 } }, "token 352"],
      [{ topLogprobs: 21 }, "topLogprobs is 21"],
      [{ heat: 1 }, '"heat"'],
      [{ mode: "half" }, "half"],
    ] as const) {
      await expectRefusal(engine.complete(input, options as object), part);
    }
    await expectRefusal(engine.score(input, ""), "continuation is empty");
    await expectRefusal(engine.score(input, [352]), "352");
    await expectRefusal(engine.score(input, [0.5]), "0.5");
    await expectRefusal(engine.score(input, "\ud800"), "surrogate");
    await expectRefusal(engine.score(input, "a", { top: -1 }), "top is -1");
    await expectRefusal(engine.score(input, "a", { top: 353 }), "top is 353");
    await expectRefusal(engine.score(input, new Array(600).fill(1)), /more than the 512 tokens/);
    await expectRefusal(engine.encode([3 as unknown as string]), "passage 1");
    await expectRefusal(engine.encode("a" as unknown as string[]), "wanted an array");
    await expectRefusal(
      engine.encode(["a", { text: "b", url: "c" } as { text: string }]),
      'passage 2: there is no field "url"',
    );
    expectIdle(engine);
    expect(await engine.encode([])).toEqual({ blocks: [], failed: 0 });
  });

  test("Engine.encode(): passages that cannot be encoded leave the others as they are", async () => {
    await using engine = await lawEngine(models.huggingFace(base));
    const good = Array.from({ length: 70 }, (_, i) => ({ id: i, text: `passage ${i}` }));
    const bad = [
      ["", "invalid", "empty"],
      [{ text: " \n" }, "invalid", "empty"],
      ["b".repeat(2000), "too_long", /more than the 512 tokens/],
      [{ title: "t".repeat(2000), text: "" }, "too_long", /passage 4: it has more than the 512 tokens/],
      ["\ud800", "invalid", "surrogate"],
      [{ pageContent: "a\udc00", metadata: {} }, "invalid", "surrogate"],
    ] as const;
    const told: unknown[] = [];
    const mixed = [...bad.map(([passage]) => passage), ...good];
    const { blocks, failed } = await engine.encode(mixed, { onBlock: (block) => told.push(block) });
    expect(told).toEqual(blocks);
    expect(blocks.map(({ passage }) => passage.index)).toEqual(mixed.map((_, i) => i));
    expect(failed).toBe(bad.length);
    for (const [i, [, code, message]] of bad.entries()) {
      expect(blocks[i]?.error).toEqual({ code, message: expect.stringMatching(/^Cannot [^\n]+$/) });
      expect(blocks[i]?.error?.message).toMatch(message);
    }
    const alone = await engine.encode(good);
    expect(alone.failed).toBe(0);
    expect(alone.blocks.map((block, i) => ({ ...block, passage: { index: i + bad.length, id: i } }))).toEqual(
      blocks.slice(bad.length).map((block) => ({ ...block, hit: true })),
    );
    expectIdle(engine);
    // A prompt of such a passage cannot be used: the error is the prompt's.
    await expectRefusal(
      engine.complete({ question: "q", documents: ["a", "b".repeat(2000)] }),
      /more than the 512 tokens/,
    );
    const answer = await engine.complete({ question: "q", documents: good.slice(0, 2).reverse() }, { maxTokens: 1 });
    expect(answer.blocks.filter(({ passage }) => passage !== undefined)).toMatchObject([
      { hit: true, passage: { index: 0, id: 1 } },
      { hit: true, passage: { index: 1, id: 0 } },
    ]);
    const full = await engine.complete({ question: "q", documents: good.slice(0, 2) }, { maxTokens: 1, mode: "full" });
    expect(full.blocks).toEqual([]);
  });

  test("Engine: longrope's original context holds the prompt, and not a token more", async () => {
    const factors = new Array(8).fill(2);
    const rope_scaling = { type: "longrope", short_factor: factors, long_factor: factors };
    const settings = { original_max_position_embeddings: 64, rope_parameters: rope_scaling };
    const model = models.huggingFace({ architecture: "phi3", settings });
    await using engine = await lawEngine(model);
    const result = await engine.complete({ blockTokenIds: [new Array(60).fill(5), [6, 7]] }, { maxTokens: 100 });
    expect(result.usage.promptTokens + result.usage.completionTokens).toBeLessThanOrEqual(64);
    await expectRefusal(
      engine.complete({ blockTokenIds: [new Array(60).fill(5), [6, 7, 8, 9, 1]] }),
      /more than the 64 tokens that the model's original context .* longrope/,
    );
    expectIdle(engine);
  });

  test("Engine: a context that no budget holds", async () => {
    await using engine = await lawEngine(models.huggingFace(base), { contextBytes: 1000 });
    await expectRefusal(engine.complete({ blocks: ["a", "b"] }), /1000 bytes/);
    expectIdle(engine);
  });

  afterAll(async () => expect((await liveCounts()).buffers).toBe(0));
}
