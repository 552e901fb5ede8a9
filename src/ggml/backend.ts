import koffi from "koffi";
import type { GgmlType } from "../files/element-types.js";
import { type Graph, maxGraphTensors } from "./graph.js";
import type { Device, Ggml } from "./library.js";
import type { Bound, NativeArgument, Pointer } from "./symbols.js";
import { byteLength, describe, type Tensor, TensorContext } from "./tensor.js";

/** Schedules that are kept for the next prepared graphs. */
const maxSpareSchedules = 4;
const minScheduleNodes = 4096;

/** Weights that a graph may read beside its own tensors: ggml ends the process where a schedule has no room for both. */
const maxWeights = 2_768;
const maxScheduleNodes = maxGraphTensors + maxWeights;

/** Offset of ne[0] in ggml_tensor, in bytes. */
const neOffset = 16;
/** Offset of the buffer in ggml_tensor, in bytes. */
const bufferOffset = 8;
const bufferUsageWeights = 1;
const maxThreads = 512;
const statusAborted = 1;

export interface BackendOptions {
  /** ggml's name of the device, for instance "CPU" or "CUDA0"; the first GPU of the library, else the CPU, where left out. */
  readonly device?: string;
  /** CPU threads, 1 to 512. */
  readonly threads: number;
}

/** Memory on a device for the tensors of one context; it owns both. */
export class TensorStorage implements Disposable {
  #disposed = false;

  constructor(
    private readonly context: TensorContext,
    private readonly buffer: Pointer,
    readonly tensors: ReadonlyMap<string, Tensor>,
    readonly byteLength: number,
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
  }
}

/** What places a graph's nodes on the device's backends, and owns the memory of its intermediate results. */
interface Schedule {
  readonly pointer: Pointer;
  readonly maxNodes: number;
}

/**
 * A graph that is computed again and again, each time with its inputs as they are then: it keeps the memory of its
 * intermediate results. It does not own the graph, which must outlive it.
 */
export interface PreparedGraph extends Disposable {
  readonly graph: Graph;
}

/**
 * A device that computes graphs, one at a time in the order of the calls, off the event loop.
 * It owns the native backends, their thread pool and the memory of intermediate results.
 */
export class Backend implements Disposable {
  readonly device: Device;
  readonly threads: number;
  readonly #cpu: Device;
  /** The device's backend, then the CPU's where that is another: what the device can't do, the CPU does. */
  readonly #backends: Pointer[];
  /** Of graphs that are computed once. */
  readonly #schedule: Schedule;
  readonly #prepared = new Map<PreparedGraph, Schedule>();
  readonly #spare: Schedule[] = [];
  readonly #threadpool: Pointer | undefined;
  readonly #stop: StopFlag;
  #turn: Promise<unknown> = Promise.resolve();
  #numComputing = 0;
  #disposed = false;

