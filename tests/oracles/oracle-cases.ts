import { architectureModels } from "../models/architecture-models.js";
import { Random } from "../models/random.js";
import type { RandomModelOptions } from "../models/random-model.js";
import type { OracleAnswer } from "./compare-engine.js";
import type { OraclePrompt } from "./faults.js";
import type { RepairedPrompt } from "./repairs.js";

export interface OracleCase extends OraclePrompt {
  readonly name: string;
  readonly mode: "block" | "full";
  readonly positionReencoding: boolean;
  /** What is done about blocks; absent: nothing. */
  readonly repair?: Pick<RepairedPrompt, "before" | "sinks" | "again">;
}

/** What the oracle answers for one case, with the five likeliest tokens. */
export interface OracleScores extends OracleAnswer {
  readonly name: string;
  /** SHA-256 of the case, so that a fixture made for other ids is noticed. */
  readonly caseSha256: string;
}

export interface OracleFixture {
  readonly model: string;
  /** Of model.safetensors as `writeRandomModel` writes it. */
  readonly modelSha256: string;
  readonly versions: Readonly<Record<string, string>>;
  readonly cases: readonly OracleScores[];
}

/** Models with what GGUF cannot say: such layers without experts, or without RoPE. */
export const modelsWithoutGguf: readonly string[] = ["qwen3-moe-dense-layers", "smollm3-layers-biases"];

/** The models, each covering what it is named after, each with another share of heads, tie and width. */
export const oracleModels: Readonly<Record<string, RandomModelOptions>> = {
  "llama-llama3-gqa-tied": { architecture: "llama", rope: "llama3", tied: true, numLayers: 3, seed: 11 },
  "llama-linear-mha": { architecture: "llama", rope: "linear", numKvHeads: 4, configStyle: "transformers-4", seed: 12 },
  "llama-yarn-mqa": { architecture: "llama", rope: "yarn", numKvHeads: 1, configStyle: "transformers-4", seed: 13 },
  "llama-biases-head-24": {
    architecture: "llama",
    attentionBias: true,
    mlpBias: true,
    headSize: 24,
    tied: true,
    seed: 14,
  },
  "llama-sharp": { architecture: "llama", attentionScale: 4, theta: 500_000, hiddenSize: 96, numHeads: 6, seed: 15 },
  "mistral-head-32": { architecture: "mistral", headSize: 32, theta: 1_000_000, numLayers: 3, seed: 16 },
  "qwen2-gqa-tied": { architecture: "qwen2", hiddenSize: 96, numHeads: 6, tied: true, theta: 1_000_000, seed: 17 },
  "qwen2-yarn-mha": { architecture: "qwen2", rope: "yarn", numKvHeads: 4, seed: 18 },
  "qwen3-head-32-gqa": { architecture: "qwen3", headSize: 32, numHeads: 6, numLayers: 4, seed: 19 },
  "qwen3-yarn-mqa-tied": {
    architecture: "qwen3",
    rope: "yarn",
    numKvHeads: 1,
    tied: true,
    hiddenSize: 128,
    configStyle: "transformers-4",
    seed: 20,
  },
  "qwen3-moe-tied": {
    architecture: "qwen3_moe",
    numLayers: 3,
    tied: true,
    settings: { num_local_experts: 8, num_experts_per_tok: 3, moe_intermediate_size: 48, norm_topk_prob: true },
    // A seed of which no prompt has a token with two experts as good as each other to the last bits.
    seed: 37,
  },
  "qwen3-moe-dense-layers": {
    architecture: "qwen3_moe",
    numLayers: 5,
    numKvHeads: 1,
    settings: {
      num_experts: 6,
      num_experts_per_tok: 2,
      moe_intermediate_size: 32,
      decoder_sparse_step: 2,
      mlp_only_layers: [3],
    },
    configStyle: "transformers-4",
    seed: 34,
  },
  "smollm3-gqa-tied": { architecture: "smollm3", numLayers: 5, tied: true, theta: 500_000, seed: 21 },
  "smollm3-layers-biases": {
    architecture: "smollm3",
    numLayers: 3,
    numKvHeads: 4,
    attentionBias: true,
    mlpBias: true,
    settings: { no_rope_layers: [0, 1, 1, 0] },
    seed: 22,
  },
  "olmo2-mha": { architecture: "olmo2", numKvHeads: 4, theta: 500_000, seed: 23 },
  // Every layer slides: the long prompts are longer than the window.
  "mistral-window": { architecture: "mistral", slidingWindow: 300, seed: 25 },
  "qwen2-window-layers": {
    architecture: "qwen2",
    numLayers: 3,
    settings: { use_sliding_window: true, sliding_window: 32, max_window_layers: 1 },
    seed: 26,
  },
  "phi3-longrope-partial-tied": {
    architecture: "phi3",
    hiddenSize: 128,
    rope: "longrope",
    rotatedShare: 0.75,
    tied: true,
    configStyle: "transformers-4",
    seed: 27,
  },
  "phi3-window-mha": { architecture: "phi3", numKvHeads: 4, slidingWindow: 300, seed: 28 },
  "gemma3-windows": {
    architecture: "gemma3_text",
    numLayers: 4,
    headSize: 32,
    rope: "linear",
    theta: 1_000_000,
    tied: true,
    seed: 29,
  },
  "gemma3-pattern-untied": { architecture: "gemma3_text", numLayers: 3, slidingPattern: 3, numKvHeads: 1, seed: 30 },
  "olmo2-gqa-yarn": { architecture: "olmo2", hiddenSize: 96, numHeads: 6, rope: "yarn", numLayers: 3, seed: 24 },
  "granite-llama3-tied": {
    ...architectureModels.granite!,
    rope: "llama3",
    numLayers: 3,
    seed: 31,
  },
  "granite-biases-mha": {
    architecture: "granite",
    numKvHeads: 4,
    attentionBias: true,
    mlpBias: true,
    // Without it Transformers multiplies scores by 1.
    settings: { embedding_multiplier: 0.5, residual_multiplier: 0.7, logits_scaling: 8 },
    logitScale: 16,
    attentionScale: 0.25,
    seed: 32,
  },
};

