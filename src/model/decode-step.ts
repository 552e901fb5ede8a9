import { Graph } from "../ggml/graph.js";
import { addGreatest } from "../ggml/greatest.js";
import type { Tensor } from "../ggml/tensor.js";
import { addLayer, type Decoder, startBuild } from "./decoder.js";
import type { KVRows } from "./kv-rows.js";
import { isScaled, type ScaledPlaces } from "./rows.js";
import { scaledTokenAttention, unscaledKey } from "./scaled-attention.js";

/** Rows that all sequences of a run begin with. */
export interface SharedBase {
  readonly keys: KVRows;
  readonly decodeValues: KVRows;
  readonly length: number;
  /** Keys that are read: those past the length are masked, and must be finite. */
  readonly numKeys: number;
}

/**
 * Sequences whose own rows lie side by side in one piece of memory, and are attended over in one go. What they all begin
 * with is read once for all of them.
 */
export interface TokenRun {
  readonly shared: readonly SharedBase[];
  /** Keys that are read of each sequence's own: more than it has, with those past its own masked. */
  readonly numKeys: number;
  /** Of all its sequences. */
  readonly keys: KVRows;
  readonly decodeValues: KVRows;
  /** Rows of each sequence: tokens that follow each other. Default 1. */
  readonly rowsEach?: number | undefined;
  /** Places whose share of attention is changed; of one row of one sequence alone. */
  readonly scaled?: ScaledPlaces | undefined;
}

/** One sequence's tokens to compute. */
export interface StepTokens {
  /** One or more, which follow each other; fewer than the graph has rows for are made up with copies of the last one. */
  readonly tokenIds: readonly number[];
  /** Of the first one. */
  readonly position: number;
  /** How many keys it has of its own: the tokens' are written after them, copies' too. */
  readonly past: number;
}

/** Of one run, by how many places back a layer sees. */
interface RunMasks {
  readonly run: TokenRun;
  readonly byWindow: ReadonlyMap<number, Uint16Array>;
  /** Where places have another share: which keys those are, and which of them the token sees. */
  readonly scaled?: { readonly among: Float32Array; readonly byWindow: ReadonlyMap<number, Uint16Array> } | undefined;
}

const visible = 0;
/** Minus infinity as a 16-bit float. */
const hidden = 0xfc00;

/**
 * The next tokens of each of several sequences, one or more, over their contexts, which their keys and values join: a graph that is built
 * once and computed for step after step, while the sequences stay and their keys fit. Weights are read once for all.
 *
 * It owns the graph. Whatever the runs name must outlive it.
 */
export class DecodeStep implements Disposable {
  readonly graph: Graph;
  /** [vocabulary, rows]: a sequence's rows follow each other. */
  readonly logits: Tensor;
  /** `addGreatest()` of them, where asked for. */
  readonly greatest: Tensor | undefined;
  readonly numSequences: number;
  readonly numRows: number;
  readonly #tokens: Int32Array;
  readonly #positions: Int32Array;
  /** Where keys and values are written, as rows of each sequence's context. */
  readonly #rows: Int32Array;
  /** Which keys each sequence sees: of each run, by how many places back a layer sees. */
  readonly #masks: readonly RunMasks[];

