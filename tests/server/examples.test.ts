import { execFile, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { projectRoot } from "../build-dist.js";
import { ServerUnderTest } from "../server-laws/server-under-test.js";

const run = promisify(execFile);
const folder = join(projectRoot, "examples", "server");
const key = "a key of the examples".replaceAll(" ", "-");
let server: ServerUnderTest;

beforeAll(async () => {
  server = await ServerUnderTest.start({ keys: [key] });
}, 120_000);
afterAll(() => server?.[Symbol.asyncDispose]());

/** @returns standard output; nothing may stand on standard error unless `quiet` is false. */
async function example(file: string, args: readonly string[], { quiet = true, env = {} } = {}): Promise<string> {
  const { stdout, stderr } = await run(file, args, {
    cwd: folder,
    timeout: 240_000,
    env: { ...process.env, BASE_URL: server.url, API_KEY: key, ...env },
  });
  if (quiet) expect(stderr).toBe("");
  return stdout;
}

const node = (name: string): Promise<string> => example(process.execPath, [name]);

/** The first of the programs that runs; undefined for none. */
function firstThatRuns(...programs: readonly string[]): string | undefined {
  return programs.find((program) => spawnSync(program, ["--help"], { stdio: "ignore" }).status === 0);
}

const fromStore = /(\d+) of (\d+) (?:prompt )?tokens from the store/g;

function sharesFromStore(output: string): { readonly cached: number; readonly total: number }[] {
  return [...output.matchAll(fromStore)].map(([, cached, total]) => ({ cached: Number(cached), total: Number(total) }));
}

test("examples/server/openai.mjs: the passages in reverse order are all hits", async () => {
  const output = await node("openai.mjs");
  expect(output.match(/Naomi Foner/g)).toHaveLength(2);
  const [first, second] = sharesFromStore(output);
  // All but the final block, whose 81 tokens are the question and the task.
  expect(second?.cached).toBe((first?.total ?? Number.NaN) - 81);
  expect(output).toMatch(/5 of 5 blocks/);
});

test("examples/server/openai-stream.mjs: a question over documents, streamed", async () => {
  const output = await node("openai-stream.mjs");
  expect(output).toContain("The director of The Lost Daughter is Maggie Gyllenhaal.\n");
  expect(output).toContain("The date of birth of Maggie Gyllenhaal is 16 November 1977.\n");
  expect(sharesFromStore(output)[1]?.cached).toBeGreaterThan(150);
});

test("examples/server/openai-abort.mjs: leaving the stream frees the request's place", async () => {
  expect(await node("openai-abort.mjs")).toBe("stopped after 10 chunks\nnothing runs any more\n");
  const metrics = await (await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${key}` } })).text();
  expect(metrics).toMatch(/^block_attention_requests_cancelled_total 1$/m);
});

for (const name of ["ai-sdk.mjs", "langchain.mjs"]) {
  test(`examples/server/${name}: answers, whole and streamed, with tokens from the store`, async () => {
    const output = await node(name);
    expect(output).toContain("The director of The Lost Daughter is Maggie Gyllenhaal.\n");
    expect(output).toContain("The date of birth of Maggie Gyllenhaal is 16 November 1977.\n");
    expect(sharesFromStore(output)[1]?.cached).toBeGreaterThan(150);
  });
}

test("docs/clients.md: has the examples as they are, and the versions that tests use", () => {
  const page = readFileSync(join(projectRoot, "docs", "clients.md"), "utf8");
  const quoted = [...page.matchAll(/<!-- (examples\/\S+) -->\n```js\n([\s\S]*?)```\n/g)];
  expect(quoted).toHaveLength(3);
  for (const [, path, code] of quoted) expect(code).toBe(readFileSync(join(projectRoot, path as string), "utf8"));
  const { devDependencies } = JSON.parse(readFileSync(join(projectRoot, "package.json"), "utf8"));
  const versions = [...page.matchAll(/^\| .*$/gm)].flatMap(([row]) => [...row.matchAll(/`([@\w/-]+)` (\d[\d.]+\d)/g)]);
  expect(versions).toHaveLength(5);
  for (const [, name, version] of versions) expect(devDependencies[name as string], name).toBe(version);
});

const curl = firstThatRuns("curl");

test(`examples/server/curl.sh: passages first, then questions${curl ? "" : " (skipped: no curl)"}`, async (context) => {
  if (curl === undefined || process.platform === "win32") return context.skip("there is no curl, or no shell, here");
  const output = await example("sh", ["curl.sh"]);
  expect(output).toContain("The mother of Sean Penn is Eileen Ryan.");
  expect(output).toMatch(/"hit":true/);
  expect(output).toMatch(/"content":"The"[\s\S]*"finish_reason":"length"[\s\S]*data: \[DONE\]/);
});

const python = firstThatRuns("python3", "python");

test(`examples/server/reference-client.py: one answer in all three forms${python ? "" : " (skipped: no Python)"}`, async (context) => {
  if (python === undefined) return context.skip("there is no Python here");
  const lines = (await example(python, ["reference-client.py"])).trim().split("\n");
  expect(lines).toHaveLength(3);
  for (const line of lines) expect(line).toContain("The mother of Sean Penn is Eileen Ryan.");
  expect(lines[0]).toContain("{'ret': 0, 'generated': ");
});

const lmEval = firstThatRuns(...(process.env.LM_EVAL ? [process.env.LM_EVAL] : []), "lm_eval");

test("examples/server/lm-eval.sh: log-likelihoods are the server's own, and choose; answers are written", async (context) => {
  if (lmEval === undefined) return context.skip("there is no lm_eval here; LM_EVAL may name one");
  const results = mkdtempSync(join(tmpdir(), "block-attention-lm-eval-"));
  try {
    const args = ["lm-eval.sh", "--log_samples", "--output_path", results];
    await example("sh", args, { quiet: false, env: { LM_EVAL: lmEval } });
    const written = readdirSync(results, { recursive: true, encoding: "utf8" });
    const read = (name: RegExp) => readFileSync(join(results, written.find((file) => name.test(file)) ?? ""), "utf8");
    const { results: scores } = JSON.parse(read(/results_.*json$/));
    expect(scores.block_attention_choice["acc,none"]).toBe(1);
    expect(scores.block_attention_answer["exact_match,none"]).toBe(1);

    // The harness leaves the last token of the answer out: if the server lists one too few, a score lacks its own last.
    const samples = read(/samples_block_attention_choice_.*jsonl$/)
      .trim()
      .split("\n");
    for (const sample of samples.map((line) => JSON.parse(line) as Sample)) {
      for (const [i, { arg_0: before, arg_1: choice }] of Object.values(sample.arguments).entries()) {
        expect(Number(sample.resps[i]?.[0]?.[0])).toBeCloseTo(await logLikelihood(before, choice), 3);
      }
    }
  } finally {
    rmSync(results, { recursive: true, force: true });
  }
}, 300_000);

/** A line of what the harness logs: each choice's request, and what came back for it. */
interface Sample {
  readonly arguments: Readonly<Record<string, { readonly arg_0: string; readonly arg_1: string }>>;
  readonly resps: readonly (readonly (readonly [logLikelihood: string, isGreedy: string])[])[];
}

/** As the harness defines it, asked without a token of answer. */
async function logLikelihood(before: string, choice: string): Promise<number> {
  // The harness counts the space between the two to the choice.
  const { tokens: prompt } = await post("/v1/tokenize", { text: before.trimEnd(), special: true });
  const { tokens: whole } = await post("/v1/tokenize", { text: before + choice, special: true });
  const ids = whole.map(({ id }: { id: number }) => id);
  const { choices } = await post("/v1/completions", { prompt: ids, max_tokens: 0, echo: true, logprobs: 0 });
  const logprobs: number[] = choices[0].logprobs.token_logprobs.slice(prompt.length);
  return logprobs.reduce((sum, logprob) => sum + logprob, 0);
}

// biome-ignore lint/suspicious/noExplicitAny: JSON of several routes
async function post(path: string, body: unknown): Promise<any> {
  const headers = { "content-type": "application/json", authorization: `Bearer ${key}` };
  const answer = await fetch(server.url + path, { method: "POST", headers, body: JSON.stringify(body) });
  expect(answer.status).toBe(200);
  return answer.json();
}
