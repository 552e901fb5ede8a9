import { readdirSync } from "node:fs";
import { join } from "node:path";
import koffi from "koffi";
import { afterEach, expect, test } from "vitest";
import { dequantizeRows, isSlowlyMade, quantizeRows } from "../../tests/models/ggml-quantizer.js";
import { elementTypes, rowBytes, tensorTypes } from "../files/element-types.js";
import { findGgmlDirectory, loadGgml } from "./library.js";
import { convertRows } from "./quantize.js";

const ggml = loadGgml(await findGgmlDirectory("cpu"));
afterEach(() => expect(ggml.live.contexts).toBe(0));

const library = readdirSync(ggml.directory).find((name) => /^(lib)?ggml-base\./.test(name)) as string;
const base = koffi.load(join(ggml.directory, library));
const ask = (prototype: string) => base.func(prototype) as (type: number) => unknown;
const blockSize = ask("int64_t ggml_blck_size(int type)");
const typeSize = ask("size_t ggml_type_size(int type)");
const typeName = ask("str ggml_type_name(int type)");
const requiresImatrix = ask("bool ggml_quantize_requires_imatrix(int type)");
const traits = ask("void *ggml_get_type_traits(int type)");
/** GGML_TYPE_COUNT of ggml 0.25: what is asked of more is not answered. */
const typeCount = 43;

test("elementTypes: names, blocks and bytes are ggml's, of every type that it has", () => {
  const known = new Set<number>();
  for (let id = 0; id < typeCount; id++) if (Number(blockSize(id)) > 0) known.add(id);
  for (const [name, row] of Object.entries(elementTypes)) {
    if (!("id" in row)) continue;
    expect(known.delete(row.id), name).toBe(true);
    const { blockSize: elements, typeSize: bytes } = row;
    expect([name, elements, bytes]).toEqual([
      String(typeName(row.id)).toUpperCase(),
      Number(blockSize(row.id)),
      Number(typeSize(row.id)),
    ]);
    // Weights are read by way of F32: what ggml does not take there is no weight.
    const isRead = name === "F32" || Boolean(koffi.decode(traits(row.id), 40, "void *"));
    expect("fileType" in row, name).toBe(isRead);
    expect("isConversion" in row, name).toBe(isRead && !requiresImatrix(row.id));
  }
  expect([...known]).toEqual([]);
});

const [numRows, rowLength] = [3, 512];
const values = Float32Array.from({ length: numRows * rowLength }, (_, i) => Math.sin(i * i));

test("convertRows(): to every type gives ggml's bytes, from every type ggml's numbers", async () => {
  for (const type of tensorTypes) {
    if (isSlowlyMade(type)) continue;
    const expected = quantizeRows(ggml, type, values, rowLength);
    const made = new Uint8Array(numRows * rowBytes(type, rowLength));
    const rows = new Uint8Array(values.slice().buffer);
    await convertRows(ggml, "F32", type, rows, rowLength, new Float32Array(values.length), made);
    expect(Buffer.compare(made, expected), type).toBe(0);
    // A bit less halves the steps' number, and four times their squares; MXFP4's widen with the numbers.
    const numbers = dequantizeRows(ggml, type, expected);
    const [dot, norm] = numbers.reduce(([d, n], x, i) => [d + x * values[i]!, n + x * x], [0, 0]);
    const cosine = dot / Math.sqrt(norm * values.reduce((sum, x) => sum + x * x, 0));
    const bits = (8 * elementTypes[type].typeSize) / elementTypes[type].blockSize;
    expect(cosine, type).toBeGreaterThan(1 - 4 ** -Math.min(bits - 1, 6));
  }
});
