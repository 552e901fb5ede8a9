import type { BlockAttentionConfig } from "./block-attention-config.js";
import { inverseFrequencies, type RopeConfig } from "./rope.js";

/**
 * What every decoder-only transformer with RMS norm has, as config.json or GGUF metadata describe it. An architecture adds what
 * it alone has. All of it decides block ids: a field that is renamed makes other ids of the same files.
 */
export interface ModelConfig {
  /** The architecture's name. */
  readonly architecture: string;
  readonly vocabSize: number;
  readonly numLayers: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHeads: number;
  /** Heads of keys and values: numHeads / numKvHeads query heads share one. */
  readonly numKvHeads: number;
  /** D, given or derived as hiddenSize / numHeads. */
  readonly headSize: number;
  readonly rmsNormEps: number;
  readonly rope: RopeConfig;
  /** The longest prompt plus answer, in tokens. */
  readonly contextLength: number;
  /** How many places back the rows of sliding layers see, their own among them. Undefined: every layer sees everything. */
  readonly slidingWindow: number | undefined;
  /** Which layers slide. Absent: all, where there is a window. */
  readonly slidingLayers?: readonly boolean[];
  /** RoPE of layers that slide. Absent: as all others have it. */
  readonly localRope?: RopeConfig;
  /** The embedding matrix is the head too. */
  readonly tiedHead: boolean;
  /** What the model's own files say of its block-attention training; undefined where they say nothing. */
  readonly blockAttention: BlockAttentionConfig | undefined;
}

/**
 * Checks what no file may say, whatever its format.
 *
 * @param where the file for errors, for instance its quoted path.
 * @throws Error if heads do not share out, a head cannot be paired, or RoPE's angles are no finite numbers above 0.
 */
export function checkModelConfig(config: ModelConfig, where: string): void {
  const { numHeads, numKvHeads, headSize } = config;
  if (numHeads % numKvHeads !== 0) {
    throw new Error(
      `Cannot read ${where}: ${numHeads} query heads cannot share ${numKvHeads} heads of keys and values evenly`,
    );
  }
  if (headSize % 2 !== 0 || headSize > maxHeadSize) {
    throw new Error(
      `Cannot read ${where}: the head size is ${headSize}, RoPE wants an even number of ${maxHeadSize} or less`,
    );
  }
  for (const rope of [config.rope, config.localRope]) {
    const angles = rope ? describeAngles(rope, where) : new Float64Array();
    if (!angles.every((angle) => Number.isFinite(angle) && angle > 0)) {
      throw new Error(`Cannot read ${where}: its RoPE settings give angles that are no finite numbers above 0`);
    }
  }
}

/** Models have heads of 64 to 256. */
const maxHeadSize = 8192;

function describeAngles(rope: RopeConfig, where: string): Float64Array {
  try {
    return inverseFrequencies(rope);
  } catch (error) {
    throw new Error(`Cannot read ${where}: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
}
