import { expect, test } from "vitest";
import type { GoldLine, RagLine } from "./rag-line.js";
import { GOLD_ORDERS, pointLines, sweepSet } from "./sweep-lines.js";

const signal = new AbortController().signal;
const options = { maxPassages: 12, seed: "a", signal };

/** Line i: two gold passages with its answer "answer-i" in the second, two others, one of which holds it too. */
function goldLine(i: number, more: Partial<GoldLine> = {}): GoldLine {
  return {
    id: `q${i}`,
    kind: undefined,
    question: `Question ${i}?`,
    answers: [`name${i}`],
    documents: [
      { title: `Other ${i}`, text: `Something else, number ${i}.` },
      { title: `First ${i}`, text: `First hop of ${i}.` },
      { title: `Second ${i}`, text: `It was name${i}.` },
      { title: `Trap ${i}`, text: `Some say name${i}.` },
    ],
    gold: [1, 2],
    ...more,
  };
}

const titles = ({ documents }: RagLine) => documents.map((one) => (typeof one === "string" ? one : one.title));

test("sweepSet(): gold where the order says, own passages first, none with a gold answer, none twice", async () => {
  const lines = Array.from({ length: 5 }, (_, i) => goldLine(i));
  const set = await sweepSet(lines, options);
  expect(set.lines.length).toBe(5);
  const points = GOLD_ORDERS.map((order) => pointLines(set, 7, order));
  for (const [i, { id }] of lines.entries()) {
    const [first, middle, last] = points.map(({ lines: laid }) => titles(laid[i] as RagLine)) as [
      string[],
      string[],
      string[],
    ];
    const gold = [`First ${i}`, `Second ${i}`];
    expect(first.slice(0, 2), id).toEqual(gold);
    expect(first[2]).toBe(`Other ${i}`);
    expect(middle.slice(2, 4)).toEqual(gold);
    expect(last.slice(5)).toEqual(gold);
    // The same passages in each order, in one order among themselves.
    const others = first.slice(2);
    expect(middle.filter((title) => !gold.includes(title))).toEqual(others);
    expect(last.slice(0, 5)).toEqual(others);
    expect(new Set(first).size).toBe(7);
    expect(first).not.toContain(`Trap ${i}`);
  }
});

test("sweepSet(): equal seeds draw equal passages, others do not, and a larger point holds a smaller", async () => {
  const lines = Array.from({ length: 20 }, (_, i) => goldLine(i));
  const laid = async (seed: string, count: number) =>
    pointLines(await sweepSet(lines, { ...options, seed }), count, "gold-first").lines.map(titles);
  const large = await laid("a", 12);
  expect(await laid("a", 12)).toEqual(large);
  expect(await laid("b", 12)).not.toEqual(large);
  expect(await laid("a", 5)).toEqual(large.map((passages) => passages.slice(0, 5)));
});

test("pointLines(): lines that do not fit a point are counted, not bent", async () => {
  const lines = [
    goldLine(0),
    goldLine(1, { gold: [2] }),
    goldLine(2, { gold: "none" }),
    goldLine(3, { gold: "missing" }),
  ];
  const set = await sweepSet(lines, { ...options, maxPassages: 200 });
  expect(set).toMatchObject({ noGold: 1, missingSupport: 1 });
  expect(pointLines(set, 1, "gold-last")).toMatchObject({ moreGold: 1, fewOthers: 0, lines: [{ id: "q1" }] });
  // 16 passages in all: less the gold ones and those that hold the line's answer.
  expect(set.lines.map(({ others }) => others.length)).toEqual([13, 14]);
  expect(pointLines(set, 16, "gold-last")).toMatchObject({ moreGold: 0, fewOthers: 2, lines: [] });
});

test("sweepSet(): a signal ends it", async () => {
  const controller = new AbortController();
  controller.abort(new Error("stopped by the test"));
  const sweeping = sweepSet([goldLine(0)], { ...options, signal: controller.signal });
  await expect(sweeping).rejects.toThrow("stopped by the test");
});
