import type { GgmlType } from "../files/element-types.js";
import type { StartedDevice } from "./device.js";
import type { WeightPlace } from "./device-policy.js";
import type { Device } from "./library.js";
import type { MappedFile } from "./mapped-file.js";
import { callAsync, type Pointer } from "./symbols.js";
import { byteLength, describe, type Tensor, TensorContext } from "./tensor.js";

const bufferUsageWeights = 1;

interface NewTensor {
  readonly name: string;
  readonly type: GgmlType;
  readonly ne: readonly number[];
}

/** Memory on a device for the tensors of one context; it owns both. */
export class TensorStorage implements Disposable {
  #disposed = false;

  constructor(
    private readonly context: TensorContext,
    private readonly buffer: Pointer,
    readonly tensors: ReadonlyMap<string, Tensor>,
    readonly byteLength: number,
    private readonly onFreed: () => void = () => undefined,
  ) {
    this.context.ggml.live.buffers += 1;
    this.context.ggml.live.bufferBytes += byteLength;
  }

  get(name: string): Tensor {
    const tensor = this.tensors.get(name);
    if (tensor === undefined) throw new RangeError(`Cannot find tensor "${name}" among ${this.tensors.size}`);
    return tensor;
  }

  /** Sets every byte, so that memory that no kernel wrote holds no NaN. */
  clear(): void {
    this.context.ggml.symbols.ggml_backend_buffer_clear(this.buffer, 0);
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    const { live, symbols } = this.context.ggml;
    symbols.ggml_backend_buffer_free(this.buffer);
    live.buffers -= 1;
    live.bufferBytes -= this.byteLength;
    this.context[Symbol.dispose]();
    this.onFreed();
  }
}

/** The memory of a device and of the CPU beside it: gives tensors a place, and moves bytes in and out. */
export class DeviceMemory {
  /** The files that tensors lie in. */
  protected readonly mappedFiles = new Set<MappedFile>();

  /** @param started stays the caller's. */
  constructor(protected readonly started: StartedDevice) {}

  /**
   * Memory for tensors.
   * @param place of weights. Default: the device's memory, for what kernels write.
   * @throws Error if the device has not enough memory.
   */
  allocate(tensors: readonly NewTensor[], place?: WeightPlace): TensorStorage {
    const { ggml, device } = this.started;
    const { symbols } = ggml;
    return this.#withTensors(tensors, (context, made, wanted) => {
      const bufferType = place?.bufferType ?? symbols.ggml_backend_dev_buffer_type(device.pointer);
      const buffer = symbols.ggml_backend_alloc_ctx_tensors_from_buft(context.pointer, bufferType);
      if (!buffer) throw new Error(`Cannot allocate ${wanted} bytes on device "${device.name}": not enough memory`);
      if (place !== undefined) symbols.ggml_backend_buffer_set_usage(buffer, bufferUsageWeights);
      return new TensorStorage(context, buffer, made, Number(symbols.ggml_backend_buffer_get_size(buffer)));
    });
  }

  /**
   * Tensors where they lie in a mapped file, which the storage owns from then on; graphs are not computed once it has changed.
   * @param device that takes them there: `WeightPlace.takesMapped`.
   * @param tensors each with its first byte in the file, a multiple of `tensorAlignment`.
   * @returns undefined if the device does not take this file's bytes; the file stays the caller's then.
   */
  map(
    file: MappedFile,
    device: Device,
    tensors: readonly (NewTensor & { readonly offset: number })[],
  ): TensorStorage | undefined {
    const { symbols } = this.started.ggml;
    return this.#withTensors(tensors, (context, made, wanted) => {
      const largest = Math.max(...[...made.values()].map(byteLength));
      const { address, byteLength: size } = file;
      const buffer = symbols.ggml_backend_dev_buffer_from_host_ptr(device.pointer, address, size, largest);
      if (!buffer) {
        context[Symbol.dispose]();
        return undefined;
      }
      symbols.ggml_backend_buffer_set_usage(buffer, bufferUsageWeights);
      for (const { name, offset } of tensors) {
        symbols.ggml_backend_tensor_alloc(buffer, (made.get(name) as Tensor).pointer, address + BigInt(offset));
      }
      this.mappedFiles.add(file);
      return new TensorStorage(context, buffer, made, wanted, () => {
        this.mappedFiles.delete(file);
        file[Symbol.dispose]();
      });
    });
  }

  #withTensors<T>(
    tensors: readonly NewTensor[],
    place: (context: TensorContext, made: ReadonlyMap<string, Tensor>, wantedBytes: number) => T,
  ): T {
    const { ggml } = this.started;
    const context = new TensorContext(ggml, Number(ggml.symbols.ggml_tensor_overhead()) * (tensors.length + 1));
    try {
      const made = new Map<string, Tensor>();
      for (const { name, type, ne } of tensors) made.set(name, context.newTensor(name, type, ne));
      return place(
        context,
        made,
        [...made.values()].reduce((sum, tensor) => sum + byteLength(tensor), 0),
      );
    } catch (error) {
      context[Symbol.dispose]();
      throw error;
    }
  }

  /** Writes bytes into a tensor, off the event loop, for they may be many. */
  async write(tensor: Tensor, data: Uint8Array, offset = 0): Promise<void> {
    requireInside(tensor, "write", offset, data.byteLength);
    if (data.byteLength === 0) return;
    await callAsync(this.started.ggml.symbols.ggml_backend_tensor_set, tensor.pointer, data, offset, data.byteLength);
  }

  /** Writes bytes into a tensor at once. */
  set(tensor: Tensor, data: Uint8Array, offset = 0): void {
    requireInside(tensor, "write", offset, data.byteLength);
    if (data.byteLength === 0) return;
    this.started.ggml.symbols.ggml_backend_tensor_set(tensor.pointer, data, offset, data.byteLength);
  }

  /** A copy of a tensor's bytes. */
  read(tensor: Tensor, offset = 0, length = byteLength(tensor) - offset): Uint8Array<ArrayBuffer> {
    requireInside(tensor, "read", offset, length);
    const data = new Uint8Array(length);
    if (length > 0) this.started.ggml.symbols.ggml_backend_tensor_get(tensor.pointer, data, offset, length);
    return data;
  }

  /** A copy of an F32 tensor. */
  readFloats(tensor: Tensor): Float32Array<ArrayBuffer> {
    if (tensor.type !== "F32") throw new TypeError(`Cannot read ${describe(tensor)} as F32`);
    return new Float32Array(this.read(tensor).buffer);
  }
}

function requireInside(tensor: Tensor, action: string, offset: number, length: number): void {
  if (!(offset >= 0 && length >= 0 && offset + length <= byteLength(tensor))) {
    throw new RangeError(
      `Cannot ${action} ${length} bytes at ${offset} of ${describe(tensor)}: it has ${byteLength(tensor)} bytes`,
    );
  }
}
