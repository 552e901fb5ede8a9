/** One line of a Prometheus text: a name, its labels, its value. */
interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** Prometheus' text format, read. */
export class Metrics {
  private constructor(readonly samples: readonly Sample[]) {}

  /** @throws SyntaxError for a line that is none of the format's. */
  static parse(text: string): Metrics {
    const samples = text.split("\n").flatMap((line) => {
      if (line === "" || line.startsWith("#")) return [];
      const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
      const value = Number(match?.[3]?.replace(/^([+-]?)Inf$/, "$1Infinity") ?? "x");
      if (match?.[1] === undefined || (Number.isNaN(value) && match[3] !== "NaN")) {
        throw new SyntaxError(`Cannot read metrics: line "${line}" is not Prometheus text`);
      }
      const labels: Record<string, string> = {};
      for (const [, name, label] of (match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
        labels[name as string] = (label as string).replace(/\\(.)/g, (_, c: string) => (c === "n" ? "\n" : c));
      }
      return [{ name: match[1], labels, value }];
    });
    return new Metrics(samples);
  }

  /** The sum over all samples of the name that carry these labels; 0 where there is none. */
  sum(name: string, labels: Readonly<Record<string, string>> = {}): number {
    return this.#find(name, labels).reduce((sum, { value }) => sum + value, 0);
  }

  /** @throws Error where there is not exactly one such sample. */
  value(name: string, labels: Readonly<Record<string, string>> = {}): number {
    const found = this.#find(name, labels);
    if (found.length !== 1 || found[0] === undefined) {
      throw new Error(`Cannot read metric "${name}": ${found.length} samples have the labels, wanted 1`);
    }
    return found[0].value;
  }

  #find(name: string, labels: Readonly<Record<string, string>>): Sample[] {
    const wanted = Object.entries(labels);
    return this.samples.filter((s) => s.name === name && wanted.every(([key, value]) => s.labels[key] === value));
  }
}
