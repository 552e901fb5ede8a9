import { spawn } from "node:child_process";
import { once } from "node:events";
import { createReadStream, createWriteStream, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, expect, test } from "vitest";
import { NUM_MESSAGES_UNCUT } from "../src/blocks/chat-prompt.js";
import { DEFAULT_BLOCK_LIMIT } from "../src/blocks/segment.js";
import { Random } from "../src/data/random.js";
import { buildDist, projectRoot } from "./build-dist.js";

beforeAll(buildDist, 120_000);

const folder = mkdtempSync(join(tmpdir(), "block-attention-segmentation-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const numConversations = 100_000;
const maxBytes = 2e9;

const words = "the of model answer a list 42 — what is passage 东京 Ärger def return question because value 😀".split(
  " ",
);
const delimiters = ["\n\n", "\n\n", "\n\n", "\n", "\n", "---", "===", "\n\t"];

/** Paragraphs of words; in one of two thousand texts very many of them. */
function textOf(random: Random, maxParagraphs: number): string {
  const numParagraphs = random.chance(0.0005) ? 3000 : random.between(1, maxParagraphs);
  const delimiter = random.pick(delimiters);
  return Array.from({ length: numParagraphs }, () =>
    Array.from({ length: random.between(1, 40) }, () => random.pick(words)).join(" "),
  ).join(delimiter);
}

/** A conversation in the shape of the Tulu 3 mixture: mostly one round, some with a system message, some long. */
function conversation(i: number): object {
  const random = new Random(`conversation ${i}`);
  const numRounds = random.chance(0.75) ? 1 : random.chance(0.95) ? random.between(2, 6) : random.between(7, 20);
  const messages = Array.from({ length: numRounds }, () => [
    { role: "user", content: textOf(random, 20) },
    { role: "assistant", content: (random.chance(0.1) ? "```python\n" : "") + textOf(random, 10) },
  ]).flat();
  const system = random.chance(0.1) ? [{ role: "system", content: textOf(random, 3) }] : [];
  return { id: `c${i}`, source: "soak", messages: [...system, ...messages] };
}

test("data tulu3: 100,000 conversations are cut in under 2 GB, and hold the laws of segmentation", async () => {
  const input = join(folder, "conversations.jsonl");
  const stream = createWriteStream(input);
  for (let i = 0; i < numConversations; i++) {
    if (!stream.write(`${JSON.stringify(conversation(i))}\n`)) await once(stream, "drain");
  }
  stream.end();
  await once(stream, "finish");

  // Peak memory of the whole process, all threads.
  const tellMemory = 'data:text/javascript,process.on("exit",()=>console.error(process.resourceUsage().maxRSS))';
  const main = join(projectRoot, "dist", "cli", "main.js");
  const args = ["--import", tellMemory, main, "data", "tulu3", "--input", input, "--output-dir", folder, "--json"];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (data: Buffer) => {
    stdout += data.toString();
  });
  child.stderr.on("data", (data: Buffer) => {
    stderr += data.toString();
  });
  const [code] = await once(child, "close");
  expect({ code, stderr: stderr.replace(/\d+\s*$/, "") }).toEqual({ code: 0, stderr: "" });
  const report = JSON.parse(stdout);
  expect(report).toMatchObject({ rows: numConversations, bad: 0 });
  const peakBytes = Number(stderr) * 1024;
  console.log(
    `peak memory ${(peakBytes / 1e6).toFixed(0)} MB, ${report.sft.written} samples, ${report.block.written} in blocks`,
  );
  expect(peakBytes).toBeGreaterThan(0);
  expect(peakBytes).toBeLessThan(maxBytes);

  let numLines = 0;
  for await (const line of createInterface({ input: createReadStream(join(folder, "block.train.jsonl")) })) {
    const { id, prompt, blocks } = JSON.parse(line) as { id: string; prompt: string; blocks: string[] };
    numLines += 1;
    const numMessages = Number(id.slice(id.indexOf("#") + 1));
    const isFit =
      blocks.join("") === prompt &&
      blocks.length > 1 &&
      (numMessages < NUM_MESSAGES_UNCUT ? blocks.length <= DEFAULT_BLOCK_LIMIT : blocks.length === numMessages) &&
      blocks.at(-1)?.endsWith("\n<|assistant|>\n") === true &&
      blocks.every((block) => !/^\|>|<\|(user|assistant|system)?$/.test(block));
    if (!isFit) expect({ id, blocks }).toEqual("blocks that hold the laws");
  }
  expect(numLines).toBe(report.block.written);
});
