import koffi from "koffi";
import type { Ggml } from "./library.js";
import type { Bound, Pointer } from "./symbols.js";
import { type GgmlType, ggmlTypes, rowBytes } from "./types.js";

/**
 * Rows in another element type, by ggml's own reference routines.
 *
 * @param values rows of rowLength F32 elements, one after another.
 * @returns the rows' bytes in the type.
 * @throws RangeError if the values are no whole rows, or a row does not fill whole blocks of the type.
 */
export function quantizeRows(
  ggml: Ggml,
  type: GgmlType,
  values: Float32Array,
  rowLength: number,
): Uint8Array<ArrayBuffer> {
  const rows = values.length / rowLength;
  if (!Number.isInteger(rows))
    throw new RangeError(`Cannot convert ${values.length} elements to ${type}: rows of ${rowLength} are wanted`);
  const out = new Uint8Array(rowBytes(type, rowLength) * rows);
  if (type === "F32") out.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  else ggml.symbols.ggml_quantize_chunk(ggmlTypes[type].id, values, out, 0, rows, rowLength, null);
  return out;
}

/** Offset of to_float in ggml_type_traits: name, block size, interleaved block size, type size, is_quantized. */
const toFloatOffset = 40;
const toFloatPrototype = koffi.proto("void (const void *from, void *to, int64_t count)");

/**
 * Elements of any type as F32.
 * @param bytes whole blocks of the type.
 */
export function dequantizeRows(ggml: Ggml, type: GgmlType, bytes: Uint8Array): Float32Array<ArrayBuffer> {
  const { blockSize, typeSize } = ggmlTypes[type];
  if (bytes.byteLength % typeSize !== 0) {
    throw new RangeError(`Cannot convert ${bytes.byteLength} bytes of ${type}: blocks of ${typeSize} bytes are wanted`);
  }
  if (type === "F32") return new Float32Array(bytes.slice().buffer);
  const values = new Float32Array((bytes.byteLength / typeSize) * blockSize);
  const traits = ggml.symbols.ggml_get_type_traits(ggmlTypes[type].id);
  const toFloat = koffi.decode(koffi.decode(traits, toFloatOffset, "void *") as Pointer, toFloatPrototype) as Bound;
  toFloat(bytes, values, values.length);
  return values;
}

/**
 * Rows from one element type to another by way of F32, off the event loop.
 * @param bytes whole rows of rowLength elements.
 */
export async function convertRows(
  ggml: Ggml,
  from: GgmlType,
  to: GgmlType,
  bytes: Uint8Array,
  rowLength: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const values = dequantizeRows(ggml, from, bytes);
  const out = new Uint8Array(rowBytes(to, rowLength) * (values.length / rowLength));
  if (to === "F32") return new Uint8Array(values.buffer);
  await new Promise<void>((resolve, reject) => {
    const numRows = values.length / rowLength;
    ggml.symbols.ggml_quantize_chunk.async(ggmlTypes[to].id, values, out, 0, numRows, rowLength, null, (error) =>
      error ? reject(error) : resolve(),
    );
  });
  return out;
}
