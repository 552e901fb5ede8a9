import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { elementTypes } from "../../src/files/element-types.js";
import { readGguf } from "../../src/files/gguf.js";
import { readRange } from "../../src/files/read-range.js";
import { userCacheDir } from "../../src/files/user-cache-dir.js";
import { findGgmlDirectory, loadGgml } from "../../src/ggml/library.js";
import { dequantizeRows } from "../models/ggml-quantizer.js";

interface PackagedModel {
  readonly file: string;
  /** The Python package that carries it; `{}` is a part's number. */
  readonly package: string;
  /** How many packages it is spread over. Default 1. */
  readonly parts?: number;
  readonly bytes: number;
  readonly sha256: string;
}

/** Real models that packages carry, smallest first. */
export const realModels: readonly PackagedModel[] = JSON.parse(
  readFileSync(new URL("models.json", import.meta.url), "utf8"),
);

export type Found =
  | { readonly kind: "there"; readonly path: string }
  | { readonly kind: "missing"; readonly why: string };

/**
 * The path of a real model in the user's cache folder. The first call fetches it: up to minutes.
 *
 * @returns why it cannot be had: no Python, no network, no room on the disk, another digest.
 */
export async function realModel(file: string): Promise<Found> {
  const script = fileURLToPath(new URL("fetch_model.py", import.meta.url));
  const cache = userCacheDir({ platform: process.platform, env: process.env, homeDir: homedir() });
  try {
    const { stdout } = await promisify(execFile)("python3", [script, file, join(cache, "test-models")]);
    return { kind: "there", path: stdout.trim() };
  } catch (error) {
    const { stderr = "", message } = error as { readonly stderr?: string; readonly message: string };
    return { kind: "missing", why: stderr.trim().split("\n").at(-1) || message };
  }
}

/** Writes a GGUF file with the numbers that another's weights stand for in F32, and all else as it is. */
export async function writeAsF32(path: string, output: string): Promise<void> {
  const ggml = loadGgml(await findGgmlDirectory("cpu"));
  const { tensors } = await readGguf(path);
  const entries = [...tensors.values()].flatMap((tensor) => (tensor.kind === "readable" ? [tensor.entry] : []));
  // Type and place have the same number of bytes whatever they are.
  const head = Buffer.from(await readRange(path, 0, Math.min(...entries.map(({ offset }) => offset))));
  const file = await open(output, "w");
  try {
    let end = head.length;
    for (const { name, type, shape, offset, byteLength } of entries) {
      const length = Buffer.alloc(8);
      length.writeBigUInt64LE(BigInt(name.length));
      const at = head.lastIndexOf(Buffer.concat([length, Buffer.from(name)])) + 8 + name.length + 4 + 8 * shape.length;
      head.writeUInt32LE(elementTypes.F32.id, at);
      head.writeBigUInt64LE(BigInt(end - head.length), at + 4);
      const values = await dequantizeRows(ggml, type, await readRange(path, offset, byteLength));
      await file.writev([new Uint8Array(values.buffer), Buffer.alloc(-values.byteLength & 31)], end);
      end += values.byteLength + (-values.byteLength & 31);
    }
    await file.writev([head], 0);
  } finally {
    await file.close();
  }
}
