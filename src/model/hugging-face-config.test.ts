import { expect, test } from "vitest";
import { parseJson } from "../files/bounded-json.js";
import { parseHuggingFaceConfig, readEndTokenIds } from "./hugging-face-config.js";
import { ropeTypes } from "./hugging-face-rope.js";

const parse = (value: unknown) => parseHuggingFaceConfig(parseJson(JSON.stringify(value), "t"), '"config.json"').config;

const sizes = {
  vocab_size: 100,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
};
const llama = { ...sizes, model_type: "llama", architectures: ["LlamaForCausalLM"] };
const mistral = { ...sizes, model_type: "mistral", architectures: ["MistralForCausalLM"] };
const qwen2 = { ...sizes, model_type: "qwen2", architectures: ["Qwen2ForCausalLM"] };
const qwen3 = { ...sizes, model_type: "qwen3" };
const qwen3Moe = { ...sizes, model_type: "qwen3_moe" };

test("parseHuggingFaceConfig(): defaults are Transformers' own, by architecture", () => {
  expect(parse(llama)).toEqual({
    architecture: "llama",
    vocabSize: 100,
    numLayers: 3,
    hiddenSize: 64,
    intermediateSize: 96,
    numHeads: 4,
    numKvHeads: 2,
    headSize: 16,
    rmsNormEps: 1e-6,
    rope: { headSize: 16, theta: 10_000, scaling: { kind: "none" }, pairs: "half" },
    contextLength: 2048,
    slidingWindow: undefined,
    qkvBias: false,
    outputBias: false,
    mlpBias: false,
    qkNorm: false,
    tiedHead: false,
    blockAttention: undefined,
  });
  expect(parse(mistral)).toMatchObject({ contextLength: 131_072, slidingWindow: 4096, qkvBias: false });
  expect(parse(qwen2)).toMatchObject({ contextLength: 32_768, qkvBias: true, outputBias: false, qkNorm: false });
  expect(parse(qwen3)).toMatchObject({ headSize: 128, qkvBias: false, qkNorm: true });
  for (const other of [mistral, qwen2, qwen3]) expect(Object.keys(parse(other))).toEqual(Object.keys(parse(llama)));
  const { num_key_value_heads: _, ...without } = llama;
  expect(parse(without).numKvHeads).toBe(4);
  expect(parse({ ...mistral, num_attention_heads: 8, num_key_value_heads: undefined }).numKvHeads).toBe(8);
  expect(parse({ ...mistral, num_key_value_heads: null }).numKvHeads).toBe(4);
});

test("parseHuggingFaceConfig(): Transformers 4 and 5 say the same of RoPE in their own ways", () => {
  const factor = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
  const four = { ...llama, rope_theta: 500_000, rope_scaling: { ...factor, rope_type: "llama3" } };
  const five = { ...llama, rope_parameters: { ...factor, rope_type: "llama3", rope_theta: 500_000 } };
  expect(parse(four)).toEqual(parse(five));
  expect(parse({ ...four, ...five })).toEqual(parse(five));
  expect(parse(five).rope).toMatchObject({ theta: 500_000, scaling: { kind: "llama3", originalContextLength: 8192 } });
  const old = { ...llama, rope_scaling: { type: "linear", factor: 2 } };
  expect(parse(old).rope.scaling).toEqual({ kind: "linear", factor: 2 });
  expect(parse({ ...llama, rope_theta: 5, rope_scaling: null, rope_parameters: {} }).rope.theta).toBe(5);
  expect(() => parse({ ...old, rope_parameters: { rope_type: "linear", factor: 3 } })).toThrow(/different things/);
});

test("parseHuggingFaceConfig(): YaRN over a stated original context reaches factor times as far", () => {
  const yarn = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32_768 };
  const config = parse({ ...qwen2, max_position_embeddings: 32_768, rope_scaling: yarn });
  expect(config.contextLength).toBe(131_072);
  expect(config.rope.scaling).toMatchObject({ kind: "yarn", betaFast: 32, betaSlow: 1, truncate: true });
  const unstated = { rope_type: "yarn", factor: 4 };
  expect(parse({ ...qwen2, max_position_embeddings: 4096, rope_scaling: unstated })).toMatchObject({
    contextLength: 4096,
    rope: { scaling: { originalContextLength: 4096 } },
  });
});

