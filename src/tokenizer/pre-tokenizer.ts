import { quote } from "../files/quote.js";
import type { JsonFields } from "./json-fields.js";
import { type Pattern, readPattern, type SplitBehavior, type SplitStep, splitStep } from "./pattern.js";

export interface PreTokenizer {
  readonly steps: readonly SplitStep[];
  /** The words are made of bytes, written in GPT-2's alphabet, not of characters. */
  readonly byteLevel: boolean;
  /** A dummy space is put before the text. */
  readonly addsDummySpace: boolean;
}

/** Runs a pre-tokenizer: a text to its words, lazily. As with a step, an empty word is none, but a place to pause at. */
export function splitIntoWords(text: string, atStart: boolean, steps: readonly SplitStep[]): Iterable<string> {
  return steps.reduce<Iterable<string>>((pieces, step) => step(pieces, atStart), [text]);
}

/** A step that looks at pieces one by one. */
function eachPiece(cut: (piece: string, atStart: boolean) => Iterable<string>): SplitStep {
  return function* (pieces, atStart) {
    let isFirst = atStart;
    for (const piece of pieces) {
      if (piece === "") {
        yield "";
        continue;
      }
      yield* cut(piece, isFirst);
      isFirst = false;
    }
  };
}

function linear(expression: RegExp): Pattern {
  return { expression, stopwatch: undefined };
}

/**
 * The pre-tokenizer of a tokenizer.json, as Python's tokenizers runs it.
 *
 * @throws Error for a kind that causal language models do not use, and for anything after a ByteLevel.
 */
export function readPreTokenizer(fields: JsonFields | undefined): PreTokenizer {
  if (fields === undefined) return { steps: [], byteLevel: false, addsDummySpace: false };
  const kinds = fields.sequence("pretokenizers", maxSteps);
  const byteLevel = kinds.findIndex((kind) => kind.string("type") === "ByteLevel");
  if (byteLevel !== -1 && byteLevel < kinds.length - 1)
    return fields.fail("a ByteLevel that is not the last is not supported");
  const parts = kinds.map(readStep);
  return {
    steps: parts.flatMap((part) => part.steps),
    byteLevel: byteLevel !== -1,
    addsDummySpace: parts.some((part) => part.addsDummySpace),
  };
}

/** Real ones have up to seven; each expression may take half a second to try. */
const maxSteps = 32;

function readStep(fields: JsonFields): Omit<PreTokenizer, "byteLevel"> {
  const type = fields.string("type");
  switch (type) {
    case "ByteLevel":
      return readByteLevel(fields);
    case "Split": {
      const pattern = readPattern(fields.object("pattern"));
      const behavior = readBehavior(fields, "Isolated");
      return only(splitStep(pattern, behavior, fields.boolean("invert", false)));
    }
    case "Digits":
      return only(isolated(fields.boolean("individual_digits", false) ? /\p{N}/gu : /\p{N}+/gu));
    case "Punctuation":
      return only(splitStep(linear(/[\p{P}!-/:-@[-`{-~]/gu), readBehavior(fields, "Isolated"), false));
    case "Whitespace":
      return only(kept(/[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{White_Space}]+/gu));
    case "WhitespaceSplit":
      return only(kept(/\P{White_Space}+/gu));
    case "Metaspace":
      return readMetaspace(fields);
    default:
      return fields.fail(`the pre-tokenizer ${quote(type)} is not supported`);
  }
}

function only(step: SplitStep) {
  return { steps: [step], addsDummySpace: false };
}

function isolated(expression: RegExp): SplitStep {
  return splitStep(linear(expression), "isolated", false);
}

/** The matches alone. */
function kept(expression: RegExp): SplitStep {
  return splitStep(linear(expression), "removed", true);
}

function readByteLevel(fields: JsonFields) {
  const steps: SplitStep[] = [];
  if (fields.boolean("add_prefix_space", true)) {
    steps.push(eachPiece((text) => [text.startsWith(" ") ? text : ` ${text}`]));
  }
  if (fields.boolean("use_regex", true)) steps.push(isolated(gpt2Words()));
  return { steps, addsDummySpace: false };
}

function gpt2Words(): RegExp {
  return /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
}

function readMetaspace(fields: JsonFields) {
  const mark = readMark(fields);
  const scheme =
    fields.optionalString("prepend_scheme") ?? (fields.boolean("add_prefix_space", true) ? "always" : "never");
  if (!["always", "first", "never"].includes(scheme)) {
    return fields.fail(`prepend_scheme is ${quote(scheme)}, not "always", "first" or "never"`);
  }
  const splits = fields.boolean("split", true);
  const step = eachPiece((text, atStart) => {
    const marked = text.replaceAll(" ", () => mark);
    const prepends = scheme === "always" || (scheme === "first" && atStart);
    const whole = prepends && !marked.startsWith(mark) ? mark + marked : marked;
    return splits ? splitBefore(whole, mark) : [whole];
  });
  return { steps: [step], addsDummySpace: scheme !== "never" };
}

/** What a Metaspace writes for a space. @throws Error unless it is one character. */
export function readMark(fields: JsonFields): string {
  const mark = fields.optionalString("replacement") ?? "▁";
  return Array.from(mark).length === 1
    ? mark
    : fields.fail(`the replacement ${quote(mark, 40)} has ${mark.length} UTF-16 units, not one character`);
}

/** Cuts a text before every mark. */
function* splitBefore(text: string, mark: string): Generator<string> {
  let start = 0;
  for (let at = text.indexOf(mark, 1); at !== -1; at = text.indexOf(mark, at + 1)) {
    yield text.slice(start, at);
    start = at;
  }
  yield text.slice(start);
}

function readBehavior(fields: JsonFields, whenAbsent: string): SplitBehavior {
  const written = fields.optionalString("behavior") ?? whenAbsent;
  const behavior = written.toLowerCase().replaceAll("_", "");
  switch (behavior) {
    case "isolated":
    case "removed":
    case "contiguous":
    case "mergedwithprevious":
    case "mergedwithnext":
      return behavior;
    default:
      return fields.fail(`the behavior ${quote(written)} is not known`);
  }
}
