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
  expect(jsonStateBlocks(state)).toEqual([
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
  for (const value of [undefined, () => 1, 1n, Symbol("x"), new Date(), new Map(), new Array(2)]) {
    expect(() => jsonStateBlocks({ a: value })).toThrow(TypeError);
  }
  expect(() => jsonStateBlocks({}, { paths: [3 as never] })).toThrow(TypeError);
  expect(() => jsonStateBlocks({}, { paths: "a" as never })).toThrow(TypeError);
});
