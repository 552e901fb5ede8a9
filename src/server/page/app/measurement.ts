import type { Answer } from "./api.js";

/**
 * How a prompt's passages were come by: `full` attention over all of it; block mode with every passage computed
 * (`first`), every passage from the store (`stored`), or some of each (`partly`).
 */
export type RunKind = "full" | "first" | "partly" | "stored";

/** The last run of a kind. */
export interface Measurement {
  readonly ttftMs: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  /** The passages whatever their order: only runs over the same ones may be compared. */
  readonly passages: string;
}

export type Measurements = { readonly [K in RunKind]?: Measurement };

/** Which kind of run an answer over passages was; undefined where there is nothing to compare: no passages. */
export function runKind(answer: Answer, numPassages: number): RunKind | undefined {
  if (numPassages === 0) return undefined;
  if (answer.mode === "full") return "full";
  const passages = answer.blocks.slice(-numPassages);
  const numHits = passages.filter(({ hit }) => hit).length;
  if (numHits === 0) return "first";
  return numHits === passages.length ? "stored" : "partly";
}

/** The measurements with an answer's added, in place of the last one of its kind. */
export function addMeasurement(
  measurements: Measurements,
  answer: Answer,
  documents: readonly { readonly title: string; readonly text: string }[],
): Measurements {
  const kind = runKind(answer, documents.length);
  if (kind === undefined || answer.ttftMs === undefined) return measurements;
  const { ttftMs, promptTokens, cachedTokens } = answer;
  return { ...measurements, [kind]: { ttftMs, promptTokens, cachedTokens, passages: passagesKey(documents) } };
}

/** Names a set of passages, whatever their order. */
export function passagesKey(documents: readonly { readonly title: string; readonly text: string }[]): string {
  return JSON.stringify(documents.map(({ title, text }) => JSON.stringify([title, text])).sort());
}
