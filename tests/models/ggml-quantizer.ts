import { findGgmlDirectory, loadGgml } from "../../src/ggml/library.js";
import { quantizeRows } from "../../src/ggml/quantize.js";
import type { QuantizeRows } from "./random-gguf.js";

/** ggml's own packing of rows, for `writeRandomGguf`. @throws Error where ggml is not installed. */
export async function ggmlQuantizer(): Promise<QuantizeRows> {
  const ggml = loadGgml(await findGgmlDirectory("cpu"));
  return (type, values, rowLength) => quantizeRows(ggml, type, values, rowLength);
}
