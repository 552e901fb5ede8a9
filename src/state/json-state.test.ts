import fc from "fast-check";
import { expect, test } from "vitest";
import { jsonStateBlocks } from "./json-state.js";

const paths = fc.array(fc.array(fc.constantFrom("*", "a", "b", "0", "1"), { minLength: 1, maxLength: 4 }), {
  maxLength: 4,
});

test("jsonStateBlocks(): the texts put together are the state as JSON, whatever the paths and the order of keys", () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 4 }), paths, (state, cuts) => {
      const texts = jsonStateBlocks(state, { paths: cuts });
      expect(JSON.parse(texts.join(""))).toEqual(JSON.parse(JSON.stringify(state)));
      expect(texts).not.toContain("");
      expect(texts.join("")).toBe(jsonStateBlocks(state, { paths: [] }).join(""));
    }),
  );
  expect(jsonStateBlocks({ b: 1, a: 2 })).toEqual(jsonStateBlocks({ a: 2, b: 1 }));
  const size = fc.integer({ min: 1, max: 40 });
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 4 }), size, size, (state, minChars, maxValues) => {
      const texts = jsonStateBlocks(state, { minChars, maxValues });
      expect(texts.join("")).toBe(jsonStateBlocks(state, { paths: [] }).join(""));
      expect(texts).not.toContain("");
    }),
  );
});

test("jsonStateBlocks(): cuts at the paths", () => {
  const state = {
    pot: 5,
    bets: [1, 2],
    players: [
      { chips: 1, name: "x" },
      { chips: 2, name: "y" },
    ],
  };
  expect(jsonStateBlocks(state, { paths: ["*"] })).toEqual([
    "{",
    '"bets":[1,2]',
    ',"players":[{"chips":1,"name":"x"},{"chips":2,"name":"y"}]',
    ',"pot":5',
    "}",
  ]);
  expect(jsonStateBlocks({ pot: 5, bets: [1, 2] }, { paths: ["bets.*"] })).toEqual([
    '{"bets":[',
    "1",
    ",2",
    '],"pot":5}',
  ]);
  expect(jsonStateBlocks(state, { paths: ["players.*.chips", ["pot"]] })).toEqual([
    '{"bets":[1,2],"players":[{',
    '"chips":1',
    ',"name":"x"},{',
    '"chips":2',
    ',"name":"y"}]',
    ',"pot":5',
    "}",
  ]);
  expect(jsonStateBlocks(3)).toEqual(["3"]);
});

test("jsonStateBlocks(): a changed value changes its own text only, an appended one adds one", () => {
  const numbers = fc.array(fc.nat(), { minLength: 1, maxLength: 20 });
  fc.assert(
    fc.property(numbers, fc.nat(), fc.jsonValue(), (players, at, value) => {
      const index = at % players.length;
      const before = jsonStateBlocks({ id: 1, players, z: 0 }, { paths: ["players.*"] });
      const changed = jsonStateBlocks(
        { id: 1, players: players.with(index, value as never), z: 0 },
        { paths: ["players.*"] },
      );
      expect(changed.filter((_, i) => i !== index + 1)).toEqual(before.filter((_, i) => i !== index + 1));
      const grown = jsonStateBlocks({ id: 1, players: [...players, 7], z: 0 }, { paths: ["players.*"] });
      expect(grown.filter((_, i) => i !== players.length + 1)).toEqual(before);
    }),
  );
});

/** A table of players, and what happened at it. */
const players = fc.uniqueArray(fc.nat(99), { minLength: 4, maxLength: 12 });
function tableOf(seats: readonly number[], log: readonly string[] = []) {
  return {
    board: ["Ah", "Kd", "2c"],
    button: 3,
    log,
    players: seats.map((seat) => ({ seat, name: `player ${seat}`, chips: { bet: seat * 10, remain: 1000 - seat } })),
    pot: 1200,
    round: "flop",
    table: "a table with a name that is longer than a small value's",
  };
}
const bySize = (state: unknown) => jsonStateBlocks(state, { keyFields: ["seat"] });
const newTexts = (before: readonly string[], after: readonly string[]) =>
  after.filter((text) => !before.includes(text));

