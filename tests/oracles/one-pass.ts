import { readFileSync } from "node:fs";
import { readRange } from "../../src/files/read-range.js";
import { findGgmlDirectory, loadGgml } from "../../src/ggml/library.js";
import type { ExpertsConfig } from "../../src/model/architectures/parts.js";
import type { ModelConfig } from "../../src/model/config.js";
import type { ModelSource, WeightEntry } from "../../src/model/model-source.js";
import { attentionFactor, inverseFrequencies, type RopeConfig } from "../../src/model/rope.js";
import { dequantizeRows } from "../models/ggml-quantizer.js";
import { type Fault, type OraclePrompt, type Reading, readPrompt } from "./faults.js";

type Floats = Float64Array<ArrayBuffer>;

/** What only some architectures' configs have. */
type OracleConfig = ModelConfig &
  Partial<Record<"embeddingMultiplier" | "residualMultiplier" | "logitsScaling", number>>;

/** Is told what a forward pass computes, layer by layer. */
export interface Watch {
  /** Keys before RoPE, and values: [rows][KV heads][head size]. */
  readonly onLayer?: (keys: Floats[][], values: Floats[][]) => void;
  /** A row's attention weights in one head, on the rows that it sees. */
  readonly onWeights?: (layer: number, row: number, seen: readonly number[], weights: readonly number[]) => void;
}

/**
 * A decoder's forward pass over a whole prompt in one go, the slow and obvious way: no ggml, no stored keys, 64-bit
 * floats, the block mask written cell by cell. What the engine computes in pieces must equal it (invariant I1).
 *
 * RoPE, windows and the scale of scores are as the architecture says, layer by layer. What a layer is made of, its weights tell:
 * norms before or after its halves, over heads or over whole rows, stand where they have a weight.
 */
export class OnePassModel {
  readonly config: ModelConfig;
  readonly #source: ModelSource;
  readonly #weights: ReadonlyMap<string, Float32Array>;
  readonly #scores = new Map<string, readonly Floats[]>();

  /**
   * @param numbersOf a weight's numbers; default: of F32 weights.
   * @param stored what becomes of the elements of a head's key before RoPE, or of its value, in a stored block; default: they stay.
   */
  constructor(
    source: ModelSource,
    numbersOf = readNumbers,
    private readonly stored?: (head: Floats) => Floats,
  ) {
    this.config = source.config;
    this.#source = source;
    this.#weights = readWeights(source, numbersOf);
  }

