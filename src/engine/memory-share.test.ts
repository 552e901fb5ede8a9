import { totalmem } from "node:os";
import { expect, test } from "vitest";
import { memoryShare, usableMemory } from "./byte-budget.js";

const MiB = 2 ** 20;
const GiB = 2 ** 30;

test.each([
  ["no limit", 16 * GiB, 0, 16 * GiB],
  ["cgroup v1's word for no limit", 16 * GiB, 2 ** 63 - 4096, 16 * GiB],
  ["cgroup v2's", 16 * GiB, 2 ** 64, 16 * GiB],
  ["a container of 2 GiB", 16 * GiB, 2 * GiB, 2 * GiB],
  ["a limit over the machine's memory", 2 * GiB, 16 * GiB, 2 * GiB],
])("usableMemory(): %s", (_, machineBytes, limitBytes, expected) => {
  expect(usableMemory(machineBytes, limitBytes)).toBe(expected);
});

test.each([
  ["hardly any weights: a quarter", 0, 16 * GiB, 4 * GiB],
  ["weights of 1.5 GiB in a container of 2 GiB", 1.5 * GiB, 2 * GiB, 128 * MiB],
  ["weights that leave next to nothing", 2 * GiB - 1, 2 * GiB, 64 * MiB],
  ["weights larger than memory", 40 * GiB, 16 * GiB, 512 * MiB],
  ["a whole number of bytes", 1, 1000, 249],
])("memoryShare(): %s", (_, weightBytes, memoryBytes, expected) => {
  expect(memoryShare(weightBytes, memoryBytes)).toBe(expected);
});

test("memoryShare(): this machine's weights, blocks and contexts fit into its memory", () => {
  expect(usableMemory()).toBeLessThanOrEqual(totalmem());
  expect(2 ** 20 + 2 * memoryShare(2 ** 20)).toBeLessThan(usableMemory());
});
