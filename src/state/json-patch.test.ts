import fc from "fast-check";
import { createPatch } from "rfc6902";
import { expect, test } from "vitest";
import type { JsonValue } from "../files/bounded-json.js";
import { applyPatch, changesBetween, type JsonPatchOperation } from "./json-patch.js";
import { copyState } from "./json-state.js";

const plain = (value: JsonValue): unknown => JSON.parse(JSON.stringify(value));
const patched = (state: unknown, ...patch: JsonPatchOperation[]) => plain(applyPatch(copyState(state), patch));

test("applyPatch(): what another library says differs between two states makes the second of the first", () => {
  const keys = fc.constantFrom("a", "b", "c/d", "e~f", "", "0", "constructor");
  const { state } = fc.letrec<{ state: JsonValue }>((tie) => ({
    state: fc.oneof(
      { maxDepth: 3 },
      fc.integer(),
      fc.constantFrom("x", null, true),
      fc.array(tie("state"), { maxLength: 5 }),
      fc.dictionary(keys, tie("state"), { maxKeys: 5 }),
    ),
  }));
  fc.assert(
    fc.property(state, state, (before, after) => {
      const copy = copyState(before);
      const patch = createPatch(plain(copy), plain(after)) as JsonPatchOperation[];
      expect(plain(applyPatch(copy, patch))).toEqual(plain(after));
      expect(plain(copy)).toEqual(plain(before));
    }),
    { numRuns: 300 },
  );
});

test("applyPatch(): the examples of RFC 6902, appendix A", () => {
  expect(patched({ foo: "bar" }, { op: "add", path: "/baz", value: "qux" })).toEqual({ baz: "qux", foo: "bar" });
  expect(patched({ foo: ["bar", "baz"] }, { op: "add", path: "/foo/1", value: "qux" })).toEqual({
    foo: ["bar", "qux", "baz"],
  });
  expect(patched({ foo: ["bar"] }, { op: "add", path: "/foo/-", value: ["abc", "def"] })).toEqual({
    foo: ["bar", ["abc", "def"]],
  });
  expect(patched({ baz: "qux", foo: "bar" }, { op: "remove", path: "/baz" })).toEqual({ foo: "bar" });
  expect(patched({ foo: ["bar", "qux", "baz"] }, { op: "remove", path: "/foo/1" })).toEqual({ foo: ["bar", "baz"] });
  expect(
    patched({ foo: { bar: "baz", waldo: "fred" }, qux: {} }, { op: "move", from: "/foo/waldo", path: "/qux/thud" }),
  ).toEqual({ foo: { bar: "baz" }, qux: { thud: "fred" } });
  expect(patched({ foo: [1, 2, 3, 4] }, { op: "move", from: "/foo/1", path: "/foo/3" })).toEqual({ foo: [1, 3, 4, 2] });
  expect(patched({ "/": 9, "~1": 10 }, { op: "test", path: "/~01", value: 10 })).toEqual({ "/": 9, "~1": 10 });
  expect(patched({ a: 1 }, { op: "replace", path: "", value: [2] })).toEqual([2]);
  expect(patched({ a: [1] }, { op: "copy", from: "/a", path: "/b" })).toEqual({ a: [1], b: [1] });
  expect(patched({ constructor: { x: 1 } }, { op: "replace", path: "/constructor/x", value: 2 })).toEqual({
    constructor: { x: 2 },
  });
});

test.each<[unknown, RegExp]>([
  [{ op: "remove", path: "/b" }, /operation 2 has a path that leads nowhere, "\/b"$/],
  [{ op: "replace", path: "/b", value: 1 }, /nowhere/],
  [{ op: "add", path: "/a/5", value: 1 }, /nowhere/],
  [{ op: "add", path: "/a/01", value: 1 }, /nowhere/],
  [{ op: "add", path: "/n/x", value: 1 }, /nowhere/],
  [{ op: "remove", path: "/a/-" }, /nowhere/],
  [{ op: "remove", path: "/__proto__" }, /nowhere/],
  [{ op: "move", from: "/a", path: "/a/0" }, /moves "\/a" into itself$/],
  [{ op: "test", path: "/a", value: [1] }, /fails: "\/a" is another value$/],
  [{ op: "add", path: "/b" }, /has no value$/],
  [{ op: "add", path: "b", value: 1 }, /has the path "b", wanted a JSON Pointer/],
  [{ op: "add", path: "/~2", value: 1 }, /wanted a JSON Pointer/],
  [{ op: "swap", path: "/a" }, /has the op "swap", wanted "add"/],
  [null, /is null, wanted an object$/],
])("applyPatch(): %j is refused, whole", (operation, message) => {
  const state = copyState({ a: [1, 2], n: 3 });
  const first = { op: "add", path: "/c", value: 1 } as const;
  expect(() => applyPatch(state, [first, operation as JsonPatchOperation])).toThrow(message);
  expect(plain(state)).toEqual({ a: [1, 2], n: 3 });
});

test("changesBetween(): where states differ; members of a list by their key field", () => {
  const before = {
    pot: 1,
    log: ["a", "b", "c"],
    players: [
      { seat: 1, bet: 5 },
      { seat: 2, bet: 5 },
      { seat: 4, bet: 5 },
    ],
  };
  const after = {
    log: ["b", "c", "d"],
    players: [
      { seat: 2, bet: 5 },
      { seat: 3, bet: 0 },
      { seat: 4, bet: 7 },
    ],
    tip: 1,
  };
  const changes = (keyFields: string[]) => changesBetween(copyState(before), copyState(after), keyFields);
  expect(changes(["id", "seat"])).toEqual([
    { kind: "removed", path: "/pot" },
    { kind: "changed", path: "/log/0" },
    { kind: "changed", path: "/log/1" },
    { kind: "changed", path: "/log/2" },
    { kind: "removed", path: "/players/0" },
    { kind: "added", path: "/players/1" },
    { kind: "changed", path: "/players/2/bet" },
    { kind: "added", path: "/tip" },
  ]);
  expect(changesBetween(copyState([1, 2, 3, 4]), copyState([1, 2, 9, 3, 4]), [])).toEqual([
    { kind: "added", path: "/2" },
  ]);
  expect(changesBetween(copyState([1, 2, 3]), copyState([1, 3]), [])).toEqual([{ kind: "removed", path: "/1" }]);
  expect(changesBetween(copyState({ a: {} }), copyState({ a: [] }), [])).toEqual([{ kind: "changed", path: "/a" }]);
});
