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
  /** GGUF's tensor `rope_freqs.weight`: each pair's plain frequency is divided by its factor. R/2 values. */
  | { readonly kind: "factors"; readonly factors: readonly number[] }
  /**
   * Two lists of such factors: the short ones for prompts up to the original context, the long ones for longer ones. Which of
   * them hold depends on the prompt's whole length, so only the short ones are used, and prompts end with the original context.
   */
  | {
      readonly kind: "longrope";
      readonly factors: readonly number[];
      readonly longFactors: readonly number[];
      /** The same for both. */
      readonly attentionFactor: number;
      readonly originalContextLength: number;
      /** What the long factors reach. */
      readonly longContextLength: number;
    };

export interface RopeConfig {
  /** D, in elements; even. */
  readonly headSize: number;
  /** R: of a head's elements, so many of the first are turned; even. Absent: all. */
  readonly rotatedSize?: number;
  readonly theta: number;
  readonly scaling: RopeScaling;
  /** Which elements make a pair: "half" is (i, i + R/2) as Transformers has it, "adjacent" is (2i, 2i + 1) as llama.cpp permutes Llama's rows. */
  readonly pairs: "half" | "adjacent";
}

/**
 * How far each pair turns per position, in radians: R/2 numbers, the fastest pair first.
 *
 * The pair's plain frequency is theta^(-2i/R); scaling slows pairs down. All kinds are linear in the position.
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
    case "factors":
    case "longrope": {
      const { factors } = scaling;
      if (factors.length !== plain.length) {
        throw new RangeError(
          `Cannot scale RoPE: ${factors.length} frequency factors are given, ${rotatedSize(rope)} turned elements want ${plain.length}`,
        );
      }
      return plain.map((frequency, i) => frequency / (factors[i] ?? 1));
    }
    default:
      return scaling satisfies never;
  }
}

/**
 * The R/2 numbers by which a plain frequency theta^(-2i/R) must be divided to give inverseFrequencies(): what
 * ggml_rope_ext takes as `freq_factors`. With them `freq_scale` is 1 and `ext_factor` 0, whatever the kind of scaling.
 *
 * @throws RangeError as inverseFrequencies() does.
 */
export function frequencyFactors(rope: RopeConfig): Float64Array {
  const wanted = inverseFrequencies(rope);
  return plainFrequencies(rope).map((plain, i) => plain / (wanted[i] ?? plain));
}

/** By how much queries and keys grow when they are turned (YaRN, longrope): cos and sin are multiplied by it, once. Else 1. */
export function attentionFactor({ scaling }: RopeConfig): number {
  return "attentionFactor" in scaling ? scaling.attentionFactor : 1;
}

/** R, how many of a head's elements are turned. */
export function rotatedSize({ headSize, rotatedSize = headSize }: RopeConfig): number {
  return rotatedSize;
}

function plainFrequencies(rope: RopeConfig): Float64Array {
  const size = rotatedSize(rope);
  if (!Number.isSafeInteger(size) || size < 2 || size % 2 !== 0 || size > 2 ** 16) {
    throw new RangeError(
      `Cannot compute RoPE's angles: ${size} elements of a head are turned, an even number from 2 to 65536 is wanted`,
    );
  }
  return Float64Array.from({ length: size / 2 }, (_, i) => rope.theta ** ((-2 * i) / size));
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
  rope: RopeConfig,
  { betaFast, betaSlow, originalContextLength, truncate }: Extract<RopeScaling, { kind: "yarn" }>,
): [number, number] {
  const size = rotatedSize(rope);
  /** The pair, as a fraction, that turns `numTurns` times over the original context. */
  const pairOf = (numTurns: number) =>
    (size * Math.log(originalContextLength / (numTurns * 2 * Math.PI))) / (2 * Math.log(rope.theta));
  const fast = pairOf(betaFast);
  const slow = pairOf(betaSlow);
  const low = Math.max(truncate ? Math.floor(fast) : fast, 0);
  const high = Math.min(truncate ? Math.ceil(slow) : slow, size - 1);
  if (!(low <= high)) {
    throw new RangeError(
      `Cannot scale RoPE: YaRN's correction range is ${low} to ${high}, its start must not lie past its end`,
    );
  }
  // Transformers and ggml both part equal ends by this much.
  return [low, low === high ? high + 0.001 : high];
}

/**
 * Rows of queries or keys, heads of D rows each, with RoPE's pairs laid the other way: row h·D + 2i + k of adjacent pairs is row
 * h·D + k·D/2 + i of halves.
 *
 * @param rowLength of a row, in bytes.
 * @param pairs as they are wanted.
 */
export function layRows(
  bytes: Uint8Array<ArrayBuffer>,
  rowLength: number,
  headSize: number,
  pairs: RopeConfig["pairs"],
): Uint8Array<ArrayBuffer> {
  const laid = new Uint8Array(bytes.byteLength);
  for (let row = 0; row * rowLength < bytes.byteLength; row++) {
    const inHead = row % headSize;
    const half = row - inHead + (inHead % 2) * (headSize / 2) + Math.floor(inHead / 2);
    const [from, to] = pairs === "adjacent" ? [half, row] : [row, half];
    laid.set(bytes.subarray(from * rowLength, (from + 1) * rowLength), to * rowLength);
  }
  return laid;
}
