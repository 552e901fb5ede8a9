import { type Dirent, readdirSync, statSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished } from "vitest";
import { elementTypes, findElementType } from "./element-types.js";
import { readGguf } from "./gguf.js";

/** A folder that is removed when the test that made it is over. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "block-attention-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Expects an Error of one line that holds `part`, and gives its message. */
export async function expectError(promise: Promise<unknown>, part: string | RegExp = /^Cannot /): Promise<string> {
  // Wrapped: an error that is a promise, which someone forgot to await, would be awaited here.
  const { error } = await promise.then(
    () => ({ error: undefined }),
    (reason: unknown) => ({ error: reason }),
  );
  expect(error).toBeInstanceOf(Error);
  const message = error instanceof Error ? error.message : "";
  expect(message).toMatch(part);
  expect(message).toMatch(/^Cannot [^\n]{1,1000}[^.\n]$/);
  return message;
}

/** `count` places in 0..length - 1, evenly spread. */
export function placesIn(length: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => Math.floor((i * length) / count));
}

export interface TestTensor {
  readonly name: string;
  /** Outermost first. */
  readonly shape: readonly number[];
  /** A safetensors dtype; default "F32". */
  readonly dtype?: string;
  /** Default: zeros. */
  readonly values?: readonly number[];
}

function tensorBytes({ shape, dtype = "F32", values }: TestTensor): Uint8Array {
  const count = shape.reduce((product, size) => product * size, 1);
  return values === undefined
    ? new Uint8Array(count * (findElementType(dtype)?.typeSize ?? 0))
    : new Uint8Array(Float32Array.from(values).buffer);
}

/** A safetensors file of these tensors, in this order. */
export function safetensorsBytes(tensors: readonly TestTensor[], extra: Record<string, unknown> = {}): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" }, ...extra };
  let next = 0;
  const data = tensors.map((tensor) => {
    const bytes = tensorBytes(tensor);
    header[tensor.name] = {
      dtype: tensor.dtype ?? "F32",
      shape: tensor.shape,
      data_offsets: [next, next + bytes.byteLength],
    };
    next += bytes.byteLength;
    return bytes;
  });
  return safetensorsWith(JSON.stringify(header), Buffer.concat(data));
}

/** A safetensors file with this header and these bytes after it, sound or not. */
export function safetensorsWith(header: string, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const json = Buffer.from(header);
  return Buffer.concat([uint64(json.byteLength), json, data]);
}

export type TestGgufValue =
  | { readonly u32: number }
  | { readonly f32: number }
  | { readonly u64: bigint }
  | { readonly i64: bigint }
  | { readonly bool: boolean }
  | { readonly text: string }
  | { readonly texts: readonly string[] }
  | { readonly f32s: readonly number[] }
  | { readonly i32s: readonly number[] };

export interface TestGguf {
  readonly version?: number;
  readonly metadata: Readonly<Record<string, TestGgufValue>>;
  /** `type` is ggml's number, default 0 (F32); `byteLength` for types whose size the helper does not know. */
  readonly tensors?: readonly (TestTensor & { readonly type?: number; readonly byteLength?: number })[];
}

/** A little-endian GGUF file with an alignment of 32 bytes. */
export function ggufBytes({ version = 3, metadata, tensors = [] }: TestGguf): Uint8Array {
  const parts: Uint8Array[] = [Buffer.from("GGUF"), uint32(version), uint64(tensors.length)];
  parts.push(uint64(Object.keys(metadata).length));
  for (const [key, value] of Object.entries(metadata)) {
    parts.push(ggufText(key), Buffer.concat(ggufValue(value)));
  }
  let offset = 0;
  const data: Uint8Array[] = [];
  for (const tensor of tensors) {
    parts.push(ggufText(tensor.name), uint32(tensor.shape.length), ...[...tensor.shape].reverse().map(uint64));
    parts.push(uint32(tensor.type ?? 0), uint64(offset));
    const bytes = tensor.byteLength === undefined ? tensorBytes(tensor) : new Uint8Array(tensor.byteLength);
    const padding = (32 - (bytes.byteLength % 32)) % 32;
    data.push(bytes, new Uint8Array(padding));
    offset += bytes.byteLength + padding;
  }
  const header = Buffer.concat(parts);
  return Buffer.concat([header, new Uint8Array((32 - (header.byteLength % 32)) % 32), ...data]);
}

