import { type AttentionMask, MaskTensors } from "../ggml/attention-mask.js";
import type { Graph } from "../ggml/graph.js";
import type { Tensor } from "../ggml/tensor.js";
import { addForward, type Decoder, pieceRows } from "../model/decoder.js";
import { isRun, type Rows } from "../model/rows.js";
import type { AssembledContext } from "./assemble.js";
import type { GraphRunner } from "./held-rows.js";
import type { TokenizedPrompt } from "./prompt.js";
import type { Scheduler, WorkOf } from "./scheduler.js";

/** Which tokens of local blocks but block 0 are computed again over all that stands before them. */
export type Recompute =
  /** The first ones of each block. */
  | { readonly kind: "first"; readonly count: number }
  /** The share of all whose values in the second layer differ most between alone and in full. */
  | { readonly kind: "deviation"; readonly share: number }
  /** The share of all that the prompt's last tokens attend to most, in the second quarter of the layers. */
  | { readonly kind: "look"; readonly share: number };

/** Tokens of a prompt, each at its place, ascending. */
interface PlacedTokens {
  readonly places: Int32Array;
  readonly positions: Int32Array;
  readonly tokenIds: Int32Array;
}

/** A token of a prompt, at its place. */
interface PlacedToken {
  readonly place: number;
  readonly position: number;
  readonly id: number;
}

function inArrays(tokens: readonly PlacedToken[]): PlacedTokens {
  return {
    places: Int32Array.from(tokens, ({ place }) => place),
    positions: Int32Array.from(tokens, ({ position }) => position),
    tokenIds: Int32Array.from(tokens, ({ id }) => id),
  };
}

/** Tokens that follow each other from a place on. */
function placedFrom(place: number, tokenIds: readonly number[]): PlacedTokens {
  const places = Int32Array.from(tokenIds, (_, i) => place + i);
  return { places, positions: places, tokenIds: Int32Array.from(tokenIds) };
}

/** All of them, in the order of their places. */
function mergePlaced(parts: readonly PlacedTokens[]): PlacedTokens {
  const all = parts.flatMap(({ places, positions, tokenIds }) =>
    Array.from(places, (place, i) => ({ place, position: positions[i] as number, id: tokenIds[i] as number })),
  );
  return inArrays(all.sort((a, b) => a.place - b.place));
}

/** How many of these places lie in local blocks that were served from the store. */
export function numIn(
  places: Int32Array,
  { spans }: TokenizedPrompt,
  served: readonly { readonly hit: boolean }[],
): number {
  const isHit = served.values();
  let start = 0;
  let sum = 0;
  for (const { kind, tokenIds } of spans) {
    const end = start + tokenIds.length;
    if (kind === "local" && isHit.next().value?.hit) {
      for (const place of places) if (place >= start && place < end) sum += 1;
    }
    start = end;
  }
  return sum;
}

/** How many of the prompt's last tokens look: a question is seldom longer. */
export const maxLooking = 64;

/** The tokens that look: the last ones of a prompt's last span. */
export function lookingTokens(spans: TokenizedPrompt["spans"]): Int32Array {
  return (spans.at(-1)?.tokenIds ?? new Int32Array()).slice(-maxLooking);
}

/** Rows that a context needs past the prompt's while tokens are chosen. */
export function rowsToChoose(recompute: Recompute | undefined): number {
  return recompute?.kind === "look" ? maxLooking : 0;
}

/** A token of a local block but block 0. */
interface MovedToken {
  readonly place: number;
  readonly id: number;
  /** Its place in its block. */
  readonly row: number;
}

function movedTokens({ spans }: TokenizedPrompt): MovedToken[] {
  let start = 0;
  return spans.flatMap(({ kind, tokenIds }, i) => {
    const from = start;
    start += tokenIds.length;
    return kind === "local" && i > 0 ? Array.from(tokenIds, (id, row) => ({ place: from + row, id, row })) : [];
  });
}

/** Where tokens of local blocks but block 0 stand, side by side where they do. */
export function movedRanges(prompt: TokenizedPrompt): (readonly [number, number])[] {
  const ranges: [number, number][] = [];
  for (const { place } of movedTokens(prompt)) {
    const last = ranges.at(-1);
    if (last?.[1] === place) last[1] += 1;
    else ranges.push([place, place + 1]);
  }
  return ranges;
}

function placed(tokens: readonly MovedToken[], positionReencoding: boolean): PlacedTokens {
  return inArrays(tokens.map(({ place, id, row }) => ({ place, id, position: positionReencoding ? place : row })));
}

