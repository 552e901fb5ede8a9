import koffi from "koffi";
import type { GgmlType } from "../../files/element-types.js";
import { MaskTensors } from "../attention-mask.js";
import {
  type DevicePolicy,
  type GraphWork,
  type Kernels,
  plainPlace,
  supportsWeights,
  type WeightPlace,
} from "../device-policy.js";
import type { Graph } from "../graph.js";
import type { Device, Ggml } from "../library.js";
import type { OpenVinoProducts } from "../openvino/products.js";
import type { Pointer } from "../symbols.js";
import { isContiguous, type Tensor } from "../tensor.js";
import { tokenAttention } from "../token-attention.js";
import { tiledAttention, tileRows } from "./attention.js";

const maxGraphRows = 512;
/** A product of rows with experts of their own takes so many times as long as one with shared weights. */
const expertSlowness = 4;
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
  readonly minRows = 0;
  readonly decodeLayout = "transposed";
  /** Logits lie where they are read: looking at them once here takes as long as the four passes of a graph. */
  readonly choosesGreatest = false;
  readonly pieceStep = tileRows;
  /** Some 20 ms on one thread. */
  readonly maxNodeElements = 1 << 22;
  readonly #ggml: Ggml;
  readonly #cpu: Device;
  readonly #threads: number;
  readonly #maxNodeFlops: number;
  readonly #plain: WeightPlace;
  readonly #repacked: WeightPlace | undefined;

  /**
   * @param nodeFlopsPerThread the most work of one node on one thread, in floating-point operations: some 30 to 80 ms.
   * @param products with weights in OpenVINO: rows of prompts and blocks are multiplied there, so that a block's bytes do not depend on how
   * many rows its graph has. Single tokens are ggml's, which reads fewer bytes a weight.
   */
  constructor(
    ggml: Ggml,
    cpu: Device,
    threads: number,
    nodeFlopsPerThread = 3e9,
    readonly products?: OpenVinoProducts,
  ) {
    this.#ggml = ggml;
    this.#cpu = cpu;
    this.#threads = threads;
    this.#maxNodeFlops = nodeFlopsPerThread * threads;
    this.#plain = plainPlace(ggml, cpu);
    const repacked = repackedMemory(ggml, cpu);
    const anew = { device: cpu, isWrittenWhole: true, takesMapped: false };
    this.#repacked = repacked === undefined ? undefined : { bufferType: repacked, ...anew };
  }

  /** So many that no product's node takes long: a multiple of a tile's rows. */
  graphRows(largestWeights: number): number {
    return this.products ? maxGraphRows : Math.min(maxGraphRows, this.#productRows(largestWeights));
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

  kernels(graph: Graph, work: GraphWork): Kernels {
    const masks = new MaskTensors(graph);
    const limits = { threads: this.#threads, maxNodeFlops: this.#maxNodeFlops };
    return {
      product: (weights, x) => {
        const outer = work === "rows" && isContiguous(x) ? this.products?.of(weights) : undefined;
        if (outer === undefined) return this.#product(graph, weights, x);
        const out = graph.mulMat(weights, x);
        return graph.computedBy(out, (addressOf) => outer.multiply(addressOf(x), addressOf(out), x.ne[1]));
      },
      expertProduct: (weights, x, experts) => this.#expertProduct(graph, weights, x, experts),
      attention: (q, k, v, mask, scale) =>
        work === "rows" && this.products
          ? this.products.attention.addTo(masks, q, k, v, mask, scale)
          : tiledAttention(masks, q, k, v, mask, scale, limits),
      tokenAttention: (heads) => tokenAttention(graph, heads, heads.keys.ne[1] <= maxKeysByHead),
    };
  }

  #product(graph: Graph, weights: Tensor, x: Tensor): Tensor {
    const [size, numRows] = x.ne;
    return inParts(graph, numRows, this.#productRows(weights.ne[0] * weights.ne[1]), 1, (row, count) => {
      const rows = count === numRows ? x : graph.view(x, [size, count], [x.nb[1]], row * x.nb[1]);
      return this.#part(graph, weights, rows);
    });
  }

  #part(graph: Graph, weights: Tensor, x: Tensor): Tensor {
    const count = x.ne[1];
    if (count !== this.rowGroup || !panelTypes.test(weights.type)) return graph.mulMat(weights, x);
    const product = graph.mulMat(weights, graph.pad(x, [0, panelRows - count]));
    return graph.view(product, [product.ne[0], count], [product.nb[1]], 0);
  }

  /** Nodes of as many rows as stay below the limit. ggml computes each row alone, whoever else chose the same expert. */
  #expertProduct(graph: Graph, weights: Tensor, x: Tensor, experts: Tensor): Tensor {
    const flopsOfRow = 2 * weights.ne[0] * weights.ne[1] * experts.ne[0];
    const maxRows = Math.max(1, Math.floor(this.#maxNodeFlops / expertSlowness / flopsOfRow));
    const [size, numUsed, numRows] = x.ne;
    return inParts(graph, numRows, maxRows, 2, (row, count) => {
      if (count === numRows) return this.#expertPart(graph, weights, x, experts);
      const rows = graph.view(x, [size, numUsed, count], [x.nb[1], x.nb[2]], row * x.nb[2]);
      const chosen = graph.view(experts, [experts.ne[0], count], [experts.nb[1]], row * experts.nb[1]);
      return this.#expertPart(graph, weights, rows, chosen);
    });
  }

  /**
   * Weights of some types are multiplied by another kernel where many rows chose the same expert, if they lie side by side: they are
   * taken in two halves, each a window, so that a row's bytes do not depend on the others.
   *
   * @param weights of two experts or more: those of one lie side by side in a window too.
   */
  #expertPart(graph: Graph, weights: Tensor, x: Tensor, experts: Tensor): Tensor {
    if (!panelTypes.test(weights.type)) return graph.mulMatId(weights, x, experts);
    const [size, numRows, numExperts] = weights.ne;
    const half = Math.ceil(numRows / 2);
    const part = (first: number, count: number): Tensor => {
      const [, row, expert] = weights.nb;
      const window = graph.view(weights, [size, count, numExperts], [row, expert], first * row);
      return graph.mulMatId(window, x, experts);
    };
    return numRows === 1 ? part(0, 1) : graph.concat(part(0, half), part(half, numRows - half), 0);
  }

  #productRows(numWeights: number): number {
    return Math.max(tileRows, Math.floor(this.#maxNodeFlops / (2 * numWeights) / tileRows) * tileRows);
  }
}

/** Computes rows in nodes of so many at most, and puts them side by side. @param axis the size that counts rows. */
function inParts(
  graph: Graph,
  numRows: number,
  maxRows: number,
  axis: 1 | 2,
  part: (row: number, count: number) => Tensor,
): Tensor {
  let out: Tensor | undefined;
  for (let row = 0; row < numRows; row += maxRows) {
    const rows = part(row, Math.min(maxRows, numRows - row));
    out = out === undefined ? rows : graph.concat(out, rows, axis);
  }
  return out as Tensor;
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
