import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findGgmlDirectory, ggmlVariable } from "../src/ggml/library.js";
import { buildDist, projectRoot } from "./build-dist.js";
import { expectOnlyRight } from "./oracles/faults.js";

beforeAll(buildDist, 120_000);

const folder = mkdtempSync(join(tmpdir(), "block-attention-cli-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Outcome {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

type Child = ReturnType<typeof start>;

function start(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const main = join(projectRoot, "dist", "cli", "main.js");
  // A model this small gains nothing from more threads, and spinning ones starve on a busy machine.
  const threads = ["generate", "score", "bench"].includes(args[0] ?? "") ? ["--threads", "1"] : [];
  return spawn(process.execPath, [main, ...args.slice(0, 1), ...threads, ...args.slice(1)], {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...process.env, ...env },
  });
}

function finish(child: Child): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (data: Buffer) => {
      stdout += data.toString();
    });
    child.stderr.on("data", (data: Buffer) => {
      stderr += data.toString();
    });
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

function cli(
  args: readonly string[],
  input: string | Uint8Array = "",
  env: Readonly<Record<string, string>> = {},
): Promise<Outcome> {
  const child = start(args, env);
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  return finish(child);
}

interface Answer {
  readonly generated: string;
  readonly token_ids: readonly number[];
  readonly usage: {
    readonly prompt_tokens: number;
    readonly cached_tokens: number;
    readonly completion_tokens: number;
  };
  readonly timings: Readonly<Record<string, number>>;
}

interface Score {
  readonly block_token_ids: readonly (readonly number[])[];
  readonly continuation_token_ids: readonly number[];
  readonly logprobs: readonly number[];
  readonly top: readonly (readonly { readonly id: number; readonly logprob: number }[])[];
}

const parseLines = (text: string) =>
  text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Answer);

const documents = [
  {
    title: "Into the Wild",
    text: "Into the Wild is a 2007 American adventure drama film directed by Sean Penn and starring Emile Hirsch and Catherine Keener.",
  },
  {
    title: "Sean Penn",
    text: "Sean Penn (born 17 August 1960 in Santa Monica) is an American film director. He is the son of actress Eileen Ryan and director Leo Penn.",
  },
];
const question = "Who is the mother of the director of film Into the Wild?";

/** As standard error has it. */
const defaultName = "tiny-rag (smollm2-135m is not on the disk: block-attention pull smollm2-135m)";
const loading = `Loading ${defaultName}: weights take 8.8 MiB\n`;

test("generate --json: fields as fixed, lines in order, bad lines in their place, another order all hits", async () => {
  const lines = [
    JSON.stringify({ id: "q1", question, answers: ["Eileen Ryan"], documents }),
    "no json",
    JSON.stringify({ question, documents, document: 1 }),
    "",
    JSON.stringify({ question, documents: [...documents].reverse() }),
    JSON.stringify({ prompt: "a\ud800" }),
    JSON.stringify({ blocks: [] }),
    JSON.stringify({ blocks: ["a", ""] }),
    JSON.stringify({ messages: [{ role: "user", content: "Hello" }] }),
  ];
  const { code, stdout, stderr } = await cli(
    ["generate", "--input", "-", "--json", "--max-tokens", "40"],
    lines.join("\n"),
  );
  const results = parseLines(stdout);
  expect(code).toBe(1);
  const passedOver = ["id", "answers"].map((key) => `Passed over in lines: the key "${key}"\n`);
  expect(stderr).toBe(`${loading}${passedOver.join("")}`);
  expect(results).toHaveLength(8);
  const [first, , , reordered] = results as [Answer, Answer, Answer, Answer];
  expect(Object.keys(first)).toEqual(["generated", "token_ids", "finish_reason", "blocks", "usage", "timings"]);
  expect(Object.keys(first.usage)).toEqual(["prompt_tokens", "cached_tokens", "reused", "completion_tokens"]);
  expect(Object.keys(first.timings)).toEqual(["encode_ms", "assemble_ms", "prefill_ms", "ttft_ms", "decode_ms"]);
  expect(results[0]).toMatchObject({ finish_reason: "stop", usage: { cached_tokens: 0 } });
  expect(first.generated).toContain("Eileen Ryan");
  expect(results[1]).toMatchObject({ error: expect.stringContaining("line 2: it is no JSON") });
  expect(results[2]).toEqual({ error: 'Cannot use the line: the key "document" is not known, wanted "documents"' });
  const { usage } = reordered;
  const segmented = await cli(["segment", "--input", "-", "--json"], JSON.stringify({ question, documents }));
  const { blocks } = JSON.parse(segmented.stdout) as { blocks: { text: string; tokens: number }[] };
  expect(usage.cached_tokens).toBe(usage.prompt_tokens - (blocks.at(-1)?.tokens ?? 0));
  expect(blocks.map(({ text }) => text)[1]).toBe(`- Title: ${documents[0]?.title}\n${documents[0]?.text}\n`);
  for (const i of [4, 5, 6]) expect(results[i]).toEqual({ error: expect.stringMatching(/^Cannot [^\n]+[^.]$/) });
  expect(results[7]).toHaveProperty("generated");
});

