import { ByteReader } from "./byte-reader.js";
import { elementTypeNames, elementTypes, isTensorType } from "./element-types.js";
import { type Fields, readInteger } from "./fields.js";
import { quote } from "./quote.js";
import { openRegularFile, pathExists } from "./regular-file.js";
import type { FileTensor } from "./tensor-source.js";

/** A value of GGUF metadata. 64-bit numbers are numbers where no digit is lost, else bigints; arrays of them are bigint arrays. */
export type GgufValue =
  | number
  | bigint
  | boolean
  | string
  | readonly boolean[]
  | readonly string[]
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

export type GgufMetadata = ReadonlyMap<string, GgufValue>;

/** A GGUF file, or all parts of a split one, as far as its tensors' data, which is never read here. */
export interface GgufFile {
  /** Of a split one the first part's, whose version, alignment and metadata follow. */
  readonly path: string;
  /** All parts' paths in their order. */
  readonly files: readonly string[];
  readonly version: 2 | 3;
  /** Of the tensors' offsets, in bytes; a power of two. */
  readonly alignment: number;
  readonly metadata: GgufMetadata;
  /** By their names in the file. None in a file that holds only a vocabulary. */
  readonly tensors: ReadonlyMap<string, FileTensor>;
}

/** Name, number and count of a split file's part, as llama.cpp names them. @see llama.cpp, llama_split_path */
const partName = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/s;

/** What the parts of a split GGUF file have in common; any other path is its own. */
export function ggufSetName(path: string): string {
  return path.replace(partName, "$1-of-$3.gguf");
}

/**
 * Reads the metadata and the list of tensors of a GGUF file, version 2 or 3, little-endian. Any part of a split one stands for all,
 * which lie beside it.
 *
 * @throws Error naming the file and what is wrong with it, or the part that is missing or of another file.
 * @see llama.cpp, tools/gguf-split: the first part has all metadata, the others say only which part they are
 */
export async function readGguf(path: string): Promise<GgufFile> {
  const opened = await readPart(path);
  const { count, tensorCount } = splitOf(opened);
  if (count < 2) return opened;
  const [, name, , countInName] = partName.exec(path) ?? [];
  if (name === undefined || Number(countInName) !== count) {
    throw new Error(
      `Cannot read ${quote(path)}: it is one of ${count} parts, NAME-00001-of-${digits(count)}.gguf and so on are wanted side by side`,
    );
  }
  const parts: GgufFile[] = [];
  const tensors = new Map<string, FileTensor>();
  for (let i = 0; i < count; i++) {
    const partPath = `${name}-${digits(i + 1)}-of-${countInName}.gguf`;
    if (!(await pathExists(partPath))) {
      throw new Error(`Cannot read ${quote(path)}: ${quote(partPath)}, part ${i + 1} of ${count}, is missing`);
    }
    const part = partPath === path ? opened : await readPart(partPath);
    const found = splitOf(part);
    if (found.count !== count || found.index !== i || found.tensorCount !== tensorCount) {
      const described = `part ${found.index + 1} of ${found.count} with ${found.tensorCount ?? "no count of"} tensors in all`;
      throw new Error(
        `Cannot read ${quote(path)}: beside it ${quote(partPath)} is ${described}, part ${i + 1} of ${count} with ${tensorCount ?? "no count of"} is wanted`,
      );
    }
    parts.push(part);
    for (const [tensorName, tensor] of part.tensors) {
      if (tensors.has(tensorName)) {
        throw new Error(`Cannot read ${quote(partPath)}: an earlier part has a tensor ${quote(tensorName)} too`);
      }
      tensors.set(tensorName, tensor);
    }
  }
  if (tensorCount !== undefined && tensors.size !== tensorCount) {
    throw new Error(
      `Cannot read ${quote(path)}: its ${count} parts have ${tensors.size} tensors, ${tensorCount} are wanted`,
    );
  }
  return { ...(parts[0] as GgufFile), files: parts.map((part) => part.path), tensors };
}

function digits(count: number): string {
  return String(count).padStart(5, "0");
}