  /**
   * The log-probabilities of every token of the vocabulary after the prompt, and after each token of the continuation but
   * the last. Remembers its answers: a long prompt takes seconds.
   *
   * @param fault reads the prompt wrongly.
   * @returns [continuation tokens][vocabulary], natural logarithms.
   */
  score(prompt: OraclePrompt, fault?: Fault): readonly Floats[] {
    const key = JSON.stringify([prompt, fault]);
    const known = this.#scores.get(key);
    if (known !== undefined) return known;
    const hidden = this.#hiddenStates(readPrompt(prompt, fault)).slice(-prompt.continuationTokenIds.length);
    const scores = hidden.map((row) => this.#logprobs(row));
    this.#scores.set(key, scores);
    return scores;
  }

  /** The same after every token: [prompt and continuation tokens but the last][vocabulary]. */
  rows(prompt: OraclePrompt, fault?: Fault): Floats[] {
    return this.#hiddenStates(readPrompt(prompt, fault)).map((row) => this.#logprobs(row));
  }

  /** A text's keys before RoPE and its values, layer by layer: [layers][tokens][KV heads][head size] each. */
  keysAndValues(tokenIds: readonly number[]): readonly { readonly keys: Floats[][]; readonly values: Floats[][] }[] {
    const layers: { keys: Floats[][]; values: Floats[][] }[] = [];
    const reading = readPrompt({ blockTokenIds: [tokenIds], continuationTokenIds: [0] });
    this.#hiddenStates(reading, { onLayer: (keys, values) => layers.push({ keys, values }) });
    return layers;
  }

  /** What a reading's layers compute on the way. */
  watch(reading: Reading, watch: Watch): void {
    this.#hiddenStates(reading, watch);
  }

  /** The log-probabilities after the last rows of any reading, so many of them. */
  read(reading: Reading, numRows: number): Floats[] {
    return this.#hiddenStates(reading)
      .slice(-numRows)
      .map((row) => this.#logprobs(row));
  }

  #hiddenStates(reading: Reading, watch: Watch = {}): Floats[] {
    const { architecture, config } = this.#source;
    const { hiddenSize, numHeads, numKvHeads, headSize, numLayers } = config;
    const isGemma = config.architecture.startsWith("gemma");
    const { embeddingMultiplier = isGemma ? Math.sqrt(hiddenSize) : 1, residualMultiplier = 1 }: OracleConfig = config;
    const scale = architecture.attentionScale(config);
    const embedding = this.#weight("token_embd.weight");
    const rows = [...reading.tokenIds.keys()];
    let x = reading.tokenIds.map((tokenId) =>
      Float64Array.from(
        embedding.subarray(tokenId * hiddenSize, (tokenId + 1) * hiddenSize),
        (value) => value * embeddingMultiplier,
      ),
    );
    for (let layer = 0; layer < numLayers; layer++) {
      const blk = `blk.${layer}`;
      const rope = architecture.rope(config, layer);
      const window = architecture.window(config, layer) ?? rows.length;
      const place = (row: number) => reading.place?.(row) ?? row;
      const isNear = (query: number, key: number) => place(query) - place(key) < window;
      const seen = rows.map((query) => rows.filter((key) => reading.sees(query, key, layer) && isNear(query, key)));
      const normed = x.map((row) => this.#norm(`${blk}.attn_norm`, row));
      const heads = (name: "q" | "k" | "v", count: number): Floats[][] =>
        normed.map((row) => {
          const all = this.#norm(`${blk}.attn_${name}_norm`, this.#linear(`${blk}.attn_${name}`, row));
          return Array.from({ length: count }, (_, h) => all.slice(h * headSize, (h + 1) * headSize));
        });
      const turned = (rows: Floats[][], position: (row: number) => number) =>
        rows.map((row, t) => row.map((head) => turn(head, position(t), rope)));
      const queries = turned(heads("q", numHeads), reading.queryPosition);
      const bareKeys = heads("k", numKvHeads);
      const bareValues = heads("v", numKvHeads);
      watch.onLayer?.(bareKeys, bareValues);
      const asSeen = (bare: Floats[][], values: Floats[][]) => ({ keys: turned(bare, reading.keyPosition), values });
      const fresh = asSeen(bareKeys, bareValues);
      const { stored: form } = this;
      const rounded = (rows: Floats[][]) => rows.map((row) => row.map(form as (head: Floats) => Floats));
      const stored = form ? asSeen(rounded(bareKeys), rounded(bareValues)) : fresh;
      const seenOf = (query: number, key: number) => (reading.isStored?.(query, key) ? stored : fresh);
      x = x.map((row, t) => {
        const attended = new Float64Array(numHeads * headSize);
        for (let h = 0; h < numHeads; h++) {
          const kvHead = Math.floor(h / (numHeads / numKvHeads));
          const query = queries[t]![h]!;
          const scores = seen[t]!.map(
            (s) => dot(query, seenOf(t, s).keys[s]![kvHead]!) / (reading.temperature?.(t, s) ?? 1),
          );
          const powers = seen[t]!.map((s) => reading.power?.(t, s) ?? 1);
          const weights = softmax(
            raised(
              scores.map((score) => score * scale),
              powers,
            ),
          );
          watch.onWeights?.(layer, t, seen[t]!, weights);
          for (const [i, s] of seen[t]!.entries()) {
            const value = seenOf(t, s).values[reading.valueRow(s)]![kvHead]!;
            for (let d = 0; d < headSize; d++) {
              attended[h * headSize + d] = attended[h * headSize + d]! + weights[i]! * value[d]!;
            }
          }
        }
        const after = (name: string, out: Floats) =>
          this.#norm(`${blk}.${name}`, out).map((value) => value * residualMultiplier);
        const output = this.#linear(`${blk}.attn_output`, attended);
        const afterAttention = sum(row, after("post_attention_norm", output));
        const mlpInput = this.#norm(`${blk}.ffn_norm`, afterAttention);
        return sum(afterAttention, after("post_ffw_norm", this.#mlp(blk, mlpInput)));
      });
    }
    return x;
  }

  /** A gated MLP, or the weighed sum of those of the experts with the highest scores. */
  #mlp(blk: string, x: Floats): Floats {
    const isGemma = this.config.architecture.startsWith("gemma");
    const gatedMlp = (suffix: string, product: (name: string, x: Floats) => Floats) => {
      const [gate, up] = ["gate", "up"].map((part) => product(`${blk}.ffn_${part}${suffix}`, x)) as [Floats, Floats];
      return product(
        `${blk}.ffn_down${suffix}`,
        gate.map((g, i) => (isGemma ? gelu(g) : g / (1 + Math.exp(-g))) * up[i]!),
      );
    };
    if (!this.#weights.has(`${blk}.ffn_gate_inp.weight`)) return gatedMlp("", (name, row) => this.#linear(name, row));
    const { numExperts, numExpertsUsed, normalizesExperts } = this.config as ModelConfig & ExpertsConfig;
    const weights = softmax([...this.#linear(`${blk}.ffn_gate_inp`, x)]);
    const chosen = [...weights.keys()].sort((a, b) => weights[b]! - weights[a]!).slice(0, numExpertsUsed);
    const total = normalizesExperts ? chosen.reduce((all, expert) => all + weights[expert]!, 0) : 1;
    const outs = chosen.map((expert) =>
      gatedMlp("_exps", (name, row) => {
        const stack = this.#weight(`${name}.weight`);
        const size = stack.length / numExperts;
        return multiply(stack.subarray(expert * size, (expert + 1) * size), row);
      }).map((value) => (value * weights[expert]!) / total),
    );
    return outs.reduce(sum);
  }

  #logprobs(hidden: Floats): Floats {
    const { config } = this;
    const { logitsScaling = 1 }: OracleConfig = config;
    const head = this.#weight(config.tiedHead ? "token_embd.weight" : "output.weight");
    const logits = multiply(head, this.#norm("output_norm", hidden)).map((logit) => logit / logitsScaling);
    const max = logits.reduce((most, logit) => Math.max(most, logit), Number.NEGATIVE_INFINITY);
    const logSum = max + Math.log(logits.reduce((total, logit) => total + Math.exp(logit - max), 0));
    return logits.map((logit) => logit - logSum);
  }

  /** x over its root mean square, times the weight; part by part of the weight's length. x where the model has no such norm. */
  #norm(name: string, x: Floats): Floats {
    const weight = this.#weights.get(`${name}.weight`);
    if (weight === undefined) return x;
    const normed = new Float64Array(x.length);
    for (let first = 0; first < x.length; first += weight.length) {
      const part = x.subarray(first, first + weight.length);
      const scale = 1 / Math.sqrt(dot(part, part) / part.length + this.config.rmsNormEps);
      for (const [i, value] of part.entries()) normed[first + i] = value * scale * weight[i]!;
    }
    return normed;
  }

  #linear(name: string, x: Floats): Floats {
    const out = multiply(this.#weight(`${name}.weight`), x);
    const bias = this.#weights.get(`${name}.bias`);
    return bias ? out.map((value, i) => value + bias[i]!) : out;
  }

  #weight(name: string): Float32Array {
    const weight = this.#weights.get(name);
    if (weight === undefined) throw new RangeError(`Cannot compute: there is no weight "${name}"`);
    return weight;
  }
}

function readNumbers({ name, type, parts }: WeightEntry): Float32Array {
  if (type !== "F32") throw new TypeError(`Cannot compute with ${name}: its type is ${type}, F32 is wanted`);
  const bytes = Uint8Array.from(
    Buffer.concat(
      parts.map(({ path, offset, byteLength }) => readFileSync(path).subarray(offset, offset + byteLength)),
    ),
  );
  return new Float32Array(bytes.buffer);
}

/** The numbers that a model's weights of any type stand for. */
export async function dequantized({ tensors }: ModelSource): Promise<typeof readNumbers> {
  const ggml = loadGgml(await findGgmlDirectory("cpu"));
  const numbers = new Map<WeightEntry, Float32Array>();
  for (const entry of tensors.values()) {
    const bytes = entry.parts.map(({ path, offset, byteLength }) => readRange(path, offset, byteLength));
    numbers.set(entry, await dequantizeRows(ggml, entry.type, Buffer.concat(await Promise.all(bytes))));
  }
  return (entry) => numbers.get(entry)!;
}

/** A model's weights. Fused ones are cut. */
function readWeights({ tensors, config }: ModelSource, numbersOf: typeof readNumbers): Map<string, Float32Array> {
  const weights = new Map<string, Float32Array>();
  const { headSize, numHeads, numKvHeads, intermediateSize } = config;
  const kvRows = numKvHeads * headSize;
  for (const [name, entry] of tensors) {
    const { shape, added = 0 } = entry;
    const read = numbersOf(entry);
    const numbers = added === 0 ? read : read.map((value) => value + added);
    const cuts = name.includes("attn_qkv")
      ? { attn_q: numHeads * headSize, attn_k: kvRows, attn_v: kvRows }
      : name.includes("ffn_up") && shape[0] === 2 * intermediateSize
        ? { ffn_gate: intermediateSize, ffn_up: intermediateSize }
        : undefined;
    if (cuts === undefined) weights.set(name, numbers);
    let first = 0;
    for (const [part, numRows] of Object.entries(cuts ?? {})) {
      const end = first + numRows * shape[1]!;
      weights.set(name.replace(/attn_qkv|ffn_up/, part), numbers.slice(first, end));
      first = end;
    }
  }
  return weights;
}

/** [out, in] by [in]. Four rows at a time, since a sum waits for its last term; where fewer are left, what is no number is dropped. */
function multiply(matrix: Float32Array, x: Floats): Floats {
  const length = x.length;
  const out = new Float64Array(matrix.length / length);
  for (let row = 0; row < out.length; row += 4) {
    const at = row * length;
    let [a, b, c, d] = [0, 0, 0, 0];
    for (let i = 0; i < length; i++) {
      const value = x[i]!;
      a += matrix[at + i]! * value;
      b += matrix[at + length + i]! * value;
      c += matrix[at + 2 * length + i]! * value;
      d += matrix[at + 3 * length + i]! * value;
    }
    out.set([a, b, c, d].slice(0, out.length - row), row);
  }
  return out;
}

function gelu(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

/** RoPE: pair i turned by position times its angle, and grown by YaRN's factor. */
function turn(head: Floats, position: number, rope: RopeConfig | undefined): Floats {
  if (rope === undefined) return head;
  const angles = inverseFrequencies(rope);
  const growth = attentionFactor(rope);
  // Elements past the turned ones stay.
  const turned = head.slice();
  for (const [i, angle] of angles.entries()) {
    const first = rope.pairs === "half" ? i : 2 * i;
    const second = rope.pairs === "half" ? i + angles.length : 2 * i + 1;
    const [cos, sin] = [Math.cos(position * angle), Math.sin(position * angle)];
    turned[first] = growth * (head[first]! * cos - head[second]! * sin);
    turned[second] = growth * (head[first]! * sin + head[second]! * cos);
  }
  return turned;
}

/** Scores of which some, together, weigh a power of what they weigh. */
function raised(scores: readonly number[], powers: readonly number[]): number[] {
  const sum = scores.reduce((all, score, i) => (powers[i] === 1 ? all : all + Math.exp(score)), 0);
  return scores.map((score, i) => (powers[i] === 1 ? score : score + (powers[i]! - 1) * Math.log(sum)));
}

function softmax(scores: readonly number[]): number[] {
  const max = scores.reduce((most, score) => Math.max(most, score), Number.NEGATIVE_INFINITY);
  const weights = scores.map((score) => Math.exp(score - max));
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / total);
}

function dot(a: Floats, b: Floats): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i]! * b[i]!;
  return total;
}

function sum(a: Floats, b: Floats): Floats {
  return a.map((value, i) => value + b[i]!);
}