test("generate: streams the answer, and sums up on standard error", async () => {
  const path = join(folder, "documents.jsonl");
  // As a RAG set marks its passages: what no passage has is passed over, and told.
  writeFileSync(path, documents.map((document) => JSON.stringify({ ...document, gold: true })).join("\n"));
  const { code, stdout, stderr } = await cli(["generate", "--question", question, "--documents", path]);
  expect(code).toBe(0);
  expect(stderr).toContain('Passed over in lines: the key "gold"\n');
  expect(stdout).toBe("The director of Into the Wild is Sean Penn. The mother of Sean Penn is Eileen Ryan.\n");
  expect(stderr).toMatch(
    /\nblock mode: 275 tokens in \(0 from the store\), 27 out, first token after .*, end: stop\n$/,
  );
});

test("generate and score --repair: the answer names it, and what it computed again", async () => {
  const blocks = ["Emma lives in Oslo by the sea.\n", "The lamp is red.\n", "Where does Emma live?"];
  const line = JSON.stringify({ blocks, continuation: " Oslo" });
  const prompt = JSON.stringify({ blocks });
  const asked = ["generate", "--input", "-", "--max-tokens", "2", "--repair", "lead=auto,first=3"];
  const [answer] = parseLines((await cli([...asked, "--json"], prompt)).stdout) as unknown as { repair: unknown }[];
  expect(answer?.repair).toEqual({ text: "lead,first=3", recomputed_tokens: 3 });
  expect((await cli(asked, prompt)).stderr).toContain("block mode with lead,first=3, 3 tokens again: ");
  const logprobs = async (...flags: string[]) => {
    const { stdout } = await cli(["score", "--input", "-", "--json", ...flags], line);
    return (parseLines(stdout)[0] as unknown as { logprobs: number[] }).logprobs;
  };
  const plain = await logprobs();
  expect(await logprobs("--repair", "none")).toEqual(plain);
  expect(await logprobs("--repair", "lead")).not.toEqual(plain);
  const refused = await cli([...asked, "--mode", "full"], prompt);
  expect(refused.stderr + refused.stdout).toContain('Cannot use the repair "lead=auto,first=3": the mode is full');
  expect((await cli(["score", "--input", "-", "--repair", "first"], line)).stderr).toContain(
    "wanted none, auto, or items",
  );
});

test("generate --explain: what was reused of an earlier line, and where reuse ended; nothing without --keep-prefixes", async () => {
  const blocks = ["Emma lives in Oslo by the sea.\n", "The lamp is red.\n", "Where does Emma live?"];
  const edited = [blocks[0]!.replace("sea", "lake"), ...blocks.slice(1)];
  const lines = [blocks, blocks, edited].map((texts) => JSON.stringify({ blocks: texts })).join("\n");
  const ask = (...flags: string[]) => cli(["generate", "--input", "-", "--max-tokens", "2", ...flags], lines);
  const { stderr } = await ask("--explain");
  const summaries = stderr.split("\n").filter((line) => line.startsWith("block mode: "));
  expect(summaries[0]).toContain("(0 from the store)");
  expect(summaries[1]).toMatch(/\(\d+ from the store: \d+ documents, \d+ prefix\)/);
  expect(summaries[2]).toMatch(/\(\d+ from the store: \d+ documents\)/);
  expect(stderr).toMatch(
    /\nNot reused: the block from token \d+ on: after ".*" stands " lake.*, the store has " sea.*: the text differs/,
  );
  const json = parseLines((await ask("--json", "--mode", "full", "--keep-prefixes", "false")).stdout);
  for (const { usage, misses } of json as (Answer & { misses?: unknown })[]) {
    expect(usage).toMatchObject({ cached_tokens: 0, reused: { blocks: 0, prefix: 0, conversation: 0 } });
    expect(misses).toBeUndefined();
  }
});

