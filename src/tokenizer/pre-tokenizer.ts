import { quote } from "../files/quote.js";
import type { JsonFields } from "./json-fields.js";
import { readPattern, type SplitBehavior, splitAt } from "./pattern.js";

/**
 * Cuts a piece of text into smaller ones. `atStart`: the piece starts where the text does. A step that may find many
 * pieces gives them as it finds them, so that a long text is cut as far as it is read.
 */
export type SplitStep = (text: string, atStart: boolean) => Iterable<string>;

export interface PreTokenizer {
  readonly steps: readonly SplitStep[];
  /** The words are made of bytes, written in GPT-2's alphabet, not of characters. */
  readonly byteLevel: boolean;
  /** A dummy space is put before the text. */
  readonly addsDummySpace: boolean;
}

/** Runs a pre-tokenizer: a text to its words, one by one. */
export function splitIntoWords(text: string, atStart: boolean, steps: readonly SplitStep[]): Iterable<string> {
  const [first, ...others] = steps;
  if (first === undefined) return [text];
  return others.reduce((pieces, step) => splitEach(pieces, atStart, step), first(text, atStart));
}

function* splitEach(pieces: Iterable<string>, atStart: boolean, step: SplitStep): Generator<string, void> {
  let isFirst = atStart;
  for (const piece of pieces) {
    yield* step(piece, isFirst);
    isFirst = false;
  }
}

/**
 * The pre-tokenizer of a tokenizer.json, as Python's tokenizers runs it.
 *
 * @throws Error for a kind that causal language models do not use, and for anything after a ByteLevel.
 */
export function readPreTokenizer(fields: JsonFields | undefined): PreTokenizer {
  if (fields === undefined) return { steps: [], byteLevel: false, addsDummySpace: false };
  const type = fields.string("type");
  switch (type) {
    case "Sequence": {
      const parts = fields.objects("pretokenizers").map(readPreTokenizer);
      if (parts.slice(0, -1).some((part) => part.byteLevel))
        return fields.fail("a ByteLevel that is not the last is not supported");
      return {
        steps: parts.flatMap((part) => part.steps),
        byteLevel: parts.at(-1)?.byteLevel ?? false,
        addsDummySpace: parts.some((part) => part.addsDummySpace),
      };
    }
    case "ByteLevel":
      return readByteLevel(fields);
    case "Split": {
      const pattern = readPattern(fields.object("pattern"));
      const behavior = readBehavior(fields, "Isolated");
      const invert = fields.boolean("invert", false);
      return splitOnly((text) => splitAt(text, pattern, behavior, invert));
    }
    case "Digits": {
      const pattern = fields.boolean("individual_digits", false) ? /\p{N}/gu : /\p{N}+/gu;
      return splitOnly((text) => splitAt(text, pattern, "isolated", false));
    }
    case "Punctuation": {
      const behavior = readBehavior(fields, "Isolated");
      return splitOnly((text) => splitAt(text, /[\p{P}!-/:-@[-`{-~]/gu, behavior, false));
    }
    case "Whitespace":
      return splitOnly((text) =>
        matchesIn(text, /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{White_Space}]+/gu),
      );
    case "WhitespaceSplit":
      return splitOnly((text) => matchesIn(text, /\P{White_Space}+/gu));
    case "Metaspace":
      return readMetaspace(fields);
    default:
      return fields.fail(`the pre-tokenizer ${quote(type)} is not supported`);
  }
}

function splitOnly(step: SplitStep): PreTokenizer {
  return { steps: [step], byteLevel: false, addsDummySpace: false };
}

function readByteLevel(fields: JsonFields): PreTokenizer {
  const addsSpace = fields.boolean("add_prefix_space", true);
  const usesExpression = fields.boolean("use_regex", true);
  const steps: SplitStep[] = [];
  if (addsSpace) steps.push((text) => [text.startsWith(" ") ? text : ` ${text}`]);
  if (usesExpression) steps.push((text) => splitAt(text, gpt2Words(), "isolated", false));
  return { steps, byteLevel: true, addsDummySpace: false };
}

/** GPT-2's words. A function, for an expression with flag g carries state. */
function gpt2Words(): RegExp {
  return /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
}

function readMetaspace(fields: JsonFields): PreTokenizer {
  const mark = fields.optionalString("replacement") ?? "▁";
  const scheme =
    fields.optionalString("prepend_scheme") ?? (fields.boolean("add_prefix_space", true) ? "always" : "never");
  if (!["always", "first", "never"].includes(scheme)) {
    return fields.fail(`prepend_scheme is ${quote(scheme)}, not "always", "first" or "never"`);
  }
  const splits = fields.boolean("split", true);
  return {
    steps: [
      (text, atStart) => {
        const marked = text.replaceAll(" ", () => mark);
        const prepends = scheme === "always" || (scheme === "first" && atStart);
        const whole = prepends && !marked.startsWith(mark) ? mark + marked : marked;
        return splits ? splitBefore(whole, mark) : [whole];
      },
    ],
    byteLevel: false,
    addsDummySpace: scheme !== "never",
  };
}

function* matchesIn(text: string, pattern: RegExp): Generator<string, void> {
  for (const [found] of text.matchAll(pattern)) yield found;
}

/** Cuts a text before every mark. */
function* splitBefore(text: string, mark: string): Generator<string, void> {
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
