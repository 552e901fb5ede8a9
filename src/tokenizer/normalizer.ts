import { InputRangeError } from "../files/input-error.js";
import { quote } from "../files/quote.js";
import type { JsonFields } from "./json-fields.js";
import { readLinearPattern, readLiteral } from "./pattern.js";

/** Rewrites a run of text before it is cut into words. Never called with "". @throws RangeError for a text that grows too much. */
export type Normalize = (text: string) => string;

/** One of a normalizer's steps. @throws RangeError if the text becomes longer than `most`. */
type Step = (text: string, most: number) => string;

/**
 * The normalizer of a tokenizer.json, as Python's tokenizers runs it.
 *
 * @throws Error for a kind that causal language models do not use, and for steps that make a text grow without measure.
 */
export function readNormalizer(fields: JsonFields | undefined): Normalize {
  if (fields === undefined) return (text) => text;
  const kinds = fields.sequence("normalizers", maxSteps);
  const steps = kinds.map(readStep);
  const normalize: Normalize = (text) => {
    const most = text.length * maxGrowth + maxAdded;
    return steps.reduce((current, step) => (current === "" ? "" : step(current, most)), text);
  };
  // What a step replaces, or a letter that every step may know.
  const hard = kinds.flatMap((kind) => kind.optionalObject("pattern")?.optionalString("String") ?? []);
  for (const text of ["a", " ", ...hard]) {
    try {
      normalize(text.repeat(1000));
    } catch (error) {
      if (!(error instanceof InputRangeError)) throw error;
      fields.fail(`it makes a text of ${quote(text, 40)} more than ${maxGrowth} times as long`);
    }
  }
  return normalize;
}

/** Real ones have up to some tens. */
const maxSteps = 256;
/** How many times as long a text may become; NFKC makes one character 18. */
const maxGrowth = 32;
/** UTF-16 units that a text may grow by beyond that. */
const maxAdded = 4096;

function readStep(fields: JsonFields): Step {
  const type = fields.string("type");
  switch (type) {
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return (text, most) => checkLength(text.normalize(type), most);
    case "Lowercase":
      return (text, most) => checkLength(text.toLowerCase(), most);
    case "Prepend": {
      const prefix = fields.shortString("prepend", maxContent);
      return (text, most) => checkLength(prefix + text, most);
    }
    case "Replace": {
      const pattern = fields.object("pattern");
      const from = readLiteral(pattern) ?? readLinearPattern(pattern);
      return replacing(from, fields.shortString("content", maxContent));
    }
    case "Strip": {
      const left = fields.boolean("strip_left", true);
      const right = fields.boolean("strip_right", true);
      return (text) => {
        const leftDone = left ? text.replace(/^\p{White_Space}+/u, "") : text;
        return right ? stripRight(leftDone) : leftDone;
      };
    }
    default:
      return fields.fail(`the normalizer ${quote(type)} is not supported`);
  }
}

/** The longest text that a step puts in, in UTF-16 units. Real ones have a few. */
export const maxContent = 256;

function replacing(from: string | RegExp, content: string): Step {
  const cannotGrow = typeof from === "string" && content.length <= from.length;
  return (text, most) => {
    // Over megabytes of spaces it takes a third of what replaceAll() does.
    if (cannotGrow) return text.split(from).join(content);
    let length = text.length;
    return text.replaceAll(from, (found: string) => {
      length += content.length - found.length;
      if (length > most) throw tooLong(most);
      return content;
    });
  };
}

function checkLength(text: string, most: number): string {
  if (text.length > most) throw tooLong(most);
  return text;
}

function tooLong(most: number): RangeError {
  return new InputRangeError(`Cannot tokenize the text: normalized it has more than ${most} UTF-16 units`);
}

/** Not by an expression: /\s+$/ takes quadratic time over long runs of white space inside the text. */
function stripRight(text: string): string {
  let end = text.length;
  while (end > 0 && /\p{White_Space}/u.test(text[end - 1]!)) end--;
  return text.slice(0, end);
}
