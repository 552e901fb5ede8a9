import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import type { TensorType } from "../src/files/element-types.js";
import { comparedModels, compareWithLlamaCpp } from "./llama-cpp/compare-engine.js";
import { whyNoLlamaCpp } from "./llama-cpp/llama-cpp-oracle.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-i4-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const reason = await whyNoLlamaCpp();

// Each architecture and each kind of type once; the soak test has them all together.
const pairs: readonly (readonly [string, TensorType])[] = [
  ["llama", "F32"],
  ["llama", "Q4_K"],
  ["mistral", "F16"],
  ["mistral", "Q4_0"],
  ["qwen2", "BF16"],
  ["qwen2", "Q5_K"],
  ["qwen3", "Q8_0"],
  ["qwen3", "Q6_K"],
  ["qwen3_moe", "F32"],
  ["qwen3_moe", "Q8_0"],
  ["qwen3_moe", "Q4_0"],
  ["qwen3_moe", "Q4_K"],
  ["smollm3", "F32"],
  ["smollm3", "Q4_K"],
  ["phi3", "F32"],
  ["phi3", "Q8_0"],
  ["gemma3", "F32"],
  ["gemma3", "Q4_0"],
  ["olmo2", "F32"],
  ["olmo2", "Q8_0"],
  ["granite", "F32"],
  ["granite", "Q5_K"],
  ["qwen2", "Q5_0"],
  ["llama", "Q4_1"],
  ["qwen3", "Q2_K"],
  ["qwen2", "IQ3_S"],
  ["llama", "TQ2_0"],
  ["mistral", "MXFP4"],
];

for (const [name, type] of pairs) {
  test(`Engine.score(): full mode of ${name} in ${type} equals llama.cpp`, { timeout: 120_000 }, async ({ skip }) => {
    if (reason !== undefined) skip(reason);
    const path = join(folder, `${name}-${type}.gguf`);
    const { numCounted } = await compareWithLlamaCpp(path, { ...comparedModels[name]!, type }, [90], 64, 1);
    expect(numCounted).toBeGreaterThan(16);
  });
}
