import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Random } from "../../tests/models/random.js";
import {
  type RandomAdapter,
  randomAdapter,
  writeGgufAdapter,
  writePeftAdapter,
} from "../../tests/models/random-adapter.js";
import { writeRandomGguf } from "../../tests/models/random-gguf.js";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { expectError, safetensorsBytes, type TestTensor } from "../files/test-files.suite.js";
import { openModel } from "./open-model.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-adapters-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);
const [model, gguf, peft] = [at("model"), at("model.gguf"), at("peft")];
let adapter: RandomAdapter;

beforeAll(async () => {
  const shape = {
    architecture: "llama",
    tied: true,
    blockAttention: { version: 1, prefix: "[A]", modes: ["full"] },
  } as const;
  writeRandomModel(model, shape);
  writeRandomGguf(gguf, shape);
  adapter = await randomAdapter(model, { seed: 3 });
});

/** A PEFT adapter with another config, or other tensors. */
function peftWith(config: object, tensors?: readonly TestTensor[]): string {
  writePeftAdapter(peft, adapter, config);
  if (tensors) writeFileSync(join(peft, "adapter_model.safetensors"), safetensorsBytes(tensors));
  return peft;
}

const open = (path: string, scale?: number, base = model) => openModel(base, { adapters: [{ path, scale }] });
const queries = "base_model.model.model.layers.0.self_attn.q_proj";
const factors = (module: string, a: number[], b: number[]): TestTensor[] => [
  { name: `${module}.lora_A.weight`, shape: a },
  { name: `${module}.lora_B.weight`, shape: b },
];

test("openModel(): scales as PEFT has them, by patterns of modules too", async () => {
  const scales = async (config: object, scale?: number) => {
    const { updates } = (await open(peftWith(config), scale)).adapters![0]!;
    return ["blk.0.attn_q", "blk.1.attn_q", "blk.0.ffn_up"].map((name) => updates.get(`${name}.weight`)![0]!.scale);
  };
  expect(await scales({ lora_alpha: 6, fan_in_fan_out: false, layers_pattern: "layers" })).toEqual([1.5, 1.5, 1.5]);
  expect(await scales({ lora_alpha: 6, use_rslora: true }, -2)).toEqual([-6, -6, -6]);
  expect(await scales({ r: 8, rank_pattern: { ".*": 4 }, alpha_pattern: { q_proj: 1 } })).toEqual([0.25, 0.25, 1.5]);
  const patterns = { "layers.1.self_attn.q_proj": 2, "(self_attn|mlp).\\w+_proj$": 8 };
  await expectError(scales({ alpha_pattern: patterns }), 'pattern "(self_attn|mlp).\\\\w+_proj$" is not supported');
  expect(await scales({ alpha_pattern: { "layers.1.self_attn.q_proj": 2, "mlp\\..*": 8 } })).toEqual([1.5, 0.5, 2]);
});

test("openModel(): what an adapter says of its training stands over the model's word, and under the user's", async () => {
  const path = peftWith({ block_attention: { version: 1, prefix: "[B]", modes: ["block", "full"] } });
  expect((await open(path)).config.blockAttention).toEqual({ version: 1, prefix: "[B]", modes: ["block", "full"] });
  expect((await open(path, 0)).config.blockAttention?.prefix).toBe("[A]");
  const adapters = [{ path }, { path: at("a.gguf") }];
  await writeGgufAdapter(at("a.gguf"), model, adapter, {
    "block_attention.version": { u32: 1 },
    "block_attention.prefix": { text: "[C]" },
    "block_attention.modes": { texts: ["block"] },
  });
  expect((await openModel(model, { adapters })).config.blockAttention).toMatchObject({
    prefix: "[C]",
    modes: ["block"],
  });
  const own = { adapters, prefix: "[D]" };
  expect((await openModel(model, own)).config.blockAttention).toMatchObject({ prefix: "[D]", modes: ["block"] });
  await expectError(
    open(peftWith({ block_attention: { version: 1, prefix: "", modes: ["block"], more: 1 } })),
    '"more"',
  );
});

test("openModel(): a scale of 0 leaves the model as it is, but the adapter is read", async () => {
  expect(await open(peftWith({}), 0)).toEqual(await openModel(model));
  await expectError(open(peftWith({ r: 3 }), 0), /the rank for .* is 4, 3 is wanted/);
});

