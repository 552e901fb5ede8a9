import type { CpuBackend } from "./cpu/cpu-backend.js";
import type { Graph } from "./graph.js";
import type { OuterCompute } from "./graph-frame.js";
import { callAsync, type Pointer } from "./symbols.js";
import { type Tensor, TensorContext } from "./tensor.js";

/**
 * A graph whose memory has been laid out, cut at the nodes that ggml does not compute: its parts are computed in turn, where its nodes
 * have their addresses already.
 */
export class GraphParts implements Disposable {
  readonly #context: TensorContext;
  /** ggml's graphs, and what others compute. */
  readonly #parts: readonly (Pointer | OuterCompute)[];

  constructor(private readonly graph: Graph) {
    const { symbols } = graph.ggml;
    const runs: (Pointer[] | OuterCompute)[] = [];
    const numNodes = Number(symbols.ggml_graph_n_nodes(graph.pointer));
    for (let i = 0; i < numNodes; i++) {
      const node = symbols.ggml_graph_node(graph.pointer, i);
      const outer = graph.outerNodes.get(node);
      const last = runs.at(-1);
      if (outer !== undefined) runs.push(outer);
      else if (Array.isArray(last)) last.push(node);
      else runs.push([node]);
    }
    const numBytes = runs.reduce(
      (sum, { length }) => sum + Number(symbols.ggml_graph_overhead_custom(length, false)),
      0,
    );
    this.#context = new TensorContext(graph.ggml, numBytes);
    this.#parts = runs.map((run) => {
      if (!Array.isArray(run)) return run;
      const part = symbols.ggml_new_graph_custom(this.#context.pointer, run.length, false);
      for (const node of run) symbols.ggml_graph_add_node(part, node);
      return part;
    });
  }

  /**
   * Computes all parts, off the event loop. What ggml computes between the others' nodes is little: one thread does it without waiting for
   * a second. The last part has the head.
   *
   * @returns ggml's status.
   * @throws the signal's reason if it aborts between two parts.
   */
  async compute(cpu: CpuBackend, signal?: AbortSignal): Promise<number> {
    const { ggml_backend_graph_compute: compute, ggml_get_data: dataOf } = this.graph.ggml.symbols;
    const addressOf = ({ pointer }: Tensor) => dataOf(pointer);
    cpu.useOneThread();
    for (const [i, part] of this.#parts.entries()) {
      signal?.throwIfAborted();
      if (typeof part === "function") {
        await part(addressOf);
        continue;
      }
      if (i === this.#parts.length - 1) cpu.useThreads();
      const status = Number(await callAsync(compute, cpu.pointer, part));
      if (status !== 0) return status;
    }
    return 0;
  }

  [Symbol.dispose](): void {
    this.#context[Symbol.dispose]();
  }
}
