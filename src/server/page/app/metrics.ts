/** One line of Prometheus' text form. */
interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** What the page draws, at one moment; undefined where the server does not tell it. */
export interface Reading {
  /** When it was read, in milliseconds of performance.now(). */
  readonly atMs: number;
  /** Requests that have ended, whatever the outcome. */
  readonly requests: number | undefined;
  readonly computedTokens: number | undefined;
  readonly storedTokens: number | undefined;
  /** Of kept blocks, in use or not. */
  readonly storeBytes: number | undefined;
  readonly numBlocks: number | undefined;
}

/** What happened between one reading and the next; undefined where it cannot be told, for instance across a restart. */
export interface Step {
  readonly requestsPerSecond: number | undefined;
  readonly computedPerSecond: number | undefined;
  readonly storedPerSecond: number | undefined;
  /** Share of the prompt tokens that the store held, 0 to 1; undefined where there was no prompt. */
  readonly hitRate: number | undefined;
  readonly storeBytes: number | undefined;
}

/**
 * Reads Prometheus' text exposition form.
 *
 * @returns its samples in order; lines that are none are passed over.
 * @see https://prometheus.io/docs/instrumenting/exposition_formats/
 * @example parseMetrics('a_total{b="c"} 5') is [{ name: "a_total", labels: { b: "c" }, value: 5 }]
 */
export function parseMetrics(text: string): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split("\n")) {
    const start = /^([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{)?/.exec(line);
    if (start === null) continue;
    const labels: Record<string, string> = {};
    let at = start[0].length;
    if (start[2] !== undefined) {
      const label = /\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*,?/y;
      label.lastIndex = at;
      for (let found = label.exec(line); found !== null; found = label.exec(line)) {
        at = label.lastIndex;
        labels[found[1] as string] = (found[2] as string).replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
      }
      const end = /\s*\}/y;
      end.lastIndex = at;
      if (!end.test(line)) continue;
      at = end.lastIndex;
    }
    const value = readValue(line.slice(at).trim().split(/\s+/)[0] ?? "");
    if (value !== undefined) samples.push({ name: start[1] as string, labels, value });
  }
  return samples;
}

function readValue(text: string): number | undefined {
  if (/^[+-]?Inf$/i.test(text)) return text.startsWith("-") ? -Infinity : Infinity;
  const value = text === "" ? Number.NaN : Number(text);
  return Number.isNaN(value) ? undefined : value;
}

/** What the page draws of a server's metrics. */
export function readMetrics(text: string, atMs: number): Reading {
  const samples = parseMetrics(text);
  const sum = (name: string, isWanted: (labels: Sample["labels"]) => boolean = () => true) => {
    const found = samples.filter((sample) => sample.name === name && isWanted(sample.labels));
    return found.length === 0 ? undefined : found.reduce((total, { value }) => total + value, 0);
  };
  return {
    atMs,
    requests: sum("block_attention_request_duration_seconds_count"),
    computedTokens: sum("block_attention_prompt_tokens_total", ({ source }) => source === "computed"),
    storedTokens: sum("block_attention_prompt_tokens_total", ({ source }) => source !== "computed"),
    storeBytes: sum("block_attention_store_bytes", ({ state }) => state === "leased" || state === "idle"),
    numBlocks: sum("block_attention_store_blocks"),
  };
}

/** What happened between two readings, per second. */
export function stepBetween(before: Reading, after: Reading): Step {
  const seconds = (after.atMs - before.atMs) / 1_000;
  const grown = (from: number | undefined, to: number | undefined) =>
    // A counter that went down began anew.
    from === undefined || to === undefined || to < from || seconds <= 0 ? undefined : to - from;
  const perSecond = (amount: number | undefined) => (amount === undefined ? undefined : amount / seconds);
  // A counter with labels is not there before it is first counted.
  const computed = grown(before.computedTokens ?? 0, after.computedTokens ?? 0);
  const stored = grown(before.storedTokens ?? 0, after.storedTokens ?? 0);
  const isHere = after.computedTokens !== undefined || after.storedTokens !== undefined;
  const prompt = computed === undefined || stored === undefined ? 0 : computed + stored;
  return {
    requestsPerSecond: perSecond(grown(before.requests ?? 0, after.requests)),
    computedPerSecond: isHere ? perSecond(computed) : undefined,
    storedPerSecond: isHere ? perSecond(stored) : undefined,
    hitRate: prompt > 0 ? (stored as number) / prompt : undefined,
    storeBytes: after.storeBytes,
  };
}
