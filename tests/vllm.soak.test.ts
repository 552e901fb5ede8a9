import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { buildDist, projectRoot } from "./build-dist.js";

test("check:vllm: Block-Attention in vLLM is one pass with the block mask, where vLLM's environment is there", async (context) => {
  await buildDist();
  const { status, stdout, stderr } = spawnSync(process.execPath, ["scripts/check-vllm.mjs", "--if-there"], {
    cwd: projectRoot,
    encoding: "utf8",
    maxBuffer: 2 ** 28,
  });
  if (status === 3) context.skip(stdout.trim().split("\n").at(-1));
  expect(status, stdout.slice(-5000) + stderr.slice(-2000)).toBe(0);
});
