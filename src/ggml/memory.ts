import type { GgmlType } from "../files/element-types.js";
import type { StartedDevice } from "./device.js";
import type { WeightPlace } from "./device-policy.js";
import type { Device, Ggml } from "./library.js";
import type { MappedFile } from "./mapped-file.js";
import { callAsync, type Pointer } from "./symbols.js";
import { byteLength, describe, planTensor, type Tensor, TensorContext } from "./tensor.js";

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

  /** Where the memory begins. */
  get address(): Pointer {
    return this.context.ggml.symbols.ggml_backend_buffer_get_base(this.buffer);
  }

  /** Gives a graph's tensor, which has no address yet, so many bytes into this memory. */
  place(tensor: Tensor, offset: number): void {
    const { symbols } = this.context.ggml;
    symbols.ggml_backend_tensor_alloc(this.buffer, tensor.pointer, this.address + BigInt(offset));
  }

  /** Says that nobody writes it any more: ggml computes where weights lie. */
  holdsWeights(): void {
    this.context.ggml.symbols.ggml_backend_buffer_set_usage(this.buffer, bufferUsageWeights);
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

/** The kind of the CPU's memory that a device copies from and to by itself, where it has one. */
export function hostMemory({ ggml, device, cpu }: StartedDevice): Pointer {
  const { symbols } = ggml;
  const pinned = symbols.ggml_backend_dev_host_buffer_type(device.pointer);
  return pinned || symbols.ggml_backend_dev_buffer_type(cpu.device.pointer);
}

/** Memory of a kind for tensors; undefined where there is not enough. */
export function allocateFrom(
  ggml: Ggml,
  bufferType: Pointer,
  tensors: readonly NewTensor[],
  isOnHost = false,
): TensorStorage | undefined {
  const { symbols } = ggml;
  return withTensors(ggml, tensors, isOnHost, (context, made) => {
    const buffer = symbols.ggml_backend_alloc_ctx_tensors_from_buft(context.pointer, bufferType);
    if (!buffer) return undefined;
    return new TensorStorage(context, buffer, made, Number(symbols.ggml_backend_buffer_get_size(buffer)));
  });
}

/** Describes tensors and has memory found for them, which owns the descriptions; where there is none, they are freed. */
function withTensors(
  ggml: Ggml,
  tensors: readonly NewTensor[],
  isOnHost: boolean,
  place: (context: TensorContext, made: ReadonlyMap<string, Tensor>) => TensorStorage | undefined,
): TensorStorage | undefined {
  const context = new TensorContext(ggml, Number(ggml.symbols.ggml_tensor_overhead()) * (tensors.length + 1));
  let storage: TensorStorage | undefined;
  try {
    const made = new Map<string, Tensor>();
    for (const { name, type, ne } of tensors) {
      made.set(name, { ...context.newTensor(name, type, ne), ...(isOnHost && { isOnHost }) });
    }
    storage = place(context, made);
    return storage;
  } finally {
    if (storage === undefined) context[Symbol.dispose]();
  }
}

/** The memory of a device and of the CPU beside it: gives tensors a place, and moves bytes in and out. */
export class DeviceMemory {
  /** The files that tensors lie in. */
  protected readonly mappedFiles = new Set<MappedFile>();

  /** @param started stays the caller's. */
  constructor(protected readonly started: StartedDevice) {}

  /** What one buffer of the device holds at most: several tensors are spread over several, one tensor is in one. */
  get maxBufferBytes(): number {
    const { ggml, device } = this.started;
    const type = ggml.symbols.ggml_backend_dev_buffer_type(device.pointer);
    return Number(ggml.symbols.ggml_backend_buft_get_max_size(type));
  }

  /**
   * Memory for tensors.
   * @param place of weights. Default: the device's memory, for what kernels write.
   * @throws Error if the device has not enough memory.
   */
  allocate(tensors: readonly NewTensor[], place?: WeightPlace): TensorStorage {
    const { ggml, device } = this.started;
    const { symbols } = ggml;
    const bufferType = place?.bufferType ?? symbols.ggml_backend_dev_buffer_type(device.pointer);
    const storage = allocateFrom(ggml, bufferType, tensors, this.#isOnHost(place?.device));
    if (storage === undefined) {
      const sizes = tensors.map(({ name, type, ne }) => byteLength(planTensor(name, type, ne)));
      const wanted = sizes.reduce((sum, bytes) => sum + bytes, 0);
      const isTooLarge = Math.max(...sizes) > this.maxBufferBytes;
      const why = isTooLarge ? `its buffers hold ${this.maxBufferBytes} bytes at most` : "not enough memory";
      throw new Error(`Cannot allocate ${wanted} bytes on device "${device.name}": ${why}`);
    }
    if (place !== undefined) storage.holdsWeights();
    return storage;
  }

  /**
   * The same in the CPU's memory, where the device copies from and to by itself if it can.
   * @throws Error if there is not enough memory.
   */
  allocateOnHost(tensors: readonly NewTensor[]): TensorStorage {
    const { ggml } = this.started;
    const storage = allocateFrom(ggml, hostMemory(this.started), tensors, true);
    if (storage === undefined) throw new Error("Cannot allocate memory beside the device: there is not enough");
    return storage;
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
    const { ggml } = this.started;
    const { symbols } = ggml;
    return withTensors(ggml, tensors, this.#isOnHost(device), (context, made) => {
      const largest = Math.max(...[...made.values()].map(byteLength));
      const { address, byteLength: size } = file;
      const buffer = symbols.ggml_backend_dev_buffer_from_host_ptr(device.pointer, address, size, largest);
      if (!buffer) return undefined;
      for (const { name, offset } of tensors) {
        symbols.ggml_backend_tensor_alloc(buffer, (made.get(name) as Tensor).pointer, address + BigInt(offset));
      }
      this.mappedFiles.add(file);
      const wanted = [...made.values()].reduce((sum, tensor) => sum + byteLength(tensor), 0);
      const storage = new TensorStorage(context, buffer, made, wanted, () => {
        this.mappedFiles.delete(file);
        file[Symbol.dispose]();
      });
      storage.holdsWeights();
      return storage;
    });
  }

  /** Whether that is the CPU beside the device. */
  #isOnHost(device: Device | undefined): boolean {
    return device !== undefined && device !== this.started.device && device === this.started.cpu.device;
  }

  /** Writes bytes into a tensor, off the event loop, for they may be many. */
  async write(tensor: Tensor, data: Uint8Array, offset = 0): Promise<void> {
    requireInside(tensor, "write", offset, data.byteLength);
    if (data.byteLength === 0) return;
    await callAsync(this.started.ggml.symbols.ggml_backend_tensor_set, tensor.pointer, data, offset, data.byteLength);
  }

  /** Copies a tensor's bytes to an address, or from there, off the event loop and beside graphs that leave them alone. */
  async copy(
    direction: "to" | "from",
    tensor: Tensor,
    address: Pointer,
    offset: number,
    length: number,
  ): Promise<void> {
    requireInside(tensor, "copy", offset, length);
    const { ggml_backend_tensor_get: get, ggml_backend_tensor_set: set } = this.started.ggml.symbols;
    await callAsync(direction === "to" ? get : set, tensor.pointer, address, offset, length);
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