test("jsonStateBlocks(): cut by size, few tokens stand with their neighbours", () => {
  const texts = bySize(tableOf([1, 2, 3], ["seat 1 raises to 400", "seat 2 folds", "seat 3 calls 400"]));
  expect(texts.filter((text) => /^,?\{"chips".*"seat":\d\}$/.test(text))).toHaveLength(3);
  expect(texts.length).toBeLessThan(14);
  expect(jsonStateBlocks({ a: 1, b: [2, 3] })).toEqual(['{"a":1,"b":[2,3]}']);
});

test("jsonStateBlocks(): by size, a changed value changes its own text, whatever its length", () => {
  fc.assert(
    fc.property(players, fc.nat(), fc.nat(), fc.nat(), (seats, at, chips, pot) => {
      const state = { ...tableOf(seats), pot };
      const before = bySize(state);
      const changed = structuredClone(state);
      const one = changed.players[at % seats.length] as (typeof changed.players)[number];
      one.chips.remain = chips;
      changed.players[at % seats.length] = one;
      expect(newTexts(before, bySize(changed)).length).toBeLessThanOrEqual(1);
      expect(newTexts(before, bySize({ ...state, pot: chips })).length).toBeLessThanOrEqual(1);
    }),
  );
});

test("jsonStateBlocks(): by size, a member that comes or goes changes no other, but for the comma of the one after the first", () => {
  fc.assert(
    fc.property(players, fc.nat(), (seats, at) => {
      const index = at % seats.length;
      const whole = bySize(tableOf(seats));
      const without = bySize(tableOf(seats.toSpliced(index, 1)));
      expect(newTexts(without, whole)).toHaveLength(index === 0 ? 2 : 1);
      expect(newTexts(whole, without).length).toBeLessThanOrEqual(index === 0 ? 1 : 0);
    }),
  );
});

test("jsonStateBlocks(): by size, a list that gains a small value at its end and loses one at its start keeps most of its texts", () => {
  const log = Array.from({ length: 60 }, (_, i) => `seat ${(i * 7) % 10} bets ${i * 13}`);
  let numNew = 0;
  for (let i = 0; i < 30; i++) {
    const before = bySize(tableOf([1], log.slice(i, i + 20)));
    numNew += newTexts(before, bySize(tableOf([1], log.slice(i + 1, i + 21)))).length;
  }
  // The first text, the last, and what stands at the first one's end.
  expect(numNew / 30).toBeLessThan(3.5);
});

test("jsonStateBlocks(): what is no JSON is a one-line error", () => {
  const cycle: Record<string, unknown> = {};
  cycle.a = { b: cycle };
  let deep: unknown = 1;
  for (let i = 0; i < 10_000; i++) deep = [deep];
  expect(() => jsonStateBlocks(cycle)).toThrow(/holds itself$/);
  expect(() => jsonStateBlocks(deep)).toThrow("Cannot write a state as JSON: it is deeper than 500");
  expect(() => jsonStateBlocks({ a: [Number.NaN] })).toThrow(
    'Cannot write a state as JSON: "a.0" is NaN, wanted a finite number',
  );
  const twice: unknown[] = [1];
  for (let i = 0; i < 40; i++) twice[0] = [twice[0], twice[0]];
  expect(() => jsonStateBlocks(twice)).toThrow(/more than 4194304 characters$/);
  expect(() => jsonStateBlocks({ a: "x".repeat(5_000_000) })).toThrow(
    'Cannot write a state as JSON: "a" has 5000000 characters, at most 1048576 are wanted',
  );
  expect(jsonStateBlocks(JSON.parse('{"__proto__":1}'))).toEqual(['{"__proto__":1}']);
  for (const value of [undefined, () => 1, 1n, Symbol("x"), new Date(), new Map(), new Array(2)]) {
    expect(() => jsonStateBlocks({ a: value })).toThrow(TypeError);
  }
  expect(() => jsonStateBlocks({}, { paths: [3 as never] })).toThrow(TypeError);
  expect(() => jsonStateBlocks({}, { paths: "a" as never })).toThrow(TypeError);
  expect(() => jsonStateBlocks({}, { keyFields: "a" as never })).toThrow(TypeError);
  expect(() => jsonStateBlocks({}, { minChars: 0 })).toThrow(RangeError);
});
