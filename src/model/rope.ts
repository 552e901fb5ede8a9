/** How a model's RoPE angles are scaled. Only kinds whose angles are linear in the position can be re-encoded. */
export type RopeScaling =
  | { readonly kind: "none" }
  | { readonly kind: "linear"; readonly factor: number }
  | {
      readonly kind: "llama3";
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalContextLength: number;
    }
  | {
      readonly kind: "yarn";
      readonly factor: number;
      readonly originalContextLength: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      /** The factor on queries and keys, all told (cos and sin are multiplied by it, once). */
      readonly attentionFactor: number;
      /** Whether the correction range is rounded outward to whole dimensions (Transformers' `truncate`, default true). */
      readonly truncate: boolean;
    }
  /** GGUF's tensor `rope_freqs.weight`: each pair's plain frequency is divided by its factor. D/2 values. */
  | { readonly kind: "factors"; readonly factors: readonly number[] };

export interface RopeConfig {
  /** D, in elements; even. */
  readonly headSize: number;
  readonly theta: number;
  readonly scaling: RopeScaling;
  /** Which elements make a pair: "half" is (i, i + D/2) as Transformers has it, "adjacent" is (2i, 2i + 1) as llama.cpp permutes Llama's rows. */
  readonly pairs: "half" | "adjacent";
}

/**
 * How far each pair turns per position, in radians: D/2 numbers, the fastest pair first.
 *
 * The pair's plain frequency is theta^(-2i/D); scaling slows pairs down. All kinds are linear in the position.
 *
 * @throws RangeError if the config's factors do not fit its head size.
 * @see Transformers, modeling_rope_utils.py, ROPE_INIT_FUNCTIONS
 * @example head size 4, theta 100, no scaling: [1, 0.1]
 */
export function inverseFrequencies(rope: RopeConfig): Float64Array {
  const plain = plainFrequencies(rope);
  const { scaling } = rope;
  switch (scaling.kind) {
    case "none":
      return plain;
    case "linear":
      return plain.map((frequency) => frequency / scaling.factor);
    case "llama3":
      return plain.map((frequency) => scaleLlama3(frequency, scaling));
    case "yarn": {
      const [low, high] = yarnCorrectionRange(rope, scaling);
      return plain.map((frequency, i) => {
        const interpolated = Math.min(1, Math.max(0, (i - low) / (high - low)));
        return (frequency / scaling.factor) * interpolated + frequency * (1 - interpolated);
      });
    }
    case "factors": {
      const { factors } = scaling;
      if (factors.length !== plain.length) {
        throw new RangeError(
          `Cannot scale RoPE: ${factors.length} frequency factors are given, the head size ${rope.headSize} wants ${plain.length}`,
        );
      }
      return plain.map((frequency, i) => frequency / (factors[i] ?? 1));
    }
    default:
      return scaling satisfies never;
  }
}

/**
 * The D/2 numbers by which a plain frequency theta^(-2i/D) must be divided to give inverseFrequencies(): what
 * ggml_rope_ext takes as `freq_factors`. With them `freq_scale` is 1 and `ext_factor` 0, whatever the kind of scaling.
 *
 * @throws RangeError as inverseFrequencies() does.
 */
export function frequencyFactors(rope: RopeConfig): Float64Array {
  const wanted = inverseFrequencies(rope);
  return plainFrequencies(rope).map((plain, i) => plain / (wanted[i] ?? plain));
}

/** By how much queries and keys grow when they are turned (YaRN): cos and sin are multiplied by it, once. 1 for all other kinds. */
export function attentionFactor(rope: RopeConfig): number {
  return rope.scaling.kind === "yarn" ? rope.scaling.attentionFactor : 1;
}

function plainFrequencies({ headSize, theta }: RopeConfig): Float64Array {
  if (!Number.isSafeInteger(headSize) || headSize < 2 || headSize % 2 !== 0 || headSize > 2 ** 16) {
    throw new RangeError(
      `Cannot compute RoPE's angles: the head size is ${headSize}, an even number from 2 to 65536 is wanted`,
    );
  }
  return Float64Array.from({ length: headSize / 2 }, (_, i) => theta ** ((-2 * i) / headSize));
}

/** Slow pairs are slowed down, fast ones stay, those between are blended. */
function scaleLlama3(frequency: number, scaling: Extract<RopeScaling, { kind: "llama3" }>): number {
  const { factor, lowFrequencyFactor, highFrequencyFactor, originalContextLength } = scaling;
  // How often the pair turns over the original context.
  const numTurns = (originalContextLength * frequency) / (2 * Math.PI);
  if (numTurns < lowFrequencyFactor) return frequency / factor;
  if (numTurns > highFrequencyFactor) return frequency;
  const smooth = (numTurns - lowFrequencyFactor) / (highFrequencyFactor - lowFrequencyFactor);
  return ((1 - smooth) * frequency) / factor + smooth * frequency;
}

/** Between which pairs YaRN blends: below the first all stay, above the second all are slowed down. */
function yarnCorrectionRange(
  { headSize, theta }: RopeConfig,
  { betaFast, betaSlow, originalContextLength, truncate }: Extract<RopeScaling, { kind: "yarn" }>,
): [number, number] {
  /** The pair, as a fraction, that turns `numTurns` times over the original context. */
  const pairOf = (numTurns: number) =>
    (headSize * Math.log(originalContextLength / (numTurns * 2 * Math.PI))) / (2 * Math.log(theta));
  const fast = pairOf(betaFast);
  const slow = pairOf(betaSlow);
  const low = Math.max(truncate ? Math.floor(fast) : fast, 0);
  const high = Math.min(truncate ? Math.ceil(slow) : slow, headSize - 1);
  if (!(low <= high)) {
    throw new RangeError(
      `Cannot scale RoPE: YaRN's correction range is ${low} to ${high}, its start must not lie past its end`,
    );
  }
  // Transformers and ggml both part equal ends by this much.
  return [low, low === high ? high + 0.001 : high];
}
