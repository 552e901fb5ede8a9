import { createHash } from "node:crypto";

/** A mean and the interval that holds the true one with 95% confidence. */
export interface Interval {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

export interface BootstrapOptions {
  /** All draws depend on it: equal seeds give equal intervals. Default "bootstrap". */
  readonly seed?: string | undefined;
  /** How often the questions are drawn again. Default 10,000. */
  readonly resamples?: number | undefined;
  /** The smallest and largest value there can be. Default 0 to 1. */
  readonly range?: readonly [number, number] | undefined;
}

const defaultResamples = 10_000;
/** Of each side. */
const tail = 0.025;

/**
 * 95% bootstrap intervals of the means of columns over the same questions: the questions are drawn again with replacement,
 * for all columns together; the interval runs between the 2.5th and the 97.5th percentile of the means.
 *
 * Values that are all alike would give an interval without width. There the exact one-sided bound stands: at least 2.5% of
 * all draws of n hold no other value as long as the share of others is up to 1 - 0.025^(1/n).
 *
 * @throws RangeError for columns of unequal length or without values.
 * @example 4,000 questions, 2,000 of them right: 0.5, about 0.4845 to 0.5155
 */
export function bootstrapIntervals(columns: readonly Float64Array[], options: BootstrapOptions = {}): Interval[] {
  const { seed = "bootstrap", resamples = defaultResamples, range = [0, 1] } = options;
  const numQuestions = columns[0]?.length ?? 0;
  if (numQuestions === 0 || columns.some(({ length }) => length !== numQuestions)) {
    const lengths = columns.map(({ length }) => length).join(", ");
    throw new RangeError(
      `Cannot draw questions again: the columns have ${lengths || "no"} values, wanted equally many`,
    );
  }
  if (!Number.isInteger(resamples) || resamples < 1) {
    throw new RangeError(`Cannot draw questions again: ${resamples} times are asked for, wanted 1 or more`);
  }
  const draw = drawer(`${seed} ${numQuestions}`);
  const means = columns.map(() => new Float64Array(resamples));
  const drawn = new Uint32Array(numQuestions);
  for (let resample = 0; resample < resamples; resample++) {
    draw(drawn);
    for (const [c, column] of columns.entries()) {
      let sum = 0;
      for (let i = 0; i < numQuestions; i++) sum += column[drawn[i] as number] as number;
      (means[c] as Float64Array)[resample] = sum / numQuestions;
    }
  }
  return columns.map((column, c) => {
    const mean = column.reduce((sum, value) => sum + value, 0) / numQuestions;
    const [first] = column as unknown as [number];
    if (column.every((value) => value === first)) {
      const others = 1 - tail ** (1 / numQuestions);
      return { mean, low: first - (first - range[0]) * others, high: first + (range[1] - first) * others };
    }
    const sorted = (means[c] as Float64Array).sort();
    return { mean, low: quantile(sorted, tail), high: quantile(sorted, 1 - tail) };
  });
}

/**
 * Fills arrays with indices below their length, each as likely: sfc32, seeded by SHA-256. Its state lives in the loop's own
 * variables, which makes it several times as fast as a call a draw.
 */
function drawer(seed: string): (indices: Uint32Array) => void {
  const digest = createHash("sha256").update(seed, "utf8").digest();
  let [a, b, c, counter] = [0, 4, 8, 12].map((at) => digest.readInt32LE(at)) as [number, number, number, number];
  return (indices) => {
    const scale = indices.length / 2 ** 32;
    let [x, y, z, n] = [a, b, c, counter];
    for (let i = 0; i < indices.length; i++) {
      const sum = (x + y + n) | 0;
      n = (n + 1) | 0;
      x = y ^ (y >>> 9);
      y = (z + (z << 3)) | 0;
      z = (((z << 21) | (z >>> 11)) + sum) | 0;
      indices[i] = (sum >>> 0) * scale;
    }
    [a, b, c, counter] = [x, y, z, n];
  };
}

/** The value below which a share of sorted values lies, between neighbours in proportion. */
export function quantile(sorted: ArrayLike<number>, share: number): number {
  const place = (sorted.length - 1) * share;
  const below = Math.floor(place);
  const low = sorted[below] as number;
  const high = sorted[Math.min(below + 1, sorted.length - 1)] as number;
  return low + (high - low) * (place - below);
}

/** How much better one run is than another over the same questions. */
export interface PairedDifference extends Interval {
  /** Questions on which the one scores higher, lower, and the same. */
  readonly won: number;
  readonly lost: number;
  readonly tied: number;
}

/**
 * Differences of paired scores, with the interval of their mean: much narrower than two intervals side by side, for most
 * questions are right or wrong in both.
 *
 * @throws RangeError as bootstrapIntervals().
 */
export function pairedDifferences(
  ours: readonly Float64Array[],
  theirs: readonly Float64Array[],
  options: Omit<BootstrapOptions, "range"> = {},
): PairedDifference[] {
  const columns = ours.map((column, c) => {
    const other = theirs[c];
    if (other?.length !== column.length) {
      throw new RangeError(
        `Cannot compare scores: there are ${column.length} against ${other?.length ?? 0}, wanted equally many`,
      );
    }
    return column.map((value, i) => value - (other[i] as number));
  });
  return bootstrapIntervals(columns, { ...options, range: [-1, 1] }).map((interval, c) => {
    const column = columns[c] as Float64Array;
    const won = column.filter((value) => value > 0).length;
    const lost = column.filter((value) => value < 0).length;
    return { ...interval, won, lost, tied: column.length - won - lost };
  });
}