/** Which part of how many a file is: of one, where it says nothing. */
function splitOf({ path, metadata }: GgufFile): { count: number; index: number; tensorCount: number | undefined } {
  const fields: Fields = { where: quote(path), get: (key) => metadata.get(key) };
  return {
    count: readInteger(fields, "split.count", 0) || 1,
    index: readInteger(fields, "split.no", 0) ?? 0,
    tensorCount: readInteger(fields, "split.tensors.count", 0),
  };
}

/**
 * Reads one file.
 *
 * Counts, lengths, shapes and offsets are held against the file's size before anything is allocated. Tensor data is not read.
 *
 * @throws Error naming the file and what is wrong with it.
 * @see https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and ggml/src/gguf.cpp
 */
async function readPart(path: string): Promise<GgufFile> {
  const { handle, size } = await openRegularFile(path);
  try {
    const reader = new ByteReader(handle, path, Math.min(size, maxHeaderBytes));
    const version = await readVersion(reader, path);
    await reader.need(16, "the numbers of tensors and of metadata keys");
    const numTensors = toCount(reader.takeUint64(), 25, reader, path, "tensors");
    const numKeys = toCount(reader.takeUint64(), 13, reader, path, "metadata keys");
    const metadata = new Map<string, GgufValue>();
    for (let i = 0; i < numKeys; i += 1) {
      const key = await readText(reader, path, `the name of metadata key ${i + 1}`, maxNameBytes);
      if (key === "" || metadata.has(key)) {
        throw new Error(
          `Cannot read ${quote(path)}: metadata key ${i + 1} is ${key === "" ? "empty" : `a second ${quote(key)}`}`,
        );
      }
      metadata.set(key, await readValue(reader, path, key));
    }
    const alignment = readAlignment(metadata, path);
    const headers = await readTensorHeaders(reader, path, numTensors);
    const dataStart = Math.ceil(reader.offset / alignment) * alignment;
    const tensors = new Map<string, FileTensor>();
    for (const header of headers) {
      tensors.set(header.name, placeTensor(header, path, dataStart, alignment, size));
    }
    return { path, files: [path], version, alignment, metadata, tensors };
  } finally {
    await handle.close();
  }
}

/** Metadata and tensor list together. The largest vocabularies (256k tokens and their merges) take under 20 MB. */
const maxHeaderBytes = 2 ** 28;
const maxArrayLength = 2 ** 24;
const maxTextBytes = 2 ** 26;
/** The format's own limit for keys; tensor names are shorter. */
const maxNameBytes = 2 ** 16 - 1;
const maxDimensions = 4;

async function readVersion(reader: ByteReader, path: string): Promise<2 | 3> {
  await reader.need(8, "the start of a GGUF file");
  const magic = reader.take("UInt32LE");
  if (magic !== 0x46554747) throw new Error(`Cannot read ${quote(path)}: it does not start with "GGUF"`);
  const version = reader.take("UInt32LE");
  if (version === 2 || version === 3) return version;
  if (version !== 0 && (version & 0xffff) === 0) {
    throw new Error(`Cannot read ${quote(path)}: it is a big-endian GGUF file, only little-endian ones are read`);
  }
  throw new Error(`Cannot read ${quote(path)}: its GGUF version is ${version}, versions 2 and 3 are read`);
}

/** Holds a count from the file against the bytes that are left, at `minBytes` each. */
function toCount(count: number | bigint, minBytes: number, reader: ByteReader, path: string, what: string): number {
  if (typeof count === "bigint" || count * minBytes > reader.remaining) {
    throw new Error(
      `Cannot read ${quote(path)}: it claims ${count} ${what}, the ${reader.remaining} bytes that are left cannot hold them`,
    );
  }
  return count;
}

async function readText(reader: ByteReader, path: string, what: string, maxBytes: number): Promise<string> {
  await reader.need(8, `the length of ${what}`);
  const byteLength = reader.takeUint64();
  if (byteLength > maxBytes) {
    throw new Error(`Cannot read ${quote(path)}: ${what} is ${byteLength} bytes long, at most ${maxBytes} are read`);
  }
  await reader.need(Number(byteLength), what);
  return takeText(reader, Number(byteLength), path, what);
}

