import { elementTypes } from "../files/element-types.js";
import type { DevicePolicy, Kernels } from "../ggml/device-policy.js";
import { Graph } from "../ggml/graph.js";
import type { Ggml } from "../ggml/library.js";
import type { Tensor } from "../ggml/tensor.js";
import type { Architecture, ModelBuild } from "./architecture.js";
import type { ModelConfig } from "./config.js";
import type { KVRows } from "./kv-rows.js";
import { isRun, listOf, type Rows, type Sight, seenRows, sharedLength, sightOf } from "./rows.js";
import { ScaledRows } from "./scaled-attention.js";
import type { ModelWeights } from "./weights.js";

/** A row whose logits are wanted: of which rows, and which of them. */
export interface WantedLogits {
  readonly rows: number;
  readonly row: number;
}

/** How a model computes on one device. */
export interface Decoder {
  readonly ggml: Ggml;
  readonly architecture: Architecture;
  readonly config: ModelConfig;
  readonly weights: ModelWeights;
  readonly device: DevicePolicy;
}

/** How many rows of prompts and blocks a graph computes at a time. */
export function pieceRows({ config, device }: Pick<Decoder, "config" | "device">): number {
  const { hiddenSize, intermediateSize, numHeads, headSize } = config;
  return device.graphRows(hiddenSize * Math.max(intermediateSize, numHeads * headSize));
}

/** Rows in the layers of one stage. */
interface PlacedRows extends Rows {
  /** Their first row in the graph. */
  readonly firstRow: number;
  readonly numRows: number;
  readonly allPositions: Int32Array;
  readonly allPlaces: Int32Array;
  /** Those that are computed in this stage. */
  readonly chosen: Int32Array;
  /** What they see in layers with this window. */
  sight(window: number | undefined): Sight;
}

/** Layers that compute the same rows. */
interface Stage {
  readonly firstLayer: number;
  readonly placed: readonly PlacedRows[];
  /** A multiple of a row group: between and after rows stands what nobody reads. */
  readonly numRows: number;
}

/**
 * The one primitive: rows of tokens, each at its position, each seeing a stated part of a context, their keys and values
 * written in place. Encoding a block, prefilling a prompt, the pieces of either, and computing some rows of a context again
 * are this call. So is a decoded token, in a prepared form for single rows of many contexts: decode-step.ts.
 *
 * The graph is computed and disposed by the caller. Ids and positions must have been checked.
 *
 * @param wanted rows whose logits are computed.
 * @returns the graph, and its logits [vocabulary, wanted rows] where any are wanted.
 * @throws RangeError for rows that are none, do not fit their memory, or are not computed to the end.
 */
export function forward(
  decoder: Decoder,
  all: readonly Rows[],
  wanted: readonly WantedLogits[],
): { graph: Graph; logits: Tensor | undefined } {
  const graph = new Graph(decoder.ggml);
  try {
    return { graph, logits: addForward(graph, decoder, all, wanted) };
  } catch (error) {
    graph[Symbol.dispose]();
    throw error;
  }
}

/** Adds to a graph what `forward()` computes. */
export function addForward(
  graph: Graph,
  decoder: Decoder,
  all: readonly Rows[],
  wanted: readonly WantedLogits[],
): Tensor | undefined {
  const { architecture, config } = decoder;
  const stages = stagesOf(decoder, all);
  const last = stages.at(-1) as Stage;
  const rows = Int32Array.from(wanted, (one) => rowIn(last, one.rows, one.row));
  const kernels = decoder.device.kernels(graph, "rows");
  const endLayer = stages.find(isEmpty)?.firstLayer ?? config.numLayers;
  const isRead = wanted.length > 0 || all.some(({ onScores }) => onScores !== undefined);
  let x: Tensor | undefined;
  let build: Build | undefined;
  for (const [i, stage] of stages.entries()) {
    if (isEmpty(stage)) break;
    const { numRows } = stage;
    const positions = laid(stage, ({ allPositions }, row) => allPositions[row]);
    build = startBuild(decoder, graph, kernels, positions);
    const attention = rowAttention(build, stage);
    const before = stages[i - 1];
    if (before === undefined || x === undefined) {
      const tokens = laid(stage, ({ tokenIds }, row) => tokenIds[row]);
      x = architecture.embed(build, graph.input("tokens", "I32", [numRows], tokens));
    } else {
      const kept = laid(stage, (_, row, index) => rowIn(before, index, row));
      x = graph.getRows(x, graph.input("kept", "I32", [numRows], kept));
    }
    const end = stages[i + 1]?.firstLayer ?? config.numLayers;
    for (let layer = stage.firstLayer; layer < end; layer++) {
      x = addLayer(build, attention, layer, x, layer === endLayer - 1 && !isRead);
    }
  }
  // All that was built is computed: ggml has no memory for an input that no node reads.
  if (wanted.length === 0 && isRead) graph.expand(x as Tensor);
  if (wanted.length === 0) return undefined;
  const chosen = graph.getRows(x as Tensor, graph.input("wanted", "I32", [rows.length], rows));
  return graph.output(architecture.head(build as Build, chosen));
}

