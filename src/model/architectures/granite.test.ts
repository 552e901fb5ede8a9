import { expect, test } from "vitest";
import { objectFields } from "../../files/fields.js";
import type { ModelConfig } from "../config.js";
import { parseHuggingFaceConfig } from "../hugging-face-config.js";
import { granite } from "./granite.js";

const json = {
  model_type: "granite",
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  vocab_size: 300,
};
const { config } = parseHuggingFaceConfig(json, '"config.json"');
const readGguf = (metadata: Readonly<Record<string, unknown>>) =>
  granite.gguf.read(config, objectFields('"model.gguf"', metadata), () => false);

test("parseHuggingFaceConfig(): granite's multipliers are 1 where config.json leaves them out, that of scores too", () => {
  const ones = { embeddingMultiplier: 1, residualMultiplier: 1, attentionMultiplier: 1, logitsScaling: 1 };
  expect(config).toMatchObject(ones);
  expect(() => parseHuggingFaceConfig({ ...json, logits_scaling: 0 }, '"config.json"')).toThrow(
    /"logits_scaling" is 0, a number above 0/,
  );
});

test("GgufTraits.read(): granite's scale of scores is llama's where the file leaves it out, its divisor of logits must be there", () => {
  const found = readGguf({ "granite.logit_scale": 8, "granite.residual_scale": 0 });
  expect(found).toMatchObject({ residualMultiplier: 1, attentionMultiplier: 0.25, logitsScaling: 8 });
  expect(found).not.toHaveProperty("layersWithoutRope");
  expect(() => readGguf({})).toThrow('"granite.logit_scale" is missing');
});

test("GgufTraits.read(): a granite file whose RoPE is not finetuned has none, and is written so", () => {
  const found = readGguf({ "granite.logit_scale": 8, "granite.rope.scaling.finetuned": false });
  expect([0, 1, 2].map((layer) => granite.rope(found, layer))).toEqual([undefined, undefined, undefined]);
  const written = new Map(granite.gguf.write?.(found));
  expect(written.get("rope.scaling.finetuned")).toEqual({ kind: "bool", value: false });
  expect(
    granite.rope(
      granite.gguf.read(config as ModelConfig, objectFields("", { "granite.logit_scale": 1 }), () => false),
      0,
    ),
  ).toBe(config.rope);
});
