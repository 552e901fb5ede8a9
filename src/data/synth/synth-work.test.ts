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

test('synthWork(): "recall" asks for the sentences that it gave, in another order', async () => {
  const lines = await linesIn("recall");
  expect(lines).toHaveLength(60);
  for (const { prompt, blocks, response } of lines) {
    expect(blocks.join("")).toBe(prompt);
    expect(blocks[1]).toBe("\n");
    const given = blocks[0]?.split("\n") ?? [];
    expect(given).toHaveLength(6);
    expect(response.split("\n").toSorted()).toEqual(given.toSorted());
    for (const sentence of given.slice(0, -1)) expect(sentence).toMatch(/^The [a-z ]+ of .+ is .+\.$/);
  }
  const isSame = lines.filter(({ blocks, response }) => blocks[0] === response).length;
  // Five sentences come in the same order once in 120 times.
  expect(isSame).toBeLessThan(6);
});

test('synthWork(): in half of the contexts of "recall" sentences share a relation where enough do', async () => {
  const lines = await linesIn("recall", { numQuestions: 3 }, 300);
  const isOne = ({ response }: TrainLine) =>
    new Set(
      response
        .trimEnd()
        .split("\n")
        .map((s) => /^The ([a-z ]+?) of (?:birth|death)?/.exec(s)?.[0]),
    ).size === 1;
  const share = lines.filter(isOne).length / lines.length;
  expect(share).toBeGreaterThan(0.15);
  expect(share).toBeLessThan(0.6);
});

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
