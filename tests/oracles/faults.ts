import { expect } from "vitest";

/** One prompt with what it continues with, as token ids. The last block is the final block, which sees everything. */
export interface OraclePrompt {
  readonly blockTokenIds: readonly (readonly number[])[];
  /** Which blocks see everything before them, the last among them. Default: the last alone. */
  readonly isGlobal?: readonly boolean[] | undefined;
  readonly continuationTokenIds: readonly number[];
  /** False: local blocks keep positions 0 and on. Default true. */
  readonly positionReencoding?: boolean | undefined;
}

/** How an oracle reads a prompt and its continuation, row by row. Queries and keys are turned by RoPE to a position each. */
export interface Reading {
  readonly tokenIds: readonly number[];
  sees(query: number, key: number, layer: number): boolean;
  /** Whether a row sees another one as its block is stored, not as it was computed. Default: none does. */
  isStored?(query: number, key: number): boolean;
  /** What a score is divided by. Default 1. */
  temperature?(query: number, key: number): number;
  /** Whether the weights of a query on some keys together are raised to a power, and to which. */
  power?(query: number, key: number): number;
  /** Where a row stands in the prompt, by which windows count. Default: its number. */
  place?(row: number): number;
  queryPosition(row: number): number;
  keyPosition(row: number): number;
  /** The row whose value stands with this row's key. */
  valueRow(key: number): number;
}

/** Where a row stands: its block, and its place in it. Empty blocks have no rows and are not counted. */
interface Place {
  readonly block: number;
  readonly offset: number;
}

interface Layout {
  readonly places: readonly Place[];
  readonly firstRows: readonly number[];
  readonly isGlobal: readonly boolean[];
}

/** What an engine may get wrong. Each takes the right reading and gives a wrong one. */
const wrongReadings = {
  "local blocks see the block before": (right, { places }) => ({
    ...right,
    sees: (query, key, layer) => right.sees(query, key, layer) || places[key]!.block === places[query]!.block - 1,
  }),
  "local blocks see everything before": (right) => ({ ...right, sees: (query, key) => key <= query }),
  "local blocks see global ones before": (right, { places, isGlobal }) => ({
    ...right,
    sees: (query, key, layer) => right.sees(query, key, layer) || (key <= query && isGlobal[places[key]!.block]!),
  }),
  "the final block does not see the first": (right, { places, isGlobal }) => ({
    ...right,
    sees: (query, key, layer) => {
      const [from, to] = [places[query]!.block, places[key]!.block];
      return right.sees(query, key, layer) && (from < isGlobal.length - 1 || to > 0 || from === to);
    },
  }),
  "earlier global blocks do not see local ones": (right, { places, isGlobal }) => ({
    ...right,
    sees: (query, key, layer) => {
      const [from, to] = [places[query]!.block, places[key]!.block];
      return right.sees(query, key, layer) && (from === to || from === isGlobal.length - 1 || isGlobal[to]!);
    },
  }),
  "the final block does not see earlier global ones": (right, { places, isGlobal }) => ({
    ...right,
    sees: (query, key, layer) => {
      const [from, to] = [places[query]!.block, places[key]!.block];
      return right.sees(query, key, layer) && (from === to || from < isGlobal.length - 1 || !isGlobal[to]);
    },
  }),
  "rows see the row after them": (right, { places }) => ({
    ...right,
    sees: (query, key, layer) =>
      right.sees(query, key, layer) || (key === query + 1 && places[key]!.block === places[query]!.block),
  }),
  "rows do not see themselves": (right, { places }) => ({
    ...right,
    // The first row of a local block sees nothing else.
    sees: (query, key, layer) =>
      right.sees(query, key, layer) &&
      (key !== query || query === 0 || (places[query]!.offset === 0 && !right.sees(query, query - 1, layer))),
  }),
  "blocks keep the positions that they should not": (right, layout) => {
    const { places, firstRows, isGlobal } = layout;
    const moved = (row: number, position: number): number => {
      const { block, offset } = places[row]!;
      if (isGlobal[block]) return position;
      return position === row ? offset : firstRows[block]! + offset;
    };
    return {
      ...right,
      queryPosition: (row) => moved(row, right.queryPosition(row)),
      keyPosition: (row) => moved(row, right.keyPosition(row)),
    };
  },
  "the final block is a position too far": (right, { places, isGlobal }) =>
    shifted(right, (row) => (places[row]!.block === isGlobal.length - 1 ? 1 : 0)),
  "a position is left out after each block": (right, { places }) => shifted(right, (row) => places[row]!.block),
  "keys are not turned": (right) => ({ ...right, keyPosition: () => 0 }),
  "keys are turned twice": (right) => ({ ...right, keyPosition: (row) => 2 * right.keyPosition(row) }),
  "blocks have the values of the block before": (right, { places, firstRows, isGlobal }) => ({
    ...right,
    valueRow: (key) => {
      const { block, offset } = places[key]!;
      if (block === 0 || isGlobal[block]) return key;
      return Math.min(firstRows[block - 1]! + offset, firstRows[block]! - 1);
    },
  }),
  "rows have the values of the row before": (right) => ({ ...right, valueRow: (key) => Math.max(0, key - 1) }),
} satisfies Readonly<Record<string, (right: Reading, layout: Layout) => Reading>>;

function shifted(right: Reading, by: (row: number) => number): Reading {
  return {
    ...right,
    queryPosition: (row) => right.queryPosition(row) + by(row),
    keyPosition: (row) => right.keyPosition(row) + by(row),
  };
}

