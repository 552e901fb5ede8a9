import koffi from "koffi";
import type { GgmlType } from "../../files/element-types.js";
import type { Device, Ggml } from "../library.js";
import type { Pointer } from "../symbols.js";
import { TensorContext } from "../tensor.js";

/** Offset of the buffer in ggml_tensor, in bytes. */
const bufferOffset = 8;

/** The memory in which ggml lays weights out anew for this CPU's kernels; undefined where it has none. */
export function repackedMemory(ggml: Ggml, cpu: Device): Pointer | undefined {
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
export function repacks(
  ggml: Ggml,
  cpu: Device,
  memory: Pointer,
  type: GgmlType,
  ne: readonly [number, number],
): boolean {
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
