import koffi from "koffi";
import { type Device, type Ggml, type NativeBackend, startBackend } from "../library.js";
import type { Bound, Pointer } from "../symbols.js";
import { type Tensor, TensorContext } from "../tensor.js";
import { ThreadCount } from "./thread-count.js";

export const maxThreads = 512;
/** Offset of ne[0] in ggml_tensor, in bytes. */
const neOffset = 16;

/** The CPU's native backend with its threads, which wait for work between graphs, and the flag that stops a graph. */
export class CpuBackend implements NativeBackend {
  readonly device: Device;
  readonly #ggml: Ggml;
  readonly #backend: NativeBackend;
  readonly threads: ThreadCount;
  readonly #adapts: boolean;
  #threadpool: Pointer | undefined;
  #threadsOfPool = 0;
  #threadsOfGraph = 0;
  readonly #stop: StopFlag;

  /** @param adapts whether graphs get fewer threads while other programs use the cores. */
  constructor(ggml: Ggml, threads: number, adapts = false) {
    this.#ggml = ggml;
    this.device = ggml.devices.find(({ kind }) => kind === "cpu") as Device;
    this.#backend = startBackend(ggml, this.device);
    this.#stop = new StopFlag(ggml);
    this.#proc("ggml_backend_set_abort_callback")(this.pointer, ggml.symbols.isEmptyAddress, this.#stop.pointer);
    this.threads = new ThreadCount(threads);
    this.#adapts = adapts && threads > 1;
    this.useThreads();
  }

  /** Gives the next graph as many threads as there are cores for. Not while a graph is under way. */
  useThreads(): void {
    const now = this.#adapts ? this.threads.look() : this.threads.now;
    if (now === this.#threadsOfPool && now === this.#threadsOfGraph) return;
    const old = this.#threadpool;
    // Threads beyond a graph's would wake up with each and spin: the pool has no others. One thread needs none.
    const next = now === this.#threadsOfPool ? old : now > 1 ? this.#newThreadpool(now) : undefined;
    this.#setThreads(next, now);
    if (next !== old) this.#freeThreadpool();
    this.#threadpool = next;
    this.#threadsOfPool = now;
  }

  /** Gives what is computed until the next `useThreads()` one thread; the others sleep, and leave the cores to others than ggml. */
  useOneThread(): void {
    this.#setThreads(undefined, 1);
  }

  #setThreads(pool: Pointer | undefined, count: number): void {
    this.#ggml.proc(this.device, "ggml_backend_cpu_set_threadpool")?.(this.pointer, pool ?? null);
    this.#proc("ggml_backend_set_n_threads")(this.pointer, count);
    this.#threadsOfGraph = count;
  }

  get pointer(): Pointer {
    return this.#backend.pointer;
  }

  /** Has the graph that runs end after the node that runs, until `resume()`. */
  stop(): void {
    this.#stop.raise();
  }

  resume(): void {
    this.#stop.lower();
  }

  [Symbol.dispose](): void {
    this.#backend[Symbol.dispose]();
    this.#freeThreadpool();
    this.#stop[Symbol.dispose]();
  }

  #newThreadpool(threads: number): Pointer | undefined {
    const create = this.#ggml.proc(this.device, "ggml_threadpool_new");
    if (!create) return undefined;
    // ggml_threadpool_params: 512 booleans and five fields of four bytes at most.
    const parameters = new Uint8Array(maxThreads + 32);
    this.#ggml.symbols.ggml_threadpool_params_init(parameters, threads);
    return create(parameters) || undefined;
  }

  #freeThreadpool(): void {
    if (this.#threadpool !== undefined) this.#proc("ggml_threadpool_free")(this.#threadpool);
  }

  #proc(name: Parameters<Ggml["proc"]>[1]): Bound {
    const found = this.#ggml.proc(this.device, name);
    if (!found) throw new Error(`Cannot use ggml ${this.#ggml.version}: its CPU backend has no function "${name}"`);
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
