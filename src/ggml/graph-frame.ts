import type { GgmlType } from "../files/element-types.js";
import type { Ggml } from "./library.js";
import type { Operation, Pointer } from "./symbols.js";
import {
  byteLength,
  contiguousStrides,
  type Dims,
  describe,
  planTensor,
  type Tensor,
  TensorContext,
} from "./tensor.js";

/** The most tensors of one graph: ggml's hash tables and schedules are made for so many. */
export const maxGraphTensors = 30_000;

/** A tensor whose data come from JavaScript. */
export interface GraphInput {
  readonly tensor: Tensor;
  readonly data: ArrayBufferView;
  /** Whether it is read in the CPU's memory, beside a device that has its own. */
  isOnHost: boolean;
}

/** Computes a node outside of ggml, off the event loop. @param addressOf where a tensor's bytes lie. */
export type OuterCompute = (addressOf: (tensor: Tensor) => Pointer) => Promise<void>;

/**
 * A compute graph under construction: its inputs, its outputs and its room; `Graph` has the operations. Shapes are innermost first
 * here, as in ggml.h. The graph owns the descriptions of its tensors, no data. It has room for `maxGraphTensors` from the start: what no tensor uses is never touched, so it costs addresses, not memory.
 *
 * A graph that is only counted asks ggml nothing, and holds as many as it is given.
 */
export class GraphFrame implements Disposable {
  protected readonly native: { readonly context: TensorContext; readonly graph: Pointer } | undefined;
  #numTensors = 0;
  readonly #inputs: GraphInput[] = [];
  readonly #outer = new Map<Pointer, OuterCompute>();

  constructor(
    readonly ggml: Ggml,
    use: "computed" | "counted" = "computed",
  ) {
    if (use === "counted") return;
    const { symbols } = ggml;
    const tensorBytes = Number(symbols.ggml_tensor_overhead()) * maxGraphTensors;
    const graphBytes = Number(symbols.ggml_graph_overhead_custom(maxGraphTensors, false));
    const context = new TensorContext(ggml, tensorBytes + graphBytes);
    this.native = { context, graph: symbols.ggml_new_graph_custom(context.pointer, maxGraphTensors, false) };
  }

  get pointer(): Pointer {
    if (this.native === undefined) throw new Error("Cannot compute a graph: it was only counted");
    return this.native.graph;
  }

  /** What computing copies in once the graph has memory. */
  get inputs(): readonly GraphInput[] {
    return this.#inputs;
  }

  /** The nodes that ggml does not compute, by their address. */
  get outerNodes(): ReadonlyMap<Pointer, OuterCompute> {
    return this.#outer;
  }

  /**
   * Has a node computed by another than ggml, which lays its memory out all the same and has all that it reads computed before.
   * @returns the node.
   */
  computedBy(out: Tensor, compute: OuterCompute): Tensor {
    if (this.native) this.#outer.set(out.pointer, compute);
    return out;
  }

  /** Inputs, results and windows. */
  get numTensors(): number {
    return this.#numTensors;
  }

  /**
   * A tensor whose data come from JavaScript when the graph is computed.
   * @param make gives the data, if the graph is not only counted.
   * @throws RangeError if the data are not exactly the tensor's bytes.
   */
  input(name: string, type: GgmlType, ne: readonly number[], make: ArrayBufferView | (() => ArrayBufferView)): Tensor {
    this.#takeRoom();
    if (this.native === undefined) return planTensor(name, type, ne);
    const tensor = this.native.context.newTensor(name, type, ne);
    const data = typeof make === "function" ? make() : make;
    if (byteLength(tensor) !== data.byteLength) {
      throw new RangeError(
        `Cannot take input ${describe(tensor)}: ${data.byteLength} bytes given, ${byteLength(tensor)} wanted`,
      );
    }
    this.ggml.symbols.ggml_set_input(tensor.pointer);
    this.#inputs.push({ tensor, data, isOnHost: false });
    return tensor;
  }

  /** Marks a tensor whose data are read after computing, and adds what it needs to the graph. */
  output(t: Tensor): Tensor {
    if (this.native) this.ggml.symbols.ggml_set_output(t.pointer);
    return this.expand(t);
  }

  /** Adds a tensor and all that it needs to the graph, in this order. */
  expand(t: Tensor): Tensor {
    if (this.native) this.ggml.symbols.ggml_build_forward_expand(this.native.graph, t.pointer);
    return t;
  }

  [Symbol.dispose](): void {
    this.native?.context[Symbol.dispose]();
  }

  /** ggml ends the process where a graph has more tensors than room. */
  #takeRoom(): void {
    if (this.native && this.#numTensors === maxGraphTensors) {
      throw new RangeError(`Cannot add to a graph: it holds ${maxGraphTensors} tensors, as many as it has room for`);
    }
    this.#numTensors += 1;
  }

  protected op(name: Operation, type: GgmlType, ne: Dims, ...args: (Pointer | number | null)[]): Tensor {
    return { pointer: this.call(name, ...args), name: name.slice(5), type, ne, nb: contiguousStrides(type, ne) };
  }

  protected call(name: Operation, ...args: (Pointer | number | null)[]): Pointer {
    this.#takeRoom();
    return this.native ? this.ggml.symbols[name](this.native.context.pointer, ...args) : 0n;
  }
}