  /** @throws RangeError for a device that the library does not have, or a wrong number of threads. */
  constructor(
    readonly ggml: Ggml,
    options: BackendOptions,
  ) {
    const { symbols } = ggml;
    if (!Number.isInteger(options.threads) || options.threads < 1 || options.threads > maxThreads) {
      throw new RangeError(`Cannot use ${options.threads} threads: an integer from 1 to ${maxThreads} is wanted`);
    }
    this.threads = options.threads;
    this.device = chooseDevice(ggml, options.device);
    this.#cpu = ggml.devices.find((device) => device.kind === "cpu") as Device;
    const wanted = this.device === this.#cpu ? [this.#cpu] : [this.device, this.#cpu];
    this.#backends = wanted.map((device) => {
      const backend = symbols.ggml_backend_dev_init(device.pointer, null);
      if (!backend) throw new Error(`Cannot start device "${device.name}" (${device.description})`);
      ggml.live.backends += 1;
      return backend;
    });
    const cpuBackend = this.#backends.at(-1) as Pointer;
    this.#stop = new StopFlag(ggml);
    this.#cpuProc("ggml_backend_set_n_threads")(cpuBackend, this.threads);
    this.#cpuProc("ggml_backend_set_abort_callback")(cpuBackend, symbols.isEmptyAddress, this.#stop.pointer);
    this.#threadpool = this.threads > 1 ? this.#newThreadpool(cpuBackend) : undefined;
    this.#schedule = this.#newSchedule(maxScheduleNodes);
  }

  /** Bytes of intermediate results that the device keeps from graph to graph. */
  get computeBytes(): number {
    if (this.#disposed) return 0;
    const schedules = [this.#schedule, ...this.#prepared.values(), ...this.#spare];
    const size = (schedule: Schedule, backend: Pointer) =>
      Number(this.ggml.symbols.ggml_backend_sched_get_buffer_size(schedule.pointer, backend));
    return schedules.reduce(
      (sum, schedule) => sum + this.#backends.reduce((part, backend) => part + size(schedule, backend), 0),
      0,
    );
  }

  /**
   * Memory for tensors.
   * @param place "device" for what kernels read and write; "repacked" for weights that supportsRepacked agreed to.
   * @throws Error if the device has not enough memory.
   */
  allocate(
    tensors: readonly { readonly name: string; readonly type: GgmlType; readonly ne: readonly number[] }[],
    place: "device" | "repacked" | "host" = "device",
    usage: "weights" | "any" = "any",
  ): TensorStorage {
    const { symbols } = this.ggml;
    const context = new TensorContext(this.ggml, Number(symbols.ggml_tensor_overhead()) * (tensors.length + 1));
    try {
      const made = new Map<string, Tensor>();
      for (const { name, type, ne } of tensors) made.set(name, context.newTensor(name, type, ne));
      const bufferType = place === "repacked" ? this.#repackedType() : this.#bufferType(place);
      if (bufferType === undefined)
        throw new Error(`Cannot repack weights: device "${this.device.name}" has no such memory`);
      const buffer = symbols.ggml_backend_alloc_ctx_tensors_from_buft(context.pointer, bufferType);
      const wanted = [...made.values()].reduce((sum, tensor) => sum + byteLength(tensor), 0);
      if (!buffer)
        throw new Error(`Cannot allocate ${wanted} bytes on device "${this.device.name}": not enough memory`);
      if (usage === "weights") symbols.ggml_backend_buffer_set_usage(buffer, bufferUsageWeights);
      return new TensorStorage(context, buffer, made, Number(symbols.ggml_backend_buffer_get_size(buffer)));
    } catch (error) {
      context[Symbol.dispose]();
      throw error;
    }
  }

  /** Whether the CPU's repacked memory takes a product with weights of this type and shape [K, N]. */
  supportsRepacked(type: GgmlType, ne: readonly [number, number]): boolean {
    const { symbols } = this.ggml;
    const bufferType = this.#repackedType();
    if (bufferType === undefined) return false;
    using context = new TensorContext(this.ggml, Number(symbols.ggml_tensor_overhead()) * 4);
    const weights = context.newTensor("weights", type, ne);
    const rows = context.newTensor("rows", "F32", [ne[0], 64]);
    const product = symbols.ggml_mul_mat(context.pointer, weights.pointer, rows.pointer);
    // ggml asks for the memory that the weights lie in: an empty buffer of that kind answers.
    const buffer = symbols.ggml_backend_buft_alloc_buffer(bufferType, 0);
    if (!buffer) return false;
    koffi.encode(weights.pointer, bufferOffset, "void *", buffer);
    try {
      return Boolean(symbols.ggml_backend_dev_supports_op(this.#cpu.pointer, product));
    } finally {
      symbols.ggml_backend_buffer_free(buffer);
    }
  }

  /** Writes bytes into a tensor, off the event loop, for they may be many. */
  async write(tensor: Tensor, data: Uint8Array, offset = 0): Promise<void> {
    requireInside(tensor, "write", offset, data.byteLength);
    if (data.byteLength === 0) return;
    await callAsync(this.ggml.symbols.ggml_backend_tensor_set, tensor.pointer, data, offset, data.byteLength);
  }

  /** Writes bytes into a tensor at once. */
  set(tensor: Tensor, data: Uint8Array, offset = 0): void {
    requireInside(tensor, "write", offset, data.byteLength);
    if (data.byteLength > 0) this.ggml.symbols.ggml_backend_tensor_set(tensor.pointer, data, offset, data.byteLength);
  }

  /** A copy of a tensor's bytes. */
  read(tensor: Tensor, offset = 0, length = byteLength(tensor) - offset): Uint8Array<ArrayBuffer> {
    requireInside(tensor, "read", offset, length);
    const data = new Uint8Array(length);
    if (length > 0) this.ggml.symbols.ggml_backend_tensor_get(tensor.pointer, data, offset, length);
    return data;
  }

  /** A copy of an F32 tensor. */
  readFloats(tensor: Tensor): Float32Array<ArrayBuffer> {
    if (tensor.type !== "F32") throw new TypeError(`Cannot read ${describe(tensor)} as F32`);
    return new Float32Array(this.read(tensor).buffer);
  }

  /**
   * Computes a graph when the ones before it are done, then reads its outputs before the next one starts.
   * An abort is noticed while waiting and between two nodes.
   *
   * @param read is called right after computing, while the outputs are there.
   * @throws the signal's reason if it aborts; Error if the device fails.
   */
  async compute<T>(graph: Graph | PreparedGraph, read: () => T, signal?: AbortSignal): Promise<T> {
    let hasStarted = false;
    const turn = this.#turn.then(() => {
      hasStarted = true;
      return this.#computeNow(graph, read, signal);
    });
    this.#turn = turn.catch(() => undefined);
    if (signal === undefined) return turn;
    return new Promise<T>((resolve, reject) => {
      // The caller may free the graph at once: its turn comes to nothing.
      const leave = () => {
        if (!hasStarted) reject(signal.reason);
      };
      signal.addEventListener("abort", leave, { once: true });
      turn.then(resolve, reject).finally(() => signal.removeEventListener("abort", leave));
    });
  }

  /**
   * Gives a graph memory of its own for intermediate results, which other graphs do not touch.
   * @throws Error if the device has not enough memory.
   */
  prepare(graph: Graph): PreparedGraph {
    if (this.#disposed) throw new Error("Cannot prepare a graph: the backend is closed");
    const needed = graph.numTensors + maxWeights;
    const spare = this.#spare.findIndex(({ maxNodes }) => maxNodes >= needed);
    const wanted = Math.min(maxScheduleNodes, Math.max(minScheduleNodes, 2 ** Math.ceil(Math.log2(needed))));
    const schedule = this.#spare.splice(spare, spare < 0 ? 0 : 1)[0] ?? this.#newSchedule(wanted);
    const prepared: PreparedGraph = { graph, [Symbol.dispose]: () => this.#release(prepared) };
    this.#prepared.set(prepared, schedule);
    try {
      this.#allocate(schedule, graph);
    } catch (error) {
      this.#release(prepared);
      throw error;
    }
    return prepared;
  }

  /** Resolves once no graph is under way. */
  async idle(): Promise<void> {
    await this.#turn;
  }

  /** @throws Error while a graph is under way: wait for idle() first. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    if (this.#numComputing > 0) throw new Error("Cannot close the backend: a graph is under way");
    this.#disposed = true;
    const { symbols, live } = this.ggml;
    for (const schedule of [this.#schedule, ...this.#prepared.values(), ...this.#spare]) {
      symbols.ggml_backend_sched_free(schedule.pointer);
    }
    this.#prepared.clear();
    this.#spare.length = 0;
    for (const backend of this.#backends) {
      symbols.ggml_backend_free(backend);
      live.backends -= 1;
    }
    if (this.#threadpool !== undefined) this.#cpuProc("ggml_threadpool_free")(this.#threadpool);
    this.#stop[Symbol.dispose]();
  }

  async #computeNow<T>(work: Graph | PreparedGraph, read: () => T, signal: AbortSignal | undefined): Promise<T> {
    signal?.throwIfAborted();
    if (this.#disposed) throw new Error("Cannot compute: the backend is closed");
    const { symbols } = this.ggml;
    const graph = "graph" in work ? work.graph : work;
    const schedule = "graph" in work ? this.#prepared.get(work) : this.#schedule;
    if (schedule === undefined) throw new Error("Cannot compute a prepared graph: it was disposed");
    if (schedule === this.#schedule) this.#allocate(schedule, graph);
    for (const { tensor, data } of graph.inputs) {
      symbols.ggml_backend_tensor_set(tensor.pointer, data, 0, data.byteLength);
    }
    const stop = () => this.#stop.raise();
    signal?.addEventListener("abort", stop, { once: true });
    this.#numComputing += 1;
    try {
      const status = Number(await callAsync(symbols.ggml_backend_sched_graph_compute, schedule.pointer, graph.pointer));
      if (status === statusAborted) {
        signal?.throwIfAborted();
        throw new Error("Cannot compute: the device stopped without being asked");
      }
      if (status !== 0) throw new Error(`Cannot compute: device "${this.device.name}" failed with status ${status}`);
      return read();
    } finally {
      this.#numComputing -= 1;
      signal?.removeEventListener("abort", stop);
      this.#stop.lower();
    }
  }

  #newSchedule(maxNodes: number): Schedule {
    const { symbols } = this.ggml;
    const backends = this.#backends;
    const pointer = symbols.ggml_backend_sched_new(backends, null, backends.length, maxNodes, false, false);
    return { pointer, maxNodes };
  }

  #allocate(schedule: Schedule, graph: Graph): void {
    const { symbols } = this.ggml;
    symbols.ggml_backend_sched_reset(schedule.pointer);
    if (symbols.ggml_backend_sched_alloc_graph(schedule.pointer, graph.pointer)) return;
    throw new Error(
      `Cannot compute a graph of ${graph.numTensors} tensors: device "${this.device.name}" has not enough memory`,
    );
  }

  #release(prepared: PreparedGraph): void {
    const schedule = this.#prepared.get(prepared);
    this.#prepared.delete(prepared);
    if (schedule === undefined) return;
    if (this.#spare.length < maxSpareSchedules) this.#spare.push(schedule);
    else this.ggml.symbols.ggml_backend_sched_free(schedule.pointer);
  }

  #bufferType(place: "device" | "host"): Pointer {
    const device = place === "host" ? this.#cpu : this.device;
    return this.ggml.symbols.ggml_backend_dev_buffer_type(device.pointer);
  }

  #repackedType(): Pointer | undefined {
    if (this.device !== this.#cpu) return undefined;
    const extra = this.ggml.proc(this.#cpu, "ggml_backend_dev_get_extra_bufts")?.(this.#cpu.pointer);
    if (!extra) return undefined;
    // A list of buffer types that ends with null.
    for (let offset = 0; ; offset += 8) {
      const type = koffi.decode(extra, offset, "void *") as Pointer | null;
      if (!type) return undefined;
      if (String(this.ggml.symbols.ggml_backend_buft_name(type)) === "CPU_REPACK") return type;
    }
  }

  #newThreadpool(cpuBackend: Pointer): Pointer | undefined {
    const create = this.ggml.proc(this.#cpu, "ggml_threadpool_new");
    const attach = this.ggml.proc(this.#cpu, "ggml_backend_cpu_set_threadpool");
    if (!create || !attach) return undefined;
    // ggml_threadpool_params: 512 booleans and five fields of four bytes at most.
    const parameters = new Uint8Array(maxThreads + 32);
    this.ggml.symbols.ggml_threadpool_params_init(parameters, this.threads);
    const pool = create(parameters);
    if (!pool) return undefined;
    attach(cpuBackend, pool);
    return pool;
  }

  #cpuProc(name: Parameters<Ggml["proc"]>[1]): Bound {
    const found = this.ggml.proc(this.#cpu, name);
    if (!found) throw new Error(`Cannot use ggml ${this.ggml.version}: its CPU backend has no function "${name}"`);
    return found;
  }
}

/**
 * What ggml's CPU backend asks before each node. The callback is ggml_is_empty and its argument this tensor, whose
 * first size is set to zero to stop: so no JavaScript runs on a foreign thread.
 */
class StopFlag implements Disposable {
  readonly #context: TensorContext;
  readonly #tensor: Tensor;
  readonly #size: BigInt64Array;

  constructor(ggml: Ggml) {
    this.#context = new TensorContext(ggml, Number(ggml.symbols.ggml_tensor_overhead()) * 2);
    this.#tensor = this.#context.newTensor("stop", "I32", [1]);
    this.#size = new BigInt64Array(koffi.view(this.#tensor.pointer + BigInt(neOffset), 8));
  }

  get pointer(): Pointer {
    return this.#tensor.pointer;
  }

  raise(): void {
    this.#size[0] = 0n;
  }

  lower(): void {
    this.#size[0] = 1n;
  }

  [Symbol.dispose](): void {
    this.#context[Symbol.dispose]();
  }
}

function chooseDevice(ggml: Ggml, name: string | undefined): Device {
  if (name === undefined) return (ggml.devices.find((device) => device.kind === "gpu") ?? ggml.devices[0]) as Device;
  const found = ggml.devices.find((device) => device.name.toLowerCase() === name.toLowerCase());
  if (found !== undefined) return found;
  const known = ggml.devices.map((device) => `"${device.name}"`).join(", ");
  throw new RangeError(`Cannot use device "${name}": ggml ${ggml.version} found ${known}`);
}

function requireInside(tensor: Tensor, action: string, offset: number, length: number): void {
  if (!(offset >= 0 && length >= 0 && offset + length <= byteLength(tensor))) {
    throw new RangeError(
      `Cannot ${action} ${length} bytes at ${offset} of ${describe(tensor)}: it has ${byteLength(tensor)} bytes`,
    );
  }
}

function callAsync(bound: Bound, ...args: NativeArgument[]): Promise<Pointer> {
  return new Promise((resolve, reject) => {
    bound.async(...args, (error, result) => (error ? reject(error) : resolve(result)));
  });
}