/** A prompt, and its context that holds what was laid out. */
interface Recomputing {
  readonly scheduler: Scheduler;
  readonly decoder: Decoder;
  readonly context: AssembledContext;
  readonly prompt: TokenizedPrompt;
}

/**
 * Computes what is missing of a prompt before its last tokens, and what of its blocks is computed again.
 *
 * @returns the places of the latter, ascending.
 * @throws the signal's reason; the device's error.
 */
export async function computeBetween(
  rests: readonly { readonly place: number; readonly tokenIds: readonly number[] }[],
  { scheduler, decoder, context, prompt }: Recomputing,
  of: WorkOf & { readonly positionReencoding: boolean; readonly signal: AbortSignal },
  recompute: Recompute | undefined,
): Promise<Int32Array> {
  const { payer, signal, positionReencoding } = of;
  const between = rests.map(({ place, tokenIds }) => placedFrom(place, tokenIds));
  const compute = async ({ tokenIds, positions, places }: PlacedTokens): Promise<void> => {
    context.length = places[0] ?? 0;
    const scattered = isRun(places) ? undefined : places;
    for await (const _ of scheduler.prefill(context, tokenIds, positions, tokenIds.length, of, undefined, scattered));
  };
  // Who chooses tokens sees all before the end.
  if (recompute?.kind !== "first") for (const rest of between) await compute(rest);
  if (recompute === undefined) return new Int32Array();
  const runner = scheduler.runnerOf(payer);
  const again = await tokensAgain(recompute, { runner, decoder, context, prompt, positionReencoding, signal });
  if (again.places.length > 0) await compute(mergePlaced([again, ...between]));
  return again.places;
}

/** What choosing needs: a context that holds all of the prompt but its last tokens. */
interface Choosing {
  readonly runner: GraphRunner;
  readonly decoder: Decoder;
  readonly context: AssembledContext;
  readonly prompt: TokenizedPrompt;
  readonly positionReencoding: boolean;
  readonly signal: AbortSignal;
}

/** The tokens that are computed again. Keys and values of the first layers of all others may be written. @throws as `GraphRunner.run`. */
async function tokensAgain(recompute: Recompute, choosing: Choosing): Promise<PlacedTokens> {
  const { prompt, positionReencoding } = choosing;
  const moved = movedTokens(prompt);
  if (recompute.kind === "first" || moved.length === 0) {
    const count = recompute.kind === "first" ? recompute.count : 0;
    return placed(
      moved.filter(({ row }) => row < count),
      positionReencoding,
    );
  }
  const worth = await (recompute.kind === "deviation" ? deviations(moved, choosing) : looks(choosing));
  const most = Math.ceil(recompute.share * moved.length);
  const worthOf = ({ place }: MovedToken) => worth.get(place) ?? 0;
  const chosen = moved.toSorted((a, b) => worthOf(b) - worthOf(a) || a.place - b.place).slice(0, most);
  return placed(
    chosen.sort((a, b) => a.place - b.place),
    positionReencoding,
  );
}

/** How far the values of the second layer are from what they are in full, squared, by place. The first two layers stay in full. */
async function deviations(moved: readonly MovedToken[], choosing: Choosing): Promise<Map<number, number>> {
  const { runner, decoder, context, positionReencoding, signal } = choosing;
  const { numLayers, numKvHeads, headSize } = decoder.config;
  const layer = Math.min(1, numLayers - 1);
  const worth = new Map<number, number>();
  const step = pieceRows(decoder);
  for (let next = 0; next < moved.length; next += step) {
    const some = placed(moved.slice(next, next + step), positionReencoding);
    const [first, last] = [some.places[0] as number, some.places.at(-1) as number];
    const numRows = last + 1 - first;
    const read = () =>
      runner.read(1, (graph) => graph.output(graph.toF32(context.values.layer(graph, layer, first, numRows))), signal);
    const alone = await read();
    const rows = { ...some, context, kept: { fromLayer: layer + 1, rows: new Int32Array() } };
    const cost = Math.ceil((some.places.length * (layer + 1)) / numLayers);
    await runner.run(cost, (graph) => void addForward(graph, decoder, [rows], []), signal);
    const inFull = await read();
    for (const place of some.places) {
      let sum = 0;
      for (let head = 0; head < numKvHeads; head++) {
        const start = (head * numRows + place - first) * headSize;
        for (let i = start; i < start + headSize; i++) sum += ((inFull[i] as number) - (alone[i] as number)) ** 2;
      }
      worth.set(place, sum);
    }
  }
  return worth;
}