function takeText(reader: ByteReader, byteLength: number, path: string, what: string): string {
  const text = reader.takeText(byteLength);
  if (text === undefined) throw new Error(`Cannot read ${quote(path)}: ${what} is not UTF-8`);
  return text;
}

interface NumberType {
  readonly bytes: number;
  readonly take: (reader: ByteReader) => number | bigint;
  readonly takeArray: (bytes: ArrayBuffer) => GgufValue;
}

/** By the format's number of the type. */
const numberTypes: ReadonlyMap<number, NumberType> = new Map<number, NumberType>([
  [0, { bytes: 1, take: (reader) => reader.take("UInt8"), takeArray: (bytes) => new Uint8Array(bytes) }],
  [1, { bytes: 1, take: (reader) => reader.take("Int8"), takeArray: (bytes) => new Int8Array(bytes) }],
  [2, { bytes: 2, take: (reader) => reader.take("UInt16LE"), takeArray: (bytes) => new Uint16Array(bytes) }],
  [3, { bytes: 2, take: (reader) => reader.take("Int16LE"), takeArray: (bytes) => new Int16Array(bytes) }],
  [4, { bytes: 4, take: (reader) => reader.take("UInt32LE"), takeArray: (bytes) => new Uint32Array(bytes) }],
  [5, { bytes: 4, take: (reader) => reader.take("Int32LE"), takeArray: (bytes) => new Int32Array(bytes) }],
  [6, { bytes: 4, take: (reader) => reader.take("FloatLE"), takeArray: (bytes) => new Float32Array(bytes) }],
  [10, { bytes: 8, take: (reader) => reader.takeUint64(), takeArray: (bytes) => new BigUint64Array(bytes) }],
  [11, { bytes: 8, take: (reader) => reader.takeInt64(), takeArray: (bytes) => new BigInt64Array(bytes) }],
  [12, { bytes: 8, take: (reader) => reader.take("DoubleLE"), takeArray: (bytes) => new Float64Array(bytes) }],
]);
const boolType = 7;
const stringType = 8;
const arrayType = 9;

async function readValue(reader: ByteReader, path: string, key: string): Promise<GgufValue> {
  const what = `the value of ${quote(key)}`;
  await reader.need(4, `the type of ${quote(key)}`);
  const type = reader.take("UInt32LE");
  const numberType = numberTypes.get(type);
  if (numberType !== undefined) {
    await reader.need(numberType.bytes, what);
    return numberType.take(reader);
  }
  switch (type) {
    case boolType:
      await reader.need(1, what);
      return reader.take("UInt8") !== 0;
    case stringType:
      return readText(reader, path, what, maxTextBytes);
    case arrayType:
      return readArray(reader, path, key);
    default:
      throw new Error(
        `Cannot read ${quote(path)}: the type of ${quote(key)} is ${type}, which the format does not know`,
      );
  }
}

async function readArray(reader: ByteReader, path: string, key: string): Promise<GgufValue> {
  await reader.need(12, `the header of the array ${quote(key)}`);
  const type = reader.take("UInt32LE");
  const claimed = reader.takeUint64();
  const numberType = numberTypes.get(type);
  if (numberType === undefined && type !== boolType && type !== stringType) {
    throw new Error(`Cannot read ${quote(path)}: ${quote(key)} is an array of type ${type}, which is not read`);
  }
  const minBytes = numberType?.bytes ?? (type === stringType ? 8 : 1);
  const length = toCount(claimed, minBytes, reader, path, `elements of ${quote(key)}`);
  if (length > maxArrayLength) {
    throw new Error(
      `Cannot read ${quote(path)}: ${quote(key)} has ${length} elements, at most ${maxArrayLength} are read`,
    );
  }
  if (numberType !== undefined) {
    await reader.need(length * numberType.bytes, `the array ${quote(key)}`);
    return numberType.takeArray(reader.takeBytes(length * numberType.bytes));
  }
  if (type === boolType) {
    await reader.need(length, `the array ${quote(key)}`);
    return Array.from(new Uint8Array(reader.takeBytes(length)), (byte) => byte !== 0);
  }
  const what = `a string of ${quote(key)}`;
  const strings: string[] = [];
  for (let i = 0; i < length; i += 1) {
    // Waiting for each of 400,000 strings that are there already would take longer than reading them.
    strings.push(
      reader.hasText()
        ? takeText(reader, Number(reader.takeUint64()), path, what)
        : await readText(reader, path, what, maxTextBytes),
    );
  }
  return strings;
}

