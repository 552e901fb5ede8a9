import koffi from "koffi";
import { elementTypes, type GgmlType, rowBytes } from "../../files/element-types.js";
import type { WeightProducts } from "../device-policy.js";
import type { Pointer } from "../symbols.js";
import type { Tensor } from "../tensor.js";
import { OpenVinoAttention } from "./attention.js";
import { type CompiledModel, compileModel, constant, convert, parameter, type XmlLayer } from "./compiled-model.js";
import { bytesOf, made, newTensor, type OpenVino } from "./library.js";

/** Weights and rows are multiplied as whole numbers of 8 bits, with a factor for so many of them. */
const groupSize = 32;
const { typeSize: groupBytes } = elementTypes.Q8_0;
const scaleBytes = 2;
const constantAlignment = 64;
const oneInF16 = [0, 0x3c];
/** Sizes of rows and weights, and numbers of rows, that `check()` tries. */
const checkSize = 256;
const checkRows = [1, 3, 17, 48, 130, 300] as const;
/** Rows of one call: each compiled product keeps memory for its largest. */
const maxRows = 256;

/**
 * Products with weights in OpenVINO, which multiplies rows by 8-bit weights some three times as fast as ggml where the processor has
 * instructions for it. It owns what was compiled.
 *
 * A row's bytes do not depend on the other rows of its product: sums of whole numbers are exact, and those of groups are added in one
 * order.
 */
export class OpenVinoProducts implements WeightProducts, Disposable {
  readonly name: string;
  readonly attention: OpenVinoAttention;
  readonly #core: Pointer;
  readonly #byWeights = new Map<Pointer, OpenVinoProduct>();
  #disposed = false;

  constructor(
    readonly openVino: OpenVino,
    private readonly threads: number,
  ) {
    this.name = `OpenVINO ${openVino.version} int8`;
    this.#core = made(openVino, "start OpenVINO", (out) => openVino.symbols.ov_core_create(out as never));
    this.attention = new OpenVinoAttention(openVino, this.#core, threads);
  }

  /**
   * Holds this processor to what models need: right products, and the same bytes of a row among any others.
   * @throws Error where it is not so, or OpenVINO fails.
   */
  async check(): Promise<void> {
    const [size, numRows] = [checkSize, Math.max(...checkRows)];
    // Weights that pick one number of a row each.
    const bytes = new Uint8Array((size * size * groupBytes) / groupSize);
    for (let out = 0; out < size; out++) {
      const group = ((out * size) / groupSize + Math.floor(out / groupSize)) * groupBytes;
      bytes.set(oneInF16, group);
      bytes[group + scaleBytes + (out % groupSize)] = 1;
    }
    using product = await this.#compile(size, size, bytes);
    const memory = koffi.alloc("float", 2 * size * numRows);
    try {
      const x = koffi.address(memory);
      const rowBytesOf = (row: number) => BigInt(row * size * Float32Array.BYTES_PER_ELEMENT);
      const out = x + rowBytesOf(numRows);
      const rows = new Float32Array(koffi.view(x, Number(rowBytesOf(numRows))));
      const results = new Float32Array(koffi.view(out, Number(rowBytesOf(numRows))));
      for (let i = 0; i < rows.length; i++) rows[i] = Math.sin(i);
      await product.multiply(x, out, numRows);
      const all = results.slice();
      const largest = all.reduce((most, value, i) => Math.max(most, Math.abs(value - (rows[i] as number))), 0);
      if (!(largest <= 1 / 127)) throw this.#unfit(`a product is ${largest} off, at most 1/127 is wanted`);
      for (const count of checkRows) {
        const first = Math.floor((numRows - count) / 2);
        results.fill(0);
        await product.multiply(x + rowBytesOf(first), out, count);
        const same = all.subarray(first * size, (first + count) * size);
        if (Buffer.compare(asBytes(results.subarray(0, count * size)), asBytes(same)) !== 0) {
          throw this.#unfit(`a row among ${count} has other bytes than among ${numRows}`);
        }
      }
    } finally {
      koffi.free(memory);
    }
  }

  #unfit(why: string): Error {
    return new Error(`Cannot use OpenVINO ${this.openVino.version} on this processor: ${why}`);
  }

  /** Whether weights [K, N] of that type are multiplied here: not those that are more precise than 8 bits. */
  takes(type: GgmlType, ne: readonly number[]): boolean {
    const { blockSize, typeSize } = elementTypes[type];
    const [size = 0, , ...outer] = ne;
    return (
      blockSize > 1 &&
      typeSize / blockSize <= groupBytes / groupSize &&
      size % groupSize === 0 &&
      !outer.some((n) => n > 1)
    );
  }

  /** Bytes that weights [K, N] take here: OpenVINO keeps them as they were given, as its kernels read them, and the last results. */
  numBytes([size = 0, numRows = 0]: readonly number[]): number {
    return (2 * rowBytes("Q8_0", size) + maxRows * Float32Array.BYTES_PER_ELEMENT) * numRows;
  }