/** A graph under construction. */
export interface Build extends ModelBuild {
  readonly decoder: Decoder;
  readonly positions: Tensor;
  readonly kernels: Kernels;
  /** What scores of attention are multiplied by. */
  readonly scale: number;
}

/** @param positions of every row of the graph. */
export function startBuild(decoder: Decoder, graph: Graph, kernels: Kernels, positions: Int32Array): Build {
  const { architecture, config, weights } = decoder;
  const weight = (name: string): Tensor => {
    const found = weights.tensors.get(name);
    if (found === undefined) throw new RangeError(`Cannot build a graph: the model has no weight "${name}"`);
    return found;
  };
  return {
    graph,
    config,
    decoder,
    positions: graph.input("positions", "I32", [positions.length], positions),
    kernels,
    scale: architecture.attentionScale(config),
    weight,
    product: (name, x) => {
      const out = kernels.product(weight(`${name}.weight`), x);
      const bias = weights.tensors.get(`${name}.bias`);
      return bias ? graph.add(out, bias) : out;
    },
    expertProduct: (name, x, experts) => kernels.expertProduct(weight(`${name}.weight`), x, experts),
  };
}

/** All rows of one layer, [D, heads, rows] each. */
export interface LayerRows {
  /** Before RoPE. */
  readonly keys: Tensor;
  readonly turnedKeys: Tensor;
  readonly values: Tensor;
}

/** What rows leave behind in each layer, and what they see: the one part that depends on what the rows are for. */
export interface LayerAttention {
  write(layer: number, rows: LayerRows): void;
  /** @returns [D * H, rows]. */
  attend(layer: number, rows: LayerRows & { readonly queries: Tensor }): Tensor;
}

/** One layer over x [hidden, rows]. Where nothing reads its output, only keys and values are computed. */
export function addLayer(
  build: Build,
  attention: LayerAttention,
  layer: number,
  x: Tensor,
  keysAndValuesOnly: boolean,
): Tensor {
  const { graph, decoder, positions, weight, product, expertProduct } = build;
  const rope = decoder.weights.ropes[layer];
  const turn = (heads: Tensor) => (rope ? graph.rope(heads, positions, rope) : heads);
  const out = decoder.architecture.layer(
    {
      ...build,
      layer,
      weight: (name) => weight(`blk.${layer}.${name}`),
      product: (name, rows) => product(`blk.${layer}.${name}`, rows),
      expertProduct: (name, rows, experts) => expertProduct(`blk.${layer}.${name}`, rows, experts),
      attend: ({ queries, keys, values }) => {
        const rows = { keys, turnedKeys: turn(keys), values };
        attention.write(layer, rows);
        return keysAndValuesOnly ? undefined : attention.attend(layer, { ...rows, queries: turn(queries) });
      },
    },
    x,
  );
  return out ?? x;
}

/** Rows firstRow..firstRow + count of x [D, heads, rows] as a window. */
function rowsOf(graph: Graph, x: Tensor, firstRow: number, count: number): Tensor {
  return graph.view(x, [x.ne[0], x.ne[1], count], [x.nb[1], x.nb[2]], firstRow * x.nb[2]);
}

