import type { ThreadCount } from "./cpu/thread-count.js";
import { type BackendOptions, StartedDevice } from "./device.js";
import type { DevicePolicy } from "./device-policy.js";
import type { Graph } from "./graph.js";
import { maxGraphTensors } from "./graph-frame.js";
import { GraphInputs } from "./graph-inputs.js";
import { GraphParts } from "./graph-parts.js";
import { type Device, type Ggml, memoryNow } from "./library.js";
import { DeviceMemory } from "./memory.js";
import { callAsync, type Pointer } from "./symbols.js";

/** Schedules that are kept for the next prepared graphs. */
const maxSpareSchedules = 4;
const minScheduleNodes = 4096;

/** Weights that a graph may read beside its own tensors: ggml ends the process where a schedule has no room for both. */
const maxWeights = 2_768;
const maxScheduleNodes = maxGraphTensors + maxWeights;
const statusAborted = 1;

/** ggml's scheduler: it places a graph's nodes on the device's backends and owns the memory of its intermediate results. */
interface Schedule {
  readonly pointer: Pointer;
  readonly maxNodes: number;
  readonly inputs: GraphInputs;
}

/**
 * A graph that is computed again and again, each time with its inputs as they are then: it keeps the memory of its
 * intermediate results. It does not own the graph, which must outlive it.
 */
export interface PreparedGraph extends Disposable {
  readonly graph: Graph;
}

/**
 * A device that computes graphs off the event loop, one at a time: whoever has several queues them (`Scheduler`).
 * It owns the started device and the memory of intermediate results.
 */
export class Backend extends DeviceMemory implements Disposable {
  /** What was free of the device's memory before anything of this backend was in it; 0 where it does not tell. */
  readonly freeBytes: number;
  /** Of graphs that are computed once. */
  readonly #schedule: Schedule;
  readonly #prepared = new Map<PreparedGraph, Schedule>();
  readonly #spare: Schedule[] = [];
  /** Called once, when a mapped file was found to have changed: no graph is computed from then on. */
  onFilesChanged: (error: Error) => void = () => undefined;
  #isComputing = false;
  #disposed = false;

  /** @throws RangeError for a device that the library does not have, or a wrong number of threads. */
  constructor(
    readonly ggml: Ggml,
    private readonly options: BackendOptions,
  ) {
    super(new StartedDevice(ggml, options));
    this.freeBytes = memoryNow(ggml.symbols, this.device.pointer).free;
    this.#schedule = this.#newSchedule(maxScheduleNodes);
  }

  get device(): Device {
    return this.started.device;
  }

  /** How models are computed on it. */
  get policy(): DevicePolicy {
    return this.started.policy;
  }

  get threads(): number {
    return this.options.threads;
  }

  /** How many of them the next graph gets. */
  get threadCount(): ThreadCount {
    return this.started.cpu.threads;
  }

  /** Bytes of intermediate results that the device keeps from graph to graph. */
  get computeBytes(): number {
    if (this.#disposed) return 0;
    const size = (schedule: Schedule) => [
      schedule.inputs.byteLength,
      ...this.started.backends.map(({ pointer }) =>
        Number(this.ggml.symbols.ggml_backend_sched_get_buffer_size(schedule.pointer, pointer)),
      ),
    ];
    return this.#schedules.flatMap(size).reduce((sum, bytes) => sum + bytes, 0);
  }

  /**
   * Computes a graph, then reads its outputs. An abort is noticed between two nodes.
   *
   * @param read is called right after computing, while the outputs are there.
   * @throws the signal's reason if it aborts; Error if another graph is under way, the device fails, or a mapped file has changed:
   * then nothing that was computed is read.
   */
  async compute<T>(work: Graph | PreparedGraph, read: () => T, signal?: AbortSignal): Promise<T> {
    signal?.throwIfAborted();
    if (this.#disposed) throw new Error("Cannot compute: the backend is closed");
    if (this.#isComputing) throw new Error("Cannot compute: another graph is under way");
    this.#requireFilesUnchanged();
    const graph = "graph" in work ? work.graph : work;
    const schedule = "graph" in work ? this.#prepared.get(work) : this.#schedule;
    if (schedule === undefined) throw new Error("Cannot compute a prepared graph: it was disposed");
    if (schedule === this.#schedule) this.#allocateResults(schedule, graph);
    schedule.inputs.upload(graph, schedule.pointer);
    const { cpu, device } = this.started;
    cpu.useThreads();
    const stop = () => cpu.stop();
    signal?.addEventListener("abort", stop, { once: true });
    this.#isComputing = true;
    try {
      const status = await this.#run(graph, schedule, signal);
      if (status === statusAborted) {
        signal?.throwIfAborted();
        throw new Error("Cannot compute: the device stopped without being asked");
      }
      if (status !== 0) throw new Error(`Cannot compute: device "${device.name}" failed with status ${status}`);
      this.#requireFilesUnchanged();
      return read();
    } finally {
      this.#isComputing = false;
      signal?.removeEventListener("abort", stop);
      cpu.resume();
    }
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
      this.#allocateResults(schedule, graph);
    } catch (error) {
      this.#release(prepared);
      throw error;
    }
    return prepared;
  }

  /** @throws Error while a graph is under way. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    if (this.#isComputing) throw new Error("Cannot close the backend: a graph is under way");
    this.#disposed = true;
    for (const schedule of this.#schedules) this.#free(schedule);
    this.#prepared.clear();
    this.#spare.length = 0;
    this.started[Symbol.dispose]();
  }

  /** @returns ggml's status. */
  async #run(graph: Graph, schedule: Schedule, signal: AbortSignal | undefined): Promise<number> {
    const { cpu } = this.started;
    if (graph.outerNodes.size === 0) {
      const { ggml_backend_sched_graph_compute: compute } = this.ggml.symbols;
      return Number(await callAsync(compute, schedule.pointer, graph.pointer));
    }
    using parts = new GraphParts(graph);
    return await parts.compute(cpu, signal);
  }

  #requireFilesUnchanged(): void {
    try {
      for (const file of this.mappedFiles) file.requireUnchanged();
    } catch (error) {
      const tell = this.onFilesChanged;
      this.onFilesChanged = () => undefined;
      tell(error as Error);
      throw error;
    }
  }

  get #schedules(): readonly Schedule[] {
    return [this.#schedule, ...this.#prepared.values(), ...this.#spare];
  }

  #newSchedule(maxNodes: number): Schedule {
    const backends = this.started.backends.map(({ pointer }) => pointer);
    const { ggml_backend_sched_new: create } = this.ggml.symbols;
    const pointer = create(backends, null, backends.length, maxNodes, false, false);
    return { pointer, maxNodes, inputs: new GraphInputs(this.started) };
  }

  #allocateResults(schedule: Schedule, graph: Graph): void {
    const { symbols } = this.ggml;
    schedule.inputs.place(graph);
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
    else this.#free(schedule);
  }

  #free({ pointer, inputs }: Schedule): void {
    this.ggml.symbols.ggml_backend_sched_free(pointer);
    inputs[Symbol.dispose]();
  }
}
