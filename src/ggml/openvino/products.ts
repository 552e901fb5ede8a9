import koffi from "koffi";
import { elementTypes, type GgmlType, rowBytes } from "../../files/element-types.js";
import type { WeightProducts } from "../device-policy.js";
import type { RowProduct } from "../graph-frame.js";
import { callAsync, type Pointer } from "../symbols.js";
import type { Tensor } from "../tensor.js";
import { made, newTensor, type OpenVino, requireOk } from "./library.js";

/** Weights and rows are multiplied as whole numbers of 8 bits, with a factor for so many of them. */
const groupSize = 32;
const { typeSize: groupBytes } = elementTypes.Q8_0;
const scaleBytes = 2;
const constantAlignment = 64;
/** How the IR calls element types in ports. */
const precisions = { i8: "I8", f16: "FP16", i64: "I64" } as const;

type Output = readonly [precision: string, sizes: readonly number[]];

/** A layer of the IR: its inputs are the outputs of earlier ones, by their numbers. */
interface XmlLayer {
  readonly type: string;
  readonly data?: string;
  readonly inputs?: readonly number[];
  readonly output?: Output;
}

/** Fewer rows on a second thread cost more than they save. */
const minRowsOfThread = 16;

/**
 * Products with weights in OpenVINO, which multiplies rows by 8-bit weights some three times as fast as ggml where the processor has
 * instructions for it. It owns what was compiled.
 *
 * A row's bytes do not depend on the other rows of its product: sums of whole numbers are exact, and those of groups are added in one
 * order. So rows are shared out to threads, each of which has a request of its own.
 */
export class OpenVinoProducts implements WeightProducts, Disposable {
  readonly name: string;
  readonly #core: Pointer;
  readonly #byWeights = new Map<Pointer, OpenVinoProduct>();
  #disposed = false;