  /**
   * Compiles the product with some weights, off the event loop.
   * @param weights [K, N], in ggml's memory.
   * @param bytes the same in Q8_0.
   */
  async add(weights: Tensor, bytes: Uint8Array): Promise<void> {
    const [size, numRows] = weights.ne;
    this.#byWeights.set(weights.pointer, await this.#compile(size, numRows, bytes));
  }

  async #compile(size: number, numRows: number, bytes: Uint8Array): Promise<OpenVinoProduct> {
    const { openVino, threads } = this;
    // In OpenVINO's own memory: it may use weights where they lie, and frees them when it no longer does.
    const layout = layoutOf(size, numRows);
    const weights = newTensor(openVino, "U8", [layout.end]);
    try {
      const constants = bytesOf(openVino, weights, layout.end);
      new BigInt64Array(constants, layout.shape, 2).set([BigInt(numRows), BigInt(size)]);
      splitGroups(bytes, new Uint8Array(constants, layout.numbers));
      const properties = { DYNAMIC_QUANTIZATION_GROUP_SIZE: String(groupSize) };
      const model = await compileModel(openVino, this.#core, productLayers(size, numRows), {
        weights,
        threads,
        properties,
      });
      const product = new OpenVinoProduct(model, size, numRows);
      try {
        await product.prepare();
        return product;
      } catch (error) {
        product[Symbol.dispose]();
        throw error;
      }
    } finally {
      openVino.symbols.ov_tensor_free(weights);
    }
  }

  /** The product with these weights, if it was compiled. */
  of(weights: Tensor): OpenVinoProduct | undefined {
    return this.#byWeights.get(weights.pointer);
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const product of this.#byWeights.values()) product[Symbol.dispose]();
    this.attention[Symbol.dispose]();
    this.openVino.symbols.ov_core_free(this.#core);
  }
}

/** One compiled product: rows [R, K] F32 by weights [N, K]. */
export class OpenVinoProduct implements Disposable {
  constructor(
    private readonly model: CompiledModel,
    private readonly size: number,
    private readonly numOut: number,
  ) {}

  /** Has the weights laid out anew, which OpenVINO would do with the first rows. */
  async prepare(): Promise<void> {
    const memory = koffi.alloc("float", this.size + this.numOut);
    try {
      const x = koffi.address(memory);
      await this.multiply(x, x + BigInt(this.size * Float32Array.BYTES_PER_ELEMENT), 1);
    } finally {
      koffi.free(memory);
    }
  }

  /**
   * Multiplies rows, off the event loop.
   *
   * @param x where rows [R, K] F32 lie side by side.
   * @param out where [R, N] F32 are written.
   * @throws Error if OpenVINO fails.
   */
  async multiply(x: Pointer, out: Pointer, numRows: number): Promise<void> {
    const at = (start: Pointer, row: number, width: number) =>
      start + BigInt(row * width * Float32Array.BYTES_PER_ELEMENT);
    for (let row = 0; row < numRows; row += maxRows) {
      const count = Math.min(maxRows, numRows - row);
      await this.model.infer([
        ["F32", [count, this.size], at(x, row, this.size)],
        ["F32", [count, this.numOut], at(out, row, this.numOut)],
      ]);
    }
  }

  [Symbol.dispose](): void {
    this.model[Symbol.dispose]();
  }
}

function asBytes({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** Q8_0 has a factor before each group; OpenVINO wants all numbers, then all factors. */
function splitGroups(bytes: Uint8Array, out: Uint8Array): void {
  const numGroups = bytes.byteLength / groupBytes;
  let [from, numbers, scales] = [0, 0, numGroups * groupSize];
  for (let group = 0; group < numGroups; group++) {
    out[scales++] = bytes[from++] as number;
    out[scales++] = bytes[from++] as number;
    for (let i = 0; i < groupSize; i++) out[numbers++] = bytes[from++] as number;
  }
}

/** Where the parts of a product's constants begin, in bytes: the weights' shape, their numbers, their factors. */
function layoutOf(size: number, numRows: number) {
  const numbers = constantAlignment;
  const scales = numbers + size * numRows;
  return { shape: 0, numbers, scales, end: scales + (size / groupSize) * numRows * scaleBytes };
}

/** x times numbers times factors, spelled as OpenVINO recognizes compressed weights. */
function productLayers(size: number, numRows: number): readonly XmlLayer[] {
  const at = layoutOf(size, numRows);
  const numbers = [numRows, size / groupSize, groupSize];
  const scales = [numRows, size / groupSize, 1];
  return [
    parameter("f32", [-1, size]),
    constant("i8", numbers, at.numbers, at.scales),
    convert("f32", 1, numbers),
    constant("f16", scales, at.scales, at.end),
    convert("f32", 3, scales),
    { type: "Multiply", data: 'auto_broadcast="numpy"', inputs: [2, 4], output: ["f32", numbers] },
    constant("i64", [2], at.shape, at.shape + 16),
    { type: "Reshape", data: 'special_zero="false"', inputs: [5, 6], output: ["f32", [numRows, size]] },
    { type: "MatMul", data: 'transpose_a="false" transpose_b="true"', inputs: [0, 7], output: ["f32", [-1, numRows]] },
    { type: "Result", inputs: [8] },
  ];
}
