import { afterAll, expect, test } from "vitest";
import { Backend } from "../../ggml/backend.js";
import { Graph } from "../../ggml/graph.js";
import { findGgmlDirectory, loadGgml } from "../../ggml/library.js";
import { geglu } from "./parts.js";

const ggml = loadGgml(await findGgmlDirectory("cpu"));
const backend = new Backend(ggml, { threads: 1 });
afterAll(() => backend[Symbol.dispose]());

test("geglu(): equals GELU's approximation with tanh to six digits, small and large", async () => {
  const gates = [-30, -9.9, -3, -0.7, -1e-3, 0, 1e-3, 0.5, 2, 7, 12, 1e4];
  using graph = new Graph(ggml);
  const input = (numbers: readonly number[]) => graph.input("x", "F32", [numbers.length], Float32Array.from(numbers));
  const gated = geglu(graph, input(gates), input(gates.map(() => -1.5)));
  const out = graph.output(gated);
  const found = [...(await backend.compute(graph, () => backend.readFloats(out)))];
  for (const [i, x] of gates.entries()) {
    const gelu = 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
    expect(Math.abs(found[i]! + 1.5 * gelu), `${x}`).toBeLessThanOrEqual(1e-6 * Math.max(1e-3, Math.abs(1.5 * x)));
  }
});
