import { execFileSync, spawnSync } from "node:child_process";
import { rmSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { segmentMessages } from "../../src/blocks/chat-prompt.js";
import { Engine } from "../../src/engine/engine.js";
import { type LoadedModel, loadTokenizer, templateOf } from "../../src/engine/model.js";
import type { ScoreResult } from "../../src/engine/results.js";
import { readGguf } from "../../src/files/gguf.js";
import { readRange } from "../../src/files/read-range.js";
import { userCacheDir } from "../../src/files/user-cache-dir.js";
import { openModel } from "../../src/model/open-model.js";
import { buildDist } from "../build-dist.js";
import { lawFolder } from "../laws/law-models.js";
import { expectOneLine } from "../laws/mutated-files.suite.js";
import { expectLlamaCpp } from "../llama-cpp/compare-engine.js";
import { llamaCppTokenize, whyNoLlamaCpp } from "../llama-cpp/llama-cpp-oracle.js";
import { writeMutatedHead } from "../models/mutated-model.js";
import { askEngine, distanceFromOracle, logprobBounds, oracleAnswer } from "../oracles/compare-engine.js";
import { expectOnlyRight, type Fault } from "../oracles/faults.js";
import { dequantized, OnePassModel } from "../oracles/one-pass.js";
import { runCli } from "../run-cli.js";
import { type Found, realModel, writeAsF32 } from "./real-models.js";
import { realPassages, realQuestions } from "./real-texts.js";

const folder = lawFolder();
const noLlamaCpp = await whyNoLlamaCpp();
/** Two would wait for each other at every node where other work holds the cores, which CI has for itself. */
const threads = process.env.CI === undefined ? 1 : 2;

const intoTheWild = [
  {
    title: "Into the Wild (film)",
    text: "Into the Wild is a 2007 American biographical adventure drama film written, co-produced and directed by Sean Penn. It is based on the book of the same name by Jon Krakauer and tells the story of Christopher McCandless.",
  },
  {
    title: "Sean Penn",
    text: "Sean Justin Penn (born August 17, 1960) is an American actor and filmmaker. He was born in Santa Monica, California, to the actor and director Leo Penn and the actress Eileen Ryan.",
  },
];

/** What `generate` is given, by model, a line and a mode each, and what stands in its answer. */
const answers: Readonly<Record<string, readonly (readonly [input: object, mode: string, wanted: string])[]>> = {
  "SmolLM2-135M-Instruct.Q4_1.gguf": [[userSays("What is the capital of France?"), "full", "Paris"]],
  "gemma-3-270m.Q4_K_M.gguf": [
    [{ prompt: "Monday, Tuesday, Wednesday, Thursday," }, "full", "Friday, Saturday, Sunday"],
  ],
  "Qwen2.5-Coder-0.5B-Instruct.gguf": [[userSays("What is the capital of France?"), "full", "Paris"]],
  "Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf": ["full", "block"].map((mode) => {
    const question = "Who is the mother of the director of the film Into the Wild?";
    return [{ question, documents: intoTheWild }, mode, "Eileen Ryan"] as const;
  }),
};

function userSays(content: string) {
  return { messages: [{ role: "user", content }] };
}

export interface RealModelSizes {
  /** How many prompts of questions with their passages are held to llama.cpp. */
  readonly numPrompts: number;
  /** How long the text is that is held to it at every 500th token. */
  readonly textTokens: number;
  /** Prompts of so many passages each are held to one pass. */
  readonly numPassages: readonly number[];
  readonly numMutations: number;
}

/** A real model's answers, tokenizer, chat template, both modes, and its file with a damaged beginning. */
export function realModelSuite(file: string, sizes: RealModelSizes): void {
  const { numPrompts, textTokens, numPassages, numMutations } = sizes;
  let found: Promise<Found> | undefined;
  const it = (name: string, run: (path: string, skip: (reason: string) => never) => Promise<void>) =>
    test(`${file}: ${name}`, async ({ skip }) => {
      // Not before a test of this model runs: the others' files need not be there.
      found ??= realModel(file);
      const model = await found;
      if (model.kind === "missing") return skip(model.why);
      await run(model.path, skip);
    });

  it("answers, or continues a text", async (path) => {
    for (const [line, mode, wanted] of answers[file]!) {
      const input = join(folder, "input.jsonl");
      writeFileSync(input, JSON.stringify(line));
      const flags = ["--temperature", "0", "--max-tokens", "40", "--threads", String(threads), "--mode", mode];
      const { error, stdout } = await runCli(["generate", "--model", path, "--input", input, ...flags]);
      expect(error).toBeUndefined();
      console.log(`${file}, ${mode} mode: ${stdout.trim()}`);
      expect(stdout).toContain(wanted);
    }
  });

  it("tokenizer: ids of 2,000 real texts are llama.cpp's, of control tokens too", async (path, skip) => {
    if (noLlamaCpp !== undefined) skip(noLlamaCpp);
    const tokenizer = await loadTokenizer(path);
    const texts = realPassages().flatMap(({ title, text }) => [title, text]);
    const controls = [...tokenizer.specialTokenIds].map((id) => Buffer.from(tokenizer.tokenBytes(id)).toString());
    const withControls = texts.slice(0, 40).map((text, i) => {
      const control = controls[i % controls.length];
      return `${control}${text}${control} ${controls[0]}\n`;
    });
    for (const [trusted, some] of [
      ["none", texts.slice(0, 2000)],
      ["none", withControls],
      ["all", withControls],
    ] as const) {
      const expected = await llamaCppTokenize(path, some, trusted === "all");
      const found = some.map((text) => tokenizer.encode(text, trusted));
      const wrong = some.flatMap((text, i) =>
        found[i]!.join() === expected[i]!.join() ? [] : [{ text, found: found[i], expected: expected[i] }],
      );
      expect(wrong).toEqual([]);
      expect(found).toHaveLength(some === withControls ? 40 : 2000);
    }
  });

  it("chat template: messages and documents as Jinja2 prints them", async (path, skip) => {
    const tokenizer = await loadTokenizer(path);
    const template = templateOf(tokenizer);
    if (template === undefined) return skip("the model has no chat template");
    const python = pythonWithTransformers();
    if (python === undefined) return skip("the trainer's Python environment is not there; `npm run check` makes it");
    const turns = realQuestions()
      .slice(0, 6)
      .map(({ question }, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content: question }));
    const documents = realPassages().slice(0, 3);
    const system = { role: "system", content: " Be brief.\n" };
    const tools = [{ type: "function", function: { name: "look_up", description: "Ünïcode & <b>", parameters: {} } }];
    const conversations = [1, 3, 5].flatMap((count) => [turns.slice(0, count), [system, ...turns.slice(0, count)]]);
    const cases = conversations.flatMap((messages) =>
      [{}, { documents }, { tools }].map((variables) => ({ source: template.source, messages, variables })),
    );
    const expected = JSON.parse(
      execFileSync(python, [join(pythonFolder, "oracles", "chat_templates.py"), "--render"], {
        input: JSON.stringify(
          cases.map(({ variables, ...rest }) => ({
            ...rest,
            variables: { ...tokenizer.templateTokens, ...variables },
          })),
        ),
        encoding: "utf8",
        maxBuffer: 2 ** 26,
      }),
    );
    const found = cases.map(({ messages, variables }) => ({ prints: template.render(messages, { variables }) }));
    expect(found).toEqual(expected);
    // What is cut into blocks is what is printed.
    for (const [i, { messages, variables }] of cases.entries()) {
      const { blocks } = segmentMessages(messages, template, { variables });
      expect(blocks.map(({ text }) => text).join("")).toBe(found[i]!.prints);
    }
  });

  it(`full mode equals llama.cpp, at ${numPrompts} real prompts and every 500th token of ${textTokens}`, async (path, skip) => {
    if (noLlamaCpp !== undefined) skip(noLlamaCpp);
    await using engine = await Engine.load({ model: path, kvType: "f32", threads });
    const prompts = realPrompts(engine.model, sizes);
    expect(prompts).toHaveLength(numPrompts + textTokens / 500);
    const how = { numSteps: 8, threads, showsFaults: false };
    const { numCounted, worstLogprob, bound } = await expectLlamaCpp(engine, path, prompts, how);
    console.log(
      `${file}: ${numCounted} of ${8 * prompts.length} steps counted, log-probabilities at most ${worstLogprob.toFixed(3)} apart, bound ${bound.toFixed(3)}`,
    );
    expect(numCounted).toBeGreaterThan(prompts.length);
  });

  it("full mode equals llama.cpp in F32, where a bound shows one other token", async (path, skip) => {
    if (noLlamaCpp !== undefined) skip(noLlamaCpp);
    const output = join(folder, "f32.gguf");
    try {
      await writeAsF32(path, output);
      await using engine = await Engine.load({ model: output, kvType: "f32", threads });
      const some = realPrompts(engine.model, { numPrompts: 3, textTokens: 1000 });
      const { worstLogprob, bound } = await expectLlamaCpp(engine, output, some, { numSteps: 4, threads });
      console.log(`${file} in F32: log-probabilities at most ${worstLogprob.toExponential(1)} apart, bound ${bound}`);
    } finally {
      rmSync(output, { force: true });
    }
  });

  it(`block mode equals one pass with the block mask, at ${numPassages.join(", ")} passages in F32`, async (path) => {
    const source = await openModel(path);
    const { vocabSize } = source.config;
    const tokenizer = await loadTokenizer(path);
    const bos = tokenizer.bosTokenId === undefined ? [] : [tokenizer.bosTokenId];
    const ids = (text: string, count: number) => tokenizer.encode(text, "none").slice(0, count);
    const questions = realQuestions();
    const prompts = numPassages.map((count, i) => {
      const passages = realPassages().slice(40 * i, 40 * i + count);
      const blocks = passages.map(({ title, text }) => ids(`${title}: ${text}`, 8));
      blocks[0]!.unshift(...bos);
      return {
        blockTokenIds: [...blocks, ids(`\n${questions[i]!.question}\nAnswer:`, 40)],
        continuationTokenIds: ids(" The answer is", 4),
      };
    });
    const found: ScoreResult[] = [];
    {
      const loaded = { model: path, weights: "f32", kvType: "f32", threads, mode: "block" } as const;
      await using engine = await Engine.load(loaded);
      for (const prompt of prompts) {
        // The second time passages come from the store.
        for (const _ of ["miss", "hit"]) found.push(await askEngine(engine, prompt, { vocabSize: 1000 }));
      }
    }
    // After the engine, so that its weights and these are not in memory together.
    const onePass = new OnePassModel(source, await dequantized(source));
    const distance = (i: number, fault?: Fault) => {
      const prompt = prompts[i >> 1]!;
      return distanceFromOracle(found[i]!, oracleAnswer(onePass.score(prompt, fault), prompt, 5));
    };
    const faults: readonly Fault[] = [
      "local blocks see everything before",
      "blocks keep the positions that they should not",
      "the final block does not see the first",
    ];
    const wrong = Object.fromEntries(faults.map((fault) => [fault, distance(0, fault)]));
    const distances = found.map((_, i) => distance(i));
    console.log(`${file}: ${distances.map((far) => far.toExponential(1)).join(", ")} from one pass`, wrong);
    expect(found.every(({ top }) => top.every((row) => row.length === Math.min(1000, vocabSize)))).toBe(true);
    expectOnlyRight(logprobBounds.f32, Math.max(...distances), wrong);
  });

  it(`${numMutations} mutations of its header and vocabulary: an answer or an error of one line`, async (path) => {
    await buildDist();
    const { tensors } = await readGguf(path);
    const offsets = [...tensors.values()].flatMap((tensor) =>
      tensor.kind === "readable" ? [tensor.entry.offset] : [],
    );
    const head = Buffer.from(await readRange(path, 0, Math.min(...offsets)));
    const { size } = statSync(path);
    // The vocabulary is megabytes of objects, and what is loaded is there once more as it is converted.
    const limits = { limitMs: 20_000 + size / 20_000, limitBytes: 2 ** 31 + 2 * size };
    const mutated = join(folder, "mutated.gguf");
    await expectOneLine([path], numMutations, limits, (seed) => writeMutatedHead(mutated, head, size, seed));
  });
}

