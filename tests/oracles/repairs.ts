import type { ModelConfig } from "../../src/model/config.js";
import type { Reading } from "./faults.js";
import type { OnePassModel } from "./one-pass.js";

/** A prompt in block mode that is repaired, as token ids: block 0, other local blocks and global ones, the last one global. */
export interface RepairedPrompt {
  readonly blockTokenIds: readonly (readonly number[])[];
  readonly isGlobal?: readonly boolean[] | undefined;
  readonly continuationTokenIds: readonly number[];
  /** What stands right before each local block but block 0 while it is encoded: these tokens, or block 0's. */
  readonly before?: readonly number[] | "block 0" | undefined;
  readonly sinks?: readonly number[] | undefined;
  /** Which tokens of those blocks are computed again over all before them. */
  readonly again?:
    | { readonly kind: "first"; readonly count: number }
    | { readonly kind: "deviation" | "look"; readonly share: number }
    | undefined;
  /** What scores on moved tokens are divided by, of rows that see all before them. */
  readonly temperature?: number | undefined;
  /** To which power the sum of those rows' exponents on moved tokens is raised. */
  readonly scale?: number | undefined;
}

/** A row of the one pass: a token of a block, what is thrown away before it, a token computed again, or one that looks. */
interface Row {
  readonly kind: "own" | "before" | "again" | "looking";
  readonly id: number;
  readonly block: number;
  readonly place: number;
  /** Whether it is one of a local block but block 0. */
  readonly isMoved: boolean;
  readonly isGlobal: boolean;
}

/** How many of the last block's tokens look. */
const maxLooking = 64;
/** Deviations are those of the second layer's values. */
const deviationLayer = ({ numLayers }: ModelConfig) => Math.min(1, numLayers - 1);

/**
 * The whole mask of a repaired prompt: a row that is computed again stands twice, as it was encoded and as it is seen. What is thrown
 * away stands at the places right before its block, whatever else is there.
 */
export function repairedReading(prompt: RepairedPrompt, model: OnePassModel): Reading {
  const all = rowsOf(prompt);
  const moved = all.filter(({ kind, isMoved }) => kind === "own" && isMoved);
  const isAgain = new Set(placesAgain(prompt, all, moved, model));
  const inFullUpTo = prompt.again?.kind === "deviation" ? deviationLayer(model.config) : -1;
  // Where values of first layers are compared, all rows are computed again in those.
  const rows = all.filter(
    ({ kind, place }) => kind !== "looking" && (kind !== "again" || inFullUpTo >= 0 || isAgain.has(place)),
  );
  const { temperature = 1, scale = 1 } = prompt;
  const looksAtMoved = (query: number, key: number) => rows[query]!.isGlobal && rows[key]!.isMoved;
  return {
    ...readingOf(rows, (place, layer) => layer <= inFullUpTo || isAgain.has(place)),
    temperature: (query, key) => (looksAtMoved(query, key) ? temperature : 1),
    power: (query, key) => (looksAtMoved(query, key) ? scale : 1),
  };
}

/** @param isSeenAgain whether rows after a moved token see it as it was computed again. */
function readingOf(rows: readonly Row[], isSeenAgain: (place: number, layer: number) => boolean): Reading {
  const lastStart = Math.max(...rows.map(({ block }) => block));
  const looking = rows.find(({ kind }) => kind === "looking");
  const hidden =
    (looking?.place ?? 0) - (rows.find(({ kind, block }) => kind === "own" && block === lastStart)?.place ?? 0);
  return {
    tokenIds: rows.map(({ id }) => id),
    // Those who look see nothing of their span but each other: a window passes over it.
    place: (row) => rows[row]!.place - (rows[row]!.kind === "looking" ? hidden : 0),
    queryPosition: (row) => rows[row]!.place,
    keyPosition: (row) => rows[row]!.place,
    valueRow: (row) => row,
    sees: (query, key, layer) => {
      const [from, to] = [rows[query]!, rows[key]!];
      if (query === key) return true;
      if (to.place > from.place || (to.kind === "looking" && from.kind !== "looking")) return false;
      if (from.kind === "before") return to.kind === "before" && to.block === from.block;
      if (from.kind === "looking" && to.kind !== "looking" && to.block === lastStart) return false;
      if (from.kind === "own" && !from.isGlobal) return to.block === from.block && to.kind !== "again";
      if (to.kind === "before" || to.place === from.place) return false;
      return !to.isMoved || to.kind === (isSeenAgain(to.place, layer) ? "again" : "own");
    },
  };
}

