export type StopStep =
  /** Text that no stop text can claim any more, possibly "". */
  | { readonly kind: "text"; readonly text: string }
  /** The answer ends: its last text, and the stop text that followed it. */
  | { readonly kind: "stop"; readonly text: string; readonly stop: string };

/** One stop text, matched a UTF-16 unit at a time (Knuth, Morris, Pratt): constant time a unit, whatever the text. */
interface Pattern {
  readonly stop: string;
  /** For each prefix, the length of its longest proper suffix that is a prefix as well. */
  readonly fallback: Uint32Array;
  /** How many units of the stop text the answer ends in. */
  numMatched: number;
}

/**
 * Finds stop texts in an answer that comes in pieces. The stop text that is complete first ends the answer; of several
 * that are complete at the same place, the longest. Neither it nor anything after it is ever given out, and how the answer
 * is cut into pieces makes no difference.
 */
export class StopMatcher {
  readonly #patterns: readonly Pattern[];
  /** The answer's end, which may be the start of a stop text. */
  #held = "";
  #hasEnded = false;

  /** @param stops none empty. */
  constructor(stops: readonly string[]) {
    this.#patterns = stops.map((stop) => {
      if (stop === "") throw new RangeError("Cannot match stop texts: one of them is empty");
      return { stop, fallback: fallbackOf(stop), numMatched: 0 };
    });
  }

  /** Whether a stop text was found, or the answer's end was told. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** @throws Error after the answer's end. */
  push(piece: string): StopStep {
    this.#checkOpen();
    if (this.#patterns.length === 0) return { kind: "text", text: piece };
    for (let i = 0; i < piece.length; i++) {
      const found = this.#step(piece[i]!);
      if (found === undefined) continue;
      this.#hasEnded = true;
      const text = this.#held + piece.slice(0, i + 1);
      return { kind: "stop", text: text.slice(0, text.length - found.length), stop: found };
    }
    const text = this.#held + piece;
    const numHeld = this.#patterns.reduce((most, { numMatched }) => Math.max(most, numMatched), 0);
    this.#held = text.slice(text.length - numHeld);
    return { kind: "text", text: text.slice(0, text.length - numHeld) };
  }

  /** The answer ends without a stop text: what was held back. */
  end(): string {
    this.#checkOpen();
    this.#hasEnded = true;
    return this.#held;
  }

  #checkOpen(): void {
    if (this.#hasEnded) throw new Error("Cannot match stop texts: the answer has ended");
  }

  /** @returns the longest stop text that this unit completes. */
  #step(unit: string): string | undefined {
    let longest: string | undefined;
    for (const pattern of this.#patterns) {
      pattern.numMatched = advance(pattern, unit);
      if (pattern.numMatched < pattern.stop.length) continue;
      if (longest === undefined || pattern.stop.length > longest.length) longest = pattern.stop;
    }
    return longest;
  }
}

function advance({ stop, fallback, numMatched }: Pattern, unit: string): number {
  let matched = numMatched;
  while (matched > 0 && stop[matched] !== unit) matched = fallback[matched - 1]!;
  return stop[matched] === unit ? matched + 1 : 0;
}

function fallbackOf(stop: string): Uint32Array {
  const fallback = new Uint32Array(stop.length);
  for (let i = 1; i < stop.length; i++) {
    fallback[i] = advance({ stop, fallback, numMatched: fallback[i - 1]! }, stop[i]!);
  }
  return fallback;
}
