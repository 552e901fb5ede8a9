/** Runs so many at a time, in the order in which they came. */
export class Limit {
  readonly #waiting: (() => void)[] = [];
  #numFree: number;

  constructor(count: number) {
    this.#numFree = count;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#numFree > 0) this.#numFree -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#numFree += 1;
    }
  }
}
