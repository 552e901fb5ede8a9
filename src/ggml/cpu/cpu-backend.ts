import koffi from "koffi";
import { type Device, type Ggml, type NativeBackend, startBackend } from "../library.js";
import type { Bound, Pointer } from "../symbols.js";
import { type Tensor, TensorContext } from "../tensor.js";

export const maxThreads = 512;
/** Offset of ne[0] in ggml_tensor, in bytes. */
const neOffset = 16;

/** The CPU's native backend with its threads, which wait for work between graphs, and the flag that stops a graph. */
export class CpuBackend implements NativeBackend {
  readonly device: Device;
  readonly #ggml: Ggml;
  readonly #backend: NativeBackend;
  readonly #threadpool: Pointer | undefined;
  readonly #stop: StopFlag;

  constructor(ggml: Ggml, threads: number) {
    this.#ggml = ggml;
    this.device = ggml.devices.find(({ kind }) => kind === "cpu") as Device;
    this.#backend = startBackend(ggml, this.device);
    this.#stop = new StopFlag(ggml);
    this.#proc("ggml_backend_set_n_threads")(this.pointer, threads);
    this.#proc("ggml_backend_set_abort_callback")(this.pointer, ggml.symbols.isEmptyAddress, this.#stop.pointer);
    this.#threadpool = threads > 1 ? this.#newThreadpool(threads) : undefined;
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
    if (this.#threadpool !== undefined) this.#proc("ggml_threadpool_free")(this.#threadpool);
    this.#stop[Symbol.dispose]();
  }

  #newThreadpool(threads: number): Pointer | undefined {
    const create = this.#ggml.proc(this.device, "ggml_threadpool_new");
    const attach = this.#ggml.proc(this.device, "ggml_backend_cpu_set_threadpool");
    if (!create || !attach) return undefined;
    // ggml_threadpool_params: 512 booleans and five fields of four bytes at most.
    const parameters = new Uint8Array(maxThreads + 32);
    this.#ggml.symbols.ggml_threadpool_params_init(parameters, threads);
    const pool = create(parameters);
    if (!pool) return undefined;
    attach(this.pointer, pool);
    return pool;
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