function readAlignment(metadata: GgufMetadata, path: string): number {
  const alignment = metadata.get("general.alignment") ?? 32;
  // A power of two in the 32 bits that the format gives it.
  if (
    typeof alignment !== "number" ||
    !(alignment >= 1 && alignment <= 2 ** 31) ||
    !Number.isInteger(Math.log2(alignment))
  ) {
    throw new Error(
      `Cannot read ${quote(path)}: "general.alignment" is ${String(alignment)}, a power of two is wanted`,
    );
  }
  return alignment;
}

interface TensorHeader {
  readonly name: string;
  /** Outermost first. */
  readonly shape: readonly number[];
  /** ggml's number. */
  readonly type: number;
  /** From the start of the tensors' data. */
  readonly offset: number | bigint;
}

async function readTensorHeaders(reader: ByteReader, path: string, numTensors: number): Promise<TensorHeader[]> {
  const headers: TensorHeader[] = [];
  const names = new Set<string>();
  for (let i = 0; i < numTensors; i += 1) {
    const name = await readText(reader, path, `the name of tensor ${i + 1}`, maxNameBytes);
    if (names.has(name)) throw new Error(`Cannot read ${quote(path)}: there are two tensors ${quote(name)}`);
    names.add(name);
    await reader.need(4, `the number of dimensions of ${quote(name)}`);
    const numDimensions = reader.take("UInt32LE");
    if (numDimensions > maxDimensions) {
      throw new Error(
        `Cannot read ${quote(path)}: tensor ${quote(name)} has ${numDimensions} dimensions, at most ${maxDimensions} are read`,
      );
    }
    await reader.need(numDimensions * 8 + 12, `the header of tensor ${quote(name)}`);
    const shape: number[] = [];
    let numElements = 1;
    for (let d = 0; d < numDimensions; d += 1) {
      const size = Number(reader.takeUint64());
      shape.unshift(size);
      numElements *= size;
    }
    if (!shape.every(Number.isSafeInteger) || !Number.isSafeInteger(numElements)) {
      throw new Error(
        `Cannot read ${quote(path)}: tensor ${quote(name)} is too large, its shape is [${shape.join(", ")}]`,
      );
    }
    headers.push({ name, shape, type: reader.take("UInt32LE"), offset: reader.takeUint64() });
  }
  return headers;
}

/** Finds where a tensor lies in the file and checks that it lies there wholly. */
function placeTensor(
  header: TensorHeader,
  path: string,
  dataStart: number,
  alignment: number,
  fileSize: number,
): FileTensor {
  const { name, shape } = header;
  const typeName = elementTypeNames.get(header.type) ?? `type ${header.type}`;
  if (!isTensorType(typeName)) return { kind: "unreadable", name, typeName, shape, path };
  const { blockSize, typeSize } = elementTypes[typeName];
  const rowLength = shape.at(-1) ?? 1;
  if (rowLength % blockSize !== 0) {
    throw new Error(
      `Cannot read ${quote(path)}: rows of tensor ${quote(name)} have ${rowLength} elements, ${typeName} wants a multiple of ${blockSize}`,
    );
  }
  const byteLength = (shape.reduce((product, size) => product * size, 1) / blockSize) * typeSize;
  const offset = dataStart + Number(header.offset);
  if (!Number.isSafeInteger(offset) || Number(header.offset) % alignment !== 0) {
    throw new Error(
      `Cannot read ${quote(path)}: the offset of tensor ${quote(name)} is ${header.offset}, a multiple of ${alignment} inside the file is wanted`,
    );
  }
  if (offset + byteLength > fileSize) {
    throw new Error(
      `Cannot read ${quote(path)}: tensor ${quote(name)} ends at byte ${offset + byteLength}, the file at byte ${fileSize}`,
    );
  }
  return { kind: "readable", entry: { name, type: typeName, shape, path, offset, byteLength } };
}
