import { expect, test } from "vitest";
import type { Answer } from "./api.js";
import { measurementOf, medians, passagesKey, type RunKind, runKind } from "./measurement.js";

const answer = (hits: readonly boolean[], mode: Answer["mode"] = "block"): Answer => ({
  finishReason: "stop",
  mode,
  promptTokens: 50,
  cachedTokens: 20,
  reused: { blocks: 20, prefix: 0, conversation: 0 },
  misses: [],
  completionTokens: 3,
  ttftMs: 12,
  warnings: [],
  blocks: hits.map((hit, i) => ({ id: String(i), tokens: 10, hit })),
});

test("runKind(): the passages alone decide, not the preamble before them", () => {
  expect(runKind(answer([true, false, false]), 2)).toBe("first");
  expect(runKind(answer([false, true, true]), 2)).toBe("stored");
  expect(runKind(answer([true, true, false]), 2)).toBe("partly");
  expect(runKind({ ...answer([], "full"), cachedTokens: 10 }, 2)).toBe("full");
  // From the store: a full prompt that begins as an earlier one is no measure of full attention.
  expect(runKind(answer([], "full"), 2)).toBe(undefined);
  expect(runKind(answer([true]), 0)).toBe(undefined);
});

test("measurementOf(): the same passages in any order are the same; an answer without a first token is none", () => {
  const a = { title: "A", text: "a" };
  const b = { title: "B", text: "b" };
  const first = { kind: "first", ttftMs: 12, promptTokens: 50, cachedTokens: 20, passages: passagesKey([b, a]) };
  expect(measurementOf(answer([true, false, false]), [a, b])).toEqual(first);
  expect(measurementOf({ ...answer([true, true, true]), ttftMs: undefined }, [a, b])).toBe(undefined);
  expect(measurementOf(answer([true]), [])).toBe(undefined);
});

test("medians(): the middle run of each kind, whatever the order; a kind without runs has none", () => {
  const run = (kind: RunKind, ttftMs: number) => ({ kind, ttftMs, promptTokens: 50, cachedTokens: 20, passages: "" });
  const runs = [9, 1, 500, 3, 4].map((ms) => run("stored", ms));
  expect(medians([...runs, run("full", 20)])).toEqual({ stored: run("stored", 4), full: run("full", 20) });
  expect(medians([run("first", 2), run("first", 1)])).toEqual({ first: run("first", 2) });
});

test("passagesKey(): other texts are another set, though they join to the same", () => {
  expect(passagesKey([{ title: "a", text: "bc" }])).not.toBe(passagesKey([{ title: "ab", text: "c" }]));
});
