import type { Random } from "./random.js";

/**
 * Draws exactly `count` of `total` things that come one after another, each set of them as likely as any other, holding
 * none: `takes` is asked once for each.
 *
 * @throws RangeError if there are fewer.
 * @see Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S.
 */
export class LineDraw {
  #left: number;
  #wanted: number;

  constructor(
    private readonly random: Random,
    total: number,
    count: number,
  ) {
    if (!(count <= total)) throw new RangeError(`Cannot draw ${count} of ${total}`);
    this.#left = total;
    this.#wanted = count;
  }

  takes(): boolean {
    const taken = this.random.below(this.#left) < this.#wanted;
    this.#left -= 1;
    if (taken) this.#wanted -= 1;
    return taken;
  }
}
