import type { Answer } from "./api.js";

/**
 * How a prompt's passages were come by: `full` attention over all of it; block mode with every passage computed
 * (`first`), every passage from the store (`stored`), or some of each (`partly`).
 */
export type RunKind = "full" | "first" | "partly" | "stored";

/** How soon an answer over passages began. */
export interface Measurement {
  readonly kind: RunKind;
  readonly ttftMs: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  /** The passages whatever their order: only runs over the same ones may be compared. */
  readonly passages: string;
}

/** One measurement of each kind. */
export type Measurements = { readonly [K in RunKind]?: Measurement };

type Documents = readonly { readonly title: string; readonly text: string }[];

/** Which kind of run an answer over passages was; undefined where there is nothing to compare: no passages, or full
 * mode that took them from the store. */
export function runKind(answer: Answer, numPassages: number): RunKind | undefined {
  if (numPassages === 0) return undefined;
  // What the store had is no full attention, but for what all prompts begin with.
  if (answer.mode === "full") return answer.cachedTokens < answer.promptTokens / 4 ? "full" : undefined;
  const passages = answer.blocks.slice(-numPassages);
  const numHits = passages.filter(({ hit }) => hit).length;
  if (numHits === 0) return "first";
  return numHits === passages.length ? "stored" : "partly";
}

/** An answer's measurement; undefined where there is nothing to compare, or no first token. */
export function measurementOf(answer: Answer, documents: Documents): Measurement | undefined {
  const kind = runKind(answer, documents.length);
  if (kind === undefined || answer.ttftMs === undefined) return undefined;
  const { ttftMs, promptTokens, cachedTokens } = answer;
  return { kind, ttftMs, promptTokens, cachedTokens, passages: passagesKey(documents) };
}

/** The median run of each kind; of an even number of runs, the slower of the two in the middle. */
export function medians(runs: readonly Measurement[]): Measurements {
  const byTime = [...runs].sort((a, b) => a.ttftMs - b.ttftMs);
  const median = (kind: RunKind) => {
    const ofKind = byTime.filter((run) => run.kind === kind);
    const middle = ofKind[ofKind.length >> 1];
    return middle === undefined ? {} : { [kind]: middle };
  };
  return { ...median("full"), ...median("first"), ...median("partly"), ...median("stored") };
}

/** Names a set of passages, whatever their order. */
export function passagesKey(documents: Documents): string {
  return JSON.stringify(documents.map(({ title, text }) => JSON.stringify([title, text])).sort());
}
