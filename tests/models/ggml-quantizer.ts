import { elementTypes, type GgmlType, rowBytes } from "../../src/files/element-types.js";
import { findGgmlDirectory, type Ggml, loadGgml } from "../../src/ggml/library.js";
import { dequantizeInto } from "../../src/ggml/quantize.js";
import { toF16 } from "./half-floats.js";
import { Random } from "./random.js";
import type { QuantizeRows } from "./random-gguf.js";

/** ggml's own packing of rows, for `writeRandomGguf`. @throws Error where ggml is not installed. */
export async function ggmlQuantizer(): Promise<QuantizeRows> {
  const ggml = loadGgml(await findGgmlDirectory("cpu"));
  return (type, values, rowLength) => quantizeRows(ggml, type, values, rowLength);
}

/** Types that ggml takes up to 16 s to prepare for making, once a process. Reading them takes no preparation. */
export function isSlowlyMade(type: string): boolean {
  return /^iq[12]_/i.test(type);
}

/** Rows of F32 elements in another type; of those that are slowly made, random ones of the same size. */
export function quantizeRows(ggml: Ggml, type: GgmlType, values: Float32Array, rowLength: number): Uint8Array {
  const numRows = values.length / rowLength;
  const out = new Uint8Array(rowBytes(type, rowLength) * numRows);
  if (isSlowlyMade(type)) fillRandomly(ggml, type, out, values);
  else ggml.symbols.ggml_quantize_chunk(elementTypes[type].id, values, out, 0, numRows, rowLength, null);
  return out;
}

/** Blocks of random bits, with a scale that makes their numbers as large as `values` are. */
function fillRandomly(ggml: Ggml, type: GgmlType, out: Uint8Array, values: Float32Array): void {
  const { typeSize } = elementTypes[type];
  const random = new Random(new Int32Array(values.buffer, values.byteOffset)[0]!, type);
  for (let at = 0; at < out.length; at++) out[at] = random.below(256);
  const rms = (numbers: Float32Array) => Math.sqrt(numbers.reduce((sum, x) => sum + x * x, 0) / numbers.length);
  const setScale = (scale: number) => {
    const half = toF16(Float32Array.of(scale))[0]!;
    for (let block = 0; block < out.length; block += typeSize) {
      if (type === "IQ1_M") {
        // Four bits of it end each of the last four words.
        for (let i = 0; i < 4; i++) {
          const at = block + typeSize - 7 + 2 * i;
          out[at] = (out[at]! & 15) | (((half >> (4 * i)) & 15) << 4);
        }
      } else out.set([half & 255, half >> 8], block);
    }
  };
  setScale(1);
  const numbers = new Float32Array(values.length);
  dequantizeInto(ggml, type, out, numbers);
  setScale(rms(values) / rms(numbers));
}

/** Elements of any type as F32. @param bytes whole blocks of the type. */
export function dequantizeRows(ggml: Ggml, type: GgmlType, bytes: Uint8Array): Float32Array {
  const { blockSize, typeSize } = elementTypes[type];
  const values = new Float32Array((bytes.byteLength / typeSize) * blockSize);
  dequantizeInto(ggml, type, bytes, values);
  return values;
}
