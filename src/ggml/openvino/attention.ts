import { elementTypes } from "../../files/element-types.js";
import type { AttentionMask, MaskTensors } from "../attention-mask.js";
import type { Pointer } from "../symbols.js";
import type { Tensor } from "../tensor.js";
import { type CompiledModel, compileModel, constant, convert, parameter, type XmlLayer } from "./compiled-model.js";
import { bytesOf, newTensor, type OpenVino } from "./library.js";

/** The most scores of one KV head that are computed at once: 16 MiB. */
const maxScores = 1 << 22;
/** Rows of one node see keys up to the last that any of them sees: fewer rows see fewer. */
const [mostRows, leastRows] = [128, 16];
/** The model's one constant: what a mask's sizes are multiplied by for those of scores by row, head of the group, and key. */
const scoresShape = [1n, -1n, 1n] as const;
const constantBytes = 64;

type KeyType = "F16" | "F32";

/** Attention of rows as two products and a softmax in F32, a KV head at a time: the heads that share it are rows. */
export class OpenVinoAttention implements Disposable {
  readonly #models = new Map<KeyType, Promise<CompiledModel>>();
  #disposed = false;

  /** @param core stays the caller's. */
  constructor(
    private readonly openVino: OpenVino,
    private readonly core: Pointer,
    private readonly threads: number,
  ) {}

  /**
   * Adds to a graph the attention of some rows over keys and values.
   *
   * @param q [D, H, T] F32, T rows in order.
   * @param k [D, N, H'], the N keys of the mask, F32 or F16; v likewise, of the same type.
   * @returns [D * H, T] F32.
   */
  addTo(masks: MaskTensors, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, scale: number): Tensor {
    const { graph } = masks;
    const [headSize, numHeads] = q.ne;
    const numKvHeads = k.ne[2];
    const group = numHeads / numKvHeads;
    const byHead = (t: Tensor) => (t.nb[1] === headSize * elementTypes[t.type].typeSize ? t : graph.contiguous(t));
    const [keys, values] = [byHead(k), byHead(v)];
    const rows = Math.max(leastRows, Math.min(mostRows, Math.floor(maxScores / group / mask.numKeys)));
    let all: Tensor | undefined;
    for (let row = 0; row < mask.numRows; row += rows) {
      const part = masks.part(mask, row, Math.min(rows, mask.numRows - row));
      const { numRows, numKeys } = part;
      // [D, G, H', T] -> [D, G, T, H']: row t * G + g of each KV head.
      const [, head, token] = q.nb;
      const four = graph.view(q, [headSize, group, numKvHeads, numRows], [head, head * group, token], row * token);
      const regrouped = graph.contiguous(graph.permute(four, [0, 1, 3, 2]));
      const scaled = graph.reshape(graph.scale(regrouped, scale), [headSize, group * numRows, numKvHeads]);
      const window = (t: Tensor) => graph.view(t, [headSize, numKeys, numKvHeads], [t.nb[1], t.nb[2]]);
      const [kPart, vPart] = [window(keys), window(values)];
      const seen = masks.tensor(part);
      const node = graph.flashAttention(scaled, kPart, vPart, seen, 1, "outside");
      graph.computedBy(node, (addressOf) =>
        this.#attend([scaled, kPart, vPart, seen, node].map(addressOf), kPart, vPart, group, numRows),
      );
      const out = graph.view(node, [headSize, group, numRows, numKvHeads]);
      const back = graph.contiguous(graph.permute(out, [0, 1, 3, 2]));
      const tokens = graph.reshape(back, [headSize * numHeads, numRows]);
      all = all === undefined ? tokens : graph.concat(all, tokens, 1);
    }
    return all as Tensor;
  }

  /** One KV head after another. @param addresses of queries, keys, values, mask and output. */
  async #attend(addresses: readonly Pointer[], k: Tensor, v: Tensor, group: number, numRows: number): Promise<void> {
    const [q = 0n, keys = 0n, values = 0n, mask = 0n, out = 0n] = addresses;
    const [headSize, numKeys, numKvHeads] = k.ne;
    const type = k.type as KeyType;
    const model = await this.#modelOf(type);
    const rowsOfHead = group * numRows;
    for (let head = 0; head < numKvHeads; head++) {
      const queries = BigInt(head * rowsOfHead * headSize * Float32Array.BYTES_PER_ELEMENT);
      const [ofKeys, ofValues] = [BigInt(head * k.nb[2]), BigInt(head * v.nb[2])];
      await model.infer([
        ["F32", [rowsOfHead, headSize], q + queries],
        [type, [numKeys, headSize], keys + ofKeys],
        [type, [numKeys, headSize], values + ofValues],
        ["F16", [numRows, 1, numKeys], mask],
        ["F32", [rowsOfHead, headSize], out + queries],
      ]);
    }
  }

  #modelOf(type: KeyType): Promise<CompiledModel> {
    const known = this.#models.get(type);
    if (known !== undefined) return known;
    const model = this.#compile(type);
    this.#models.set(type, model);
    return model;
  }

  async #compile(type: KeyType): Promise<CompiledModel> {
    const { openVino, core, threads } = this;
    const weights = newTensor(openVino, "U8", [constantBytes]);
    try {
      new BigInt64Array(bytesOf(openVino, weights, constantBytes), 0, 3).set(scoresShape);
      return await compileModel(openVino, core, attentionLayers(type === "F16" ? "f16" : "f32"), { weights, threads });
    } finally {
      openVino.symbols.ov_tensor_free(weights);
    }
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const model of this.#models.values()) {
      model.then(
        (compiled) => compiled[Symbol.dispose](),
        () => undefined,
      );
    }
  }
}

/** softmax(q kᵀ + mask) v, with the mask [T, 1, N] repeated over the G heads of rows [T * G, D]. */
function attentionLayers(type: "f16" | "f32"): readonly XmlLayer[] {
  const two = [-1, -1];
  const three = [-1, -1, -1];
  return [
    parameter("f32", two),
    parameter(type, two),
    parameter(type, two),
    parameter("f16", [-1, 1, -1]),
    convert("f32", 1, two),
    convert("f32", 2, two),
    convert("f32", 3, [-1, 1, -1]),
    { type: "MatMul", data: 'transpose_a="false" transpose_b="true"', inputs: [0, 4], output: ["f32", two] },
    { type: "ShapeOf", inputs: [3], output: ["i64", [3]] },
    constant("i64", [3], 0, 24),
    { type: "Multiply", data: 'auto_broadcast="numpy"', inputs: [8, 9], output: ["i64", [3]] },
    { type: "Reshape", data: 'special_zero="false"', inputs: [7, 10], output: ["f32", three] },
    { type: "Add", data: 'auto_broadcast="numpy"', inputs: [11, 6], output: ["f32", three] },
    { type: "Softmax", data: 'axis="2"', inputs: [12], output: ["f32", three] },
    { type: "ShapeOf", inputs: [7], output: ["i64", [2]] },
    { type: "Reshape", data: 'special_zero="false"', inputs: [13, 14], output: ["f32", two] },
    { type: "MatMul", data: 'transpose_a="false" transpose_b="false"', inputs: [15, 5], output: ["f32", two] },
    { type: "Result", inputs: [16] },
  ];
}