/** What the rows of a stage leave in each layer, and what they see. */
function rowAttention({ graph, kernels, scale, decoder }: Build, stage: Stage): LayerAttention {
  const { numRows: total } = stage;
  const placed = stage.placed.filter(({ numRows }) => numRows > 0);
  const scaled = new ScaledRows(graph);
  const byHead = (x: Tensor, { firstRow, numRows }: PlacedRows) =>
    graph.permute(rowsOf(graph, x, firstRow, numRows), [0, 2, 1, 3]);
  /** Keys or values [D, rows, H'] of rows that see no context: those before them from a place on, as stored, and their own as computed. */
  const seenAlone = (x: Tensor, place: PlacedRows, part: "keys" | "values", layer: number, first: number): Tensor => {
    const own = byHead(x, place);
    const { before } = place;
    if (before === undefined || first >= before.length) return own;
    return graph.concat(graph.toF32(before[part].layer(graph, layer, first, before.length - first)), own, 1);
  };
  const ids = placed.map(({ context, chosen, allPlaces }) => {
    if (context === undefined) return undefined;
    const places = chosen.map((row) => (allPlaces[row] as number) - sharedLength(context));
    return isRun(places) ? places[0] : graph.input("places", "I32", [places.length], places);
  });
  // ggml copies to types in blocks only where all that it writes lies side by side.
  const blockRows = placed.map(({ block, numRows }) =>
    block && elementTypes[block.keys.tensor.type].blockSize > 1
      ? graph.input("block rows", "I32", [numRows], listOf(block.first ?? 0, numRows))
      : undefined,
  );
  return {
    write: (layer, rows) => {
      for (const [i, place] of placed.entries()) {
        const { context, block, numRows } = place;
        const copy = (x: Tensor, into: KVRows, first: number) =>
          graph.expand(graph.copy(byHead(x, place), into.layer(graph, layer, first, numRows)));
        if (context !== undefined) {
          const at = ids[i] as Tensor | number;
          for (const [x, into] of [[rows.turnedKeys, context.keys] as const, [rows.values, context.values] as const]) {
            if (typeof at === "number") copy(x, into, at);
            else graph.expand(graph.setRows(into.scattered(graph, layer), byHead(x, place), at));
          }
        }
        if (block === undefined) continue;
        const into = blockRows[i];
        for (const part of ["keys", "values"] as const) {
          if (into === undefined) copy(rows[part], block[part], block.first ?? 0);
          else graph.expand(graph.setRows(block[part].scattered(graph, layer), byHead(rows[part], place), into));
        }
      }
    },
    attend: (layer, { queries, turnedKeys, values }) => {
      let attended: Tensor | undefined;
      for (const [i, place] of placed.entries()) {
        const { context, firstRow, numRows } = place;
        const sight = place.sight(decoder.architecture.window(decoder.config, layer));
        const { ranges, mask } = sight;
        const [k, v] =
          context === undefined
            ? [[turnedKeys, "keys"] as const, [values, "values"] as const].map(([x, part]) =>
                seenAlone(x, place, part, layer, ranges[0]?.[0] ?? 0),
              )
            : (["keys", "values"] as const).map((part) => seenRows(graph, context, part, layer, ranges));
        const q = rowsOf(graph, queries, firstRow, numRows);
        place.onScores?.(layer, q, k as Tensor, sight, scale);
        const out = context?.scaled
          ? scaled.attend({ q, k: k as Tensor, v: v as Tensor, scale }, sight, context.scaled)
          : kernels.attention(q, k as Tensor, v as Tensor, mask, scale);
        attended = attended === undefined ? out : graph.concat(attended, out, 1);
        const gap = (placed[i + 1]?.firstRow ?? total) - firstRow - numRows;
        if (gap > 0) attended = graph.pad(attended, [0, gap]);
      }
      return attended as Tensor;
    },
  };
}

