import { MaskTensors } from "./attention-mask.js";
import type { DevicePolicy, WeightPlace } from "./device-policy.js";
import type { Device, Ggml } from "./library.js";
import { tokenAttention } from "./token-attention.js";

/** Rows of one graph: more are no faster, and take more memory. */
const maxGraphRows = 512;

/**
 * A device that is asked for whole products and whole attention, and looks rows up in the CPU's memory. Nothing stops its
 * graphs in between, so nothing is split.
 */
export function plainPolicy(ggml: Ggml, device: Device, cpu: Device): DevicePolicy {
  const placeOn = ({ pointer }: Device): WeightPlace => {
    return { bufferType: ggml.symbols.ggml_backend_dev_buffer_type(pointer), isWrittenWhole: false };
  };
  const [onDevice, onHost] = [placeOn(device), placeOn(cpu)];
  return {
    rowGroup: 4,
    pieceStep: 1,
    maxNodeElements: Number.POSITIVE_INFINITY,
    graphRows: () => maxGraphRows,
    weightPlace: (_type, _ne, use) => (use === "lookup" ? onHost : onDevice),
    kernels: (graph) => {
      const masks = new MaskTensors(graph);
      return {
        product: (weights, x) => graph.mulMat(weights, x),
        attention: (q, k, v, mask, scale) => {
          const seen = masks.tensor(masks.whole(mask));
          const out = graph.flashAttention(graph.permute(q, [0, 2, 1, 3]), k, v, seen, scale);
          return graph.reshape(out, [q.ne[0] * q.ne[1], q.ne[2]]);
        },
        tokenAttention: (heads) => tokenAttention(graph, heads, true),
      };
    },
  };
}
