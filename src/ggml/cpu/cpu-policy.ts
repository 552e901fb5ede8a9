import koffi from "koffi";
import type { GgmlType } from "../../files/element-types.js";
import { MaskTensors } from "../attention-mask.js";
import { type DevicePolicy, type Kernels, supportsWeights, type WeightPlace } from "../device-policy.js";
import type { Graph } from "../graph.js";
import type { Device, Ggml } from "../library.js";
import type { Pointer } from "../symbols.js";
import type { Tensor } from "../tensor.js";
import { tokenAttention } from "../token-attention.js";
import { tiledAttention, tileRows } from "./attention.js";

const maxGraphRows = 512;
/** Up to here a head's keys stay in a core's own cache while the heads that share them take turns. */
const maxKeysByHead = 1536;

/** From so many rows on, weights of these types are multiplied by another kernel, so that one group takes a second along. @see iqp.cpp */
const panelRows = 8;
const panelTypes = /^IQ[1-4]_[XSM]/;

/**
 * The CPU's kernels take long for large nodes, and a graph is stopped between two nodes only: products and attention are
 * split so that no node does. Weights lie in memory that ggml lays out for this CPU where it can.
 */
export class CpuPolicy implements DevicePolicy {
  /** ggml's repacked kernels take rows by four, others choose by whether there is more than one. */
  readonly rowGroup = 4;
  readonly pieceStep = tileRows;
  /** Some 20 ms on one thread. */
  readonly maxNodeElements = 1 << 22;
  readonly #ggml: Ggml;
  readonly #cpu: Device;
  readonly #threads: number;
  readonly #maxNodeFlops: number;
  readonly #plain: WeightPlace;
  readonly #repacked: WeightPlace | undefined;

  /** @param nodeFlopsPerThread the most work of one node on one thread, in floating-point operations: some 30 to 80 ms. */
  constructor(ggml: Ggml, cpu: Device, threads: number, nodeFlopsPerThread = 3e9) {
    this.#ggml = ggml;
    this.#cpu = cpu;
    this.#threads = threads;
    this.#maxNodeFlops = nodeFlopsPerThread * threads;
    this.#plain = { bufferType: ggml.symbols.ggml_backend_dev_buffer_type(cpu.pointer), isWrittenWhole: false };
    const repacked = repackedMemory(ggml, cpu);
    this.#repacked = repacked === undefined ? undefined : { bufferType: repacked, isWrittenWhole: true };
  }

  /** So many that no product's node takes long: a multiple of a tile's rows. */
  graphRows(largestWeights: number): number {
    return Math.min(maxGraphRows, this.#productRows(largestWeights));
  }

  takesWeights(type: GgmlType, ne: readonly number[], use: "product" | "lookup"): boolean {
    return supportsWeights(this.#ggml, this.#cpu, type, ne, use);
  }

  /** Rows are looked up one by one, which repacked memory cannot do. */
  weightPlace(type: GgmlType, ne: readonly number[], use: "product" | "lookup" | "other"): WeightPlace {
    const place = use === "product" ? this.#repacked : undefined;
    const isRepacked = place && supportsWeights(this.#ggml, this.#cpu, type, ne, "product", place.bufferType);
    return isRepacked ? place : this.#plain;
  }

  kernels(graph: Graph): Kernels {
    const masks = new MaskTensors(graph);
    const limits = { threads: this.#threads, maxNodeFlops: this.#maxNodeFlops };
    return {
      product: (weights, x) => this.#product(graph, weights, x),
      attention: (q, k, v, mask, scale) => tiledAttention(masks, q, k, v, mask, scale, limits),
      tokenAttention: (heads) => tokenAttention(graph, heads, heads.keys.ne[1] <= maxKeysByHead),
    };
  }

  #product(graph: Graph, weights: Tensor, x: Tensor): Tensor {
    const maxRows = this.#productRows(weights.ne[0] * weights.ne[1]);
    let out: Tensor | undefined;
    for (let row = 0; row < x.ne[1]; row += maxRows) {
      const count = Math.min(maxRows, x.ne[1] - row);
      const rows = count === x.ne[1] ? x : graph.view(x, [x.ne[0], count], [x.nb[1]], row * x.nb[1]);
      const part = this.#part(graph, weights, rows);
      out = out === undefined ? part : graph.concat(out, part, 1);
    }
    return out as Tensor;
  }

  #part(graph: Graph, weights: Tensor, x: Tensor): Tensor {
    const count = x.ne[1];
    if (count !== this.rowGroup || !panelTypes.test(weights.type)) return graph.mulMat(weights, x);
    const product = graph.mulMat(weights, graph.pad(x, [0, panelRows - count]));
    return graph.view(product, [product.ne[0], count], [product.nb[1]], 0);
  }

  #productRows(numWeights: number): number {
    return Math.max(tileRows, Math.floor(this.#maxNodeFlops / (2 * numWeights) / tileRows) * tileRows);
  }
}

/** The memory in which ggml lays weights out anew for this CPU's kernels; undefined where it has none. */
function repackedMemory(ggml: Ggml, cpu: Device): Pointer | undefined {
  const extra = ggml.proc(cpu, "ggml_backend_dev_get_extra_bufts")?.(cpu.pointer);
  if (!extra) return undefined;
  // A list of buffer types that ends with null.
  for (let offset = 0; ; offset += 8) {
    const type = koffi.decode(extra, offset, "void *") as Pointer | null;
    if (!type) return undefined;
    if (String(ggml.symbols.ggml_backend_buft_name(type)) === "CPU_REPACK") return type;
  }
}