test("generate: bytes that are no UTF-8 and a line past 64 MiB are errors in their place", async () => {
  const child = start(["generate", "--input", "-", "--json", "--max-tokens", "1"]);
  const outcome = finish(child);
  child.stdin.write(Buffer.from([0x22, 0xff, 0x22, 0x0a]));
  for (let i = 0; i < 65; i += 1) child.stdin.write(Buffer.alloc(2 ** 20, "a"));
  child.stdin.end('\n{"prompt":"a"}');
  const { code, stdout } = await outcome;
  const results = parseLines(stdout);
  expect(code).toBe(1);
  expect(results[0]).toEqual({ error: "Cannot read line 1: it is not UTF-8" });
  expect(results[1]).toEqual({ error: "Cannot read line 2: it has 68157440 bytes, at most 67108864 are read" });
  expect(results[2]).toMatchObject({ finish_reason: "length", usage: { completion_tokens: 1 } });
});

test("score --json: fields as fixed, the same at once and stepwise, full precision", async () => {
  const line = JSON.stringify({
    blocks: ["One passage.\n", "Another one.\n", "A question"],
    continuation: " and an answer",
  });
  const args = ["score", "--input", "-", "--json", "--kv-type", "f32", "--weights", "f32", "--top", "3"];
  const variants = [[], ["--stepwise"], ["--mode", "full"]];
  const answers = await Promise.all(variants.map((more) => cli([...args, ...more], line)));
  const [a, b, c] = answers.map(({ stdout }) => JSON.parse(stdout)) as [Score, Score, Score];
  const { logprobs } = a;
  expect(Object.keys(a)).toEqual(["block_token_ids", "continuation_token_ids", "logprobs", "top"]);
  expect(a.block_token_ids).toHaveLength(3);
  expect(logprobs).toHaveLength(a.continuation_token_ids.length);
  const distance = (other: Score) => Math.max(...logprobs.map((logprob, i) => Math.abs(logprob - other.logprobs[i]!)));
  expectOnlyRight(1e-3, distance(b), { "the mask is full mode's": distance(c) });
  expect(a.top[0]).toHaveLength(3);
  expect(Object.keys(a.top[0]?.[0] ?? {})).toEqual(["id", "logprob"]);
  expect(String(logprobs[0]).length).toBeGreaterThan(10);
});

const vocabularies = join(projectRoot, "..", "shared", "data", "vocab");
const hasVocabularies = existsSync(vocabularies);
test.skipIf(!hasVocabularies)(
  `tokenize --json: llama.cpp's vocabulary cases${hasVocabularies ? "" : ` (skipped: "${vocabularies}" is not there)`}`,
  async () => {
    const check = async (name: string): Promise<void> => {
      const file = join(vocabularies, `ggml-vocab-${name}.gguf`);
      const texts = readFileSync(`${file}.inp`, "utf8").split("\n__ggml_vocab_test__\n");
      const expected = readFileSync(`${file}.out`, "utf8")
        .split("\n")
        .filter((row) => row !== "" || texts.length === 0);
      const lines = texts.map((text) => JSON.stringify({ text })).join("\n");
      const { code, stdout } = await cli(["tokenize", "--model", file, "--input", "-", "--json"], lines);
      const ids = parseLines(stdout).map((line) => line.token_ids.join(" "));
      expect(code).toBe(0);
      expect(ids.filter((row) => row !== "")).toEqual(expected.map((row) => row.trim()).filter((row) => row !== ""));
    };
    await Promise.all(["llama-bpe", "llama-spm", "qwen2"].map(check));
  },
);

test("tokenize: control tokens are text unless --special", async () => {
  const args = ["tokenize", "--text", "<|eos|>"];
  const [plain, special] = await Promise.all([cli(args), cli([...args, "--special"])]);
  expect(special.stdout).toBe("1\n");
  expect(plain.stdout.split(" ").length).toBeGreaterThan(1);
});

