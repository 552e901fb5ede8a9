import { expect, test } from "vitest";
import type { FileTensor } from "../files/tensor-source.js";
import { parseHuggingFaceConfig } from "./hugging-face-config.js";
import { pickTensors } from "./pick-tensors.js";

const { architecture, config } = parseHuggingFaceConfig(
  {
    model_type: "qwen3_moe",
    vocab_size: 10,
    hidden_size: 8,
    intermediate_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    num_experts: 3,
    num_experts_per_tok: 2,
    moe_intermediate_size: 4,
    mlp_only_layers: [1],
  },
  "t",
);

/** A folder's tensors, one behind the other in a file; experts one by one, or as Transformers fuses them. */
function inFolder(layout: "one by one" | "fused"): Map<string, FileTensor> {
  const found = new Map<string, FileTensor>();
  let offset = 100;
  const add = (name: string, shape: readonly number[]) => {
    const byteLength = shape.reduce((product, n) => product * n, 4);
    found.set(name, { kind: "readable", entry: { name, type: "F32", shape, path: "a", offset, byteLength } });
    offset += byteLength;
  };
  for (const { huggingFaceName, shape, fused } of architecture.tensors(config)) {
    const [numExperts = 0, rows = 0, columns = 0] = shape;
    if (fused === undefined) add(huggingFaceName, shape);
    else if (layout === "one by one") {
      for (let i = 0; i < numExperts; i++) add(huggingFaceName.replace("*", `${i}`), shape.slice(1));
    } else if (fused.index === 0) add(fused.huggingFaceName, [numExperts, rows * fused.of, columns]);
  }
  return found;
}

const pick = (tensors: Map<string, FileTensor>) =>
  pickTensors(architecture, config, tensors, "huggingFaceName", () => false, "it");

test("pickTensors(): experts are one weight, whether a folder has them one by one or fused", () => {
  const one = (tensors: Map<string, FileTensor>, name: string) => {
    const tensor = tensors.get(`model.layers.0.mlp.${name}`);
    return tensor?.kind === "readable" ? tensor.entry.offset : undefined;
  };
  const byOne = inFolder("one by one");
  const gate = [0, 1, 2].map((i) => ({
    path: "a",
    offset: one(byOne, `experts.${i}.gate_proj.weight`),
    byteLength: 128,
  }));
  expect(pick(byOne).get("blk.0.ffn_gate_exps.weight")).toEqual({
    name: "model.layers.0.mlp.experts.*.gate_proj.weight",
    type: "F32",
    shape: [3, 4, 8],
    byteLength: 384,
    parts: gate,
  });
  const fused = inFolder("fused");
  const [gateUp, down] = [one(fused, "experts.gate_up_proj")!, one(fused, "experts.down_proj")!];
  const at = (start: number, step: number) =>
    [0, 1, 2].map((i) => ({ path: "a", offset: start + i * step, byteLength: 128 }));
  const picked = pick(fused);
  expect(picked.get("blk.0.ffn_gate_exps.weight")).toMatchObject({ shape: [3, 4, 8], parts: at(gateUp, 256) });
  expect(picked.get("blk.0.ffn_up_exps.weight")).toMatchObject({ shape: [3, 4, 8], parts: at(gateUp + 128, 256) });
  expect(picked.get("blk.0.ffn_down_exps.weight")).toMatchObject({ shape: [3, 8, 4], parts: at(down, 128) });
  expect(picked.get("blk.0.ffn_gate_inp.weight")).toMatchObject({ shape: [3, 8], isPrecise: true });
  expect(picked.get("blk.1.ffn_gate.weight")).toMatchObject({ shape: [16, 8] });
});

test("pickTensors(): experts that are missing, of several types or one too many are refused", () => {
  const name = "model.layers.0.mlp.experts.2.up_proj.weight";
  const changed = (change: (tensors: Map<string, FileTensor>) => void) => () => {
    const tensors = inFolder("one by one");
    change(tensors);
    pick(tensors);
  };
  expect(changed((all) => all.delete(name))).toThrow(`tensor "${name}" is missing`);
  const half = (tensor: FileTensor) => ({ ...tensor, entry: { ...(tensor as { entry: object }).entry, type: "F16" } });
  expect(changed((all) => all.set(name, half(all.get(name)!) as FileTensor))).toThrow(
    `the type of tensor "${name}" is F16, F32 is wanted as of "model.layers.0.mlp.experts.0.up_proj.weight"`,
  );
  expect(changed((all) => all.set(name.replace("2", "3"), all.get(name)!))).toThrow(
    "is no part of the qwen3_moe model",
  );
  expect(changed((all) => all.set("blk.0.ffn_up.scale", all.get(name)!))).toThrow(
    'tensor "blk.0.ffn_up.scale" scales a weight or its input, which is not supported (NVFP4 with scales of its own)',
  );
});