/** The stages of a graph: a new one begins where rows are left out. */
function stagesOf({ device: { rowGroup, minRows } }: Decoder, all: readonly Rows[]): Stage[] {
  if (all.length === 0) throw new RangeError("Cannot build a graph: no rows are given");
  for (const rows of all) requireComplete(rows);
  const starts = new Set([0, ...all.flatMap(({ kept }) => (kept ? [kept.fromLayer] : []))]);
  return [...starts]
    .sort((a, b) => a - b)
    .map((firstLayer) => {
      let next = 0;
      const placed = all.map((rows, index): PlacedRows => {
        const { tokenIds, places = rows.before?.length ?? 0, kept } = rows;
        const numAll = tokenIds.length;
        const chosen = kept && firstLayer >= kept.fromLayer ? kept.rows : listOf(0, numAll);
        const allPlaces = listOf(places, numAll);
        const spans = rows.spans ?? [{ kind: "global", numRows: numAll }];
        const sights = new Map<number, Sight>();
        const sight = (window = Number.POSITIVE_INFINITY): Sight => {
          const known = sights.get(window);
          if (known !== undefined) return known;
          const made = sightOf(
            allPlaces,
            spans,
            chosen,
            `rows ${index} from layer ${firstLayer}, ${window} back`,
            window,
          );
          sights.set(window, made);
          return made;
        };
        const firstRow = roundUp(next, rowGroup);
        next = firstRow + chosen.length;
        const allPositions = listOf(rows.positions, numAll);
        return { ...rows, firstRow, numRows: chosen.length, allPositions, allPlaces, chosen, sight };
      });
      return { firstLayer, placed, numRows: roundUp(Math.max(next, minRows), rowGroup) };
    });
}

/** Whether all rows are left out. */
function isEmpty({ placed }: Stage): boolean {
  return placed.every(({ numRows }) => numRows === 0);
}

/** @throws RangeError for rows that contradict themselves or do not fit their memory. */
function requireComplete({ tokenIds, positions, context, before, places = 0, spans, block, kept }: Rows): void {
  const numRows = tokenIds.length;
  const refuse = (why: string) => new RangeError(`Cannot build a graph: ${why}`);
  if (numRows === 0) throw refuse("rows are empty");
  for (const list of [positions, places]) {
    if (typeof list !== "number" && list.length !== numRows)
      throw refuse(`${numRows} rows have a list of ${list.length}`);
  }
  const numSpanned = spans?.reduce((sum, span) => sum + span.numRows, 0) ?? numRows;
  if (numSpanned !== numRows) throw refuse(`spans have ${numSpanned} rows of ${numRows}`);
  if (kept?.rows.some((row) => !(row < numRows))) throw refuse("no such rows are kept");
  if (context === undefined && (places !== 0 || kept))
    throw refuse("rows without a context see all of themselves alone");
  if (context && before) throw refuse("what rows see before them is the context's");
  if (block && kept) throw refuse("a block has all its rows in all layers");
  const end = (list: number | Int32Array) => (typeof list === "number" ? list + numRows : Math.max(...list) + 1);
  const start = typeof places === "number" ? places : Math.min(...places);
  if (context) {
    const shared = sharedLength(context);
    if (start < shared) throw refuse(`row ${start} is one of ${shared} that others hold too`);
    requireRoom(end(places) - shared, context.keys.capacity);
  }
  if (block) {
    requireRoom((block.first ?? 0) + numRows, block.keys.capacity);
  }
}

function requireRoom(end: number, room: number): void {
  if (end > room) throw new RangeError(`Cannot write ${end} rows of keys: there is room for ${room}`);
}

/** One number for each row of a stage's graph; 0 between them. */
function laid(
  { placed, numRows }: Stage,
  numberOf: (rows: PlacedRows, row: number, index: number) => number | undefined,
): Int32Array {
  const list = new Int32Array(numRows);
  for (const [index, rows] of placed.entries()) {
    for (const [i, row] of rows.chosen.entries()) list[rows.firstRow + i] = numberOf(rows, row, index) as number;
  }
  return list;
}

/** The row of a stage's graph that is row `row` of some rows. */
function rowIn({ placed }: Stage, index: number, row: number): number {
  const rows = placed[index];
  const i = rows?.chosen.indexOf(row) ?? -1;
  if (rows === undefined || i < 0) throw new RangeError(`Cannot use row ${row} of rows ${index}: it is not computed`);
  return rows.firstRow + i;
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}