test("openModel(): takes weights that an adapter has whole, as the model's format has them", async () => {
  const [norm, head] = ["base_model.model.model.layers.1.input_layernorm.weight", "base_model.model.lm_head.weight"];
  const { config, tensors } = await openModel(model);
  const { vocabSize, hiddenSize } = config;
  const whole = [
    { name: norm, shape: [hiddenSize] },
    { name: head, shape: [vocabSize, hiddenSize] },
  ];
  const path = peftWith({ modules_to_save: ["lm_head", "input_layernorm"] }, whole);
  const opened = await open(path);
  for (const name of ["blk.1.attn_norm.weight", "output.weight"]) {
    expect(opened.tensors.get(name)?.parts[0]?.path).toBe(join(path, "adapter_model.safetensors"));
  }
  // Its head was the embedding, which stays as it was.
  expect(opened.config.tiedHead).toBe(false);
  expect(opened.tensors.get("token_embd.weight")).toEqual(tensors.get("token_embd.weight"));
  await expectError(open(path, 1, gguf), `tensor "${norm}" is no LoRA factor of a weight of this llama model`);
  await expectError(open(peftWith({}, [{ name: head, shape: [vocabSize + 1, hiddenSize] }])), /the shape of tensor/);
});

test("convertedType(): a weight with an adapter has eight bits or more, unless others are asked for", async () => {
  const { convertedType } = await import("./weights.js");
  const entry = { shape: [8, 256], type: "IQ2_XXS" } as const;
  expect(convertedType(entry, "keep")).toBe("IQ2_XXS");
  expect(convertedType({ ...entry, isMerged: true }, "keep")).toBe("Q8_0");
  expect(convertedType({ ...entry, type: "Q4_K", isMerged: true }, "keep")).toBe("Q8_0");
  expect(convertedType({ ...entry, type: "BF16", isMerged: true }, "keep")).toBe("BF16");
  expect(convertedType({ ...entry, type: "Q4_K", isMerged: true }, "q4_k")).toBe("Q4_K");
});

const refusedConfigs: readonly (readonly [object, string])[] = [
  [{ peft_type: "IA3" }, '"peft_type" is "IA3", "LORA" is wanted'],
  [{ peft_type: null }, '"peft_type" is missing'],
  [{ use_dora: true }, '"use_dora" changes the arithmetic'],
  [{ bias: "lora_only" }, '"bias" changes'],
  [{ fan_in_fan_out: true }, '"fan_in_fan_out" changes'],
  [{ init_lora_weights: "pissa_niter_4" }, '"init_lora_weights" changes'],
  [{ alora_invocation_tokens: [5] }, '"alora_invocation_tokens" changes'],
  [{ task_type: "SEQ_CLS" }, '"task_type" changes'],
  [{ target_parameters: "experts" }, '"target_parameters" is "experts", a list is wanted'],
  [{ r: 0 }, '"r" is 0, a whole number from 1'],
  [{ lora_alpha: "16" }, '"lora_alpha" is "16", a number is wanted'],
  [{ rank_pattern: [4] }, '"rank_pattern" is a list, an object is wanted'],
  [{ rank_pattern: { "(.*)+x": 4 } }, 'the pattern "(.*)+x" is not supported'],
  [{ rank_pattern: { "q(": 4 } }, 'the pattern "q(" is not sound'],
  [{ alpha_pattern: { q_proj: null } }, '"q_proj" is missing'],
];
test.each(refusedConfigs)("openModel(): refuses an adapter whose config says %j", async (config, part) => {
  expect(await expectError(open(peftWith(config)))).toContain(part);
});

test("openModel(): refuses adapters of another model, and what is none", async () => {
  const hidden = 64;
  const cases: [string | readonly TestTensor[], string][] = [
    [
      factors(`${queries}x`, [4, hidden], [hidden, 4]),
      `tensor "${queries}x.lora_A.weight" is no LoRA factor of a weight`,
    ],
    [factors(queries, [4, hidden + 1], [hidden, 4]), `[4, ${hidden + 1}], [4, ${hidden}] is wanted`],
    [factors(queries, [4, hidden], [hidden + 2, 4]), `[${hidden + 2}, 4], [${hidden}, 4] is wanted`],
    [factors(queries, [5, hidden], [hidden, 5]), "is 5, 4 is wanted"],
    [factors(queries, [0, hidden], [hidden, 0]), "is wanted"],
    [[], "it has no tensors"],
    [factors(queries, [4, hidden], [hidden, 4]).slice(1), "of the two LoRA factors"],
    [[{ name: `${queries}.lora_magnitude_vector`, shape: [hidden] }], "is no LoRA factor"],
    [factors("base_model.model.model.norm", [4, hidden], [hidden, 4]), "is no matrix"],
    [model, 'adapter_config.json": no such file or folder'],
    [gguf, '"general.type" is'],
    [join(peft, "adapter_model.safetensors"), "give the adapter's folder, or a .gguf file"],
    [at("none"), "no such file or folder"],
  ];
  for (const [given, part] of cases) {
    expect(await expectError(open(typeof given === "string" ? given : peftWith({}, given)))).toContain(part);
  }
  peftWith({});
  mkdirSync(at("bin"));
  writeFileSync(join(at("bin"), "adapter_config.json"), readFileSync(join(peft, "adapter_config.json")));
  writeFileSync(join(at("bin"), "adapter_model.bin"), "");
  await expectError(open(at("bin")), '"adapter_model.bin" is not read: save the adapter as safetensors');
  for (const [key, part] of [
    ["general.architecture", '"general.architecture" is "other", "llama" is wanted'],
    ["adapter.type", '"adapter.type" is "other", "lora" is wanted'],
  ] as const) {
    await writeGgufAdapter(at("b.gguf"), model, adapter, { [key]: { text: "other" } });
    expect(await expectError(open(at("b.gguf")))).toContain(part);
  }
});

