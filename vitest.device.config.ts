import { appendFileSync } from "node:fs";
import { defineConfig } from "vitest/config";
import type { Reporter, TestCase, TestModule } from "vitest/node";
import { findGgmlDirectory, loadGgml } from "./src/ggml/library.js";
import shared, { userEnv } from "./vitest.config.js";

/** Appends what becomes of each test to a file of JSON lines, as it ends, so that a run which is stopped loses nothing. */
class ResultLines implements Reporter {
  constructor(private readonly path: string) {}

  async onInit(): Promise<void> {
    const { version, devices } = loadGgml(await findGgmlDirectory("auto"));
    const device = devices.find(({ name }) => name === process.env.BLOCK_ATTENTION_TEST_DEVICE);
    this.#append({ ggml: version, device: device?.description });
  }

  onTestModuleCollected(module: TestModule): void {
    this.#append({ file: module.relativeModuleId, numTests: [...module.children.allTests()].length });
  }

  onTestCaseResult(test: TestCase): void {
    const { state } = test.result();
    // Names as --testNamePattern sees them.
    const name = test.fullName.replaceAll(" > ", " ");
    if (state !== "skipped") this.#append({ file: test.module.relativeModuleId, test: name, state });
  }

  #append(line: object): void {
    appendFileSync(this.path, `${JSON.stringify({ ...line, date: new Date().toISOString() })}\n`);
  }
}

const results = process.env.BLOCK_ATTENTION_TEST_RESULTS;

// What is tried on devices other than the CPU: `node scripts/check-device.mjs`. Their kernels are compiled when they are first used,
// which takes a software device minutes.
export default defineConfig({
  ...shared,
  test: {
    ...shared.test,
    env: { ...shared.test?.env, ...userEnv },
    include: [
      "src/ggml/{graph,device-policy}.test.ts",
      "src/model/{decode-step,kv-rows,rows}.test.ts",
      "src/engine/device-memory.test.ts",
      "src/engine/kv-memory.test.ts",
      "tests/laws/{one-pass,block-bytes,repairs,reuse,batching,conversations,cancel,experts}.test.ts",
      "tests/oracles.test.ts",
    ],
    testTimeout: 1_800_000,
    hookTimeout: 600_000,
    maxWorkers: 1,
    reporters: ["verbose", ...(results === undefined ? [] : [new ResultLines(results)])],
  },
});
