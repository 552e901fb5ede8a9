import koffi from "koffi";
import { elementTypes, type GgmlType, rowBytes } from "../files/element-types.js";
import type { Ggml } from "./library.js";
import type { Bound, Pointer } from "./symbols.js";

/** Offset of to_float in ggml_type_traits: name, block size, interleaved block size, type size, is_quantized. */
const toFloatOffset = 40;
const toFloatPrototype = koffi.proto("void (const void *from, void *to, int64_t count)");

/** The F32 numbers of whole rows, into `values`, at once: nothing happens beside it. */
export function dequantizeInto(ggml: Ggml, type: GgmlType, bytes: Uint8Array, values: Float32Array): void {
  if (type === "F32") {
    new Uint8Array(values.buffer, values.byteOffset, values.byteLength).set(bytes);
    return;
  }
  const traits = ggml.symbols.ggml_get_type_traits(elementTypes[type].id);
  const toFloat = koffi.decode(koffi.decode(traits, toFloatOffset, "void *") as Pointer, toFloatPrototype) as Bound;
  toFloat(bytes, values, values.length);
}

/**
 * Rows from one element type to another by way of F32, off the event loop. It allocates nothing, so that loading gigabytes
 * leaves no garbage.
 *
 * @param bytes whole rows of rowLength elements.
 * @param values room for as many F32 elements.
 * @param out the rows' bytes in the other type.
 * @param change is given the elements before they are converted.
 * @throws RangeError if the three are not of one number of rows.
 */
export async function convertRows(
  ggml: Ggml,
  from: GgmlType,
  to: GgmlType,
  bytes: Uint8Array,
  rowLength: number,
  values: Float32Array,
  out: Uint8Array,
  change?: (values: Float32Array) => Promise<void>,
): Promise<void> {
  const numRows = values.length / rowLength;
  if (
    bytes.byteLength !== rowBytes(from, rowLength) * numRows ||
    out.byteLength !== rowBytes(to, rowLength) * numRows
  ) {
    throw new RangeError(
      `Cannot convert ${bytes.byteLength} bytes of ${from} to ${out.byteLength} of ${to}: ${numRows} rows of ${rowLength} are wanted`,
    );
  }
  dequantizeInto(ggml, from, bytes, values);
  await change?.(values);
  await new Promise<void>((resolve, reject) => {
    ggml.symbols.ggml_quantize_chunk.async(elementTypes[to].id, values, out, 0, numRows, rowLength, null, (error) =>
      error ? reject(error) : resolve(),
    );
  });
}
