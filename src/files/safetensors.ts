import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { isJsonObject, type JsonValue, parseJson, readJson } from "./bounded-json.js";
import { elementTypes, findElementType, isTensorType } from "./element-types.js";
import { quote } from "./quote.js";
import { readFully } from "./read-range.js";
import { describeFileError, openRegularFile } from "./regular-file.js";
import type { FileTensor } from "./tensor-source.js";

/** The tensors of one safetensors file or of all shards of a folder, by their names. */
export interface SafetensorsSource {
  readonly tensors: ReadonlyMap<string, FileTensor>;
  /** The weight files, and the index where there is one. */
  readonly files: readonly string[];
}

/**
 * Finds a folder's weights: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
 *
 * @throws Error if there are none, a shard is missing, a tensor stands in two shards or not in the shard that the index
 * says, or a file is not sound.
 */
export async function readSafetensorsFolder(folder: string): Promise<SafetensorsSource> {
  const names = new Set(
    await readdir(folder).catch((error: unknown) => {
      throw describeFileError(error, folder);
    }),
  );
  // Transformers looks for the single file first too.
  if (names.has(singleFile)) {
    const path = join(folder, singleFile);
    return { tensors: await readSafetensors(path), files: [path] };
  }
  if (names.has(indexFile)) return readShards(folder);
  const other = [...names].find((name) => /\.(bin|pt|pth|h5|msgpack)$/.test(name));
  throw new Error(
    `Cannot read the weights in ${quote(folder)}: neither "${singleFile}" nor "${indexFile}" is there${other === undefined ? "" : `, and ${quote(other)} is not read: save the model as safetensors`}`,
  );
}

/**
 * Reads the header of one safetensors file: 8 bytes of length, JSON, then the tensors' bytes without a hole.
 *
 * @throws Error if the file is cut, its offsets leave holes or overlap, a size disagrees with its shape, or a name stands twice.
 * @see https://huggingface.co/docs/safetensors
 */
export async function readSafetensors(path: string): Promise<ReadonlyMap<string, FileTensor>> {
  const { handle, size } = await openRegularFile(path);
  try {
    const what = `the header of ${quote(path)}`;
    if (size < 8) throw new Error(`Cannot read ${quote(path)}: it has ${size} bytes, a safetensors file has 8 or more`);
    const lengthBytes = new Uint8Array(8);
    await readFully(handle, lengthBytes, 0, path);
    const claimed = new DataView(lengthBytes.buffer).getBigUint64(0, true);
    if (claimed > BigInt(Math.min(maxHeaderBytes, size - 8))) {
      throw new Error(
        `Cannot read ${what}: it claims ${claimed} bytes, the file has ${size} and at most ${maxHeaderBytes} are read`,
      );
    }
    const headerBytes = new Uint8Array(Number(claimed));
    await readFully(handle, headerBytes, 8, path);
    const header = parseJson(headerBytes, what, { maxBytes: maxHeaderBytes, maxDepth: 8, uniqueKeys: true });
    return placeTensors(header, path, 8 + headerBytes.byteLength, size);
  } finally {
    await handle.close();
  }
}

const singleFile = "model.safetensors";
const indexFile = "model.safetensors.index.json";
/** The format's own limit. */
const maxHeaderBytes = 100_000_000;

async function readShards(folder: string): Promise<SafetensorsSource> {
  const indexPath = join(folder, indexFile);
  const index = await readJson(indexPath, { maxDepth: 8, uniqueKeys: true });
  const weightMap = isJsonObject(index) ? Object.entries(index).find(([key]) => key === "weight_map")?.[1] : undefined;
  if (!isJsonObject(weightMap)) throw new Error(`Cannot read ${quote(indexPath)}: "weight_map" is no object`);
  const shardOf = new Map<string, string>();
  for (const [name, shard] of Object.entries(weightMap)) {
    // A plain name: an index from outside must not lead out of its folder.
    if (typeof shard !== "string" || !/^[^/\\]+\.safetensors$/.test(shard)) {
      throw new Error(
        `Cannot read ${quote(indexPath)}: the shard of ${quote(name)} is no safetensors file of its folder`,
      );
    }
    shardOf.set(name, shard);
  }
  const tensors = new Map<string, FileTensor>();
  const shards = [...new Set(shardOf.values())].sort();
  for (const shard of shards) {
    for (const [name, tensor] of await readSafetensors(join(folder, shard))) {
      if (tensors.has(name)) {
        throw new Error(`Cannot read the weights in ${quote(folder)}: tensor ${quote(name)} stands in two shards`);
      }
      if (shardOf.has(name) && shardOf.get(name) !== shard) {
        throw new Error(
          `Cannot read the weights in ${quote(folder)}: tensor ${quote(name)} is in ${quote(shard)}, the index says ${quote(shardOf.get(name) ?? "")}`,
        );
      }
      tensors.set(name, tensor);
    }
  }
  for (const [name, shard] of shardOf) {
    if (!tensors.has(name)) {
      throw new Error(`Cannot read the weights in ${quote(folder)}: tensor ${quote(name)} is not in ${quote(shard)}`);
    }
  }
  return { tensors, files: [indexPath, ...shards.map((shard) => join(folder, shard))] };
}

