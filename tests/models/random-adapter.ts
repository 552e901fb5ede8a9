import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readSafetensors } from "../../src/files/safetensors.js";
import { ggufBytes, safetensorsBytes, type TestGgufValue, type TestTensor } from "../../src/files/test-files.suite.js";
import type { NeededTensor } from "../../src/model/architecture.js";
import { openModel } from "../../src/model/open-model.js";
import { Random } from "./random.js";

/** Two factors for each of a model's matrices, its embedding too where asked, and what PEFT and llama.cpp multiply them by. */
export interface RandomAdapter {
  readonly rank: number;
  readonly alpha: number;
  readonly changes: readonly {
    readonly weight: NeededTensor;
    /** [rank, columns]; of a stack of experts one after the other. */
    readonly a: readonly number[];
    /** [rows, rank]. */
    readonly b: readonly number[];
  }[];
}

const embeddingName = "token_embd.weight";
const isEmbedding = ({ name }: NeededTensor) => name === embeddingName;

/** How many matrices a weight has, and what each has. */
function sizesOf({ shape }: NeededTensor): { readonly count: number; readonly rows: number; readonly columns: number } {
  const [rows, columns] = shape.slice(-2) as [number, number];
  return { count: shape.length > 2 ? shape[0]! : 1, rows, columns };
}

/** @param folder a Hugging Face model. */
export async function randomAdapter(
  folder: string,
  {
    seed,
    rank = 4,
    alpha = 6,
    embedding = false,
  }: { seed: number; rank?: number; alpha?: number; embedding?: boolean },
): Promise<RandomAdapter> {
  const { architecture, config } = await openModel(folder);
  const matrices = [...architecture.tensors(config)].filter(({ shape }) => shape.length > 1);
  const changes = matrices
    .filter((weight) => weight.name !== "output.weight" && (embedding || !isEmbedding(weight)))
    .map((weight) => {
      const random = new Random(seed, weight.name);
      const draw = (count: number) => Array.from({ length: count }, () => (random.below(2001) - 1000) / 5000);
      const { count, rows, columns } = sizesOf(weight);
      return { weight, a: draw(count * rank * columns), b: draw(count * rows * rank) };
    });
  return { rank, alpha, changes };
}

function part(values: readonly number[], index: number, count: number): readonly number[] {
  const size = values.length / count;
  return values.slice(index * size, (index + 1) * size);
}

/** [rows, columns] as [columns, rows]. */
function transposed(values: readonly number[], columns: number): number[] {
  const rows = values.length / columns;
  return values.map((_, i) => values[(i % rows) * columns + Math.floor(i / rows)] as number);
}

/** The same with one first factor for matrices of experts that are parts of one parameter, as `writePeftAdapter()` needs for `target_parameters`. */
export function sharedFactors({ changes, ...adapter }: RandomAdapter): RandomAdapter {
  const parameterOf = ({ fused }: NeededTensor) => fused?.huggingFaceName;
  const first = (weight: NeededTensor) => changes.find((one) => parameterOf(one.weight) === parameterOf(weight));
  return { ...adapter, changes: changes.map((one) => (one.weight.fused ? { ...one, a: first(one.weight)!.a } : one)) };
}

/** The two factors of the experts' parameter that begins with a weight: PEFT has the experts' numbers of the second in turn. */
function parameterFactors({ rank, changes }: RandomAdapter, { weight, a }: RandomAdapter["changes"][number]) {
  const { count, rows, columns } = sizesOf(weight);
  const parts = changes.filter((one) => one.weight.fused?.huggingFaceName === weight.fused?.huggingFaceName);
  const values = parts.flatMap(({ b }) =>
    Array.from({ length: b.length }, (_, i) => {
      const [row, r, expert] = [Math.floor(i / rank / count), Math.floor(i / count) % rank, i % count];
      return b[(expert * rows + row) * rank + r] as number;
    }),
  );
  const name = parts.length > 1 ? "experts.base_layer" : "experts";
  const module = `base_model.model.${weight.fused?.huggingFaceName.replace(/experts\.\w+$/, name)}`;
  return [
    { name: `${module}.lora_A.weight`, shape: [count * rank, columns], values: a },
    { name: `${module}.lora_B.weight`, shape: [parts.length * rows, rank * count], values },
  ];
}

/**
 * Writes an adapter as PEFT does. @param config over what adapter_config.json says otherwise; with `target_parameters`, all experts of a
 * layer have two factors for each of their parameters.
 */
