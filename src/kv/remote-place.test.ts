import { expect, test } from "vitest";
import { readFolder } from "./folder-report.js";
import type { RemoteObjects } from "./remote-objects.js";
import { RemotePlace } from "./remote-place.js";

test("RemotePlace: what is evicted after it was listed is passed over, what is cut is unsound", async () => {
  const [gone, cut] = ["a".repeat(64), "b".repeat(64)];
  const objects: Partial<RemoteObjects> = {
    address: "redis://fake",
    get: async (key) => (key.endsWith(cut) ? new Uint8Array(1) : undefined),
    async *list() {
      for (const id of [gone, cut]) yield { key: `place/${id}`, size: 100, usedMs: 0 };
    },
  };
  const found: unknown[] = [];
  const place = new RemotePlace(objects as RemoteObjects);
  for await (const { id, ...entry } of readFolder(place, { isWhole: true, signal: new AbortController().signal })) {
    found.push([id, "error" in entry]);
  }
  expect(found).toEqual([[cut, true]]);
});
