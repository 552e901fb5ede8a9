import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { tensorTypes } from "../src/files/element-types.js";
import { comparedModels, compareWithLlamaCpp } from "./llama-cpp/compare-engine.js";
import { whyNoLlamaCpp } from "./llama-cpp/llama-cpp-oracle.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-i4-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const reason = await whyNoLlamaCpp();

for (const name of Object.keys(comparedModels)) {
  for (const type of tensorTypes) {
    for (const mixed of type === "Q4_K" || type === "Q5_K" ? [false, true] : [false]) {
      const label = mixed ? `${type} mixed with Q6_K` : type;
      test(`Engine.score(): full mode of ${name} in ${label} equals llama.cpp`, async ({ skip }) => {
        if (reason !== undefined) skip(reason);
        const path = join(folder, `${name}-${type}-${mixed}.gguf`);
        const options = { ...comparedModels[name]!, numLayers: 4, type, mixed };
        const found = await compareWithLlamaCpp(path, options, [1, 90, 700, 1400], 64, 1);
        console.log(
          `${name} ${label}: ${found.numCounted} of 256 steps counted, log-probabilities at most ${found.worstLogprob.toExponential(1)} apart`,
        );
        expect(found.numCounted).toBeGreaterThan(32);
      });
    }
  }
}
