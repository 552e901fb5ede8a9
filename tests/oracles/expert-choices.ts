import { Backend, type PreparedGraph } from "../../src/ggml/backend.js";
import { Graph } from "../../src/ggml/graph.js";
import type { Tensor } from "../../src/ggml/tensor.js";
import { testDevice } from "../test-device.js";

/** What one layer's router of one graph said. */
export interface ExpertChoice {
  /** [rows, experts]. */
  readonly scores: Float32Array;
  readonly numExperts: number;
  /** The experts that each row went through, [rows, used]. */
  readonly chosen: Int32Array;
  readonly numUsed: number;
}

/** The layers of each graph that was computed, in order. */
export type ExpertChoices = readonly (readonly ExpertChoice[])[];

interface RouterNodes {
  readonly scores: Tensor;
  readonly chosen: Tensor;
  /** What is sent through in place of the largest scores. */
  readonly forced: Int32Array | undefined;
}

/**
 * Runs engines of mixtures of experts one graph after the other, and tells which experts each row went through.
 *
 * @param forced choices to take instead, of a run of the same graphs.
 * @throws RangeError if the graphs are others, but for what pads their rows.
 */
export async function watchExperts<T>(
  run: () => Promise<T>,
  forced?: ExpertChoices,
): Promise<{ readonly answer: T; readonly choices: ExpertChoices }> {
  const { topK } = Graph.prototype;
  const { compute } = Backend.prototype;
  const nodes = new WeakMap<Graph, RouterNodes[]>();
  const choices: ExpertChoice[][] = [];
  Graph.prototype.topK = function (scores: Tensor, k: number): Tensor {
    const ids = forced && new Int32Array(k * scores.ne[1]);
    const chosen = ids ? this.input("forced", "I32", [k, scores.ne[1]], ids) : topK.call(this, scores, k);
    for (const read of [scores, chosen]) this.output(read);
    nodes.set(this, [...(nodes.get(this) ?? []), { scores, chosen, forced: ids }]);
    return chosen;
  };
  Backend.prototype.compute = function <R>(work: Graph | PreparedGraph, read: () => R, signal?: AbortSignal) {
    const routers = nodes.get("graph" in work ? work.graph : work) ?? [];
    if (routers.length === 0) return compute.call(this, work, read, signal) as Promise<R>;
    for (const [i, { forced: ids }] of routers.entries()) {
      const chosen = forced?.[choices.length]?.[i]?.chosen;
      if (ids === undefined) continue;
      // Another device may lay more rows after those: nobody reads them.
      const isSame =
        chosen !== undefined && (testDevice === "CPU" ? chosen.length === ids.length : chosen.length <= ids.length);
      if (!isSame) throw new RangeError("Cannot force experts: the graphs are others");
      ids.set(chosen);
    }
    const readAll = () => {
      choices.push(
        routers.map(({ scores, chosen }) => ({
          scores: this.readFloats(scores),
          numExperts: scores.ne[0],
          chosen: new Int32Array(this.read(chosen).buffer),
          numUsed: chosen.ne[0],
        })),
      );
      return read();
    };
    return compute.call(this, work, readAll, signal) as Promise<R>;
  };
  try {
    return { answer: await run(), choices };
  } finally {
    Graph.prototype.topK = topK;
    Backend.prototype.compute = compute;
  }
}

/** A row's last expert that was chosen, its first that was not, and how far their scores are apart. */
export function borderOf({ scores, numExperts, numUsed }: ExpertChoice, row: number) {
  const own = scores.subarray(row * numExperts, (row + 1) * numExperts);
  const order = [...own.keys()].sort((a, b) => (own[b] as number) - (own[a] as number));
  const [inside, outside] = order.slice(numUsed - 1, numUsed + 1) as [number, number];
  return { inside, outside, margin: (own[inside] as number) - (own[outside] as number) };
}