/** How much the prompt's last tokens attend to each place, summed over them, the heads and some layers. */
async function looks(choosing: Choosing): Promise<Map<number, number>> {
  const tokenIds = lookingTokens(choosing.prompt.spans);
  const [worth] = await attended(choosing, [{ tokenIds, position: choosing.prompt.numTokens - tokenIds.length }]);
  return worth as Map<number, number>;
}

/** Tokens that look at what stands before a prompt's last span, and at each other; the position of the first. */
export interface LookingTokens {
  readonly tokenIds: Int32Array;
  readonly position: number;
}

/**
 * How much each group of tokens attends to each place, summed over them, the heads and the layers of the second quarter.
 *
 * They stand past the prompt, so that nothing of it is written over: kept pages lie there as they are.
 */
export async function attended(
  { runner, decoder, context, prompt, signal }: Omit<Choosing, "positionReencoding">,
  groups: readonly LookingTokens[],
): Promise<Map<number, number>[]> {
  const { numLayers } = decoder.config;
  const endLayer = Math.ceil(numLayers / 2);
  const firstLayer = Math.floor(numLayers / 4);
  const start = prompt.numTokens - (prompt.spans.at(-1)?.tokenIds.length ?? 0);
  const spans = groups.map(({ tokenIds }) => ({ kind: "local", numRows: tokenIds.length, preamble: start }) as const);
  const tokenIds = Int32Array.from(groups.flatMap((group) => [...group.tokenIds]));
  const positions = Int32Array.from(
    groups.flatMap((group) => Array.from(group.tokenIds, (_, i) => group.position + i)),
  );
  /** The group and the place that each weight is of, one layer's after another's. */
  const seen: (readonly [group: number, place: number])[] = [];
  const weights = await runner.read(
    Math.ceil((tokenIds.length * endLayer) / numLayers),
    (graph) => {
      let all: Tensor | undefined;
      const onScores: Rows["onScores"] = (layer, queries, keys, sight, scale) => {
        if (layer < firstLayer || layer >= endLayer) return;
        const one = weightsOfKeys(graph, queries, keys, sight.mask, scale, spans);
        all = all === undefined ? one : graph.concat(all, one, 0);
        for (const group of groups.keys()) {
          for (const [first, end] of sight.ranges)
            for (let place = first; place < end; place++) seen.push([group, place]);
        }
      };
      const kept = { fromLayer: endLayer, rows: new Int32Array() };
      const places = prompt.numTokens;
      addForward(graph, decoder, [{ tokenIds, positions, context, places, spans, kept, onScores }], []);
      return graph.output(all as Tensor);
    },
    signal,
  );
  const worth = groups.map(() => new Map<number, number>());
  for (const [i, [group, place]] of seen.entries()) {
    const of = worth[group] as Map<number, number>;
    of.set(place, (of.get(place) ?? 0) + (weights[i] as number));
  }
  return worth;
}

/** Attention weights of queries [D, H, T] on keys [D, N, H'], summed over the heads and each group's rows: [N * groups]. */
function weightsOfKeys(
  graph: Graph,
  queries: Tensor,
  keys: Tensor,
  mask: AttentionMask,
  scale: number,
  groups: readonly { readonly numRows: number }[],
): Tensor {
  const [, numHeads, numRows] = queries.ne;
  const scores = graph.mulMat(keys, graph.contiguous(graph.permute(queries, [0, 2, 1, 3])));
  const masks = new MaskTensors(graph);
  const weights = graph.softmax(scores, masks.tensor(masks.whole(mask)), scale);
  const flat = graph.reshape(weights, [mask.numKeys, numRows * numHeads]);
  const ofGroups = graph.input("ones", "F32", [numRows * numHeads, groups.length], () => {
    const ones = new Float32Array(numRows * numHeads * groups.length);
    let first = 0;
    for (const [group, { numRows: count }] of groups.entries()) {
      for (let head = 0; head < numHeads; head++) {
        const from = (group * numHeads + head) * numRows + first;
        ones.fill(1, from, from + count);
      }
      first += count;
    }
    return ones;
  });
  const sums = graph.mulMat(graph.contiguous(graph.permute(flat, [1, 0, 2, 3])), ofGroups);
  return graph.reshape(sums, [mask.numKeys * groups.length]);
}
