import { expect, test } from "vitest";
import { findElementType, fittingType, tensorTypes } from "./element-types.js";

test("fittingType(): each way out is a type that llama.cpp takes, of smaller blocks", () => {
  for (const type of tensorTypes) {
    const { blockSize: wide, fallback } = findElementType(type) ?? {};
    expect(fittingType(type, 1024), type).toBe(type);
    expect(fittingType(type, 17), type).toBe(wide === 1 ? type : "F16");
    if (fallback === undefined) continue;
    expect(fittingType(type, 96)).toBe(fallback);
    expect(fittingType(type, 896)).toBe(896 % (wide ?? 0) === 0 ? type : fallback);
  }
  expect([fittingType("Q4_K", 896), fittingType("Q5_K", 896), fittingType("Q6_K", 896)]).toEqual([
    "Q5_0",
    "Q5_1",
    "Q8_0",
  ]);
});
