import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { expectOnlyRight } from "../../tests/oracles/faults.js";
import { rotateKeys } from "../../tests/oracles/rotate-keys.js";
import { isJsonObject, parseJson } from "../files/bounded-json.js";
import { llama } from "./architectures/llama.js";
import { parseHuggingFaceRope } from "./hugging-face-rope.js";
import { attentionFactor, frequencyFactors, inverseFrequencies, type RopeConfig } from "./rope.js";

interface Case {
  readonly head_dim: number;
  readonly max_position_embeddings: number;
  readonly rope_parameters: Record<string, number | string | boolean>;
  readonly inverse_frequencies: readonly number[];
  readonly attention_factor: number;
}

// Printed by python/oracles/rope_frequencies.py.
const fixture = new URL("../../tests/fixtures/rope.json", import.meta.url);
const cases: readonly Case[] = JSON.parse(readFileSync(fixture, "utf8"));
/** Relative; Transformers computes in float32. */
const bound = 1e-6;

test.each(cases.map((one, i) => [`${i}: ${one.rope_parameters.rope_type}`, one] as const))(
  "inverseFrequencies(): equal Transformers' within 1e-6, case %s",
  (_, one) => {
    const json = parseJson(JSON.stringify(one), "the fixture");
    if (!isJsonObject(json)) {
      throw new Error("the fixture's case is no object");
    }
    const { rope } = parseHuggingFaceRope(json, "the fixture", {
      headSize: one.head_dim,
      maxPositions: one.max_position_embeddings,
      architecture: llama,
    });
    const found = inverseFrequencies(rope);
    expect(found).toHaveLength(one.head_dim / 2);
    const unscaled = found.map((_, i) => rope.theta ** ((-2 * i) / one.head_dim));
    const distance = (computed: Float64Array, wanted: readonly number[]) =>
      Math.max(...wanted.map((frequency, i) => Math.abs(computed[i]! / frequency - 1)));
    const [first, ...others] = one.inverse_frequencies;
    const isScaled = rope.scaling.kind !== "none" && one.rope_parameters.factor !== 1;
    const wrong = {
      "pairs have their neighbours' angles": distance(found, [...others, first!]),
      ...(isScaled && { "angles are not scaled": distance(found, [...unscaled]) }),
    };
    expectOnlyRight(bound, distance(found, one.inverse_frequencies), wrong);
    const divided = unscaled.map((frequency, i) => frequency / frequencyFactors(rope)[i]!);
    expect(distance(divided, one.inverse_frequencies)).toBeLessThan(bound);
    expect(Math.abs(attentionFactor(rope) / one.attention_factor - 1)).toBeLessThan(bound);
  },
);

const plain = (headSize: number, pairs: RopeConfig["pairs"], theta = 10_000): RopeConfig => ({
  headSize,
  theta,
  scaling: { kind: "none" },
  pairs,
});

test("inverseFrequencies(): factors divide the plain frequencies, and must fit the head", () => {
  const rope: RopeConfig = { ...plain(4, "half", 100), scaling: { kind: "factors", factors: [1, 4] } };
  expect([...inverseFrequencies(plain(4, "half", 100))]).toEqual([1, 0.1]);
  expect([...inverseFrequencies(rope)]).toEqual([1, 0.1 / 4]);
  expect([...frequencyFactors(rope)]).toEqual([1, 4]);
  const short: RopeConfig = { ...rope, scaling: { kind: "factors", factors: [1] } };
  expect(() => inverseFrequencies(short)).toThrow(RangeError);
  expect(() => inverseFrequencies(plain(3, "half"))).toThrow(/3 elements of a head/);
});

test("rotateKeys(): keys [1, 0], one token, one head, at position 1 become [cos 1, sin 1]", () => {
  expect([...rotateKeys(Float32Array.of(1, 0), 1, 1, plain(2, "half"))]).toEqual([
    Math.fround(Math.cos(1)),
    Math.fround(Math.sin(1)),
  ]);
});

test("rotateKeys(): pairs are halves or neighbours, rows follow each other", () => {
  // Two tokens of one head of four; token 0 at position 0 stays.
  const keys = Float32Array.of(1, 2, 3, 4, 1, 2, 3, 4);
  const [c, s, c2, s2] = [Math.cos(1), Math.sin(1), Math.cos(0.1), Math.sin(0.1)];
  const half = rotateKeys(keys, 1, 0, plain(4, "half", 100));
  const adjacent = rotateKeys(keys, 1, 0, plain(4, "adjacent", 100));
  expect([...half.subarray(0, 4)]).toEqual([1, 2, 3, 4]);
  expect([...half.subarray(4)]).toEqual([c - 3 * s, 2 * c2 - 4 * s2, s + 3 * c, 2 * s2 + 4 * c2].map(Math.fround));
  expect([...adjacent.subarray(4)]).toEqual([c - 2 * s, s + 2 * c, 3 * c2 - 4 * s2, 3 * s2 + 4 * c2].map(Math.fround));
});

test("rotateKeys(): scores depend only on how far a query stands from a key", () => {
  const row = fc.array(fc.double({ min: -2, max: 2, noNaN: true }), { minLength: 8, maxLength: 8 });
  const pairs = fc.constantFrom("half" as const, "adjacent" as const);
  let worstShifted = 0;
  fc.assert(
    fc.property(row, row, fc.nat(2000), fc.nat(2000), fc.nat(2000), pairs, (query, key, distance, at, other, kind) => {
      const score = (position: number, more = 0) => {
        const q = rotateKeys(Float32Array.from(query), 1, position + distance + more, plain(8, kind));
        const k = rotateKeys(Float32Array.from(key), 1, position, plain(8, kind));
        return q.reduce((sum, value, i) => sum + value * (k[i] ?? 0), 0);
      };
      expect(Math.abs(score(at) - score(other))).toBeLessThan(1e-5);
      worstShifted = Math.max(worstShifted, Math.abs(score(at) - score(other, 1)));
    }),
    { numRuns: 100 },
  );
  // A query one position farther has another score.
  expect(worstShifted).toBeGreaterThan(1e-5);
});

test("rotateKeys(): YaRN's attention factor comes once", () => {
  const rope: RopeConfig = {
    ...plain(2, "half"),
    scaling: {
      kind: "yarn",
      factor: 1,
      originalContextLength: 512,
      betaFast: 32,
      betaSlow: 1,
      attentionFactor: 1.5,
      truncate: true,
    },
  };
  expect([...rotateKeys(Float32Array.of(1, 2), 1, 0, rope)]).toEqual([1.5, 3]);
});
