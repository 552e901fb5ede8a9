import { expect, test } from "vitest";
import { chooseModel, type ModelUse } from "./choose-files.js";

const folder = ["README.md", "config.json", "tokenizer.json", "merges.txt", "pytorch_model.bin", "onnx/model.onnx"];
const gguf = ["m-Q4_0.gguf", "m-Q4_0_4_4.gguf", "m-q4_k_m.gguf", "m.Q8_0.gguf", "mmproj-m-f16.gguf", "m.imatrix.gguf"];
const split = ["BF16/m-00001-of-00002.gguf", "BF16/m-00002-of-00002.gguf"];

test.each([
  [
    [...folder, "model.safetensors"],
    undefined,
    "",
    ["config.json", "tokenizer.json", "merges.txt", "model.safetensors"],
  ],
  [
    [
      ...folder,
      "a-00002-of-00002.safetensors",
      "consolidated.safetensors",
      "a.safetensors.index.json",
      "a-00001-of-00002.safetensors",
    ],
    undefined,
    "",
    [
      ...["config.json", "tokenizer.json", "merges.txt", "a.safetensors.index.json"],
      ...["a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors"],
    ],
  ],
  [["config.json", ...gguf], undefined, "m-q4_k_m.gguf", ["m-q4_k_m.gguf"]],
  [["m-Q4_0.gguf", "m.Q8_0.gguf"], undefined, "m.Q8_0.gguf", ["m.Q8_0.gguf"]],
  [["m-Q4_0.gguf", "mmproj.gguf"], undefined, "m-Q4_0.gguf", ["m-Q4_0.gguf"]],
  [gguf, "Q4_0", "m-Q4_0.gguf", ["m-Q4_0.gguf"]],
  [gguf, "q8_0", "m.Q8_0.gguf", ["m.Q8_0.gguf"]],
  [[...gguf, ...split], "bf16", split[0], split],
  [[...gguf, ...split], split[1], split[0], split],
])("chooseModel(): of %j, %s is %s", (names, part, path, chosen) => {
  expect(chooseModel(names as string[], part, "o/n")).toMatchObject({ path, names: chosen, isWhole: true });
});

const adapter = ["adapter_config.json", "adapter_model.safetensors"];
const both = [...folder, "model.safetensors", ...adapter, "x/adapter_config.json", "x/adapter_model.safetensors"];
const model = ["config.json", "tokenizer.json", "merges.txt", "model.safetensors"];
const pickled = ["config.json", "vocab.txt", "pytorch_model.bin", "pytorch_model.bin.index.json", "training_args.bin"];
test.each<[readonly string[], string | undefined, ModelUse | undefined, string, readonly string[]]>([
  [[...adapter, "tokenizer.json", "optimizer.safetensors"], undefined, undefined, "", adapter],
  [both, undefined, undefined, "", model],
  [both, undefined, "model", "", model],
  [both, undefined, "adapter", "", adapter],
  [both, "x", "adapter", "x", ["x/adapter_config.json", "x/adapter_model.safetensors"]],
  [both.slice(-2), undefined, "adapter", "x", ["x/adapter_config.json", "x/adapter_model.safetensors"]],
  [["m-lora-f16.gguf", "README.md"], undefined, "adapter", "m-lora-f16.gguf", ["m-lora-f16.gguf"]],
  [
    pickled,
    undefined,
    "transformers",
    "",
    ["config.json", "vocab.txt", "pytorch_model.bin.index.json", "pytorch_model.bin"],
  ],
  [[...pickled, "model.safetensors"], undefined, "transformers", "", ["config.json", "vocab.txt", "model.safetensors"]],
  [
    ["a/config.json", "a/model.safetensors", "model.fp16.safetensors"],
    "a",
    "model",
    "a",
    ["a/config.json", "a/model.safetensors"],
  ],
  [
    ["config.json", "model.fp16.safetensors", "model.safetensors"],
    undefined,
    "model",
    "",
    ["config.json", "model.safetensors"],
  ],
])("chooseModel(): of %j, %s for %s is %s", (names, part, use, path, chosen) => {
  expect(chooseModel(names, part, "o/n", use)).toMatchObject({ path, names: chosen, isWhole: true });
});

test.each<[readonly string[], ModelUse, RegExp]>([
  [
    adapter,
    "model",
    /^Cannot find a model in "o\/n": it holds an adapter, wanted a model under it: --adapter hf:o\/n$/,
  ],
  [
    model,
    "adapter",
    /^Cannot find an adapter in "o\/n": wanted adapter_config.json with adapter_model.safetensors, or GGUF/,
  ],
  [["adapter_config.json", "adapter_model.bin"], "adapter", /and there is "adapter_config.json", "adapter_model.bin"$/],
  [
    ["config.json", "m.gguf"],
    "transformers",
    /wanted a config.json with safetensors or pytorch_model.bin, and there is/,
  ],
])("chooseModel(): of %j for %s is an error", (names, use, message) => {
  expect(() => chooseModel(names, undefined, "o/n", use)).toThrow(message);
});

test.each([
  [
    ["m-Q4_0.gguf", "m-Q5_0.gguf"],
    undefined,
    'Cannot choose a model in "o/n": it holds "m-Q4_0.gguf", "m-Q5_0.gguf"; name one with o/n:FILE or its quantization',
  ],
  [
    gguf,
    "Q3_K",
    'Cannot find "Q3_K" in "o/n": it holds "m-Q4_0.gguf", "m-Q4_0_4_4.gguf", "m-q4_k_m.gguf", "m.Q8_0.gguf"',
  ],
  [gguf, "m-Q4_1.gguf", 'Cannot find "m-Q4_1.gguf" in "o/n": it holds "m-Q4_0.gguf"'],
  [
    folder,
    undefined,
    /^Cannot find a model in "o\/n": wanted a config\.json with safetensors, or GGUF, and there is "README\.md"/,
  ],
  [split.slice(1), undefined, 'Cannot take "BF16/m-00002-of-00002.gguf" of "o/n": parts of it are missing'],
  [[...gguf, "x/n-Q8_0.gguf"], "Q8_0", /^Cannot choose "Q8_0" in "o\/n": it holds "m\.Q8_0\.gguf", "x\/n-Q8_0\.gguf"/],
])("chooseModel(): of %j, %s is an error", (names, part, message) => {
  expect(() => chooseModel(names, part, "o/n")).toThrow(message);
});