test("parseHuggingFaceConfig(): sliding windows where they apply", () => {
  const windowOf = (value: unknown) => parse(value).slidingWindow;
  expect(windowOf({ ...mistral, sliding_window: null })).toBeUndefined();
  expect(windowOf({ ...mistral, sliding_window: 512 })).toBe(512);
  expect(windowOf({ ...llama, sliding_window: 512 })).toBeUndefined(); // Transformers has none there
  const used = { ...qwen2, use_sliding_window: true, sliding_window: 256 };
  expect(windowOf({ ...qwen2, sliding_window: 256 })).toBeUndefined();
  expect(windowOf(used)).toBeUndefined(); // layers from 28 on slide, there are three
  expect(parse({ ...used, max_window_layers: 2 })).toMatchObject({
    slidingWindow: 256,
    slidingLayers: [false, false, true],
  });
  expect(parse({ ...used, max_window_layers: 0 }).slidingLayers).toBeUndefined();
  const types = ["full_attention", "sliding_attention", "full_attention"];
  expect(windowOf({ ...used, layer_types: types })).toBe(256);
  expect(windowOf({ ...used, max_window_layers: 0, layer_types: types.fill("full_attention") })).toBeUndefined();
  expect(() => windowOf({ ...qwen2, layer_types: ["sliding_attention", "full_attention", "full_attention"] })).toThrow(
    /give no window/,
  );
  expect(() => windowOf({ ...used, layer_types: ["full_attention"] })).toThrow(/a list of 3 times/);
});

const phi3 = {
  ...sizes,
  model_type: "phi3",
  partial_rotary_factor: 0.75,
  hidden_size: 128,
  max_position_embeddings: 131_072,
  original_max_position_embeddings: 4096,
  sliding_window: 262_144,
};
const longRope = { type: "longrope", short_factor: Array(12).fill(1), long_factor: Array(12).fill(3) };
const gemma3 = {
  ...sizes,
  model_type: "gemma3_text",
  head_dim: 32,
  sliding_window: 512,
  max_position_embeddings: 32_768,
};

test("parseHuggingFaceConfig(): longrope ends with its original context", () => {
  expect(parse({ ...phi3, rope_scaling: longRope })).toMatchObject({
    contextLength: 4096,
    slidingWindow: 262_144,
    rope: {
      headSize: 32,
      rotatedSize: 24,
      scaling: {
        kind: "longrope",
        factors: longRope.short_factor,
        longFactors: longRope.long_factor,
        attentionFactor: Math.sqrt(1 + Math.log(32) / Math.log(4096)),
        originalContextLength: 4096,
        longContextLength: 131_072,
      },
    },
  });
  const { type, ...rest } = longRope;
  const modern = {
    ...phi3,
    partial_rotary_factor: undefined,
    rope_parameters: { rope_type: type, rope_theta: 10_000, partial_rotary_factor: 0.75, ...rest },
  };
  expect(parse(modern)).toEqual(parse({ ...phi3, rope_scaling: longRope }));
  expect(parse({ ...phi3, rope_scaling: null }).contextLength).toBe(131_072);
});

test("parseHuggingFaceConfig(): gemma3's layers, as Transformers 4 and 5 write them", () => {
  const six = { ...gemma3, num_hidden_layers: 7 };
  const old = parse({ ...six, sliding_window_pattern: 3, rope_scaling: { rope_type: "linear", factor: 8 } });
  expect(old).toMatchObject({
    slidingWindow: 512,
    slidingLayers: [true, true, false, true, true, false, true],
    queryScalar: 256,
    tiedHead: true,
    rope: { theta: 1_000_000, scaling: { kind: "linear", factor: 8 } },
    localRope: { theta: 10_000, scaling: { kind: "none" } },
  });
  const [slides, sees] = ["sliding_attention", "full_attention"];
  const modern = {
    ...six,
    layer_types: [slides, slides, sees, slides, slides, sees, slides],
    rope_parameters: {
      full_attention: { rope_type: "linear", factor: 8, rope_theta: 1_000_000 },
      sliding_attention: { rope_type: "default", rope_theta: 10_000 },
    },
  };
  expect(parse(modern)).toEqual(old);
  expect(parse({ ...six, rope_local_base_freq: 500 }).localRope?.theta).toBe(500);
  expect(parse(six).slidingLayers).toEqual([true, true, true, true, true, false, true]);
});

