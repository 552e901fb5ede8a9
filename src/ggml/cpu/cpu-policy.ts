import koffi from "koffi";
import type { GgmlType } from "../../files/element-types.js";
import { MaskTensors } from "../attention-mask.js";
import type { DevicePolicy, Kernels, WeightPlace } from "../device-policy.js";
import type { Graph } from "../graph.js";
import type { Device, Ggml } from "../library.js";
import type { Pointer } from "../symbols.js";
import { type Tensor, TensorContext } from "../tensor.js";
import { tokenAttention } from "../token-attention.js";
import { tiledAttention, tileRows } from "./attention.js";

const maxGraphRows = 512;
/** Up to here a head's keys stay in a core's own cache while the heads that share them take turns. */
const maxKeysByHead = 1536;

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

  /** Rows are looked up one by one, which repacked memory cannot do. */
  weightPlace(
    type: GgmlType,
    [rowLength = 1, rows = 1]: readonly number[],
    use: "product" | "lookup" | "other",
  ): WeightPlace {
    const place = use === "product" ? this.#repacked : undefined;
    return place && repacks(this.#ggml, this.#cpu, place.bufferType, type, [rowLength, rows]) ? place : this.#plain;
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
      const part = graph.mulMat(weights, rows);
      out = out === undefined ? part : graph.concat(out, part, 1);
    }
    return out as Tensor;
  }

  #productRows(numWeights: number): number {
    return Math.max(tileRows, Math.floor(this.#maxNodeFlops / (2 * numWeights) / tileRows) * tileRows);
  }
}

/** Offset of the buffer in ggml_tensor, in bytes. */
const bufferOffset = 8;

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

/** Whether that memory takes a product with weights of this type and shape [K, N]. */
function repacks(ggml: Ggml, cpu: Device, memory: Pointer, type: GgmlType, ne: readonly [number, number]): boolean {
  const { symbols } = ggml;
  using context = new TensorContext(ggml, Number(symbols.ggml_tensor_overhead()) * 4);
  const weights = context.newTensor("weights", type, ne);
  const rows = context.newTensor("rows", "F32", [ne[0], 64]);
  const product = symbols.ggml_mul_mat(context.pointer, weights.pointer, rows.pointer);
  // ggml asks for the memory that the weights lie in: an empty buffer of that kind answers.
  const buffer = symbols.ggml_backend_buft_alloc_buffer(memory, 0);
  if (!buffer) return false;
  koffi.encode(weights.pointer, bufferOffset, "void *", buffer);
  try {
    return Boolean(symbols.ggml_backend_dev_supports_op(cpu.pointer, product));
  } finally {
    symbols.ggml_backend_buffer_free(buffer);
  }
}