export type Fault = keyof typeof wrongReadings;
export const allFaults = Object.keys(wrongReadings) as readonly Fault[];

/** How a prompt is read: rightly, or with a fault. */
export function readPrompt(prompt: OraclePrompt, fault?: Fault): Reading {
  const { blockTokenIds, continuationTokenIds, positionReencoding = true } = prompt;
  const kinds = prompt.isGlobal ?? blockTokenIds.map((_, i) => i === blockTokenIds.length - 1);
  const whole = [
    ...blockTokenIds.slice(0, -1),
    [...(blockTokenIds.at(-1) ?? []), ...continuationTokenIds.slice(0, -1)],
  ];
  const blocks = whole.filter((ids) => ids.length > 0);
  const isGlobal = kinds.filter((_, i) => whole[i]!.length > 0);
  const places = blocks.flatMap((ids, block) => ids.map((_, offset): Place => ({ block, offset })));
  const firstRows = blocks.map((_, block) => places.findIndex((place) => place.block === block));
  const position = (row: number): number => {
    const { block, offset } = places[row]!;
    return positionReencoding || isGlobal[block] ? row : offset;
  };
  const right: Reading = {
    tokenIds: blocks.flat(),
    sees: (query, key) => {
      const { block } = places[query]!;
      return key <= query && (isGlobal[block]! || block === places[key]!.block);
    },
    isStored: (query, key) => places[query]!.block !== places[key]!.block && !isGlobal[places[key]!.block],
    queryPosition: position,
    keyPosition: position,
    valueRow: (key) => key,
  };
  return fault === undefined ? right : wrongReadings[fault](right, { places, firstRows, isGlobal });
}

/**
 * Whether a fault changes anything about a prompt: what a row sees, how far off, or with which value. RoPE makes scores
 * depend on distances alone, so that a prompt of one block that is moved as a whole is the same.
 */
export function shows(fault: Fault, prompt: OraclePrompt): boolean {
  const [right, wrong] = [readPrompt(prompt), readPrompt(prompt, fault)];
  const rows = [...right.tokenIds.keys()];
  const seenBy = (reading: Reading, query: number, key: number) =>
    reading.sees(query, key, 0)
      ? `${reading.queryPosition(query) - reading.keyPosition(key)} ${reading.valueRow(key)}`
      : "unseen";
  return rows.some((query) => rows.some((key) => seenBy(right, query, key) !== seenBy(wrong, query, key)));
}

/** What prompts of one block can show, as in full mode. */
export const oneBlockFaults = faultsShownBy([[1, 2, 3]]);

/** What prompts can show in which the last block alone is global. */
export const oneQuestionFaults = faultsShownBy([[1, 2], [3, 4], [5]]);

function faultsShownBy(blockTokenIds: readonly (readonly number[])[]): readonly Fault[] {
  return allFaults.filter((fault) => shows(fault, { blockTokenIds, continuationTokenIds: [6, 7] }));
}

/**
 * Expects what is right nearer than the bound, and what is wrong farther: a bound that a wrong oracle meets cannot fail.
 * @param wrong distances by what is wrong with the oracle; at least one.
 */
export function expectOnlyRight(
  bound: number,
  right: number,
  wrong: Readonly<Record<string, number>>,
  name = "",
): void {
  expect(right, name).toBeLessThan(bound);
  expect(Object.keys(wrong)).not.toEqual([]);
  for (const [fault, distance] of Object.entries(wrong)) {
    expect(distance, `${name}, an oracle in which ${fault}`).toBeGreaterThan(bound);
  }
}

/** An answer to a prompt, held against an oracle. */
export interface BoundCase {
  readonly name: string;
  readonly prompt: OraclePrompt;
  /** From the answer to the right oracle, or to one that reads the prompt with a fault. */
  distance(fault?: Fault): number;
}

/**
 * Expects every answer within the bound, and every fault beyond it.
 *
 * @param faults what the prompts must show, each in one case at least. Default: what prompts of their kind can show, with or
 *   without global blocks before the last.
 * @param everyCaseUpTo tries a fault on all prompts up to so many tokens that show it; default: on the shortest.
 */
export function expectBound(
  bound: number,
  cases: readonly BoundCase[],
  {
    faults = cases.some(({ prompt }) => prompt.isGlobal) ? allFaults : oneQuestionFaults,
    everyCaseUpTo = 0,
  }: { readonly faults?: readonly Fault[]; readonly everyCaseUpTo?: number } = {},
): void {
  const tooFar = cases.map(({ name, distance }) => [name, distance()] as const).filter(([, far]) => !(far < bound));
  expect(tooFar).toEqual([]);
  const numTokens = ({ prompt }: BoundCase) => prompt.blockTokenIds.reduce((sum, ids) => sum + ids.length, 0);
  const shortestFirst = [...cases].sort((a, b) => numTokens(a) - numTokens(b));
  const showing = faults.map((fault) => {
    const [first, ...others] = shortestFirst.filter(({ prompt }) => shows(fault, prompt));
    return [fault, [...(first ? [first] : []), ...others.filter((one) => numTokens(one) <= everyCaseUpTo)]] as const;
  });
  expect(showing.filter(([, shown]) => shown.length === 0).map(([fault]) => `no prompt shows that ${fault}`)).toEqual(
    [],
  );
  const missed = showing.flatMap(([fault, shown]) =>
    shown.map(({ name, distance }) => [name, fault, distance(fault)] as const).filter(([, , far]) => !(far > bound)),
  );
  expect(missed, `what the bound ${bound} does not catch`).toEqual([]);
}