test.each([
  ["attention_bias", { ...llama, attention_bias: true }, { qkvBias: true, outputBias: true }],
  ["attention_bias of qwen3", { ...qwen3, attention_bias: true }, { qkvBias: true, outputBias: true }],
  ["mlp_bias", { ...llama, mlp_bias: true }, { mlpBias: true }],
  ["a tied head", { ...llama, tie_word_embeddings: true }, { tiedHead: true }],
  ["head_dim", { ...llama, head_dim: 32 }, { headSize: 32 }],
  [
    "experts' defaults",
    qwen3Moe,
    { headSize: 16, numExperts: 128, numExpertsUsed: 8, expertSize: 768, normalizesExperts: false, denseLayers: [] },
  ],
  [
    "experts",
    { ...qwen3Moe, num_local_experts: 9, decoder_sparse_step: 2, mlp_only_layers: [-1, 1, 7] },
    { numExperts: 9, expertStep: 2, denseLayers: [1] },
  ],
  ["a window of all layers", { ...qwen3Moe, use_sliding_window: true }, { slidingWindow: 4096 }],
  ["harmless keys", { ...llama, torch_dtype: "bfloat16", use_cache: true, attention_dropout: 0.1, num_experts: 0 }, {}],
  ["neutral values", { ...llama, quantization_config: null, partial_rotary_factor: 1, pruned_heads: {} }, {}],
])("parseHuggingFaceConfig(): reads %s", (_, value, wanted) => {
  expect(parse(value)).toMatchObject(wanted);
});