/**
 * Writes a sound GGUF file as llama.cpp splits them: the first part has the metadata, and no tensor where `groups` begins with 0.
 *
 * @param name of the parts, without "-00001-of-0000N.gguf".
 * @param groups how many tensors each part has.
 * @returns the parts' paths.
 */
export async function splitGguf(path: string, name: string, groups: readonly number[]): Promise<string[]> {
  const { tensors } = await readGguf(path);
  const all = [...tensors.values()].flatMap((tensor) => (tensor.kind === "readable" ? [tensor.entry] : []));
  const whole = await readFile(path);
  const metadata = whole.subarray(24, whole.indexOf(ggufText(all[0]?.name ?? "")));
  const count = String(groups.length).padStart(5, "0");
  let next = 0;
  const paths: string[] = [];
  for (const [no, size] of groups.entries()) {
    const uint16 = (value: number) => uint32(value).subarray(0, 2);
    const own = [
      ggufText("split.no"),
      uint32(2),
      uint16(no),
      ggufText("split.count"),
      uint32(2),
      uint16(groups.length),
    ];
    own.push(ggufText("split.tensors.count"), uint32(5), uint32(all.length));
    const group = all.slice(next, next + size);
    next += size;
    const numKeys = 3 + (no === 0 ? Number(whole.readBigUInt64LE(16)) : 0);
    const header = [Buffer.from("GGUF"), uint32(3), uint64(group.length), uint64(numKeys)];
    if (no === 0) header.push(metadata);
    header.push(...own);
    const padded = (bytes: Uint8Array) => Buffer.concat([bytes, new Uint8Array((32 - (bytes.byteLength % 32)) % 32)]);
    const data = group.map(({ offset, byteLength }) => padded(whole.subarray(offset, offset + byteLength)));
    let at = 0;
    for (const [i, { name: tensor, shape, type }] of group.entries()) {
      header.push(ggufText(tensor), uint32(shape.length), ...[...shape].reverse().map(uint64));
      header.push(uint32(elementTypes[type].id), uint64(at));
      at += data[i]?.byteLength ?? 0;
    }
    paths.push(`${name}-${String(no + 1).padStart(5, "0")}-of-${count}.gguf`);
    await writeFile(paths.at(-1) as string, Buffer.concat([padded(Buffer.concat(header)), ...data]));
  }
  return paths;
}

function ggufValue(value: TestGgufValue): Uint8Array[] {
  if ("u32" in value) return [uint32(4), uint32(value.u32)];
  if ("f32" in value) return [uint32(6), float32(value.f32)];
  if ("bool" in value) return [uint32(7), Uint8Array.of(value.bool ? 1 : 0)];
  if ("text" in value) return [uint32(8), ggufText(value.text)];
  if ("u64" in value) return [uint32(10), uint64(value.u64)];
  if ("i64" in value) return [uint32(11), uint64(BigInt.asUintN(64, value.i64))];
  if ("texts" in value) return [uint32(9), uint32(8), uint64(value.texts.length), ...value.texts.map(ggufText)];
  if ("f32s" in value) return [uint32(9), uint32(6), uint64(value.f32s.length), ...value.f32s.map(float32)];
  return [uint32(9), uint32(5), uint64(value.i32s.length), ...value.i32s.map((number) => uint32(number >>> 0))];
}

export function ggufText(text: string): Uint8Array {
  const bytes = Buffer.from(text);
  return Buffer.concat([uint64(bytes.byteLength), bytes]);
}

export function uint32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

export function uint64(value: number | bigint): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function float32(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return bytes;
}

/**
 * What the files below a folder take on its file system, while others change it: of those that were there at one moment.
 * @returns bytes.
 */
export function bytesBelow(folder: string): number {
  const statOf = (path: string) => statSync(path, { throwIfNoEntry: false });
  const seen: { readonly path: string; readonly ino: number }[] = [];
  const walk = (path: string): void => {
    let entries: Dirent[] = [];
    try {
      entries = readdirSync(path, { withFileTypes: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
    for (const entry of entries) {
      const at = join(path, entry.name);
      if (entry.isDirectory()) walk(at);
      const found = entry.isFile() ? statOf(at) : undefined;
      if (found !== undefined) seen.push({ path: at, ino: found.ino });
    }
  };
  walk(folder);
  // One that is there afterwards too was there when the last one was seen.
  return seen.reduce((sum, { path, ino }) => {
    const found = statOf(path);
    return found?.ino === ino ? sum + 512 * found.blocks : sum;
  }, 0);
}
