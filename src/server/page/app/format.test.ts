import { expect, test } from "vitest";
import { formatBytes } from "../../../files/format-bytes.js";
import { formatCount, formatMs, formatNoun, formatRate, formatShare } from "./format.js";

test("format*(): numbers as people read them", () => {
  expect([formatCount(12345), formatNoun(1, "block"), formatNoun(0, "block")]).toEqual([
    "12,345",
    "1 block",
    "0 blocks",
  ]);
  expect([0.34, 9.94, 10, 999, 1_000, 12_345].map(formatMs)).toEqual([
    "0.3 ms",
    "9.9 ms",
    "10 ms",
    "999 ms",
    "1.00 s",
    "12.3 s",
  ]);
  expect([0, 1_023, 1_536, 200 * 1_024, 5 * 1_024 ** 3].map(formatBytes)).toEqual([
    "0 B",
    "1023 B",
    "1.5 KiB",
    "200 KiB",
    "5.0 GiB",
  ]);
  expect([0, 0.51, 12.3].map(formatRate)).toEqual(["0", "0.5", "12"]);
  expect([0, 0.996, 1].map(formatShare)).toEqual(["0%", "99%", "100%"]);
});