test("wrong usage: exit code 2, one line that names option, value and what is wanted, no model loaded", async () => {
  const cases: [string[], RegExp][] = [
    [["--temperature", "-1"], /--temperature: it is "-1", wanted a finite number from 0 on/],
    [["--temperature", "warm"], /--temperature: it is "warm", wanted a finite number from 0 on/],
    [["--threads", "0"], /--threads: it is "0", wanted a whole number from 1 to 512/],
    [["--store-bytes", "5XB"], /--store-bytes: it is "5XB", wanted a whole number of bytes/],
    [["--mode", "both"], /--mode: it is "both", wanted "block" or "full"/],
    [["--kv-type", "q5_0"], /--kv-type: it is "q5_0", wanted "f16", "f32", "bf16", "q8_0" or "q4_0"/],
    [["--top-p", "0"], /--top-p: it is "0"/],
    [["--seed", "1.5"], /--seed: it is "1.5"/],
    [["--stop", ""], /--stop: it is ""/],
    [["--logit-bias", "5"], /--logit-bias: it is "5", wanted ID=VALUE/],
    [["--trained-modes", "none"], /--trained-modes: it is "none"/],
    [["--sideways"], /unknown option "--sideways"/],
    [["--input", "x"], /--prompt: --input is given too|--input/],
  ];
  const outcomes = await Promise.all(
    cases.map(([args]) => cli(["generate", "--prompt", "x", "--model", "/nowhere", ...args])),
  );
  for (const [i, { code, stdout, stderr }] of outcomes.entries()) {
    expect(stderr).toMatch(cases[i]?.[1] as RegExp);
    expect(stderr).toMatch(/^Cannot [^\n]+[^.\n]\n$/);
    expect([code, stdout]).toEqual([2, ""]);
  }
});

test("failures: exit code 1 and one plain line; the stack with --verbose; no line for a wrong command's help", async () => {
  const [plain, verbose, help, none] = await Promise.all([
    cli(["info", "--model", "/nowhere"]),
    cli(["info", "--model", "/nowhere", "--verbose"]),
    cli(["generate", "--help"]),
    cli([]),
  ]);
  expect([plain.code, plain.stderr]).toEqual([1, 'Cannot read "/nowhere": no such file or folder\n']);
  expect(verbose.stderr).toMatch(/\n {4}at /);
  expect([help.code, help.stderr]).toEqual([0, ""]);
  expect(help.stdout).toContain("Examples:");
  expect(none.code).toBe(2);
});

test("info --identity: the model's name in block ids, whatever its file's form", async () => {
  const file = join(folder, "identity.gguf");
  const model = join(projectRoot, "models", "tiny-rag");
  await cli(["convert", "--model", model, "--to", "gguf", "--output", file]);
  const [whole, gguf, plain] = await Promise.all([
    cli(["info", "--json", "--identity", "--model", model]),
    cli(["info", "--json", "--identity", "--model", file]),
    cli(["info", "--json", "--model", model]),
  ]);
  const { identity } = JSON.parse(whole.stdout);
  expect(identity).toMatch(/^[0-9a-f]{64}$/);
  expect(JSON.parse(gguf.stdout).identity).toBe(identity);
  expect(JSON.parse(plain.stdout)).not.toHaveProperty("identity");
});

test("serve --engine: what vLLM has itself is refused, and a server that is not there", async () => {
  const engine = ["serve", "--model", join(projectRoot, "models", "tiny-rag"), "--engine"];
  const [repair, gone, other] = await Promise.all([
    cli([...engine, "vllm=http://127.0.0.1:9", "--repair", "lead"]),
    cli([...engine, "vllm=http://127.0.0.1:9"]),
    cli([...engine, "llama"]),
  ]);
  expect([repair.code, repair.stderr]).toEqual([2, expect.stringMatching(/^Cannot serve with vLLM: /)]);
  expect([gone.code, gone.stderr]).toEqual([
    1,
    expect.stringMatching(/^Cannot reach vLLM at "http:\/\/127.0.0.1:9": /),
  ]);
  expect([other.code, other.stderr]).toEqual([2, expect.stringMatching(/^Cannot use --engine: it is "llama", /)]);
});

test("info and doctor --json: what a model is, and that this machine computes", async () => {
  const [info, doctor] = await Promise.all([
    cli(["info", "--json", "--weights", "q8_0"]),
    cli(["doctor", "--json", "--model", join(projectRoot, "models", "tiny-rag")]),
  ]);
  expect(JSON.parse(info.stdout)).toMatchObject({
    architecture: "llama",
    parameters: 4_590_848,
    kv_bytes_per_token: { f16: 3072, f32: 6144, bf16: 3072, q8_0: 1632, q4_0: 864 },
    weights: { file_types: { BF16: 43 }, memory_types: { Q8_0: 43 } },
    device: { name: "CPU", conversions: [], reason: null },
    block_mode: { sound: true },
  });
  const other = await cli(["info", "--device", "CUDA7"]);
  expect([other.code, other.stderr]).toEqual([1, expect.stringMatching(/^Cannot use device "CUDA7": ggml /)]);
  expect(doctor.code).toBe(0);
  expect(JSON.parse(doctor.stdout)).toMatchObject({
    self_test: { passed: true },
    ggml: { devices: [{ name: "CPU", is_software: false, block_mode: { largest_difference: 0 } }] },
    model_memory: { fits: true, weight_bytes: expect.any(Number) },
    problems: [],
  });
});

