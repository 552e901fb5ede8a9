import { elementTypes, type GgmlType, rowBytes } from "../../src/files/element-types.js";
import { findGgmlDirectory, type Ggml, loadGgml } from "../../src/ggml/library.js";
import { convertRows } from "../../src/ggml/quantize.js";
import type { QuantizeRows } from "./random-gguf.js";

/** ggml's own packing of rows, for `writeRandomGguf`. @throws Error where ggml is not installed. */
export async function ggmlQuantizer(): Promise<QuantizeRows> {
  const ggml = loadGgml(await findGgmlDirectory("cpu"));
  return (type, values, rowLength) => quantizeRows(ggml, type, values, rowLength);
}

/** Rows of F32 elements in another type. */
export function quantizeRows(ggml: Ggml, type: GgmlType, values: Float32Array, rowLength: number): Uint8Array {
  const numRows = values.length / rowLength;
  const out = new Uint8Array(rowBytes(type, rowLength) * numRows);
  ggml.symbols.ggml_quantize_chunk(elementTypes[type].id, values, out, 0, numRows, rowLength, null);
  return out;
}

/** Elements of any type as F32. @param bytes whole blocks of the type. */
export async function dequantizeRows(ggml: Ggml, type: GgmlType, bytes: Uint8Array): Promise<Float32Array> {
  const { blockSize, typeSize } = elementTypes[type];
  const values = new Float32Array((bytes.byteLength / typeSize) * blockSize);
  await convertRows(ggml, type, "F32", bytes, values.length, values, new Uint8Array(values.byteLength));
  return values;
}
