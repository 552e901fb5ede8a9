import type { Answer } from "./api.js";
import type { Passage } from "./draft.js";

/** What became of the last question. */
export type Run =
  | { readonly kind: "none" }
  /** `text` is what has come so far. */
  | { readonly kind: "running"; readonly text: string; readonly what: "answer" | "measure" }
  | {
      readonly kind: "done";
      readonly what: "answer" | "measure";
      readonly text: string;
      readonly answer: Answer;
      readonly passages: readonly Passage[];
    }
  | { readonly kind: "stopped"; readonly text: string }
  | { readonly kind: "failed"; readonly text: string; readonly message: string };