export function writePeftAdapter(
  folder: string,
  adapter: RandomAdapter,
  config: { readonly target_parameters?: readonly string[] } & object = {},
): void {
  const { rank, alpha, changes } = adapter;
  mkdirSync(folder, { recursive: true });
  const settings = {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    r: rank,
    lora_alpha: alpha,
    target_modules: "all-linear",
  };
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify({ ...settings, bias: "none", ...config }));
  const tensors = changes.flatMap((change): TestTensor[] => {
    const { weight, a, b } = change;
    if (weight.fused && config.target_parameters)
      return weight.fused.index > 0 ? [] : parameterFactors(adapter, change);
    const { count, rows, columns } = sizesOf(weight);
    const module = `base_model.model.${weight.huggingFaceName.replace(/\.weight$/, "")}`;
    // An embedding's rows are looked up: PEFT has its factors the other way.
    return isEmbedding(weight)
      ? [
          { name: `${module}.lora_embedding_A`, shape: [rank, rows], values: transposed(b, rank) },
          { name: `${module}.lora_embedding_B`, shape: [columns, rank], values: transposed(a, columns) },
        ]
      : Array.from({ length: count }, (_, i) => module.replace("*", `${i}`)).flatMap((name, i) => [
          { name: `${name}.lora_A.weight`, shape: [rank, columns], values: part(a, i, count) },
          { name: `${name}.lora_B.weight`, shape: [rows, rank], values: part(b, i, count) },
        ]);
  });
  writeFileSync(join(folder, "adapter_model.safetensors"), safetensorsBytes(tensors));
}

/** Writes an adapter as llama.cpp's converter does: llama's rows of queries and keys in pairs side by side. */
export async function writeGgufAdapter(
  path: string,
  model: string,
  { rank, alpha, changes }: RandomAdapter,
  more: Readonly<Record<string, TestGgufValue>> = {},
): Promise<void> {
  const { architecture, config } = await openModel(model);
  const half = config.headSize / 2;
  const tensors = changes.flatMap(({ weight, a, b }): TestTensor[] => {
    const { rows, columns } = sizesOf(weight);
    const stack = weight.shape.slice(0, -2);
    const isPaired = weight.rotated && architecture.gguf.pairs === "adjacent";
    const rowAt = (row: number) => {
      const inHead = row % config.headSize;
      return isPaired ? row - inHead + (inHead % 2) * half + (inHead >> 1) : row;
    };
    const values = b.map((_, i) => b[rowAt(Math.floor(i / rank)) * rank + (i % rank)] as number);
    const factors = isEmbedding(weight)
      ? [
          { shape: [rows, rank], values },
          { shape: [columns, rank], values: transposed(a, columns) },
        ]
      : [
          { shape: [...stack, rank, columns], values: a },
          { shape: [...stack, rows, rank], values },
        ];
    return factors.map((factor, i) => ({ ...factor, name: `${weight.name}.lora_${"ab"[i]}` }));
  });
  const metadata = {
    "general.type": { text: "adapter" },
    "general.architecture": { text: architecture.gguf.name },
    "adapter.type": { text: "lora" },
    "adapter.lora.alpha": { f32: alpha },
    ...more,
  };
  writeFileSync(path, ggufBytes({ metadata, tensors }));
}

/** Writes the model with adapters merged, the slow and obvious way. @param folder a model in one F32 safetensors file. */
export async function writeMerged(
  out: string,
  folder: string,
  adapters: readonly { readonly adapter: RandomAdapter; readonly scale: number }[],
): Promise<void> {
  cpSync(folder, out, { recursive: true });
  const path = join(folder, "model.safetensors");
  const bytes = readFileSync(path);
  const tensors = new Map<string, TestTensor & { values: number[] }>();
  for (const [name, tensor] of await readSafetensors(path)) {
    if (tensor.kind !== "readable") throw new Error(`Cannot merge into ${name}`);
    const { offset, byteLength, shape } = tensor.entry;
    const floats = new Float32Array(Uint8Array.from(bytes.subarray(offset, offset + byteLength)).buffer);
    tensors.set(name, { name, shape, values: [...floats] });
  }
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  const embedding = tensors.get("model.embed_tokens.weight")!;
  const isChanged = adapters.some(({ adapter }) => adapter.changes.some(({ weight }) => isEmbedding(weight)));
  if (isChanged && config.tie_word_embeddings !== false && !tensors.has("lm_head.weight")) {
    tensors.set("lm_head.weight", { ...embedding, name: "lm_head.weight", values: [...embedding.values] });
    writeFileSync(join(out, "config.json"), JSON.stringify({ ...config, tie_word_embeddings: false }));
  }
  for (const { adapter, scale } of adapters) {
    const { rank, alpha } = adapter;
    for (const { weight, a, b } of adapter.changes) {
      const { count, columns } = sizesOf(weight);
      for (let expert = 0; expert < count; expert++) {
        const { values } = tensors.get(weight.huggingFaceName.replace("*", `${expert}`))!;
        const [right, left] = [part(a, expert, count), part(b, expert, count)];
        for (let i = 0; i < values.length; i++) {
          let sum = 0;
          for (let r = 0; r < rank; r++) {
            sum += left[Math.floor(i / columns) * rank + r]! * right[r * columns + (i % columns)]!;
          }
          values[i]! += (scale * alpha * sum) / rank;
        }
      }
    }
  }
  writeFileSync(join(out, "model.safetensors"), safetensorsBytes([...tensors.values()]));
}
