import { quote } from "../files/quote.js";
import { readRange } from "../files/read-range.js";
import type { TensorEntry } from "../files/tensor-source.js";
import { Backend } from "../ggml/backend.js";
import { Graph } from "../ggml/graph.js";
import type { Ggml } from "../ggml/library.js";
import { dequantizeInto } from "../ggml/quantize.js";
import type { LowRankFactor, LowRankUpdate, ModelSource } from "./model-source.js";
import { layRows, type RopeConfig } from "./rope.js";

/** Changes rows of a weight, [rows, columns] from `firstRow` on, from a file's numbers to the model's. */
export type RowChange = (values: Float32Array, firstRow: number) => Promise<void>;

/**
 * Computes what adapters add to weights, in F32 on the CPU, off the event loop. It owns a backend, once it is needed, and holds one
 * weight's adapters at a time.
 */
export class AdapterMerger implements Disposable {
  #backend: Backend | undefined;
  #last: { readonly entry: TensorEntry; readonly values: Float32Array<ArrayBuffer> } | undefined;
  /** Ends when the last product that was asked for has. */
  #products: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly ggml: Ggml,
    private readonly source: ModelSource,
    private readonly threads: number,
  ) {}

  /**
   * The change of a weight: what the file's numbers lack, and adapters. Undefined where there is none.
   *
   * @param pairs how rows of queries and keys are wanted.
   * @throws Error if a file cannot be read or was cut. So does the change where a sum is not finite.
   */
  async changeOf(name: string, pairs: RopeConfig["pairs"]): Promise<RowChange | undefined> {
    const updates = this.source.adapters?.flatMap((adapter) => adapter.updates.get(name) ?? []) ?? [];
    const added = this.source.tensors.get(name)?.added ?? 0;
    if (updates.length === 0 && added === 0) return undefined;
    const read: (LowRankUpdate & { leftRows: Float32Array; rightColumns: Float32Array })[] = [];
    for (const update of updates) {
      const factors = await this.factorsOf(update, pairs);
      for (let i = 0; i < factors.leftRows.length; i++) factors.leftRows[i]! *= update.scale;
      read.push({ ...update, ...factors });
    }
    return async (values, firstRow) => {
      if (added !== 0) for (let i = 0; i < values.length; i++) values[i]! += added;
      for (const { leftRows, rightColumns, rank, firstRow: start, numRows } of read) {
        const columns = rightColumns.length / rank;
        const from = Math.max(firstRow, start);
        const count = Math.min(firstRow + values.length / columns, start + numRows) - from;
        if (count <= 0) continue;
        const rows = leftRows.subarray((from - start) * rank, (from - start + count) * rank);
        const product = await this.#multiply(rows, rightColumns, rank);
        const offset = (from - firstRow) * columns;
        for (let i = 0; i < product.length; i++) values[offset + i]! += product[i]!;
      }
      if (!values.every(Number.isFinite)) {
        throw new Error(`Cannot merge adapters into ${quote(name)}: a number of the sum is not finite`);
      }
    };
  }

  /** An update's two factors without its scale, the rank innermost. @param pairs how rows of queries and keys are wanted. */
  async factorsOf(
    { left, right, rank, pairs: own }: LowRankUpdate,
    pairs: RopeConfig["pairs"],
  ): Promise<{ readonly leftRows: Float32Array<ArrayBuffer>; readonly rightColumns: Float32Array<ArrayBuffer> }> {
    const leftRows = await this.#read(left, rank);
    const bytes = new Uint8Array(leftRows.buffer);
    const isLaidAnew = own !== undefined && own !== pairs;
    const laid = isLaidAnew ? layRows(bytes, rank * 4, this.source.config.headSize, pairs) : bytes;
    return { leftRows: new Float32Array(laid.buffer), rightColumns: await this.#read(right, rank) };
  }

  /** Its numbers in F32, the rank innermost. */
  async #read({ entry, rankIsInner, turn }: LowRankFactor, rank: number): Promise<Float32Array<ArrayBuffer>> {
    const values = await this.#readAll(entry);
    if (turn) {
      return Float32Array.from({ length: values.length / turn.of }, (_, i) => values[i * turn.of + turn.index]!);
    }
    // The caller changes what it gets.
    if (rankIsInner) return values.slice();
    const turned = new Float32Array(values.length);
    const length = values.length / rank;
    for (let r = 0; r < rank; r++) for (let i = 0; i < length; i++) turned[i * rank + r] = values[r * length + i]!;
    return turned;
  }

  /** A factor's tensor in F32. Those that many experts share are read once. */
  async #readAll(entry: TensorEntry): Promise<Float32Array<ArrayBuffer>> {
    if (this.#last?.entry === entry) return this.#last.values;
    const values = new Float32Array(entry.shape.reduce((product, size) => product * size, 1));
    const bytes = await readRange(entry.path, entry.offset, entry.byteLength);
    dequantizeInto(this.ggml, entry.type, bytes, values);
    this.#last = { entry, values };
    return values;
  }

  /** left [rows, rank] times right [columns, rank] transposed: [rows, columns]. Products queue: a backend computes one at a time. */
  #multiply(left: Float32Array, right: Float32Array, rank: number): Promise<Float32Array> {
    const product = this.#products.then(async () => {
      const { ggml } = this;
      const cpu = ggml.devices.find(({ kind }) => kind === "cpu")!.name;
      this.#backend ??= new Backend(ggml, { threads: this.threads, device: cpu });
      const backend = this.#backend;
      using graph = new Graph(ggml);
      const columns = graph.input("right", "F32", [rank, right.length / rank], right);
      const rows = graph.input("left", "F32", [rank, left.length / rank], left);
      const result = graph.output(graph.mulMat(columns, rows));
      return await backend.compute(graph, () => backend.readFloats(result));
    });
    this.#products = product.catch(() => undefined);
    return product;
  }

  [Symbol.dispose](): void {
    this.#backend?.[Symbol.dispose]();
  }
}
