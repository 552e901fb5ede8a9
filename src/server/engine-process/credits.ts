/** How many events a reader has room for. Whoever sends takes one each, and waits where there is none. */
export class Credits {
  #left: number;
  #isUnbounded = false;
  #wake: () => void = () => undefined;

  constructor(count: number) {
    this.#left = count;
  }

  /** For one taker at a time. */
  async take(): Promise<void> {
    while (this.#left === 0 && !this.#isUnbounded) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (!this.#isUnbounded) this.#left -= 1;
  }

  add(count: number): void {
    this.#left += count;
    this.#wake();
  }

  /** From now on nothing waits: for what is about to end. */
  release(): void {
    this.#isUnbounded = true;
    this.#wake();
  }
}
