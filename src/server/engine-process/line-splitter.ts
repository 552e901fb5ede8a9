/** Cuts text that comes in pieces into lines. */
export class LineSplitter {
  readonly #onLine: (line: string) => void;
  readonly #longest: number;
  #rest = "";

  /** @param longest in UTF-16 units: longer lines are told in pieces, so that one without an end fills no memory. */
  constructor(onLine: (line: string) => void, longest = 8192) {
    this.#onLine = onLine;
    this.#longest = longest;
  }

  push(text: string): void {
    const lines = (this.#rest + text).split(/\r?\n/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) this.#tell(line);
    for (; this.#rest.length > this.#longest; this.#rest = this.#rest.slice(this.#longest)) {
      this.#onLine(this.#rest.slice(0, this.#longest));
    }
  }

  /** Tells a last line that had no end. */
  end(): void {
    this.#tell(this.#rest);
    this.#rest = "";
  }

  #tell(line: string): void {
    for (let at = 0; at < line.length; at += this.#longest) this.#onLine(line.slice(at, at + this.#longest));
  }
}
