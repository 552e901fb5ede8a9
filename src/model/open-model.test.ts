import { mkdir, rm, stat, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { JsonObject } from "../files/bounded-json.js";
import {
  expectError,
  ggufBytes,
  placesIn,
  safetensorsBytes,
  type TestGgufValue,
  type TestTensor,
  temporaryFolder,
} from "../files/test-files.suite.js";
import { parseHuggingFaceConfig } from "./hugging-face-config.js";
import { openModel } from "./open-model.js";

const json = {
  model_type: "llama",
  vocab_size: 10,
  hidden_size: 8,
  intermediate_size: 12,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  eos_token_id: [1, 2],
};

function needed(config: object, name: "name" | "huggingFaceName"): TestTensor[] {
  const { architecture, config: read } = parseHuggingFaceConfig(config as JsonObject, "t");
  return [...architecture.tensors(read)].map((tensor) => ({ name: tensor[name], shape: tensor.shape }));
}

interface Folder {
  readonly config?: Record<string, unknown>;
  readonly change?: (tensors: TestTensor[]) => TestTensor[];
}

async function folderOf({ config = json, change = (tensors) => tensors }: Folder): Promise<string> {
  const folder = await temporaryFolder();
  await writeFile(join(folder, "config.json"), JSON.stringify(config));
  const tensors = needed(config, "huggingFaceName");
  await writeFile(join(folder, "model.safetensors"), safetensorsBytes(change(tensors)));
  return folder;
}

test("openModel(): a Hugging Face folder, its weights under llama.cpp's names", async () => {
  const folder = await folderOf({});
  await writeFile(join(folder, "generation_config.json"), '{"eos_token_id": [2, 7]}');
  await writeFile(join(folder, "tokenizer.json"), "{}");
  const model = await openModel(folder);
  expect(model).toMatchObject({ kind: "hugging-face", path: folder, endTokenIds: [1, 2, 7] });
  expect(model.config.tiedHead).toBe(false);
  expect(model.tensors.size).toBe(3 + 2 * 9);
  const name = "model.layers.1.self_attn.k_proj.weight";
  expect(model.tensors.get("blk.1.attn_k.weight")).toMatchObject({ name, shape: [4, 8], type: "F32", byteLength: 128 });
  expect(model.files).toEqual(["config.json", "model.safetensors", "tokenizer.json"].map((file) => join(folder, file)));
  expect(await openModel(join(folder, "."))).toEqual(model);
  const prefixed = await openModel(folder, { prefix: "[Block-Attention]" });
  expect(prefixed.config.blockAttention).toEqual({ version: 1, prefix: "[Block-Attention]", modes: ["block", "full"] });
});

test.each([
  ["qwen2", 2 + 2 * 12],
  ["qwen3", 2 + 2 * 11],
  ["mistral", 2 + 2 * 9],
])("openModel(): the tensors of %s with a tied head", async (modelType, numTensors) => {
  const config = { ...json, model_type: modelType, head_dim: 6, tie_word_embeddings: true };
  const model = await openModel(await folderOf({ config }));
  expect(model.tensors.size).toBe(numTensors);
  expect(model.tensors.get("blk.0.attn_q.weight")?.shape).toEqual([12, 8]);
  expect(model.tensors.get("blk.0.attn_output.weight")?.shape).toEqual([8, 12]);
});

test("openModel(): extra tensors that change nothing are passed over, others refused", async () => {
  const extra = (tensor: TestTensor, config: Record<string, unknown> = json) =>
    folderOf({ config, change: (tensors) => [...tensors, tensor] }).then((folder) => openModel(folder));
  const angles = { name: "model.layers.0.self_attn.rotary_emb.inv_freq", shape: [2], dtype: "I64" };
  expect((await extra(angles)).tensors.size).toBe(21);
  const head = { name: "lm_head.weight", shape: [10, 8] };
  const tied = await extra(head, { ...json, tie_word_embeddings: true });
  expect(tied).toMatchObject({ config: { tiedHead: true }, warnings: [] });
  expect(tied.tensors.size).toBe(20);
  await expectError(extra({ name: "model.layers.0.self_attn.q_proj.bias", shape: [8] }), "q_proj.bias");
  await expectError(extra({ name: "model.layers.2.mlp.up_proj.weight", shape: [12, 8] }), "is no part of the llama");
});

test("openModel(): a tied embedding beside a head of its own", async () => {
  const withHead = async (head: Partial<TestTensor>) => {
    const added = { name: "lm_head.weight", shape: [10, 8], ...head };
    const config = { ...json, tie_word_embeddings: true };
    return openModel(await folderOf({ config, change: (tensors) => [...tensors, added] }));
  };
  for (const head of [{ values: [...new Array(79).fill(0), 1] }, { dtype: "BF16" }]) {
    const model = await withHead(head);
    expect(model.config.tiedHead).toBe(false);
    expect(model.tensors.get("output.weight")).toMatchObject({ name: "lm_head.weight" });
    expect(model.warnings).toEqual([expect.stringContaining("its own head is used")]);
  }
  await expectError(withHead({ shape: [11, 8] }), "lm_head.weight");
  await expectError(withHead({ dtype: "I64" }), "lm_head.weight");
});

test("openModel(): missing, misshapen and unread tensors are named", async () => {
  const norm = "model.layers.1.input_layernorm.weight";
  const changed = (change: Partial<TestTensor> | undefined) => {
    const apply = (tensors: TestTensor[]) =>
      tensors.flatMap((tensor) =>
        tensor.name !== norm ? [tensor] : change === undefined ? [] : [{ ...tensor, ...change }],
      );
    return folderOf({ change: apply }).then((folder) => openModel(folder));
  };
  await expectError(changed(undefined), `tensor "${norm}" is missing`);
  await expectError(changed({ shape: [9] }), /is \[9\], \[8\] is wanted/);
  await expectError(changed({ shape: [2, 4] }), /is \[2, 4\], \[8\] is wanted/);
  await expectError(changed({ dtype: "F64" }), /"F64", supported are F32, BF16, F16/);
});

test("openModel(): a folder without config, weights or sense, and files that are no models", async () => {
  const folder = await folderOf({});
  const at = (name: string) => join(folder, name);
  await expectError(openModel(at("missing")), "no such file or folder");
  await expectError(openModel(at("model.safetensors")), "give the model's folder");
  await expectError(openModel(""), "no such file or folder");
  await expectError(openModel("/dev/null"), "no regular file");
  await writeFile(at("generation_config.json"), "[]");
  await expectError(openModel(folder), "it is no object");
  await rm(at("generation_config.json"));
  await writeFile(at("config.json"), Buffer.from([0x7b, 0xff, 0x7d]));
  await expectError(openModel(folder), "not UTF-8");
  await writeFile(at("config.json"), "{".repeat(100_000));
  await expectError(openModel(folder), "nested more than 64 deep");
  await writeFile(at("config.json"), JSON.stringify({ ...json, num_hidden_layers: 2 ** 24 }));
  await expectError(openModel(folder), 'tensor "model.layers.2.input_layernorm.weight" is missing');
  await rm(at("config.json"));
  await expectError(openModel(folder), /config.json": no such file/);
  await mkdir(at("config.json"));
  await expectError(openModel(folder), "it is a folder");
});

const keys: Record<string, TestGgufValue> = {
  "general.architecture": { text: "llama" },
  "llama.context_length": { u32: 256 },
  "llama.embedding_length": { u32: 8 },
  "llama.block_count": { u32: 2 },
  "llama.feed_forward_length": { u32: 12 },
  "llama.attention.head_count": { u32: 2 },
  "llama.attention.head_count_kv": { u32: 1 },
  "llama.attention.layer_norm_rms_epsilon": { f32: 0.5 },
  "llama.rope.dimension_count": { u32: 4 },
  "tokenizer.ggml.eos_token_id": { u32: 1 },
  "tokenizer.ggml.eot_token_id": { u32: 3 },
};

const ggufTensors = needed(json, "name");

interface Gguf {
  readonly architecture?: string;
  readonly more?: Record<string, TestGgufValue>;
  readonly without?: readonly string[];
  readonly tensors?: readonly (TestTensor & { readonly type?: number; readonly byteLength?: number })[];
}

async function ggufOf({
  architecture = "llama",
  more = {},
  without = [],
  tensors = ggufTensors,
}: Gguf): Promise<string> {
  const entries = Object.entries({ ...keys, ...more })
    .filter(([key]) => !without.includes(key))
    .map(([key, value]) => [key.replace(/^llama\./, `${architecture}.`), value] as const);
  const metadata = { ...Object.fromEntries(entries), "general.architecture": { text: architecture } };
  const path = join(await temporaryFolder(), "model.gguf");
  await writeFile(path, ggufBytes({ metadata, tensors }));
  return path;
}

const openGguf = async (gguf: Gguf) => openModel(await ggufOf(gguf));

test("openModel(): a GGUF file", async () => {
  const path = await ggufOf({});
  const model = await openModel(path);
  expect(model).toMatchObject({ kind: "gguf", path, files: [path], endTokenIds: [1, 3] });
  expect(model.config).toEqual({
    ...parseHuggingFaceConfig(json, "t").config,
    rmsNormEps: 0.5,
    contextLength: 256,
    rope: { headSize: 4, theta: 10_000, scaling: { kind: "none" }, pairs: "adjacent" },
  });
  expect(model.tensors.size).toBe(21);
  const tied = await openGguf({ tensors: ggufTensors.filter(({ name }) => name !== "output.weight") });
  expect(tied.config.tiedHead).toBe(true);
  const qwen = await openGguf({ architecture: "qwen2" });
  expect(qwen.config).toMatchObject({ architecture: "qwen2", qkvBias: false, rope: { pairs: "half" } });
  const window = await openGguf({ more: { "llama.attention.sliding_window": { u32: 99 } } });
  expect(window.config.slidingWindow).toBe(99);
  expect(window.config.slidingLayers).toBeUndefined();
  const pattern = (value: TestGgufValue, architecture = "llama") =>
    openGguf({
      architecture,
      more: {
        [`${architecture}.attention.sliding_window`]: { u32: 99 },
        [`${architecture}.attention.sliding_window_pattern`]: value,
      },
    });
  expect((await pattern({ u32: 2 })).config.slidingLayers).toEqual([true, false]);
  expect((await pattern({ i32s: [0, 1] })).config.slidingLayers).toEqual([false, true]);
  await expectError(pattern({ i32s: [0, 1, 1] }), "a list of 2, one for each layer");
});

test("openModel(): RoPE scaling of GGUF files", async () => {
  const scalingOf = async (more: Record<string, TestGgufValue>, factors?: readonly number[]) => {
    const tensor = { name: "rope_freqs.weight", shape: [factors?.length ?? 0], values: factors ?? [] };
    const { config } = await openGguf({
      more,
      tensors: factors === undefined ? ggufTensors : [...ggufTensors, tensor],
    });
    return config;
  };
  const factor = { "llama.rope.scaling.factor": { f32: 4 } };
  const type = (text: string) => ({ "llama.rope.scaling.type": { text } });
  expect((await scalingOf(factor)).rope.scaling).toEqual({ kind: "linear", factor: 4 });
  expect((await scalingOf({ ...factor, ...type("none") })).rope.scaling).toEqual({ kind: "none" });
  expect((await scalingOf({}, [1, 8])).rope.scaling).toEqual({ kind: "factors", factors: [1, 8] });
  expect((await scalingOf(factor, [1, 8])).rope.scaling).toEqual({ kind: "factors", factors: [4, 32] });
  const yarn = { ...factor, ...type("yarn"), "llama.rope.scaling.original_context_length": { u32: 128 } };
  const plain = await scalingOf(yarn);
  expect(plain.contextLength).toBe(512);
  expect(plain.rope.scaling).toEqual({
    kind: "yarn",
    factor: 4,
    originalContextLength: 128,
    betaFast: 32,
    betaSlow: 1,
    attentionFactor: 0.1 * Math.log(4) + 1,
    truncate: true,
  });
  const grown = await scalingOf({ ...yarn, "llama.rope.scaling.attn_factor": { f32: 0.5 } });
  expect(grown.rope.scaling).toMatchObject({ attentionFactor: (0.1 * Math.log(4) + 1) / 2 });
  await expectError(scalingOf(yarn, [1, 8]), "only one of them is read");
  await expectError(scalingOf(type("longrope")), "none, linear or yarn");
  await expectError(scalingOf(type("dynamic")), "none, linear or yarn");
  await expectError(scalingOf({}, [1, 8, 8]), /is \[3\], \[2\] is wanted/);
  await expectError(scalingOf({}, [1, 0]), "no finite number above 0");
  await expectError(scalingOf({}, [1, Number.NaN]), "no finite number above 0");
  await expectError(
    openGguf({ architecture: "qwen2", tensors: [...ggufTensors, { name: "rope_freqs.weight", shape: [2] }] }),
    "rope_freqs",
  );
});

test("openModel(): GGUF files that are not sound or not supported", async () => {
  const more = (key: string, value: TestGgufValue) => openGguf({ more: { [key]: value } });
  await expectError(openGguf({ architecture: "gpt2" }), /architecture is "gpt2", supported are llama/);
  await expectError(openGguf({ tensors: [] }), "only a vocabulary");
  await expectError(openGguf({ without: ["llama.block_count"] }), '"llama.block_count" is missing');
  await expectError(more("llama.expert_count", { u32: 8 }), "expert_count");
  expect((await more("llama.expert_count", { u32: 0 })).tensors.size).toBe(21);
  await expectError(more("llama.attn_logit_softcapping", { f32: 30 }), "softcapping");
  await expectError(more("llama.rope.dimension_count", { u32: 2 }), "the head size 4 is wanted");
  await expectError(more("llama.attention.value_length", { u32: 8 }), "the head size 4 is wanted");
  await expectError(more("llama.attention.head_count_kv", { i32s: [1, 2] }), "is a list");
  await expectError(more("llama.rope.freq_base", { f32: Number.NaN }), "freq_base");
  await expectError(more("split.count", { u32: 2 }), "it is one of 2 parts");
  await expectError(more("block_attention.version", { u32: 3 }), "its version is 3");
  const replaced = (name: string, change: object) =>
    openGguf({ tensors: ggufTensors.map((tensor) => (tensor.name === name ? { ...tensor, ...change } : tensor)) });
  await expectError(replaced("blk.1.ffn_up.weight", { name: "blk.1.ffn_up" }), '"blk.1.ffn_up.weight" is missing');
  await expectError(replaced("blk.1.ffn_up.weight", { shape: [8, 12] }), /is \[8, 12\], \[12, 8\] is wanted/);
  await expectError(replaced("blk.1.ffn_up.weight", { type: 15 }), /"blk.1.ffn_up.weight" is "Q8_K", supported are/);
  const q8 = { shape: [32], type: 8, byteLength: 34 };
  await expectError(replaced("output_norm.weight", q8), /is \[32\], \[8\] is wanted/);
});

test("openModel(): a model file cut at 50 places is refused each time", async () => {
  const path = await ggufOf({});
  const { size } = await stat(path);
  for (const length of placesIn(size - 32, 50).reverse()) {
    await truncate(path, length);
    await expectError(openModel(path));
  }
});

test("openModel(): the embedded model", async () => {
  const model = await openModel("models/tiny-rag");
  expect(model.config).toMatchObject({ tiedHead: true, headSize: 64, blockAttention: { modes: ["block", "full"] } });
  expect(model.tensors.get("token_embd.weight")).toMatchObject({ type: "BF16", shape: [4096, 256] });
  expect(model.endTokenIds).toEqual([1]);
});
