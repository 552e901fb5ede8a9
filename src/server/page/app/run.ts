import type { Answer } from "./api.js";
import type { Passage } from "./draft.js";

/** What became of the last question. */
export type Run =
  | { readonly kind: "none" }
  /** `text` is what has come so far. */
  | { readonly kind: "running"; readonly text: string }
  | { readonly kind: "done"; readonly text: string; readonly answer: Answer; readonly passages: readonly Passage[] }
  | { readonly kind: "stopped"; readonly text: string }
  | { readonly kind: "failed"; readonly text: string; readonly message: string };

/** What became of the last measurement. */
export type Measuring =
  | { readonly kind: "none" }
  /** So many of its requests are done. */
  | { readonly kind: "running"; readonly numDone: number }
  | { readonly kind: "failed"; readonly message: string };
