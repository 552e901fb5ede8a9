import { expect, test } from "vitest";
import { type SynthFormat, type SynthSettings, synthWork } from "./synth-work.js";

interface TrainLine {
  readonly id: string;
  readonly prompt: string;
  readonly blocks: readonly string[];
  readonly response: string;
}

async function linesIn(format: SynthFormat, more: Partial<SynthSettings> = {}, count = 60): Promise<TrainLine[]> {
  const settings: SynthSettings = {
    ...{ seed: "test", split: "train", minPassages: 8, maxPassages: 8, numQuestions: 5, noise: [] },
    ...{ format, model: "unused", ...more },
  };
  const { text } = await (await synthWork(settings))({ first: 0, count });
  return text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as TrainLine);
}

test('synthWork(): "reading" gives the passages as blocks and all questions with their answers to learn', async () => {
  const asked = await linesIn("rag");
  const lines = await linesIn("reading");
  expect(lines).toHaveLength(60);
  for (const { id, prompt, blocks, response } of lines) {
    expect(blocks.join("")).toBe(prompt);
    expect(blocks).toHaveLength(9);
    for (const block of blocks.slice(0, -1)) expect(block).toMatch(/^- Title: .+\n.+\n$/);
    const own = (asked as unknown as { group: string; question: string; generated: string }[]).filter(
      ({ group }) => group === id,
    );
    expect(response).toBe(own.map(({ question, generated }) => `Question: ${question}\n${generated}\n`).join(""));
  }
});
