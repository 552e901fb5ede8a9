import { elementTypes, tensorTypes } from "../files/element-types.js";
import { quote } from "../files/quote.js";
import type { FileTensor, TensorEntry } from "../files/tensor-source.js";
import type { ModelConfig } from "./config.js";

/** A weight that an architecture needs. */
export interface NeededTensor {
  /** llama.cpp's name. */
  readonly name: string;
  /** Outermost first. */
  readonly shape: readonly number[];
}

/**
 * Every weight that a model needs, one after the other: a config from outside may claim any number of layers.
 *
 * @see model-source.ts for the names
 */
export function* neededTensors(config: ModelConfig): Generator<NeededTensor> {
  const { vocabSize, hiddenSize, intermediateSize, headSize } = config;
  const queryRows = config.numHeads * headSize;
  const kvRows = config.numKvHeads * headSize;
  yield { name: "token_embd.weight", shape: [vocabSize, hiddenSize] };
  yield { name: "output_norm.weight", shape: [hiddenSize] };
  if (!config.tiedHead) {
    yield { name: "output.weight", shape: [vocabSize, hiddenSize] };
  }
  /** [name, rows, columns, whether it has a bias] of each product. */
  const products: readonly [string, number, number, boolean][] = [
    ["attn_q", queryRows, hiddenSize, config.qkvBias],
    ["attn_k", kvRows, hiddenSize, config.qkvBias],
    ["attn_v", kvRows, hiddenSize, config.qkvBias],
    ["attn_output", hiddenSize, queryRows, config.outputBias],
    ["ffn_gate", intermediateSize, hiddenSize, config.mlpBias],
    ["ffn_up", intermediateSize, hiddenSize, config.mlpBias],
    ["ffn_down", hiddenSize, intermediateSize, config.mlpBias],
  ];
  for (let layer = 0; layer < config.numLayers; layer += 1) {
    const start = `blk.${layer}.`;
    yield { name: `${start}attn_norm.weight`, shape: [hiddenSize] };
    yield { name: `${start}ffn_norm.weight`, shape: [hiddenSize] };
    if (config.qkNorm) {
      yield { name: `${start}attn_q_norm.weight`, shape: [headSize] };
      yield { name: `${start}attn_k_norm.weight`, shape: [headSize] };
    }
    for (const [name, rows, columns, hasBias] of products) {
      yield { name: `${start}${name}.weight`, shape: [rows, columns] };
      if (hasBias) {
        yield { name: `${start}${name}.bias`, shape: [rows] };
      }
    }
  }
}

/**
 * Picks the weights that a model needs out of a file's tensors.
 *
 * @param nameInFile turns llama.cpp's name into the file's.
 * @param isHarmless whether a tensor that is not needed, by its name in the file, changes nothing.
 * @param where the file or folder for errors, for instance its quoted path.
 * @returns the weights under llama.cpp's names.
 * @throws Error if one is missing, has another shape than the config says or a type that is not read, or if the file holds
 * a tensor that nothing reads.
 */
export function pickTensors(
  config: ModelConfig,
  inFile: ReadonlyMap<string, FileTensor>,
  nameInFile: (name: string) => string,
  isHarmless: (nameInFile: string) => boolean,
  where: string,
): ReadonlyMap<string, TensorEntry> {
  const picked = new Map<string, TensorEntry>();
  const used = new Set<string>();
  for (const needed of neededTensors(config)) {
    const found = nameInFile(needed.name);
    const tensor = inFile.get(found);
    if (tensor === undefined) {
      throw new Error(`Cannot read ${where}: tensor ${quote(found)} is missing`);
    }
    picked.set(needed.name, checkTensor(tensor, needed, where));
    used.add(found);
  }
  for (const name of inFile.keys()) {
    if (!used.has(name) && !isHarmless(name)) {
      throw new Error(
        `Cannot read ${where}: tensor ${quote(name)} is no part of the ${config.architecture} model that the config describes`,
      );
    }
  }
  return picked;
}

function checkTensor(tensor: FileTensor, needed: NeededTensor, where: string): TensorEntry {
  const { name, shape } = tensor.kind === "readable" ? tensor.entry : tensor;
  if (shape.length !== needed.shape.length || shape.some((size, i) => size !== needed.shape[i])) {
    throw new Error(
      `Cannot read ${where}: the shape of tensor ${quote(name)} is [${shape.join(", ")}], [${needed.shape.join(", ")}] is wanted`,
    );
  }
  // Vectors (norms and biases) are never quantized.
  const supported: readonly string[] =
    shape.length === 1 ? tensorTypes.filter((type) => elementTypes[type].blockSize === 1) : tensorTypes;
  const type = tensor.kind === "readable" ? tensor.entry.type : tensor.typeName;
  if (tensor.kind === "unreadable" || !supported.includes(type)) {
    throw new Error(
      `Cannot read ${where}: the type of tensor ${quote(name)} is ${quote(type, 40)}, supported are ${supported.join(", ")}`,
    );
  }
  return tensor.entry;
}