interface PlacedTensor {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** From the start of the tensors' bytes. */
  readonly start: number;
  readonly end: number;
}

function placeTensors(
  header: JsonValue,
  path: string,
  dataStart: number,
  fileSize: number,
): ReadonlyMap<string, FileTensor> {
  if (!isJsonObject(header)) throw new Error(`Cannot read the header of ${quote(path)}: it is no object`);
  const placed = Object.entries(header)
    .filter(([name]) => name !== "__metadata__")
    .map(([name, value]) => readTensorHeader(name, value, path))
    .sort((a, b) => a.start - b.start || a.end - b.end);
  let next = 0;
  for (const tensor of placed) {
    if (tensor.start !== next) {
      throw new Error(
        `Cannot read ${quote(path)}: tensor ${quote(tensor.name)} starts at ${tensor.start}, the one before ends at ${next}`,
      );
    }
    next = tensor.end;
  }
  if (dataStart + next !== fileSize) {
    throw new Error(
      `Cannot read ${quote(path)}: its tensors end at byte ${dataStart + next}, the file at byte ${fileSize}`,
    );
  }
  return new Map(placed.map((tensor) => [tensor.name, toFileTensor(tensor, path, dataStart)]));
}

function readTensorHeader(name: string, value: JsonValue, path: string): PlacedTensor {
  const malformed = (reason: string) => new Error(`Cannot read ${quote(path)}: tensor ${quote(name)} ${reason}`);
  const entries = new Map(isJsonObject(value) ? Object.entries(value) : []);
  const dtype = entries.get("dtype");
  const shape = entries.get("shape");
  const offsets = entries.get("data_offsets");
  if (typeof dtype !== "string" || !isCountList(shape) || !isCountList(offsets)) {
    throw malformed("has no sound dtype, shape and data_offsets");
  }
  const [start, end, ...more] = offsets;
  if (start === undefined || end === undefined || more.length > 0 || start > end) {
    throw malformed(`has the offsets [${offsets.slice(0, 4).join(", ")}], a start and an end are wanted`);
  }
  const numElements = shape.reduce((product, count) => product * count, 1);
  const { blockSize, typeSize: elementBytes } = findElementType(dtype) ?? {};
  if (
    !Number.isSafeInteger(numElements) ||
    (blockSize === 1 && elementBytes !== undefined && numElements * elementBytes !== end - start)
  ) {
    throw malformed(`of type ${quote(dtype, 20)} and shape [${shape.slice(0, 8).join(", ")}] has ${end - start} bytes`);
  }
  return { name, dtype, shape, start, end };
}

function isCountList(value: JsonValue | undefined): value is readonly number[] {
  return Array.isArray(value) && value.every((count) => Number.isSafeInteger(count) && count >= 0);
}

function toFileTensor(tensor: PlacedTensor, path: string, dataStart: number): FileTensor {
  const { name, shape, dtype } = tensor;
  // The format has none of ggml's blocks.
  if (!isTensorType(dtype) || elementTypes[dtype].blockSize > 1) {
    return { kind: "unreadable", name, typeName: dtype, shape, path };
  }
  const entry = {
    name,
    type: dtype,
    shape,
    path,
    offset: dataStart + tensor.start,
    byteLength: tensor.end - tensor.start,
  };
  return { kind: "readable", entry };
}