function rowsOf({ blockTokenIds, isGlobal, continuationTokenIds, before, sinks = [] }: RepairedPrompt): Row[] {
  const rows: Row[] = [];
  const last = blockTokenIds.length - 1;
  let place = 0;
  for (const [block, given] of blockTokenIds.entries()) {
    const global = isGlobal?.[block] ?? block === last;
    const isMoved = !global && block > 0;
    const own = { block, isMoved, isGlobal: global };
    const ids =
      block === last ? [...given, ...continuationTokenIds.slice(0, -1)] : isMoved ? [...sinks, ...given] : given;
    const thrown = !isMoved || before === undefined ? [] : before === "block 0" ? blockTokenIds[0]! : before;
    const add = (kind: Row["kind"], some: readonly number[], from: number) => {
      for (const [i, id] of some.entries()) rows.push({ ...own, kind, id, place: from + i });
    };
    add("before", thrown, place - thrown.length);
    if (isMoved) add("again", ids, place);
    const looking = block === last ? given.slice(-maxLooking) : [];
    add("looking", looking, place + given.length - looking.length);
    add("own", ids, place);
    place += ids.length;
  }
  return rows;
}

function placesAgain(
  { again }: RepairedPrompt,
  rows: readonly Row[],
  moved: readonly Row[],
  model: OnePassModel,
): number[] {
  if (again === undefined) return [];
  if (again.kind === "first") {
    const first = (block: number) => moved.find((row) => row.block === block)!.place;
    return moved.filter(({ block, place }) => place - first(block) < again.count).map(({ place }) => place);
  }
  const worth = again.kind === "deviation" ? deviations(rows, moved, model) : looks(rows, model);
  const byWorth = moved.toSorted((a, b) => worth.get(b.place)! - worth.get(a.place)! || a.place - b.place);
  return byWorth.slice(0, Math.ceil(again.share * moved.length)).map(({ place }) => place);
}

function deviations(all: readonly Row[], moved: readonly Row[], model: OnePassModel): Map<number, number> {
  const rows = all.filter(({ kind }) => kind !== "looking");
  const layers: (readonly (readonly Float64Array[])[])[] = [];
  model.watch(
    readingOf(rows, () => true),
    { onLayer: (_, values) => layers.push(values) },
  );
  const values = layers[deviationLayer(model.config)]!;
  const at = (kind: Row["kind"], place: number) =>
    values[rows.findIndex((row) => row.kind === kind && row.place === place)]!;
  return new Map(
    moved.map(({ place }) => {
      const [own, again] = [at("own", place), at("again", place)];
      let sum = 0;
      for (const [h, head] of own.entries())
        for (const [d, value] of head.entries()) sum += (value - again[h]![d]!) ** 2;
      return [place, sum];
    }),
  );
}

/**
 * Which local blocks but block 0 stay, by their index: those whose tokens, but for the first four, the last block's look at most, against how
 * much they would if the last block were the neutral one.
 */
export function keptBlocks(
  { blockTokenIds, isGlobal, before }: Pick<RepairedPrompt, "blockTokenIds" | "isGlobal" | "before">,
  neutral: readonly number[],
  count: number,
  model: OnePassModel,
): number[] {
  const last = blockTokenIds.length - 1;
  const local = [...blockTokenIds.keys()].filter((block) => block < last && !isGlobal?.[block]);
  const worthBehind = (asking: readonly number[]) => {
    const rows = rowsOf({
      blockTokenIds: [...local.map((block) => blockTokenIds[block]!), asking],
      continuationTokenIds: [],
      before,
    });
    const worth = looks(rows, model);
    return (index: number) => {
      const places = rows.filter(({ kind, block }) => kind === "own" && block === index).map(({ place }) => place);
      return places.slice(places.length > 4 ? 4 : 0).reduce((sum, place) => sum + worth.get(place)!, 0);
    };
  };
  const [asked, asIs] = [worthBehind(blockTokenIds[last]!), worthBehind(neutral)];
  const moved = [...local.keys()].filter((index) => local[index]! > 0);
  const best = moved.toSorted((a, b) => asked(b) / asIs(b) - asked(a) / asIs(a)).slice(0, count);
  return best.map((index) => local[index]!).sort((a, b) => a - b);
}

/** Attention weights of the looking rows, summed over them, the heads and the second quarter of the layers. */
function looks(all: readonly Row[], model: OnePassModel): Map<number, number> {
  const { numLayers } = model.config;
  const rows = all.filter(({ kind }) => kind !== "again");
  const worth = new Map(rows.map(({ place }) => [place, 0]));
  model.watch(
    readingOf(rows, () => false),
    {
      onWeights: (layer, row, seen, weights) => {
        if (rows[row]!.kind !== "looking" || layer < Math.floor(numLayers / 4) || layer >= Math.ceil(numLayers / 2))
          return;
        for (const [i, key] of seen.entries()) worth.set(rows[key]!.place, worth.get(rows[key]!.place)! + weights[i]!);
      },
    },
  );
  return worth;
}