/** Questions with their passages, and the first 500, 1,000, … `textTokens` tokens of a text. */
function realPrompts(
  { tokenizer, chatTemplate }: LoadedModel,
  { numPrompts, textTokens }: Pick<RealModelSizes, "numPrompts" | "textTokens">,
): readonly (readonly number[])[] {
  const prompts = realQuestions()
    .slice(0, numPrompts)
    .map(({ question, passages }) => {
      const text = [...passages.map(({ title, text }) => `${title}: ${text}`), question].join("\n");
      const asked = chatTemplate?.render([{ role: "user", content: text }]) ?? `${text}\nAnswer:`;
      return tokenizer.encode(asked, "all");
    });
  const passages = realPassages().slice(0, 200);
  const long = tokenizer.encode(passages.map(({ text }) => text).join("\n"), "none").slice(0, textTokens);
  expect(long).toHaveLength(textTokens);
  const beginnings = Array.from({ length: textTokens / 500 }, (_, i) => long.slice(0, 500 * (i + 1)));
  const bos = tokenizer.bosTokenId === undefined ? [] : [tokenizer.bosTokenId];
  return [...prompts, ...beginnings].map((ids) => [...bos, ...ids]);
}

const pythonFolder = fileURLToPath(new URL("../../python", import.meta.url));

/** The environment in which the trainer is checked, where it is there. */
function pythonWithTransformers(): string | undefined {
  const cache = userCacheDir({ platform: process.platform, env: process.env, homeDir: homedir() });
  const { stdout } = spawnSync(
    "python3",
    [
      join(pythonFolder, "make_environment.py"),
      ...["--cache", join(cache, "python"), "--name", "trainer-dev", "--if-there"],
      ...["--requirements", join(pythonFolder, "requirements-dev.txt")],
    ],
    { encoding: "utf8" },
  );
  return stdout
    .split("\n")
    .flatMap((line) => (line === "" ? [] : [JSON.parse(line).python as string | undefined]))
    .find((python) => python !== undefined);
}