  /**
   * @param choosesGreatest whether greedy tokens are chosen in the graph.
   * @throws RangeError for runs that do not fit their memory, or none.
   */
  constructor(
    decoder: Decoder,
    runs: readonly TokenRun[],
    choosesGreatest = false,
    use: "computed" | "counted" = "computed",
  ) {
    this.numSequences = runs.reduce((sum, { keys }) => sum + keys.numSequences, 0);
    if (this.numSequences === 0) throw new RangeError("Cannot build a graph: no sequence is given");
    for (const run of runs) requireFits(run);
    this.numRows = runs.reduce((sum, run) => sum + rowsOf(run), 0);
    this.#tokens = new Int32Array(this.numRows);
    this.#positions = new Int32Array(this.numRows);
    this.#rows = new Int32Array(this.numRows);
    const windows = Array.from({ length: decoder.config.numLayers }, (_, layer) => windowOf(decoder, layer));
    this.#masks = runs.map((run) => {
      const size = keysRead(run) * rowsOf(run);
      const masks = () => new Map(windows.map((window) => [window, new Uint16Array(size)]));
      return {
        run,
        byWindow: masks(),
        scaled: run.scaled && { among: scaledKeys(run, run.scaled), byWindow: masks() },
      };
    });
    this.graph = new Graph(decoder.ggml, use);
    try {
      this.logits = this.#build(decoder);
      this.greatest = choosesGreatest ? this.graph.output(addGreatest(this.graph, this.logits)) : undefined;
    } catch (error) {
      this.graph[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * Sets what the next computation computes.
   * @param tokens of each sequence, in the order of the runs.
   * @throws RangeError if they are not as many, or a context is full.
   */
  set(tokens: readonly StepTokens[]): void {
    if (tokens.length !== this.numSequences) {
      throw new RangeError(
        `Cannot decode tokens of ${tokens.length} sequences: the graph has ${this.numSequences} sequences`,
      );
    }
    const all = tokens[Symbol.iterator]();
    let row = 0;
    for (const { run, byWindow, scaled } of this.#masks) {
      for (const data of byWindow.values()) data.fill(hidden);
      const [{ rowsEach = 1 }, { numSequences }] = [run, run.keys];
      for (let sequence = 0; sequence < numSequences; sequence++) {
        const { tokenIds, position, past } = all.next().value as StepTokens;
        if (past + rowsEach > run.numKeys || tokenIds.length > rowsEach) {
          throw new RangeError(
            `Cannot decode ${tokenIds.length} tokens over ${past} keys: the graph has ${rowsEach} rows, and reads ${run.numKeys} keys, the tokens' own among them`,
          );
        }
        for (let i = 0; i < rowsEach; i++, row++) {
          this.#tokens[row] = tokenIds[Math.min(i, tokenIds.length - 1)] as number;
          this.#positions[row] = position + i;
          this.#rows[row] = past + i;
          const mask =
            keysRead(run) * (run.shared.length === 0 ? sequence * rowsEach + i : i * numSequences + sequence);
          for (const [window, data] of byWindow) {
            showKeys(data.subarray(mask, mask + keysRead(run)), run, past + i, window);
            scaled?.byWindow
              .get(window)
              ?.set(data.map((seen, key) => (seen === visible && scaled.among[key] === 1 ? visible : unscaledKey)));
          }
        }
      }
    }
  }

  [Symbol.dispose](): void {
    this.graph[Symbol.dispose]();
  }

  #build(decoder: Decoder): Tensor {
    const { graph, numRows } = this;
    const { architecture, config } = decoder;
    const kernels = decoder.device.kernels(graph, "tokens");
    const build = startBuild(decoder, graph, kernels, this.#positions);
    const places = graph.input("rows", "I32", [numRows], this.#rows);
    let first = 0;
    const placed = this.#masks.map(({ run, byWindow, scaled }) => {
      const at = first;
      const { numSequences: count } = run.keys;
      const { rowsEach = 1 } = run;
      first += count * rowsEach;
      // Scores of a sequence's rows stand as its heads do, each head's rows side by side: masks repeat over the heads.
      const sizes = run.shared.length === 0 ? [1, rowsEach, count] : [count, rowsEach];
      const maskOf = (data: Uint16Array) => graph.input("mask", "F16", [keysRead(run), ...sizes], data);
      const masksOf = (all: typeof byWindow) => new Map([...all].map(([window, data]) => [window, maskOf(data)]));
      const rows = graph.view(places, [rowsEach, 1, count], [4 * rowsEach, 4 * rowsEach], 4 * at);
      const share = scaled &&
        run.scaled && {
          among: graph.input("among", "F32", [1, keysRead(run)], scaled.among),
          masks: masksOf(scaled.byWindow),
          power: run.scaled.power,
        };
      return { run, count, rowsEach, first: at, masks: masksOf(byWindow), rows, share };
    });
    const { numHeads, numKvHeads, headSize } = config;
    const window = (x: Tensor, ne: readonly number[], strides: readonly number[], at: number) =>
      graph.view(x, ne, strides, at * x.nb[2]);
    let x = architecture.embed(build, graph.input("tokens", "I32", [numRows], this.#tokens));
    for (let index = 0; index < config.numLayers; index++) {
      const attention = {
        write: (_: number, { turnedKeys, values }: { readonly turnedKeys: Tensor; readonly values: Tensor }) => {
          for (const { run, count, rowsEach, first: at, rows } of placed) {
            const [size, head, row] = turnedKeys.nb;
            const key = window(turnedKeys, [headSize, rowsEach, numKvHeads, count], [row, head, rowsEach * row], at);
            graph.expand(graph.setRows(run.keys.scattered(graph, index), key, rows));
            // Values may be windows on rows that hold more, with a stride of their own.
            const valueRow = values.nb[2];
            const value = run.decodeValues.isTransposed
              ? window(values, [1, rowsEach, headSize * numKvHeads, count], [valueRow, size, rowsEach * valueRow], at)
              : window(values, [headSize, rowsEach, numKvHeads, count], [valueRow, head, rowsEach * valueRow], at);
            graph.expand(graph.setRows(run.decodeValues.scattered(graph, index), value, rows));
          }
        },
        attend: (_: number, { queries }: { readonly queries: Tensor }) => {
          let attended: Tensor | undefined;
          for (const { run, count, rowsEach, first: at, masks, share } of placed) {
            const seen = ({ keys, decodeValues, numKeys }: Omit<TokenRun, "shared">) => ({
              keys: keys.layer(graph, index, 0, numKeys),
              decodeValues: decodeValues.layer(graph, index, 0, numKeys),
              isTransposed: decodeValues.isTransposed,
            });
            const heads = {
              ...seen(run),
              shared: run.shared.map(seen),
              queries: rowsAsHeads(graph, queries, at, [headSize, numHeads, rowsEach, count]),
              mask: masks.get(windowOf(decoder, index)) as Tensor,
              scale: build.scale,
            };
            const all = share
              ? scaledTokenAttention(graph, heads, {
                  ...share,
                  mask: share.masks.get(windowOf(decoder, index)) as Tensor,
                })
              : kernels.tokenAttention(heads);
            const byRow = headsAsRows(graph, all, [headSize, numHeads, rowsEach, count]);
            attended = attended === undefined ? byRow : graph.concat(attended, byRow, 1);
          }
          return attended as Tensor;
        },
      };
      x = addLayer(build, attention, index, x, false);
    }
    return graph.output(architecture.head(build, x));
  }
}

/**
 * Queries [D, H, all rows] of R rows of each of S sequences as those of one row with R times the heads, [D, R * H, S]: each head's rows
 * side by side, so that those of a KV head are too.
 */
function rowsAsHeads(graph: Graph, queries: Tensor, first: number, sizes: readonly number[]): Tensor {
  const [headSize, numHeads, rowsEach, count] = sizes as [number, number, number, number];
  const [, head, row] = queries.nb;
  if (rowsEach === 1) return graph.view(queries, [headSize, numHeads, count], [head, row], first * row);
  const rows = graph.view(queries, sizes, [head, row, rowsEach * row], first * row);
  return graph.reshape(graph.contiguous(graph.permute(rows, [0, 2, 1, 3])), [headSize, rowsEach * numHeads, count]);
}

/** What these heads gave, [D * R * H, S], row by row: [D * H, R * S]. */
function headsAsRows(graph: Graph, attended: Tensor, sizes: readonly number[]): Tensor {
  const [headSize, numHeads, rowsEach, count] = sizes as [number, number, number, number];
  if (rowsEach === 1) return attended;
  const rows = graph.permute(graph.reshape(attended, [headSize, rowsEach, numHeads, count]), [0, 2, 1, 3]);
  return graph.reshape(graph.contiguous(rows), [headSize * numHeads, rowsEach * count]);
}

function rowsOf({ keys, rowsEach = 1 }: TokenRun): number {
  return keys.numSequences * rowsEach;
}

/** How many places back a layer sees. */
function windowOf({ architecture, config }: Decoder, layer: number): number {
  return architecture.window(config, layer) ?? Number.POSITIVE_INFINITY;
}

/** The keys of one sequence in a run's graph, shared and own. */
function keysRead({ shared, numKeys }: TokenRun): number {
  return shared.reduce((sum, base) => sum + base.numKeys, numKeys);
}

/** 1 for each of a run's keys that has another share, else 0. */
function scaledKeys(run: TokenRun, places: ScaledPlaces): Float32Array {
  const among = new Float32Array(keysRead(run));
  let [key, place] = [0, 0];
  for (const { length, numKeys } of [...run.shared, { length: run.numKeys, numKeys: run.numKeys }]) {
    for (let i = 0; i < length; i++) among[key + i] = isScaled(places, place + i) ? 1 : 0;
    key += numKeys;
    place += length;
  }
  return among;
}

/** Shows one sequence's token the keys before it, `window` of them with its own, in a mask that hides all. */
function showKeys(mask: Uint16Array, { shared, numKeys }: TokenRun, past: number, window: number): void {
  const pieces = [...shared, { length: past + 1, numKeys }];
  // What the window leaves out, from the beginning on.
  let left = Math.max(0, pieces.reduce((sum, { length }) => sum + length, 0) - window);
  let first = 0;
  for (const piece of pieces) {
    mask.fill(visible, first + Math.min(left, piece.length), first + piece.length);
    left = Math.max(0, left - piece.length);
    first += piece.numKeys;
  }
}

function requireFits({ numKeys, keys, decodeValues }: TokenRun): void {
  const capacity = Math.min(keys.capacity, decodeValues.capacity);
  if (numKeys > capacity) throw new RangeError(`Cannot decode over ${numKeys} keys: there is room for ${capacity}`);
}
