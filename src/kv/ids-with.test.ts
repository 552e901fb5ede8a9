import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import type { BlockId } from "./block-id.js";
import type { BlockRequest } from "./block-store.js";
import { idsWith } from "./ids-with.js";

test("idsWith(): a head that cannot be looked at ends it with its error, also while others are still listed", async () => {
  async function* heads() {
    yield { id: "a" as BlockId, request: Promise.reject<BlockRequest>(new Error("the disk fails")) };
    // A rejection that nobody has looked at by then would end the process.
    await sleep(20);
    yield { id: "b" as BlockId, request: Promise.resolve(undefined) };
  }
  await expect(idsWith(heads(), new Set(["name"]), "owner")).rejects.toThrow("the disk fails");
});