  constructor(
    readonly openVino: OpenVino,
    private readonly threads: number,
  ) {
    this.name = `OpenVINO ${openVino.version} int8`;
    this.#core = made(openVino, "start OpenVINO", (out) => openVino.symbols.ov_core_create(out as never));
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

  /** Bytes that weights [K, N] take here. */
  numBytes([size = 0, numRows = 0]: readonly number[]): number {
    return rowBytes("Q8_0", size) * numRows;
  }

  /**
   * Compiles the product with some weights, off the event loop.
   * @param weights [K, N], in ggml's memory.
   * @param bytes the same in Q8_0.
   */
  async add(weights: Tensor, bytes: Uint8Array): Promise<void> {
    const [size, numRows] = weights.ne;
    this.#byWeights.set(weights.pointer, await compile(this.openVino, this.#core, size, numRows, bytes, this.threads));
  }

  /** The product with these weights, if it was compiled. */
  of(weights: Tensor): OpenVinoProduct | undefined {
    return this.#byWeights.get(weights.pointer);
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const product of this.#byWeights.values()) product[Symbol.dispose]();
    this.openVino.symbols.ov_core_free(this.#core);
  }
}

/** One compiled product: rows [R, K] F32 by weights [N, K]. */
export class OpenVinoProduct implements RowProduct, Disposable {
  constructor(
    private readonly openVino: OpenVino,
    private readonly size: number,
    private readonly numOut: number,
    private readonly compiled: Pointer,
    private readonly requests: readonly Pointer[],
  ) {}

  /**
   * Multiplies rows, off the event loop.
   *
   * @param x where rows [R, K] F32 lie side by side.
   * @param out where [R, N] F32 are written.
   * @throws Error if OpenVINO fails.
   */
  async multiply(x: Pointer, out: Pointer, numRows: number, threads: number): Promise<void> {
    const most = Math.min(threads, this.requests.length, Math.max(1, Math.floor(numRows / minRowsOfThread)));
    const rowsOfThread = Math.ceil(numRows / most);
    const parts = this.requests.slice(0, Math.ceil(numRows / rowsOfThread)).map((request, i) => {
      const first = i * rowsOfThread;
      return this.#infer(request, x, out, first, Math.min(rowsOfThread, numRows - first));
    });
    // All come to their end before anybody may free the memory.
    for (const end of await Promise.allSettled(parts)) if (end.status === "rejected") throw end.reason;
  }

  async #infer(request: Pointer, x: Pointer, out: Pointer, first: number, numRows: number): Promise<void> {
    const { openVino, size, numOut } = this;
    const { symbols } = openVino;
    const action = "multiply by weights";
    const at = (start: Pointer, width: number) => start + BigInt(first * width * Float32Array.BYTES_PER_ELEMENT);
    const input = newTensor(openVino, "F32", [numRows, size], at(x, size));
    const output = newTensor(openVino, "F32", [numRows, numOut], at(out, numOut));
    try {
      requireOk(openVino, symbols.ov_infer_request_set_input_tensor_by_index(request, 0, input), action);
      requireOk(openVino, symbols.ov_infer_request_set_output_tensor_by_index(request, 0, output), action);
      requireOk(openVino, await callAsync(symbols.ov_infer_request_infer, request), action);
    } finally {
      symbols.ov_tensor_free(input);
      symbols.ov_tensor_free(output);
    }
  }

  [Symbol.dispose](): void {
    const { symbols } = this.openVino;
    for (const request of this.requests) symbols.ov_infer_request_free(request);
    symbols.ov_compiled_model_free(this.compiled);
  }
}

async function compile(
  openVino: OpenVino,
  core: Pointer,
  size: number,
  numRows: number,
  bytes: Uint8Array,
  threads: number,
): Promise<OpenVinoProduct> {
  const { symbols } = openVino;
  const action = "compile a product";
  // In OpenVINO's own memory: it may use weights where they lie, and frees them when it no longer does.
  const layout = layoutOf(size, numRows);
  const weights = newTensor(openVino, "U8", [layout.end]);
  let model: Pointer | undefined;
  try {
    const data = made(openVino, action, (out) => symbols.ov_tensor_data(weights, out as never));
    const constants = koffi.view(data, layout.end);
    new BigInt64Array(constants, layout.shape, 2).set([BigInt(numRows), BigInt(size)]);
    splitGroups(bytes, new Uint8Array(constants, layout.numbers));
    const xml = productXml(size, numRows);
    model = made(openVino, action, (out) =>
      symbols.ov_core_read_model_from_memory_buffer(core, xml, Buffer.byteLength(xml), weights, out as never),
    );
    const compiled = await compileModel(openVino, core, model);
    const requests = Array.from({ length: threads }, () =>
      made(openVino, action, (out) => symbols.ov_compiled_model_create_infer_request(compiled, out as never)),
    );
    return new OpenVinoProduct(openVino, size, numRows, compiled, requests);
  } finally {
    if (model !== undefined) symbols.ov_model_free(model);
    symbols.ov_tensor_free(weights);
  }
}

async function compileModel(openVino: OpenVino, core: Pointer, model: Pointer): Promise<Pointer> {
  // No threads of its own: a request is computed by the thread that asks.
  const properties = Object.entries({
    NUM_STREAMS: "0",
    INFERENCE_NUM_THREADS: "1",
    ENABLE_CPU_PINNING: "NO",
    INFERENCE_PRECISION_HINT: "f32",
    DYNAMIC_QUANTIZATION_GROUP_SIZE: String(groupSize),
  }).map(([key, value]) => ({ key, value }));
  const out: [Pointer | null] = [null];
  const call = openVino.symbols.ov_core_compile_model_props;
  const status = await callAsync(call, core, model, "CPU", properties.length, properties as never, out as never);
  requireOk(openVino, status, "compile a product");
  return out[0] as Pointer;
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

/**
 * x times numbers times factors, spelled as OpenVINO recognizes compressed weights.
 * @see OpenVINO's IR, version 11, with operations of opset1.
 */
function productXml(size: number, numRows: number): string {
  const at = layoutOf(size, numRows);
  const numbers = [numRows, size / groupSize, groupSize];
  const scales = [numRows, size / groupSize, 1];
  const weights = [numRows, size];
  const port = (id: number, precision: string, sizes: readonly number[]) =>
    `<port id="${id}" precision="${precision}">${sizes.map((n) => `<dim>${n}</dim>`).join("")}</port>`;
  const constant = (type: string, sizes: readonly number[], offset: number, end: number) => ({
    type: "Const",
    data: `element_type="${type}" shape="${sizes.join(",")}" offset="${offset}" size="${end - offset}"`,
    output: [precisions[type as keyof typeof precisions], sizes] as const,
  });
  const toF32 = (sizes: readonly number[]) => ({
    type: "Convert",
    data: 'destination_type="f32"',
    output: ["FP32", sizes] as const,
  });
  const layers: readonly XmlLayer[] = [
    { type: "Parameter", data: `shape="?,${size}" element_type="f32"`, output: ["FP32", [-1, size]] },
    constant("i8", numbers, at.numbers, at.scales),
    { ...toF32(numbers), inputs: [1] },
    constant("f16", scales, at.scales, at.end),
    { ...toF32(scales), inputs: [3] },
    { type: "Multiply", data: 'auto_broadcast="numpy"', inputs: [2, 4], output: ["FP32", numbers] },
    constant("i64", [2], at.shape, at.shape + 16),
    { type: "Reshape", data: 'special_zero="false"', inputs: [5, 6], output: ["FP32", weights] },
    { type: "MatMul", data: 'transpose_a="false" transpose_b="true"', inputs: [0, 7], output: ["FP32", [-1, numRows]] },
    { type: "Result", inputs: [8] },
  ];
  const xml = layers.map(({ type, data = "", inputs = [], output }, id) => {
    const from = inputs.map((input, i) => port(i, ...((layers[input] as XmlLayer).output as Output))).join("");
    const to = output ? `<output>${port(inputs.length, ...output)}</output>` : "";
    return `<layer id="${id}" name="${type}${id}" type="${type}" version="opset1"><data ${data}/><input>${from}</input>${to}</layer>`;
  });
  const edges = layers.flatMap(({ inputs = [] }, id) =>
    inputs.map((from, i) => {
      const fromPort = layers[from]?.inputs?.length ?? 0;
      return `<edge from-layer="${from}" from-port="${fromPort}" to-layer="${id}" to-port="${i}"/>`;
    }),
  );
  return `<?xml version="1.0"?><net name="product" version="11"><layers>${xml.join("")}</layers><edges>${edges.join("")}</edges></net>`;
}
