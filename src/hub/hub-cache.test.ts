import { lstat, readFile } from "node:fs/promises";
import { expect, test, vi } from "vitest";
import { type FakeRepo, fakeHub, sha256 } from "./fake-hub.suite.js";
import { keptModels } from "./kept-models.js";
import { findPulled, pull } from "./pull.js";

vi.mock("node:fs/promises", async (importOriginal) => {
  const refuse = () => Promise.reject(Object.assign(new Error("EPERM"), { code: "EPERM" }));
  return { ...(await importOriginal<typeof import("node:fs/promises")>()), symlink: refuse, link: refuse };
});

test("linkBlob(): on a disk without links the file itself stands in the snapshot, and is found there", async () => {
  const bytes = Buffer.alloc(5_000, 1);
  const hub = await fakeHub({ "o/n": { files: { "m-Q8_0.gguf": bytes } } satisfies FakeRepo });
  const { path } = await pull("o/n", { env: hub.env });
  expect((await lstat(path)).isFile()).toBe(true);
  expect(sha256(await readFile(path))).toBe(sha256(bytes));
  expect(await findPulled("hf:o/n", hub.env)).toBe(path);
  await pull("o/n", { env: hub.env });
  expect(hub.log.filter((line) => line.startsWith("store"))).toHaveLength(1);
  expect(await keptModels(hub.env)).toMatchObject([{ name: "o/n:m-Q8_0.gguf", isWhole: true, bytes: 5_000 }]);
});
