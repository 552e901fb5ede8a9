import type { TextRange } from "../tokenizer/tokenizer.js";
import type { TextBlock } from "./block.js";

/** A piece of a block's text with one trust: the template's and the caller's own text, or somebody's content. */
export interface TextRun {
  readonly text: string;
  readonly trusted: boolean;
}

/** Runs put together as one block. Trusted runs that touch become one, so that a control token may span them. */
export function blockOfRuns(runs: readonly TextRun[]): TextBlock {
  const ranges: { start: number; end: number }[] = [];
  let length = 0;
  for (const run of runs) {
    const end = length + run.text.length;
    const last = ranges.at(-1);
    if (run.trusted && end > length) {
      if (last !== undefined && last.end === length) last.end = end;
      else ranges.push({ start: length, end });
    }
    length = end;
  }
  const text = runs.map((run) => run.text).join("");
  const [first] = ranges;
  if (first === undefined) return { text, trusted: "none" };
  if (first.start === 0 && first.end === length) return { text, trusted: "all" };
  return { text, trusted: ranges };
}

/** A block's text as runs: what `blockOfRuns` puts together again. */
export function runsOfBlock(block: TextBlock): TextRun[] {
  if (block.trusted === "all" || block.trusted === "none") {
    return [{ text: block.text, trusted: block.trusted === "all" }];
  }
  const runs: TextRun[] = [];
  let end = 0;
  const push = (range: TextRange, trusted: boolean) => {
    if (range.end > range.start) runs.push({ text: block.text.slice(range.start, range.end), trusted });
  };
  for (const range of block.trusted) {
    push({ start: end, end: range.start }, false);
    push(range, true);
    end = range.end;
  }
  push({ start: end, end: block.text.length }, false);
  return runs;
}

/** The runs of one part of a text, `start` and `end` in UTF-16 units of the runs put together. */
export function sliceRuns(runs: readonly TextRun[], start: number, end: number): TextRun[] {
  const sliced: TextRun[] = [];
  let offset = 0;
  for (const run of runs) {
    const text = run.text.slice(Math.max(0, start - offset), Math.max(0, end - offset));
    if (text !== "") sliced.push({ text, trusted: run.trusted });
    offset += run.text.length;
  }
  return sliced;
}