test("doctor: a package whose library finds no device is a problem, and so is a device that is not there", async () => {
  const ggml = join(folder, "ggml");
  cpSync(await findGgmlDirectory("cpu"), ggml, { recursive: true });
  writeFileSync(join(ggml, "libggml-vulkan.so"), "cut in half");
  const broken = await cli(["doctor"], "", { [ggmlVariable]: ggml });
  expect(broken.code).toBe(1);
  expect(broken.stdout).toContain("at most 0.0e+0 from the CPU");
  expect(broken.stdout.trimEnd().split("\n").at(-1)).toBe(
    `Cannot use backend "vulkan": its library in "${ggml}" found no device or driver`,
  );
  const other = await cli(["doctor", "--device", "CUDA7"]);
  expect([other.code, other.stdout]).toEqual([1, expect.stringContaining('\nCannot use device "CUDA7": ggml ')]);
});

test("bench --json: full attention, block attention with misses and with hits", async () => {
  const { code, stdout } = await cli(["bench", "--tokens", "300", "--question", "20", "--repeat", "1", "--json"]);
  expect(code).toBe(0);
  const row = JSON.parse(stdout) as Record<string, number>;
  expect(row.tokens).toBe(300);
  for (const field of ["full_ttft_ms", "block_misses_ttft_ms", "block_hits_ttft_ms"])
    expect(row[field]).toBeGreaterThan(0);
});

test("demo: mostly right answers over shuffled passages, then a table, also without a terminal", async () => {
  const { code, stdout, stderr } = await cli(["demo"]);
  const unfetched =
    'Cannot pull "smollm2-135m": HF_HUB_OFFLINE is set; online, block-attention pull smollm2-135m fetches it';
  expect([code, stderr]).toEqual([0, `${unfetched}\nNo model is named: ${defaultName} is used\n`]);
  expect(stdout).not.toContain("\u001b");
  const [, right, asked] = /^(\d+) of (\d+) answers hold/m.exec(stdout) ?? [];
  expect(Number(right)).toBeGreaterThanOrEqual(10);
  expect(stdout.match(/\((right|wrong)\)/g)).toHaveLength(Number(asked));
  // The first question computes the preamble too.
  expect(stdout.match(/from the store, all but the final block/g)).toHaveLength(Number(asked) - 1);
  expect(stdout).toMatch(/ {2}block attention, passages in the store +[\d.]+ m?s +\d+ +\d+\n/);
  expect(stdout).toContain("With your own model");
});

test("Ctrl-C: the running request says cancelled, exit code 130, soon", async () => {
  const child = start(["generate", "--input", "-", "--json", "--max-tokens", "2000", "--logit-bias", "1=-100"]);
  const outcome = finish(child);
  // The answer cannot end by itself, and standard input stays open.
  child.stdin.write('{"prompt":"a"}\n{"prompt":"b"}\n');
  await new Promise((resolve) => child.stderr.once("data", resolve));
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  const sentAt = performance.now();
  child.kill("SIGINT");
  const { code, signal, stdout } = await outcome;
  // 200 ms, and what a machine busy with other tests adds.
  expect(performance.now() - sentAt).toBeLessThan(1_500);
  expect([code, signal]).toEqual([130, null]);
  const results = parseLines(stdout);
  expect(results.at(-1)).toMatchObject({ finish_reason: "cancelled" });
});

test("a reader that goes: the end is quiet", async () => {
  const child = start(["generate", "--input", "-", "--json", "--max-tokens", "1"]);
  const outcome = finish(child);
  child.stdin.on("error", () => undefined);
  child.stdin.end('{"prompt":"a"}\n'.repeat(500));
  child.stdout.once("data", () => child.stdout.destroy());
  const { code, stderr } = await outcome;
  expect([code, stderr]).toEqual([0, loading]);
});
