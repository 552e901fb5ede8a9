import { defineConfig } from "vitest/config";
import shared from "./vitest.config.js";

// What is tried on devices other than the CPU: `node scripts/check-device.mjs`. Their kernels are compiled when they are first used,
// which takes a software device minutes.
export default defineConfig({
  ...shared,
  test: {
    ...shared.test,
    include: [
      "src/ggml/{graph,device-policy}.test.ts",
      "src/model/{decode-step,kv-rows,rows}.test.ts",
      "src/engine/kv-memory.test.ts",
      "tests/laws/{one-pass,block-bytes,reuse,batching,conversations,cancel}.test.ts",
      "tests/oracles.test.ts",
    ],
    testTimeout: 1_800_000,
    hookTimeout: 600_000,
    maxWorkers: 1,
  },
});
