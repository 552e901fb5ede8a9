import koffi from "koffi";
import type { GgmlType } from "../files/element-types.js";
import { type AttentionMask, MaskTensors } from "./attention-mask.js";
import type { Graph } from "./graph.js";
import { supportsGreatest } from "./greatest.js";
import type { Device, Ggml } from "./library.js";
import type { Pointer } from "./symbols.js";
import { type Tensor, TensorContext } from "./tensor.js";
import { fusedTokenAttention, type TokenHeads } from "./token-attention.js";

/** ggml_backend_dev_props: 48 bytes, then booleans that say what the device can; the third is buffer_from_host_ptr. */
const takesHostMemoryOffset = 50;
const devicePropsBytes = 256;

/** A kind of memory that weights are put into. Equal ones are one object. */
export interface WeightPlace {
  readonly bufferType: Pointer;
  /** Whose memory it is. */
  readonly device: Device;
  /** Whether a tensor's bytes must be written in one call, since ggml lays them out in another order. */
  readonly isWrittenWhole: boolean;
  /** Whether the device takes tensors as they lie in the process' memory, mapped files' too. */
  readonly takesMapped: boolean;
}

/** A device's own memory. */
export function plainPlace({ symbols }: Ggml, device: Device): WeightPlace {
  const props = new Uint8Array(devicePropsBytes);
  symbols.ggml_backend_dev_get_props(device.pointer, props);
  return {
    bufferType: symbols.ggml_backend_dev_buffer_type(device.pointer),
    device,
    isWrittenWhole: false,
    takesMapped: props[takesHostMemoryOffset] === 1,
  };
}

/** The nodes of one graph that differ from device to device. */
export interface Kernels {
  /** Weights [in, out] times x [in, rows]: [out, rows]. */
  product(weights: Tensor, x: Tensor): Tensor;
  /** Weights [in, out, experts] of the experts [U, rows] of each row, times x [in, U or 1, rows]: [out, U, rows]. */
  expertProduct(weights: Tensor, x: Tensor, experts: Tensor): Tensor;
  /**
   * Attention of some rows over the keys and values of a mask, with sums in 32 bit.
   *
   * @param q [D, H, T] F32.
   * @param k [D, N, H'], F32 or F16; v likewise, of the same type.
   * @param scale what scores are multiplied by.
   * @returns [D * H, T] F32.
   */
  attention(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, scale: number): Tensor;
  /** Attention of one row of each of S sequences: [D * H, S] F32. */
  tokenAttention(heads: TokenHeads): Tensor;
}

export type GraphWork = "rows" | "tokens";

/** Products with a model's weights outside of ggml. */
export interface WeightProducts {
  /** What is added to the name of who computed a block. */
  readonly name: string;
  /** @throws Error where this processor does not compute as models need it. */
  check(): Promise<void>;
  /** Whether weights [K, N] of that type are multiplied there. */
  takes(type: GgmlType, ne: readonly number[]): boolean;
  /** Bytes of memory that weights [K, N] take there. */
  numBytes(ne: readonly number[]): number;
  /** @param bytes the weights in Q8_0. */
  add(weights: Tensor, bytes: Uint8Array): Promise<void>;
}

/** How models are computed on a kind of device: everything about graphs that differs from kind to kind. */
export interface DevicePolicy {
  /**
   * Rows that belong together start at multiples of this in a graph, and the graph's number of rows is a multiple of it: then
   * kernels give a row the same bytes wherever it stands.
   */
  readonly rowGroup: number;
  /** A graph of prompts and blocks has at least so many rows: fewer are multiplied by other kernels, with other sums. */
  readonly minRows: number;
  /** How the values lie that tokens are decoded over. */
  readonly decodeLayout: "rows" | "transposed";
  /** Whether greedy tokens are chosen by it, so that not all logits are read: `addGreatest()`. */
  readonly choosesGreatest: boolean;
  /** A prompt's pieces but the last have a multiple of this many rows, since fewer would cost as much. */
  readonly pieceStep: number;
  /** The most elements that one node copies, transposes or turns. */
  readonly maxNodeElements: number;
  /** The most rows of one graph. @param largestWeights elements of the largest weights that all rows are multiplied by. */
  graphRows(largestWeights: number): number;
  /** Whether weights of that type and shape need not become others while loading. @param use products or looking rows up. */
  takesWeights(type: GgmlType, ne: readonly number[], use: "product" | "lookup"): boolean;
  /** Where weights are put. @param use what they are for: products, looking rows up, or neither. */
  weightPlace(type: GgmlType, ne: readonly number[], use: "product" | "lookup" | "other"): WeightPlace;
  /** @param work what the graph computes: rows of prompts and blocks, or one token of each of several sequences. */
  kernels(graph: Graph, work: GraphWork): Kernels;
  /** Products with weights that ggml does not compute, where there are any. */
  readonly products?: WeightProducts | undefined;
}

