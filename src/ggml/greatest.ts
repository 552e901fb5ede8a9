import { Graph } from "./graph.js";
import type { Device, Ggml } from "./library.js";
import type { Tensor } from "./tensor.js";

/** Numbers of each row that `addGreatest()` gives. */
export const greatestFields = 3;

/**
 * Of each row of x [N, R]: where a largest number stands, that number, and how many numbers of the row are less: [3, R] F32.
 * The largest is the only one where N - 1 are less; else others are as large, or not numbers at all.
 */
export function addGreatest(graph: Graph, x: Tensor): Tensor {
  const [size, numRows] = x.ne;
  const places = graph.argmax(x);
  const found = graph.getRows(graph.reshape(x, [1, size, numRows]), graph.reshape(places, [1, numRows]));
  const greatest = graph.reshape(found, [1, numRows]);
  const less = graph.sumRows(graph.step(graph.scale(graph.sub(x, greatest), -1)));
  return graph.concat(graph.concat(graph.reshape(graph.toF32(places), [1, numRows]), greatest, 0), less, 0);
}

/** Whether a device computes all of that itself. */
export function supportsGreatest(ggml: Ggml, device: Device): boolean {
  const { symbols } = ggml;
  using graph = new Graph(ggml);
  graph.output(addGreatest(graph, graph.input("x", "F32", [1024, 2], new Float32Array(2048))));
  const numNodes = Number(symbols.ggml_graph_n_nodes(graph.pointer));
  const nodes = Array.from({ length: numNodes }, (_, i) => symbols.ggml_graph_node(graph.pointer, i));
  return nodes.every((node) => symbols.ggml_backend_dev_supports_op(device.pointer, node));
}
