import { type FileHandle, open } from "node:fs/promises";
import { elementTypes, type TensorType } from "./element-types.js";

/** A value of GGUF metadata with its type in the file. */
export type GgufEntry =
  | { readonly kind: "u32"; readonly value: number }
  | { readonly kind: "f32"; readonly value: number }
  | { readonly kind: "bool"; readonly value: boolean }
  | { readonly kind: "text"; readonly value: string }
  | { readonly kind: "texts"; readonly value: readonly string[] }
  | { readonly kind: "i32s"; readonly value: readonly number[] }
  | { readonly kind: "f32s"; readonly value: readonly number[] };

/** A tensor that is about to be written. */
export interface GgufTensorToWrite {
  readonly name: string;
  readonly type: TensorType;
  /** Outermost first. */
  readonly shape: readonly number[];
  readonly byteLength: number;
  /** The tensor's bytes, piece by piece; a piece may be used again for the next. */
  readonly pieces: () => AsyncIterable<Uint8Array>;
}

const alignment = 32;

/**
 * Writes a GGUF file, version 3: metadata, the list of tensors, then their data, a piece at a time.
 *
 * @param onTensor told after each tensor.
 * @throws Error if a tensor gives another number of bytes than it said, or the file cannot be written; what `pieces` throws.
 * @see https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
export async function writeGguf(
  path: string,
  metadata: ReadonlyMap<string, GgufEntry>,
  tensors: readonly GgufTensorToWrite[],
  onTensor: (tensor: GgufTensorToWrite) => void = () => undefined,
): Promise<void> {
  const file = await open(path, "w");
  try {
    await writeAll(file, headerOf(metadata, tensors));
    for (const tensor of tensors) {
      let numBytes = 0;
      for await (const piece of tensor.pieces()) {
        await writeAll(file, piece);
        numBytes += piece.byteLength;
      }
      if (numBytes !== tensor.byteLength) {
        throw new Error(`Cannot write tensor "${tensor.name}": it has ${numBytes} bytes, wanted ${tensor.byteLength}`);
      }
      await writeAll(file, new Uint8Array(padded(numBytes) - numBytes));
      onTensor(tensor);
    }
  } finally {
    await file.close();
  }
}

/** `write` may take a part only, on a full disk for instance, before it fails. */
export async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    const { bytesWritten } = await file.write(bytes, done);
    done += bytesWritten;
  }
}

function padded(numBytes: number): number {
  return Math.ceil(numBytes / alignment) * alignment;
}

function headerOf(metadata: ReadonlyMap<string, GgufEntry>, tensors: readonly GgufTensorToWrite[]): Uint8Array {
  const parts: Buffer[] = [];
  const u32 = (value: number) => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(value);
    parts.push(bytes);
  };
  const u64 = (value: number) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    parts.push(bytes);
  };
  const text = (value: string) => {
    const bytes = Buffer.from(value, "utf8");
    u64(bytes.length);
    parts.push(bytes);
  };
  const list = (type: number, length: number) => {
    u32(valueTypes.list);
    u32(type);
    u64(length);
  };
  const numbers = (values: readonly number[], write: (bytes: Buffer, value: number, at: number) => void) => {
    const bytes = Buffer.alloc(4 * values.length);
    for (const [i, value] of values.entries()) write(bytes, value, 4 * i);
    parts.push(bytes);
  };
  const f32 = (bytes: Buffer, value: number, at: number) => void bytes.writeFloatLE(value, at);
  const i32 = (bytes: Buffer, value: number, at: number) => void bytes.writeInt32LE(value, at);

  parts.push(Buffer.from("GGUF"));
  u32(3);
  u64(tensors.length);
  u64(metadata.size + 1);
  text("general.alignment");
  u32(valueTypes.u32);
  u32(alignment);
  for (const [key, entry] of metadata) {
    text(key);
    switch (entry.kind) {
      case "u32":
        u32(valueTypes.u32);
        u32(entry.value);
        break;
      case "f32":
        u32(valueTypes.f32);
        numbers([entry.value], f32);
        break;
      case "bool":
        u32(valueTypes.bool);
        parts.push(Buffer.of(entry.value ? 1 : 0));
        break;
      case "text":
        u32(valueTypes.text);
        text(entry.value);
        break;
      case "texts":
        list(valueTypes.text, entry.value.length);
        for (const value of entry.value) text(value);
        break;
      case "i32s":
        list(valueTypes.i32, entry.value.length);
        numbers(entry.value, i32);
        break;
      case "f32s":
        list(valueTypes.f32, entry.value.length);
        numbers(entry.value, f32);
        break;
      default:
        entry satisfies never;
    }
  }
  let offset = 0;
  for (const { name, shape, type, byteLength } of tensors) {
    text(name);
    u32(shape.length);
    for (const size of [...shape].reverse()) u64(size);
    u32(elementTypes[type].id);
    u64(offset);
    offset += padded(byteLength);
  }
  const header = Buffer.concat(parts);
  return Buffer.concat([header, Buffer.alloc(padded(header.length) - header.length)]);
}

/** The format's numbers of the values' types. */
const valueTypes = { u32: 4, i32: 5, f32: 6, bool: 7, text: 8, list: 9 } as const;