/** Offset of the buffer in ggml_tensor, in bytes. */
const bufferOffset = 8;

/**
 * Whether a device multiplies by weights of this type and shape, [K, N] or [K, N, E] of experts, or looks up their rows.
 *
 * @param memory the kind of memory that they lie in. Default: any that the device reads.
 */
export function supportsWeights(
  ggml: Ggml,
  device: Device,
  type: GgmlType,
  ne: readonly number[],
  use: "product" | "lookup",
  memory?: Pointer,
): boolean {
  const { symbols } = ggml;
  using context = new TensorContext(ggml, Number(symbols.ggml_tensor_overhead()) * 5);
  const weights = context.newTensor("weights", type, ne);
  const [rowLength = 1] = ne;
  const rowsOf = (...sizes: number[]) => context.newTensor("x", "F32", [rowLength, ...sizes]).pointer;
  const operation =
    use === "lookup"
      ? symbols.ggml_get_rows(context.pointer, weights.pointer, context.newTensor("ids", "I32", [64]).pointer)
      : ne.length < 3
        ? symbols.ggml_mul_mat(context.pointer, weights.pointer, rowsOf(64))
        : symbols.ggml_mul_mat_id(
            context.pointer,
            weights.pointer,
            rowsOf(1, 64),
            context.newTensor("experts", "I32", [1, 64]).pointer,
          );
  // ggml asks for the memory that the weights lie in: an empty buffer of that kind answers.
  const buffer = memory === undefined ? undefined : symbols.ggml_backend_buft_alloc_buffer(memory, 0);
  if (memory !== undefined && !buffer) return false;
  if (buffer) koffi.encode(weights.pointer, bufferOffset, "void *", buffer);
  try {
    return Boolean(symbols.ggml_backend_dev_supports_op(device.pointer, operation));
  } finally {
    if (buffer) symbols.ggml_backend_buffer_free(buffer);
  }
}

/** Rows of one graph: more are no faster, and take more memory. */
const maxGraphRows = 512;
/** Up to 8 rows ggml's Vulkan kernels multiply row by row. */
const minDeviceRows = 16;

/**
 * A device that is asked for whole products and whole attention. It looks rows up itself where it can, else the CPU does in its own
 * memory, and the device waits for it. Nothing stops its graphs in between, so nothing is split.
 */
export function plainPolicy(ggml: Ggml, device: Device, cpu: Device): DevicePolicy {
  const [onDevice, onHost] = [plainPlace(ggml, device), plainPlace(ggml, cpu)];
  const takes = (one: Device, type: GgmlType, ne: readonly number[], use: "product" | "lookup") =>
    supportsWeights(ggml, one, type, ne, use);
  return {
    rowGroup: 4,
    minRows: minDeviceRows,
    decodeLayout: "rows",
    choosesGreatest: supportsGreatest(ggml, device),
    pieceStep: 1,
    maxNodeElements: Number.POSITIVE_INFINITY,
    graphRows: () => maxGraphRows,
    takesWeights: (type, ne, use) => takes(use === "lookup" ? cpu : device, type, ne, use),
    weightPlace: (type, ne, use) => (use === "lookup" && !takes(device, type, ne, use) ? onHost : onDevice),
    kernels: (graph) => {
      const masks = new MaskTensors(graph);
      return {
        product: (weights, x) => graph.summedInF32(graph.mulMat(weights, x), "ggml_mul_mat"),
        expertProduct: (weights, x, experts) => graph.mulMatId(weights, x, experts),
        attention: (q, k, v, mask, scale) => {
          const seen = masks.tensor(masks.whole(mask));
          const out = graph.flashAttention(graph.permute(q, [0, 2, 1, 3]), k, v, seen, scale);
          graph.summedInF32(out, "ggml_flash_attn_ext");
          return graph.reshape(out, [q.ne[0] * q.ne[1], q.ne[2]]);
        },
        tokenAttention: (heads) => fusedTokenAttention(graph, heads),
      };
    },
  };
}