test("openModel(): factors of experts that are one parameter fit its shape", async () => {
  const model = at("experts");
  const sizes = { num_experts: 6, num_experts_per_tok: 2, moe_intermediate_size: 32 };
  writeRandomModel(model, { architecture: "qwen3_moe", settings: sizes });
  const module = "base_model.model.model.layers.1.mlp.experts";
  const openWith = (a: number[], b: number[], name = module, config: object = {}) =>
    open(peftWith({ target_parameters: ["experts.down_proj"], ...config }, factors(name, a, b)), 1, model);
  const scalesIn = async (opening: ReturnType<typeof open>) => {
    const { updates } = (await opening).adapters![0]!;
    return [...updates].map(([name, of]) => [name, of.length, of[5]!.firstRow, of[5]!.scale]);
  };
  expect(await scalesIn(openWith([24, 32], [64, 24]))).toEqual([["blk.1.ffn_down_exps.weight", 6, 320, 1.5]]);
  const both = { target_parameters: ["gate_up_proj"], alpha_pattern: { gate_up_proj: 2, experts: 5 } };
  expect(await scalesIn(openWith([24, 64], [64, 24], `${module}.base_layer`, both))).toEqual([
    ["blk.1.ffn_gate_exps.weight", 6, 160, 0.5],
    ["blk.1.ffn_up_exps.weight", 6, 160, 0.5],
  ]);
  for (const [a, b, part] of [
    [[28, 32], [64, 28], "LoRA factors of [28, 32] and [64, 28] fit no parameter of this model"],
    [[24, 32], [64, 12], "fit no parameter"],
    [[0, 32], [64, 0], "fit no parameter"],
    [[24, 33], [64, 24], "fit no parameter"],
    [[12, 32], [64, 12], 'the rank for "model.layers.1.mlp.experts.down_proj" is 2, 4 is wanted'],
  ] as const) {
    expect(await expectError(openWith([...a], [...b]))).toContain(part);
  }
  await expectError(openWith([24, 32], [64, 24], module.replace("1", "9")), "is no LoRA factor of a weight");
  await expectError(open(peftWith({}, factors(module, [24, 32], [64, 24]).slice(1)), 1, model), "one is missing");
});

test("openModel(): mutated adapters open or are refused in one line", async () => {
  const random = new Random(5, "mutations");
  await writeGgufAdapter(at("c.gguf"), model, adapter);
  peftWith({ rank_pattern: { q_proj: 4 }, alpha_pattern: { "mlp.*": 2 } });
  const files = [join(peft, "adapter_config.json"), join(peft, "adapter_model.safetensors"), at("c.gguf")];
  let numRefused = 0;
  for (const file of files) {
    const sound = readFileSync(file);
    const numHeader = Math.min(sound.length, 4000);
    for (let i = 0; i < 150; i++) {
      const bytes = Buffer.from(sound);
      for (let n = random.below(3); n >= 0; n--) bytes[random.below(numHeader)] = random.below(256);
      writeFileSync(file, random.below(8) === 0 ? bytes.subarray(0, random.below(bytes.length)) : bytes);
      const opening = open(file.endsWith(".gguf") ? file : peft);
      const isSound = await opening.then(
        () => true,
        () => false,
      );
      if (!isSound) await expectError(opening);
      numRefused += isSound ? 0 : 1;
    }
    writeFileSync(file, sound);
  }
  expect(numRefused).toBeGreaterThan(300);
});
