import { expect, test } from "vitest";
import type { Answer } from "./api.js";
import { addMeasurement, passagesKey, runKind } from "./measurement.js";

const answer = (hits: readonly boolean[], mode: Answer["mode"] = "block"): Answer => ({
  finishReason: "stop",
  mode,
  promptTokens: 50,
  cachedTokens: 20,
  completionTokens: 3,
  ttftMs: 12,
  warnings: [],
  blocks: hits.map((hit, i) => ({ id: String(i), tokens: 10, hit })),
});

test("runKind(): the passages alone decide, not the preamble before them", () => {
  expect(runKind(answer([true, false, false]), 2)).toBe("first");
  expect(runKind(answer([false, true, true]), 2)).toBe("stored");
  expect(runKind(answer([true, true, false]), 2)).toBe("partly");
  expect(runKind(answer([], "full"), 2)).toBe("full");
  expect(runKind(answer([true]), 0)).toBe(undefined);
});

test("addMeasurement(): the last of each kind is kept, an answer without a first token is none", () => {
  const a = { title: "A", text: "a" };
  const b = { title: "B", text: "b" };
  const first = addMeasurement({}, answer([true, false, false]), [a, b]);
  expect(first).toEqual({
    first: { ttftMs: 12, promptTokens: 50, cachedTokens: 20, passages: passagesKey([b, a]) },
  });
  expect(addMeasurement(first, { ...answer([true, false, false]), ttftMs: 9 }, [b, a]).first?.ttftMs).toBe(9);
  expect(addMeasurement(first, { ...answer([true, true, true]), ttftMs: undefined }, [a, b])).toBe(first);
});

test("passagesKey(): other texts are another set, though they join to the same", () => {
  expect(passagesKey([{ title: "a", text: "bc" }])).not.toBe(passagesKey([{ title: "ab", text: "c" }]));
});
