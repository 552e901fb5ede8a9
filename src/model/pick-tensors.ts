import { elementTypes, tensorTypes } from "../files/element-types.js";
import { quote } from "../files/quote.js";
import type { FileTensor, TensorEntry } from "../files/tensor-source.js";
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
    const take = (found: string, shape: readonly number[]): TensorEntry => {
      const tensor = inFile.get(found);
      if (tensor === undefined) throw new Error(`Cannot read ${where}: tensor ${quote(found)} is missing`);
      used.add(found);
      return checkTensor(tensor, shape, where);
    };
    const { name, shape, fused } = needed;
    const isStack = nameInFile === "huggingFaceName" && fused !== undefined;
    const found = isStack
      ? inFile.has(fused.huggingFaceName)
        ? expertsOfOne(take, shape, fused)
        : expertsOfMany(take, needed, where)
      : wholeOf(take(needed[nameInFile], shape));
    picked.set(name, weightOf(needed, nameInFile, found));
  }
  for (const name of inFile.keys()) {
    if (used.has(name) || isHarmless(name)) continue;
    const what = /\.(input_)?scale$/.test(name)
      ? "scales a weight or its input, which is not supported (NVFP4 with scales of its own)"
      : `is no part of the ${config.architecture} model that the config describes`;
    throw new Error(`Cannot read ${where}: tensor ${quote(name)} ${what}`);
  }
  return picked;
}

type Found = Pick<WeightEntry, "type" | "parts">;
type Take = (found: string, shape: readonly number[]) => TensorEntry;

/** A weight by what was found of it in a file. */
export function weightOf(
  needed: NeededTensor,
  nameInFile: "name" | "huggingFaceName",
  { type, parts }: Found,
): WeightEntry {
  const { [nameInFile]: name, shape, isPrecise, huggingFaceLacks } = needed;
  const byteLength = parts.reduce((sum, part) => sum + part.byteLength, 0);
  const added = nameInFile === "huggingFaceName" ? huggingFaceLacks : undefined;
  const how = { ...(isPrecise && { isPrecise }), ...(added !== undefined && { added }) };
  return { name, type, shape, byteLength, parts, ...how };
}

export function wholeOf({ type, path, offset, byteLength }: TensorEntry): Found {
  return { type, parts: [{ path, offset, byteLength }] };
}

/** A stack of which the file holds each expert's matrix. */
function expertsOfMany(take: Take, { huggingFaceName, shape }: NeededTensor, where: string): Found {
  const [numExperts = 0, ...matrix] = shape;
  const entries = Array.from({ length: numExperts }, (_, i) => take(huggingFaceName.replace("*", `${i}`), matrix));
  const { name, type } = entries[0] as TensorEntry;
  const other = entries.find((entry) => entry.type !== type);
  if (other !== undefined) {
    throw new Error(
      `Cannot read ${where}: the type of tensor ${quote(other.name)} is ${other.type}, ${type} is wanted as of ${quote(name)}`,
    );
  }
  return { type, parts: entries.flatMap((entry) => wholeOf(entry).parts) };
}

/** A stack that the file holds in one tensor, with other rows of the same expert around each. */
function expertsOfOne(take: Take, shape: readonly number[], fused: NonNullable<NeededTensor["fused"]>): Found {
  const [numExperts = 0, rows = 0, columns = 0] = shape;
  const { type, path, offset, byteLength } = take(fused.huggingFaceName, [numExperts, fused.of * rows, columns]);
  const size = byteLength / numExperts / fused.of;
  const parts = Array.from({ length: numExperts }, (_, i) => {
    return { path, offset: offset + (i * fused.of + fused.index) * size, byteLength: size };
  });
  return { type, parts };
}

/** @throws Error if it has another shape, or a type that is not read. */
export function checkTensor(tensor: FileTensor, wanted: readonly number[], where: string): TensorEntry {
  const { name, shape } = tensor.kind === "readable" ? tensor.entry : tensor;
  if (shape.length !== wanted.length || shape.some((size, i) => size !== wanted[i])) {
    throw new Error(
      `Cannot read ${where}: the shape of tensor ${quote(name)} is [${shape.join(", ")}], [${wanted.join(", ")}] is wanted`,
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
