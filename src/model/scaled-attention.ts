import { type MaskPart, MaskTensors } from "../ggml/attention-mask.js";
import type { Graph } from "../ggml/graph.js";
import type { Tensor } from "../ggml/tensor.js";
import type { TokenHeads } from "../ggml/token-attention.js";
import { isScaled, type ScaledPlaces, type Sight } from "./rows.js";

/** Of the keys that are no scaled ones: the least number that a mask can hold but minus infinity, of which no softmax is. */
export const unscaledKey = 0xfbff;
/** Added before a logarithm: that of 0 is none, and a share of it counts nothing. */
const tiny = 1e-37;
/** Scores of one node, of all heads: 64 MiB. */
const maxScores = 2 ** 24;

interface ScaledKeys {
  /** [N, T] F16: 0 where a row sees a scaled key, else `unscaledKey`. */
  readonly mask: Tensor;
  /** [1, N] F32: 1 of scaled keys, else 0. */
  readonly among: Tensor;
  readonly power: number;
}

/**
 * Attention by explicit products.
 *
 * @param q [D, T, H] F32, contiguous.
 * @param k [D, N, H'].
 * @param values transposed, [N, D, H'].
 * @param mask [N, T] F16.
 * @returns [D * H, T] F32.
 */
function scaledAttention(
  graph: Graph,
  { q, k, values, mask, scale }: Readonly<Record<"q" | "k" | "values" | "mask", Tensor>> & { readonly scale: number },
  scaled: ScaledKeys,
): Tensor {
  const [headSize, numRows, numHeads] = q.ne;
  const scores = graph.scale(graph.mulMat(k, q), scale);
  const shares = graph.softmax(scores, scaled.mask, 1);
  // Of numbers x with shares p in their softmax, the sum of p (x - log p) is the logarithm of the sum of their exponents.
  const logs = graph.log(graph.scale(shares, 1, tiny));
  const logSums = graph.sumRows(graph.mul(shares, graph.sub(scores, logs)));
  const added = graph.mulMat(scaled.among, graph.scale(logSums, scaled.power - 1));
  const weights = graph.softmax(graph.add(scores, added), mask, 1);
  const out = graph.mulMat(values, weights);
  return graph.reshape(graph.contiguous(graph.permute(out, [0, 2, 1, 3])), [headSize * numHeads, numRows]);
}

/** The same of one sequence's token. @param heads of one sequence. */
export function scaledTokenAttention(graph: Graph, heads: TokenHeads, scaled: ScaledKeys): Tensor {
  const { queries, mask, scale } = heads;
  const [headSize, numHeads] = queries.ne;
  const pieces = [...heads.shared, heads];
  const joined = (all: readonly Tensor[], axis: 0 | 1) =>
    all.slice(1).reduce((sum, next) => graph.concat(sum, next, axis), all[0] as Tensor);
  const k = joined(
    pieces.map(({ keys }) => keys),
    1,
  );
  const values = joined(
    pieces.map(({ decodeValues, isTransposed }) =>
      isTransposed ? decodeValues : graph.contiguous(graph.permute(decodeValues, [1, 0, 2, 3])),
    ),
    0,
  );
  const q = graph.reshape(graph.contiguous(queries), [headSize, 1, numHeads]);
  return scaledAttention(graph, { q, k, values, mask, scale }, scaled);
}

/** The same of the rows of a graph's prompts, whose layers share their masks. */
export class ScaledRows {
  readonly #masks: MaskTensors;
  readonly #known = new Map<string, Pick<ScaledKeys, "mask" | "among">>();

  constructor(private readonly graph: Graph) {
    this.#masks = new MaskTensors(graph);
  }

  /**
   * @param q [D, H, T].
   * @param k [D, N, H'], of the keys that the sight names; v likewise, as rows.
   */
  attend(
    { q, k, v, scale }: Readonly<Record<"q" | "k" | "v", Tensor>> & { readonly scale: number },
    sight: Sight,
    places: ScaledPlaces,
  ): Tensor {
    const { graph } = this;
    const { mask } = sight;
    const rows = graph.permute(q, [0, 2, 1, 3]);
    const values = graph.contiguous(graph.permute(v, [1, 0, 2, 3]));
    const maxRows = Math.max(1, Math.floor(maxScores / (q.ne[1] * mask.numKeys)));
    let all: Tensor | undefined;
    for (let row = 0; row < mask.numRows; row += maxRows) {
      const part = this.#masks.part(mask, row, Math.min(maxRows, mask.numRows - row));
      const { numRows, numKeys } = part;
      const window = (x: Tensor, ne: readonly number[], first = 0) =>
        graph.view(x, [...ne, x.ne[2]], [x.nb[1], x.nb[2]], first * x.nb[1]);
      const heads = {
        q: graph.contiguous(window(rows, [rows.ne[0], numRows], row)),
        k: window(k, [k.ne[0], numKeys]),
        values: window(values, [numKeys, values.ne[1]]),
        mask: this.#masks.tensor(part),
        scale,
      };
      const out = scaledAttention(graph, heads, { ...this.#keysOf(part, sight, places), power: places.power });
      all = all === undefined ? out : graph.concat(all, out, 1);
    }
    return all as Tensor;
  }

  #keysOf(part: MaskPart, { ranges }: Sight, places: ScaledPlaces): Pick<ScaledKeys, "mask" | "among"> {
    const { mask, firstRow, numRows, numKeys } = part;
    const key = `${mask.id}: ${firstRow} + ${numRows}`;
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const among = new Float32Array(numKeys);
    let at = 0;
    for (const [first, end] of ranges) {
      for (let place = first; place < end && at < numKeys; place++) among[at++] = isScaled(places, place) ? 1 : 0;
    }
    const made = {
      mask: this.graph.input("mask", "F16", [numKeys, numRows], () => maskOf(part, among)),
      among: this.graph.input("among", "F32", [1, numKeys], among),
    };
    this.#known.set(key, made);
    return made;
  }
}

/** Where rows see scaled keys. */
function maskOf({ mask, firstRow, numRows, numKeys }: MaskPart, among: Float32Array): Uint16Array {
  const data = new Uint16Array(numKeys * numRows).fill(unscaledKey);
  for (let row = 0; row < numRows; row++) {
    for (const [first, end] of mask.visible(firstRow + row)) {
      for (let key = first; key < end; key++) if (among[key] === 1) data[row * numKeys + key] = 0;
    }
  }
  return data;
}
