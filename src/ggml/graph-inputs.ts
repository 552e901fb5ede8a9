import koffi from "koffi";
import type { StartedDevice } from "./device.js";
import type { Graph } from "./graph.js";
import type { Ggml } from "./library.js";
import { allocateFrom, hostMemory, type TensorStorage } from "./memory.js";
import type { Pointer } from "./symbols.js";

/** Inputs start at multiples of this, in bytes, as GPUs require of tensors. */
const alignment = 256;
const sizeStep = 1 << 16;

/**
 * The memory of the inputs of graphs that are computed one after another. Those that the device reads lie side by side and are
 * filled by one transfer, from memory that the device reads by itself, so that it queues; those that the CPU looks rows up with, in
 * the CPU's memory. It grows with the largest graph.
 */
export class GraphInputs implements Disposable {
  readonly #pieces: Readonly<Record<"device" | "host", InputPiece>>;

  /** @param started stays the caller's. */
  constructor(private readonly started: StartedDevice) {
    this.#pieces = { device: new InputPiece(started, true), host: new InputPiece(started, false) };
  }

  get byteLength(): number {
    return this.#pieces.device.byteLength + this.#pieces.host.byteLength;
  }

  /**
   * Gives a graph's inputs their addresses, once: before its intermediate results get theirs.
   * @throws Error if the device has not enough memory, or a larger graph was computed since this one was.
   */
  place(graph: Graph): void {
    for (const piece of Object.values(this.#pieces)) piece.place(graph);
  }

  /**
   * Has the inputs' data copied to them as they are now, before the device computes what is asked of it next.
   * @param schedule ggml's, which has memory for the graph.
   */
  upload(graph: Graph, schedule: Pointer): void {
    let isQueued = false;
    for (const piece of Object.values(this.#pieces)) isQueued = piece.upload(graph) || isQueued;
    const { ggml, backends } = this.started;
    const { symbols } = ggml;
    const device = backends[0]?.pointer as Pointer;
    const isOnePart = () =>
      Number(symbols.ggml_backend_sched_get_n_splits(schedule)) === 1 &&
      symbols.ggml_backend_sched_get_tensor_backend(schedule, symbols.ggml_graph_node(graph.pointer, -1)) === device;
    // Parts that the CPU computes read what they need of the inputs, whatever the device has in its queue.
    if (isQueued && !isOnePart()) symbols.ggml_backend_synchronize(device);
  }

  [Symbol.dispose](): void {
    for (const piece of Object.values(this.#pieces)) piece[Symbol.dispose]();
  }
}

class InputPiece implements Disposable {
  #storage: TensorStorage | undefined;
  /** What the device copies from; undefined where the inputs lie in the CPU's memory. */
  #source: TensorStorage | undefined;
  /** The source's bytes, or the inputs' own. */
  #bytes = new Uint8Array();
  readonly #placed = new WeakMap<Graph, TensorStorage>();

  readonly #ggml: Ggml;

  constructor(
    private readonly started: StartedDevice,
    private readonly isOfDevice: boolean,
  ) {
    // Part of what a schedule keeps, which `Backend.computeBytes` counts: not of what callers allocate.
    this.#ggml = { ...started.ggml, live: { contexts: 0, buffers: 0, bufferBytes: 0, backends: 0 } };
  }

  get byteLength(): number {
    return this.#storage?.byteLength ?? 0;
  }

  place(graph: Graph): void {
    const inputs = this.#inputs(graph);
    const end = inputs.at(-1)?.end ?? 0;
    if (end === 0) return;
    const known = this.#placed.get(graph);
    if (known === undefined && end > this.#bytes.byteLength) this.#grow(end);
    const storage = this.#storage as TensorStorage;
    if (known !== undefined && known !== storage) {
      throw new Error("Cannot compute a graph again: its inputs' memory was given to a larger one");
    }
    if (known === storage) return;
    for (const { input, offset } of inputs) storage.place(input.tensor, offset);
    this.#placed.set(graph, storage);
  }

  /** @returns whether the device has the copy in its queue. */
  upload(graph: Graph): boolean {
    const inputs = this.#inputs(graph);
    for (const { input, offset } of inputs) {
      const { buffer, byteOffset, byteLength } = input.data;
      this.#bytes.set(new Uint8Array(buffer, byteOffset, byteLength), offset);
    }
    const end = inputs.at(-1)?.end ?? 0;
    if (this.#source === undefined || end === 0) return false;
    const [device] = this.started.backends;
    const { pointer } = (this.#storage as TensorStorage).get("inputs");
    this.#ggml.symbols.ggml_backend_tensor_set_async(device?.pointer as Pointer, pointer, this.#bytes, 0, end);
    return true;
  }

  [Symbol.dispose](): void {
    this.#bytes = new Uint8Array();
    for (const storage of [this.#storage, this.#source]) storage?.[Symbol.dispose]();
    this.#storage = undefined;
    this.#source = undefined;
  }

  /** This piece's, one after another. */
  #inputs(graph: Graph) {
    const { device, cpu } = this.started;
    let end = 0;
    return graph.inputs
      .filter(({ isOnHost }) => (device === cpu.device || !isOnHost) === this.isOfDevice)
      .map((input) => {
        const offset = end;
        end += Math.ceil(input.data.byteLength / alignment) * alignment;
        return { input, offset, end };
      });
  }

  /** A larger graph than before is mostly followed by still larger ones: a prompt's pieces see more and more keys. */
  #grow(byteLength: number): void {
    const wanted = Math.max(byteLength, 1.25 * this.#bytes.byteLength);
    this[Symbol.dispose]();
    const { device, cpu } = this.started;
    const { symbols } = this.#ggml;
    const plain = symbols.ggml_backend_dev_buffer_type(cpu.device.pointer);
    const type = this.isOfDevice ? symbols.ggml_backend_dev_buffer_type(device.pointer) : plain;
    const size = Math.ceil(wanted / sizeStep) * sizeStep;
    const allocate = (bufferType: Pointer) => {
      const made = allocateFrom(this.#ggml, bufferType, [{ name: "inputs", type: "I32", ne: [size / 4] }]);
      if (made) return made;
      throw new Error(`Cannot allocate ${size} bytes of inputs on device "${device.name}": not enough memory`);
    };
    this.#storage = allocate(type);
    if (!symbols.ggml_backend_buft_is_host(type)) {
      this.#source = allocate(hostMemory(this.started));
    }
    this.#bytes = new Uint8Array(koffi.view((this.#source ?? this.#storage).address, size));
  }
}
