import { expect, test } from "vitest";
import type { JsonObject } from "../../files/bounded-json.js";
import { parseHuggingFaceConfig } from "../hugging-face-config.js";
import type { LlamaConfig } from "./llama.js";
import { smollm3 } from "./smollm3.js";

const base = {
  model_type: "smollm3",
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 9,
  num_attention_heads: 4,
  vocab_size: 300,
};

const read = (more: JsonObject) => parseHuggingFaceConfig({ ...base, ...more }, '"config.json"').config as LlamaConfig;

test("parseHuggingFaceConfig(): smollm3's layers without RoPE are listed, or come at an interval", () => {
  expect(read({})).toMatchObject({ layersWithoutRope: [3, 7], tiedHead: true, numKvHeads: 4 });
  expect(read({ no_rope_layer_interval: 2 }).layersWithoutRope).toEqual([1, 3, 5, 7]);
  const listed = read({ no_rope_layers: [1, 0, 1, 1, 1, 1, 1, 1, 0, 0], no_rope_layer_interval: 2 });
  expect(listed.layersWithoutRope).toEqual([1, 8]);
  const turned = [...Array(9).keys()].filter((layer) => smollm3.rope(listed, layer) !== undefined);
  expect(turned).toEqual([0, 2, 3, 4, 5, 6, 7]);
});

test("parseHuggingFaceConfig(): smollm3's layers without RoPE must be well formed", () => {
  expect(() => read({ no_rope_layers: [1, 0] })).toThrow(
    /"no_rope_layers" is a list, a list of 9 or more times 0 or 1/,
  );
  expect(() => read({ no_rope_layers: Array(9).fill(true) })).toThrow(/"no_rope_layers"/);
  expect(() => read({ no_rope_layer_interval: 0 })).toThrow(/"no_rope_layer_interval" is 0/);
  expect(() => read({ use_sliding_window: true })).toThrow(/"use_sliding_window" is true, false is wanted/);
});

test("GgufTraits.write(): GGUF has only every fourth of smollm3's layers without RoPE", () => {
  expect([...(smollm3.gguf.write?.(read({})) ?? [])]).toEqual([]);
  expect(() => smollm3.gguf.write?.(read({ no_rope_layer_interval: 3 }))).toThrow(
    "Cannot convert a smollm3 model: layers 2, 5, 8 have no RoPE, in GGUF every 4th has none",
  );
});
