import { elementTypes, tensorTypes } from "../files/element-types.js";
import { quote } from "../files/quote.js";
import type { FileTensor } from "../files/tensor-source.js";
import type { Architecture, NeededTensor } from "./architecture.js";
import type { ModelConfig } from "./config.js";
import type { WeightEntry } from "./model-source.js";

/**
 * Picks the weights that a model needs out of a file's tensors.
 *
 * @param nameInFile a weight's name in the file.
 * @param isHarmless whether a tensor that is not needed, by its name in the file, changes nothing.
 * @param where the file or folder for errors, for instance its quoted path.
 * @returns the weights under llama.cpp's names.
 * @throws Error if one is missing, has another shape than the config says or a type that is not read, or if the file holds
 * a tensor that nothing reads.
 */
export function pickTensors(
  architecture: Architecture,
  config: ModelConfig,
  inFile: ReadonlyMap<string, FileTensor>,
  nameInFile: "name" | "huggingFaceName",
  isHarmless: (nameInFile: string) => boolean,
  where: string,
): ReadonlyMap<string, WeightEntry> {
  const picked = new Map<string, WeightEntry>();
  const used = new Set<string>();
  for (const needed of architecture.tensors(config)) {
    const found = needed[nameInFile];
    const tensor = inFile.get(found);
    if (tensor === undefined) throw new Error(`Cannot read ${where}: tensor ${quote(found)} is missing`);
    const entry = checkTensor(tensor, needed, where);
    const added = nameInFile === "huggingFaceName" ? needed.huggingFaceLacks : undefined;
    picked.set(needed.name, added === undefined ? entry : { ...entry, added });
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

function checkTensor(tensor: FileTensor, needed: NeededTensor, where: string): WeightEntry {
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
  const { path, offset, ...entry } = tensor.entry;
  return { ...entry, parts: [{ path, offset, byteLength: entry.byteLength }] };
}
