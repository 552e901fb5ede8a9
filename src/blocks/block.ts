import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { show } from "../files/options.js";
import type { TextRange, TrustedText } from "../tokenizer/tokenizer.js";
import type { PassageLabel } from "./passage.js";

/**
 * One span of a prompt as text, tokenized alone. A local one is a block: it sees itself. A global one sees everything before
 * it, and the last is always global: the final block. The texts of a prompt's spans, put together, are the prompt, always.
 */
export interface TextBlock {
  readonly text: string;
  /** Default: of the last block alone. */
  readonly isGlobal?: boolean;
  /** Where control tokens are recognized: the template's and the caller's own text, never a passage's. */
  readonly trusted: TrustedText;
  /** The passage that it is, where it is one. */
  readonly passage?: PassageLabel;
}

/** A prompt cut into blocks: one or more; the last is the final block. */
export interface SegmentedPrompt {
  readonly blocks: readonly TextBlock[];
  /** Whether it goes on with a conversation: it holds earlier answers. Default false. */
  readonly isConversation?: boolean;
  /** What the caller should hear, for instance that a template rewrites content; empty where all is well. */
  readonly warnings: readonly string[];
}

export interface ChatMessage {
  readonly role: string;
  /** Who of that role speaks, for templates that read it. */
  readonly name?: string;
  /** Text parts: each part of an array is a block. A plain string is cut, at its passages or by rule. */
  readonly content: string | readonly string[];
  /** Of an assistant's message: what it thought before its text, for templates that read it. */
  readonly reasoning?: string | undefined;
  /** Of an assistant's message: what it called, after its text, which may be empty. */
  readonly toolCalls?: readonly ToolCall[] | undefined;
  /** Of a message of role "tool", a call's result: the call's id. */
  readonly toolCallId?: string | undefined;
}

/** A call of a tool in an assistant's message. */
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** A JSON object, as text. */
  readonly arguments: string;
}

export interface RagDocument {
  readonly title: string;
  readonly text: string;
}

/**
 * The prompt whose blocks the caller gives. The caller composed them, so control tokens are recognized everywhere.
 * Empty blocks may stand anywhere but last.
 *
 * @throws TypeError if the blocks are not an array of strings, RangeError if there is none or the last is empty.
 */
export function blocksFromStrings(texts: readonly string[]): SegmentedPrompt {
  if (!Array.isArray(texts)) throw new InputTypeError(`Cannot use blocks: they are ${show(texts)}, wanted an array`);
  for (const [i, text] of texts.entries()) {
    if (typeof text !== "string")
      throw new InputTypeError(`Cannot use blocks: block ${i + 1} is ${show(text)}, wanted text`);
  }
  if (texts.length === 0)
    throw new InputRangeError("Cannot use blocks: there are none, wanted at least the final block");
  if (texts.at(-1) === "") throw new InputRangeError("Cannot use blocks: the final block is empty");
  return { blocks: texts.map((text) => ({ text, trusted: "all" })), warnings: [] };
}

/**
 * A prompt's blocks as one text, for full mode over `messages` and `prompt`, which is tokenized whole.
 * (Full mode over given blocks joins ids instead, never text.)
 */
export function joinTextBlocks(blocks: readonly TextBlock[]): TextBlock {
  return blockOfRuns(blocks.flatMap(runsOfBlock));
}

/**
 * Which blocks stay local: blocks past `numLocalAttentionBlocks` join the final block. Returns the indices of the
 * blocks that each block of the new prompt takes, in order; the last group is the final block. What is joined is the
 * blocks' ids, never their texts. 0 is full attention; undefined, or more than there are, leaves every block as it is.
 *
 * @throws RangeError if `numBlocks` is not 1 or more, or `numLocalAttentionBlocks` not a whole number, 0 or more.
 * @example
 * joinLocalBlocks(4, 1); // [[0], [1, 2, 3]]
 */
export function joinLocalBlocks(numBlocks: number, numLocalAttentionBlocks: number | undefined): number[][] {
  if (!Number.isSafeInteger(numBlocks) || numBlocks < 1) {
    throw new InputRangeError(`Cannot join blocks: there are ${show(numBlocks)}, wanted 1 or more`);
  }
  const wanted = numLocalAttentionBlocks === undefined ? numBlocks : numLocalAttentionBlocks;
  if (!Number.isSafeInteger(wanted) || wanted < 0) {
    throw new InputRangeError(
      `Cannot join blocks: num_local_attention_blocks is ${show(wanted)}, wanted a whole number, 0 or more`,
    );
  }
  const numLocal = Math.min(wanted, numBlocks - 1);
  const groups = Array.from({ length: numLocal }, (_, i) => [i]);
  groups.push(Array.from({ length: numBlocks - numLocal }, (_, i) => numLocal + i));
  return groups;
}

/** A piece of a block's text with one trust: the template's and the caller's own text, or somebody's content. */
export interface TextRun {
  readonly text: string;
  readonly trusted: boolean;
}

/** A part of a message's text, and how it becomes blocks. */
export interface MessagePart {
  readonly runs: readonly TextRun[];
  /**
   * "rule": cut by rule; "whole": one piece; template text beside either goes with it. "given": a block of its own that
   * nothing is glued to, for instance a passage. "passages": cut at the passages in it, each as one that is given.
   */
  readonly cut: "rule" | "whole" | "given" | "passages";
  /** The passage that it is, where it is one. */
  readonly passage?: PassageLabel;
}

export interface PartedMessage {
  readonly role: string;
  readonly name?: string | undefined;
  readonly parts: readonly MessagePart[];
  readonly reasoning?: string | undefined;
  readonly toolCalls?: ChatMessage["toolCalls"];
  readonly toolCallId?: string | undefined;
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
