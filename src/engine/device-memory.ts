import { elementTypeOf, type KVType } from "../files/element-types.js";
import type { Backend, TensorStorage } from "../ggml/backend.js";
import type { Tensor } from "../ggml/tensor.js";
import { type BlockKVShape, type BlockMemory, blockKVByteLength } from "../kv/block-kv.js";
import { KVRows, rowElements } from "../model/kv-rows.js";

/** The element type of an assembled context: blocks of bfloat16 are widened, for ggml's tiled attention takes F32 and F16. */
export function contextType(kvType: KVType): "F16" | "F32" {
  return kvType === "f16" ? "F16" : "F32";
}

/** A block KV's bytes in a device's memory, as one tensor that graphs read and write. */
export class DeviceBlockMemory implements BlockMemory {
  readonly byteLength: number;
  readonly #backend: Backend;
  readonly #storage: TensorStorage;
  readonly #shape: BlockKVShape;

  /** @throws Error if the device has not enough memory. */
  constructor(backend: Backend, shape: BlockKVShape) {
    this.byteLength = blockKVByteLength(shape);
    this.#backend = backend;
    this.#shape = shape;
    const ne = [2 * rowElements(shape, shape.numTokens)];
    this.#storage = backend.allocate([{ name: "block", type: elementTypeOf(shape.type), ne }]);
  }

  /** Keys before RoPE. */
  get keys(): KVRows {
    return this.#rows(0);
  }

  get values(): KVRows {
    return this.#rows(rowElements(this.#shape, this.#shape.numTokens));
  }

  read(): Uint8Array {
    return this.#backend.read(this.#tensor);
  }

  write(bytes: Uint8Array): void {
    this.#backend.set(this.#tensor, bytes);
  }

  [Symbol.dispose](): void {
    this.#storage[Symbol.dispose]();
  }

  #rows(offset: number): KVRows {
    return new KVRows(this.#shape, { tensor: this.#tensor, offset, capacity: this.#shape.numTokens });
  }

  get #tensor(): Tensor {
    return this.#storage.get("block");
  }
}
