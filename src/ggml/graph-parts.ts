import type { Graph } from "./graph.js";
import type { OuterProduct } from "./graph-frame.js";
import { callAsync, type Pointer } from "./symbols.js";
import { TensorContext } from "./tensor.js";

/** Nodes that ggml computes, as a graph of their own, or a product that it does not. */
type Part = { readonly graph: Pointer } | OuterProduct;

/**
 * A graph whose memory has been laid out, cut at the products that ggml does not compute: its parts are computed in turn, each where its
 * nodes have their addresses already.
 */
export class GraphParts implements Disposable {
  readonly #context: TensorContext;
  readonly #parts: readonly Part[];

  constructor(private readonly graph: Graph) {
    const { symbols } = graph.ggml;
    const runs: (Pointer[] | OuterProduct)[] = [];
    const numNodes = Number(symbols.ggml_graph_n_nodes(graph.pointer));
    for (let i = 0; i < numNodes; i++) {
      const node = symbols.ggml_graph_node(graph.pointer, i);
      const outer = graph.outerProducts.get(node);
      const last = runs.at(-1);
      if (outer !== undefined) runs.push(outer);
      else if (Array.isArray(last)) last.push(node);
      else runs.push([node]);
    }
    const bytesOf = (run: Pointer[] | OuterProduct) =>
      Array.isArray(run) ? Number(symbols.ggml_graph_overhead_custom(run.length, false)) : 0;
    this.#context = new TensorContext(
      graph.ggml,
      runs.reduce((sum, run) => sum + bytesOf(run), 0),
    );
    this.#parts = runs.map((run) => {
      if (!Array.isArray(run)) return run;
      const part = symbols.ggml_new_graph_custom(this.#context.pointer, run.length, false);
      for (const node of run) symbols.ggml_graph_add_node(part, node);
      return { graph: part };
    });
  }

  /**
   * Computes all parts, off the event loop.
   * @param backend ggml's, which the parts are computed on.
   * @returns ggml's status.
   * @throws the signal's reason if it aborts between two parts.
   */
  async compute(backend: Pointer, threads: number, signal?: AbortSignal): Promise<number> {
    const { ggml_backend_graph_compute: compute, ggml_get_data: dataOf } = this.graph.ggml.symbols;
    for (const part of this.#parts) {
      signal?.throwIfAborted();
      if ("graph" in part) {
        const status = Number(await callAsync(compute, backend, part.graph));
        if (status !== 0) return status;
      } else {
        const { x, out, product } = part;
        await product.multiply(dataOf(x.pointer), dataOf(out.pointer), x.ne[1] * x.ne[2] * x.ne[3], threads);
      }
    }
    return 0;
  }

  [Symbol.dispose](): void {
    this.#context[Symbol.dispose]();
  }
}