const continuationLength = 12;
const maxTokens = 1500;

/** The prompts that every model is asked, 1 to 300 blocks, up to 1,500 tokens with the continuation. */
export function makeOracleCases(numIds: number, seed: number): OracleCase[] {
  const random = new Random(seed, "oracle cases");
  const draw = (length: number) => Array.from({ length }, () => random.below(numIds));
  const passages = [30, 45, 12, 60, 25, 8].map(draw);
  const question = draw(20);
  const continuation = draw(continuationLength);
  const make = (
    name: string,
    blockTokenIds: number[][],
    options: Partial<Pick<OracleCase, "mode" | "positionReencoding" | "isGlobal" | "repair">> = {},
  ): OracleCase => ({
    name,
    mode: "block",
    positionReencoding: true,
    ...options,
    blockTokenIds,
    continuationTokenIds: continuation,
  });
  const shuffled = random.order(passages.length).map((i) => passages[i]!);
  const [a, b, c] = [passages[0]!, passages[1]!, passages[2]!];
  const longBlocks = [210, 77, 140, 33, 190, 128, 64, 256, 11, 159, 170];
  const numLongTokens = longBlocks.reduce((sum, n) => sum + n, continuationLength);
  const long = [...longBlocks, maxTokens - numLongTokens].map(draw);
  const conversation = () => [a, draw(9), draw(14), b, c, draw(5), draw(33), c, question];
  const kinds = (letters: string): boolean[] => [...letters].map((letter) => letter === "G");
  // Drawn last: the ids of the cases before stay.
  const repaired = (): OracleCase[] => {
    const lead = draw(7);
    const repairs: readonly NonNullable<OracleCase["repair"]>[] = [
      { before: lead },
      { before: "block 0", again: { kind: "first", count: 3 } },
      { sinks: draw(2), again: { kind: "deviation", share: 0.25 } },
      { before: lead, again: { kind: "look", share: 0.25 } },
    ];
    return [
      ...repairs.map((repair, i) => make(`repair ${i + 1}`, [9, 21, 2, 34, 70].map(draw), { repair })),
      make("a repaired conversation", [9, 21, 14, 20, 11, 9].map(draw), {
        isGlobal: kinds("LLGLGG"),
        repair: { before: lead, again: { kind: "deviation", share: 0.3 } },
      }),
    ];
  };
  return [
    make("one block", [draw(40)]),
    make("two blocks", [draw(17), draw(9)]),
    make("six passages", [...passages, question]),
    make("six passages, shuffled", [...shuffled, question]),
    make("repeated passages", [a, b, a, a, c, b, question]),
    make("blocks of one token", [...Array.from({ length: 40 }, () => draw(1)), draw(1)]),
    make("empty blocks", [[], a, [], [], b, c, [], question]),
    make("300 blocks", [...Array.from({ length: 299 }, () => draw(1 + random.below(6))), question]),
    make("1,500 tokens", long),
    make("full mode", [...passages, question], { mode: "full" }),
    make("full mode, 1,500 tokens", long, { mode: "full" }),
    make("no position re-encoding", [...shuffled, question], { positionReencoding: false }),
    make("a conversation", conversation(), { isGlobal: kinds("LGGLLGGLG") }),
    make("a conversation, no position re-encoding", conversation(), {
      isGlobal: kinds("LGGLLGGLG"),
      positionReencoding: false,
    }),
    make("a question before all passages", [question, a, b, c, draw(7)], { isGlobal: kinds("GLLLG") }),
    make(
      "spans of one token",
      Array.from({ length: 41 }, () => draw(1)),
      {
        isGlobal: Array.from({ length: 41 }, (_, i) => i === 40 || random.below(2) === 0),
      },
    ),
    make("a long conversation", [a, draw(150), draw(270), b, c, draw(300), [], draw(180), a, question], {
      isGlobal: kinds("LGGLLGLGLG"),
    }),
    ...repaired(),
  ];
}
