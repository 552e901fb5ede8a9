import { expect, test } from "vitest";
import { chooseModel } from "./choose-files.js";

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
  [
    ["adapter_config.json", "adapter_model.safetensors"],
    undefined,
    "",
    ["adapter_config.json", "adapter_model.safetensors"],
  ],
  [["config.json", ...gguf], undefined, "m-q4_k_m.gguf", ["m-q4_k_m.gguf"]],
  [["m-Q4_0.gguf", "m.Q8_0.gguf"], undefined, "m.Q8_0.gguf", ["m.Q8_0.gguf"]],
  [["m-Q4_0.gguf", "mmproj.gguf"], undefined, "m-Q4_0.gguf", ["m-Q4_0.gguf"]],
  [gguf, "Q4_0", "m-Q4_0.gguf", ["m-Q4_0.gguf"]],
  [gguf, "q8_0", "m.Q8_0.gguf", ["m.Q8_0.gguf"]],
  [[...gguf, ...split], "bf16", split[0], split],
  [[...gguf, ...split], split[1], split[0], split],
])("chooseModel(): of %j, %s is %s", (names, part, path, chosen) => {
  expect(chooseModel(names as string[], part, "o/n")).toEqual({ path, names: chosen, isWhole: true });
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