test.each([
  [[], /it is no object/],
  [sizes, /"model_type" is missing/],
  [
    { ...llama, model_type: "gpt2" },
    /"model_type" is "gpt2", supported are llama, mistral, qwen2, qwen3, qwen3_moe, phi3/,
  ],
  [{ ...llama, model_type: "constructor" }, /"model_type" is "constructor"/],
  [{ ...llama, architectures: ["LlamaForSequenceClassification"] }, /only "LlamaForCausalLM" is supported/],
  [{ ...llama, hidden_size: undefined }, /"hidden_size" is missing/],
  [{ ...llama, hidden_size: -64 }, /"hidden_size" is -64, a whole number from 1/],
  [{ ...llama, hidden_size: 64.5 }, /"hidden_size" is 64.5/],
  [{ ...llama, hidden_size: "64" }, /"hidden_size" is "64"/],
  [{ ...llama, num_hidden_layers: 2 ** 60 }, /"num_hidden_layers" is/],
  [{ ...llama, hidden_size: 66 }, /no multiple of "num_attention_heads"/],
  [{ ...llama, head_dim: 15 }, /the head size is 15/],
  [{ ...llama, head_dim: 2 ** 20 }, /the head size is 1048576/],
  [{ ...llama, num_key_value_heads: 3 }, /4 query heads cannot share 3/],
  [{ ...llama, rms_norm_eps: 0 }, /"rms_norm_eps" is 0, a number above 0/],
  [{ ...llama, rms_norm_eps: "1e-5" }, /"rms_norm_eps" is "1e-5"/],
  [{ ...llama, hidden_act: "gelu" }, /"hidden_act" is "gelu", "silu" is wanted/],
  [{ ...llama, rope_theta: -1 }, /"rope_theta" is -1/],
  [{ ...llama, rope_scaling: { type: "dynamic", factor: 2 } }, /"dynamic" is refused, its angles depend on/],
  [{ ...llama, rope_scaling: { rope_type: "longrope" } }, /"short_factor" is undefined, a list of numbers above 0/],
  [{ ...phi3, rope_scaling: { ...longRope, short_factor: [1, 2] } }, /2 frequency factors are given, 24 turned/],
  [{ ...phi3, rope_scaling: { ...longRope, long_factor: [1, 0] } }, /"long_factor" is a list, a list of numbers/],
  [{ ...phi3, partial_rotary_factor: 1.5 }, /"partial_rotary_factor" is 1.5, only whole heads/],
  [{ ...gemma3, hidden_activation: "gelu" }, /"hidden_activation" is "gelu", "gelu_pytorch_tanh" is wanted/],
  [{ ...gemma3, final_logit_softcapping: 30 }, /"final_logit_softcapping" changes the arithmetic/],
  [{ ...gemma3, use_bidirectional_attention: true }, /"use_bidirectional_attention" changes the arithmetic/],
  [{ ...gemma3, rope_parameters: { full_attention: 3 } }, /"full_attention" is 3, an object is wanted/],
  [{ ...gemma3, model_type: "gemma3" }, /"gemma3", which is refused: it takes pictures or sound/],
  [{ ...llama, model_type: "qwen3_next" }, /"qwen3_next", which is refused: its recurrent or linear-attention layers/],
  [{ ...llama, model_type: "deepseek_v3" }, /which is refused: its multi-head latent attention/],
  [{ ...llama, model_type: "bert" }, /which is refused: it is an encoder/],
  [
    { ...llama, rope_scaling: { rope_type: "mrope" } },
    new RegExp(`"mrope" is refused, only ${ropeTypes.join(", ")} are read`),
  ],
  [{ ...llama, rope_scaling: { rope_type: "linear" } }, /"factor" is missing/],
  [{ ...llama, rope_scaling: { rope_type: "linear", factor: 0 } }, /"factor" is 0/],
  [{ ...llama, rope_scaling: { rope_type: "default", factor: 8 } }, /"factor" is not read for the RoPE type "default"/],
  [{ ...llama, rope_scaling: { rope_type: "yarn", factor: 2, beta: 3 } }, /"beta" is not read/],
  [{ ...llama, rope_scaling: { rope_type: "yarn", factor: 2, beta_fast: 1, beta_slow: 32 } }, /correction range/],
  [{ ...llama, rope_theta: 1, rope_scaling: { rope_type: "yarn", factor: 2 } }, /correction range|angles/],
  [{ ...llama, rope_scaling: "linear" }, /"rope_scaling" is "linear", an object is wanted/],
  [{ ...llama, rope_parameters: { full_attention: {}, rope_type: "default" } }, /"full_attention" is not read/],
  [{ ...llama, rope_parameters: { rope_type: "default", partial_rotary_factor: 0.5 } }, /only whole heads are rotated/],
  [{ ...llama, partial_rotary_factor: 0.5 }, /"partial_rotary_factor" is 0.5, only whole heads/],
  [{ ...llama, quantization_config: { quant_method: "fp8" } }, /"quantization_config" changes the arithmetic/],
  [
    { ...qwen3Moe, num_experts: 8, num_local_experts: 9 },
    /"num_local_experts" is 9, "num_experts", which is 8, is wanted/,
  ],
  [{ ...qwen3Moe, num_experts: 4 }, /a token uses 8 experts of 4/],
  [{ ...qwen3Moe, num_experts: 1, num_experts_per_tok: 1 }, /"num_experts" is 1, a whole number from 2/],
  [{ ...qwen3Moe, mlp_only_layers: 3 }, /"mlp_only_layers" is 3, a list of layers is wanted/],
  [{ ...qwen3Moe, model_type: "granitemoe" }, /"model_type" is "granitemoe", supported are/],
  [{ ...llama, num_local_experts: 8 }, /"num_local_experts" changes the arithmetic/],
  [{ ...llama, residual_multiplier: 0.22 }, /"residual_multiplier" changes the arithmetic/],
  [{ ...llama, attn_logit_softcapping: 50 }, /"attn_logit_softcapping" changes the arithmetic/],
  [{ ...mistral, attention_bias: true }, /mistral has no such biases/],
  [{ ...qwen2, mlp_bias: true }, /qwen2 has no such biases/],
  [{ ...llama, tie_word_embeddings: "yes" }, /"tie_word_embeddings" is "yes"/],
  [{ ...llama, block_attention: { version: 9 } }, /its version is 9/],
])("parseHuggingFaceConfig(): refuses %j", (value, message) => {
  expect(() => parse(value)).toThrow(message);
  expect(() => parse(value)).toThrow(/^Cannot [^\n]+[^.\n]$/);
});

test("readEndTokenIds(): one id, a list, or none", () => {
  expect(readEndTokenIds({ eos_token_id: 2 }, "t")).toEqual([2]);
  expect(readEndTokenIds({ eos_token_id: [2, 5] }, "t")).toEqual([2, 5]);
  expect(readEndTokenIds({ eos_token_id: null }, "t")).toEqual([]);
  expect(readEndTokenIds({}, "t")).toEqual([]);
  expect(() => readEndTokenIds({ eos_token_id: "</s>" }, "t")).toThrow(/"eos_token_id" is/);
  expect(() => readEndTokenIds({ eos_token_id: [-1] }, "t")).toThrow(/a token id or a list of them/);
});
