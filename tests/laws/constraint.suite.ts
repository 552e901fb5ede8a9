import { Ajv2020 } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { beforeAll, expect, test } from "vitest";
import type { Engine as BuiltEngine } from "../../src/engine/engine.js";
import { embeddedModelPath } from "../../src/engine/model.js";
import { buildDist } from "../build-dist.js";
import { Random } from "../models/random.js";

type Schema = Readonly<Record<string, unknown>>;

/** A schema as clients send them: objects and lists in each other, choices, patterns, lengths, formats, one that stands in itself. */
function randomSchema(random: Random, depth = 3): Schema {
  const count = (most: number) => random.below(most + 1);
  const leaves: readonly (() => Schema)[] = [
    () => ({ type: "string" }),
    () => ({ type: "string", minLength: count(2), maxLength: 2 + count(6) }),
    () => ({
      type: "string",
      pattern: ["^[a-z]{1,4}$", "^x.*y$", "^[^b]+$", "^(ab|c)+-\\d{2}$", "^\\S+\\s?$"][count(4)],
    }),
    () => ({ type: "string", format: ["date", "time", "email", "ipv4", "uuid"][count(4)] }),
    () => ({ type: "integer", minimum: -count(20), maximum: 10 + count(200) }),
    () => ({ type: "number" }),
    () => ({ type: "boolean" }),
    () => ({ type: "null" }),
    () => ({ enum: ["a", 'q"uote', "back\\slash", 3, null, "日本"].slice(0, 1 + count(5)) }),
    () => ({ const: ["x", 7, true][count(2)] }),
    () => ({ type: ["string", "integer"] }),
  ];
  const inner = () => randomSchema(random, depth - 1);
  const object = (): Schema => {
    const names = ["name", "a b", 'q"', "日", "deep", "list"].slice(0, 1 + count(4));
    return {
      type: "object",
      properties: Object.fromEntries(names.map((name) => [name, inner()])),
      required: names.filter(() => random.below(2) === 0),
      ...(random.below(3) > 0 && { additionalProperties: false }),
    };
  };
  const branches: readonly (() => Schema)[] = [
    object,
    object,
    () => ({ type: "array", items: inner(), minItems: count(1), maxItems: 1 + count(2) }),
    () => ({ type: "array", prefixItems: [inner(), inner()], items: false, minItems: 2 }),
    () => ({ anyOf: [inner(), inner()] }),
  ];
  const choices = depth === 0 ? leaves : depth === 3 ? branches : [...leaves, ...branches];
  return (choices[random.below(choices.length)] as () => Schema)();
}

const recursive: Schema = {
  type: "object",
  properties: { value: { type: "integer" }, next: { anyOf: [{ $ref: "#" }, { type: "null" }] } },
  required: ["value", "next"],
  additionalProperties: false,
};

/** Compiling it takes minutes, or more memory than there is. */
function explosiveSchema(random: Random): Schema {
  const nested = (depth: number): Schema =>
    depth === 0
      ? randomSchema(random, 0)
      : {
          [random.below(2) === 0 ? "oneOf" : "anyOf"]: [nested(depth - 1), { type: "array", items: nested(depth - 1) }],
        };
  return nested(9);
}

/** Answers that are held to a schema, and end by themselves, are what it takes. */
export function constraintSuite({
  numSchemas,
  numExplosive,
}: {
  readonly numSchemas: number;
  readonly numExplosive: number;
}): void {
  let Engine: typeof BuiltEngine;
  beforeAll(async () => {
    await buildDist();
    ({ Engine } = (await import("../../dist/index.js" as string)) as { readonly Engine: typeof BuiltEngine });
  }, 120_000);

  test(
    "of random schemas every answer that ended parses and validates",
    async () => {
      await using engine = await Engine.load({ model: embeddedModelPath(), threads: 1 });
      const random = new Random(5, "schemas");
      const schemas = [recursive, ...Array.from({ length: numSchemas }, () => randomSchema(random))];
      const wrong: unknown[] = [];
      let [numEnded, numTooLarge] = [0, 0];
      const ask = async (schema: Schema, i: number): Promise<void> => {
        const constraint = { type: "jsonSchema", schema } as const;
        const options = { constraint, temperature: i % 2, seed: i, maxTokens: 250 };
        const answer = await engine.complete({ prompt: "JSON:" }, options).catch((error: Error) => error);
        if (answer instanceof Error && /takes (over|too much)/.test(answer.message)) numTooLarge += 1;
        else if (answer instanceof Error) wrong.push([schema, answer.message]);
        else if (answer.finishReason === "stop") {
          numEnded += 1;
          const ajv = new Ajv2020({ strict: false });
          addFormats.default(ajv);
          const validate = ajv.compile(schema);
          if (!tried(() => validate(JSON.parse(answer.text)))) wrong.push([schema, answer.text, validate.errors]);
        }
      };
      for (let first = 0; first < schemas.length; first += 4) {
        await Promise.all(schemas.slice(first, first + 4).map((schema, i) => ask(schema, first + i)));
      }
      expect(wrong).toEqual([]);
      expect(numEnded).toBeGreaterThan(numSchemas / 4);
      // Choices in choices explode, now and then here too.
      expect(numTooLarge).toBeLessThan(Math.max(3, numSchemas / 20));
    },
    Math.max(120_000, 5000 * numSchemas),
  );

  test(
    "schemas that explode are refused, and the engine answers on",
    async () => {
      await using engine = await Engine.load({ model: embeddedModelPath(), threads: 1 });
      const random = new Random(6, "explosive");
      for (let i = 0; i < numExplosive; i++) {
        const constraint = { type: "jsonSchema", schema: explosiveSchema(random) } as const;
        const asked = engine.complete({ prompt: "JSON:" }, { constraint, maxTokens: 2 });
        const beside = await engine.complete({ prompt: "Hello" }, { maxTokens: 2 });
        expect(beside.usage.completionTokens).toBeGreaterThan(0);
        await expect(asked).rejects.toMatchObject({
          code: "invalid",
          message: expect.stringMatching(/takes (over|too much)/),
        });
      }
    },
    Math.max(120_000, 20_000 * numExplosive),
  );
}

function tried(holds: () => boolean): boolean {
  try {
    return holds();
  } catch {
    return false;
  }
}
