import { availableParallelism } from "node:os";
import { callAsync, type Pointer } from "../symbols.js";
import { made, newTensor, type OpenVino, requireOk } from "./library.js";

/** How the IR calls element types in ports. */
const precisions = { i8: "I8", f16: "FP16", f32: "FP32", i64: "I64" } as const;

export type XmlType = keyof typeof precisions;

/** A layer of OpenVINO's IR: its inputs are the outputs of earlier ones, by their numbers. -1 is a size that is not known yet. */
export interface XmlLayer {
  readonly type: string;
  readonly data?: string;
  readonly inputs?: readonly number[];
  readonly output?: readonly [type: XmlType, sizes: readonly number[]];
}

/** What rows come in as. */
export function parameter(type: XmlType, sizes: readonly number[]): XmlLayer {
  const shape = sizes.map((n) => (n < 0 ? "?" : n)).join(",");
  return { type: "Parameter", data: `shape="${shape}" element_type="${type}"`, output: [type, sizes] };
}

/** Bytes offset..end of the model's constants. */
export function constant(type: XmlType, sizes: readonly number[], offset: number, end: number): XmlLayer {
  const data = `element_type="${type}" shape="${sizes.join(",")}" offset="${offset}" size="${end - offset}"`;
  return { type: "Const", data, output: [type, sizes] };
}

/** Another layer's output in another type. */
export function convert(type: XmlType, from: number, sizes: readonly number[]): XmlLayer {
  return { type: "Convert", data: `destination_type="${type}"`, inputs: [from], output: [type, sizes] };
}

/** @see OpenVINO's IR, version 11, with operations of opset1 where a layer names no other. */
function xmlOf(layers: readonly XmlLayer[]): string {
  const port = (id: number, [type, sizes]: Required<XmlLayer>["output"]) =>
    `<port id="${id}" precision="${precisions[type]}">${sizes.map((n) => `<dim>${n}</dim>`).join("")}</port>`;
  const outputOf = (id: number) => (layers[id] as XmlLayer).output as Required<XmlLayer>["output"];
  const xml = layers.map(({ type, data = "", inputs = [], output }, id) => {
    const from = inputs.map((input, i) => port(i, outputOf(input))).join("");
    const to = output ? `<output>${port(inputs.length, output)}</output>` : "";
    return `<layer id="${id}" name="${type}${id}" type="${type}" version="opset1"><data ${data}/><input>${from}</input>${to}</layer>`;
  });
  const edges = layers.flatMap(({ inputs = [] }, id) =>
    inputs.map((from, i) => {
      const fromPort = layers[from]?.inputs?.length ?? 0;
      return `<edge from-layer="${from}" from-port="${fromPort}" to-layer="${id}" to-port="${i}"/>`;
    }),
  );
  return `<?xml version="1.0"?><net name="part" version="11"><layers>${xml.join("")}</layers><edges>${edges.join("")}</edges></net>`;
}

export interface CompileOptions {
  /** OpenVINO's tensor with the bytes of the constants, the caller's. */
  readonly weights: Pointer;
  readonly threads: number;
  readonly properties?: Readonly<Record<string, string>>;
}

/** A compiled model with one output, and its one request: it computes one thing at a time. */
export class CompiledModel implements Disposable {
  constructor(
    private readonly openVino: OpenVino,
    private readonly compiled: Pointer,
    private readonly request: Pointer,
  ) {}

  /** Computes off the event loop. @param tensors the inputs and then the output: their types, sizes and addresses. */
  async infer(
    tensors: readonly (readonly [type: "F32" | "F16", sizes: readonly number[], address: Pointer])[],
  ): Promise<void> {
    const { openVino, request } = this;
    const { symbols } = openVino;
    const made: Pointer[] = [];
    try {
      for (const [i, [type, sizes, address]] of tensors.entries()) {
        const tensor = newTensor(openVino, type, sizes, address);
        made.push(tensor);
        const status =
          i < tensors.length - 1
            ? symbols.ov_infer_request_set_input_tensor_by_index(request, i, tensor)
            : symbols.ov_infer_request_set_output_tensor_by_index(request, 0, tensor);
        requireOk(openVino, status, "compute rows");
      }
      requireOk(openVino, await callAsync(symbols.ov_infer_request_infer, request), "compute rows");
    } finally {
      for (const tensor of made) symbols.ov_tensor_free(tensor);
    }
  }

  [Symbol.dispose](): void {
    const { symbols } = this.openVino;
    symbols.ov_infer_request_free(this.request);
    symbols.ov_compiled_model_free(this.compiled);
  }
}

/** Compiles for the CPU, off the event loop. */
export async function compileModel(
  openVino: OpenVino,
  core: Pointer,
  layers: readonly XmlLayer[],
  { weights, threads, properties = {} }: CompileOptions,
): Promise<CompiledModel> {
  const { symbols } = openVino;
  const action = "compile a model";
  const xml = xmlOf(layers);
  const model = made(openVino, action, (out) =>
    symbols.ov_core_read_model_from_memory_buffer(core, xml, Buffer.byteLength(xml), weights, out as never),
  );
  try {
    const settings = Object.entries({
      NUM_STREAMS: "1",
      INFERENCE_NUM_THREADS: String(threads),
      // All models share threads, as many as there are cores; else each has its own, which sleep.
      EXCLUSIVE_ASYNC_REQUESTS: threads >= availableParallelism() ? "YES" : "NO",
      INFERENCE_PRECISION_HINT: "f32",
      ...properties,
    }).map(([key, value]) => ({ key, value }));
    const out: [Pointer | null] = [null];
    const compile = symbols.ov_core_compile_model_props;
    const status = await callAsync(compile, core, model, "CPU", settings.length, settings as never, out as never);
    requireOk(openVino, status, action);
    const compiled = out[0] as Pointer;
    try {
      const request = made(openVino, action, (at) =>
        symbols.ov_compiled_model_create_infer_request(compiled, at as never),
      );
      return new CompiledModel(openVino, compiled, request);
    } catch (error) {
      symbols.ov_compiled_model_free(compiled);
      throw error;
    }
  } finally {
    symbols.ov_model_free(model);
  }
}
