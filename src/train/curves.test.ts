import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { curvesPicture, readCurve } from "./curves.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "curves-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function checkpoint(step: number, content: unknown): Promise<void> {
  await mkdir(join(folder, `checkpoint-${step}`));
  await writeFile(join(folder, `checkpoint-${step}`, "trainer_state.json"), JSON.stringify(content));
}

test("readCurve(): the evaluations of the last checkpoint, losses and steps left out", async () => {
  await checkpoint(20, { log_history: [] });
  await checkpoint(100, {
    log_history: [
      { step: 50, loss: 3 },
      { step: 50, eval_block_answer_accuracy: 0.25, eval_full_answer_accuracy: 0.5, eval_block_loss: 2 },
      { step: 100, eval_block_answer_accuracy: 0.75 },
    ],
  });
  expect(await readCurve(folder)).toEqual([
    { step: 50, shares: { block_answer_accuracy: 0.25, full_answer_accuracy: 0.5 } },
    { step: 100, shares: { block_answer_accuracy: 0.75 } },
  ]);
});

test("readCurve(): says which run has no checkpoint, and which state is none", async () => {
  await expect(readCurve(folder)).rejects.toThrow(`Cannot read the run "${folder}": it has no checkpoint`);
  await checkpoint(1, { steps: 3 });
  await expect(readCurve(folder)).rejects.toThrow('it has no "log_history"');
  await expect(readCurve(join(folder, "none"))).rejects.toThrow("ENOENT");
});

test("curvesPicture(): points stand by step and share; what was not measured has no line", () => {
  const picture = curvesPicture("a <b>", [
    { step: 50, shares: { full_answer_accuracy: 0.5, block_answer_accuracy: 0 } },
    { step: 100, shares: { full_answer_accuracy: 1 } },
    { step: 200, shares: { full_answer_accuracy: 1, block_answer_accuracy: 1 } },
  ]);
  // From 48 to 670 there are 200 steps; 312 is 0 %, 48 is 100 %.
  const drawn = [...picture.matchAll(/<polyline points="([^"]+)" fill="none" stroke="([^"]+)"/g)].map(
    ([, at, colour]) => [at, colour],
  );
  expect(drawn).toEqual([
    ["203.5,312.0 670.0,48.0", "#2563eb"],
    ["203.5,180.0 359.0,48.0 670.0,48.0", "#ea580c"],
  ]);
  expect(picture).toContain("a &lt;b&gt;");
});
