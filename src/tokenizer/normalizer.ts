import { quote } from "../files/quote.js";
import type { JsonFields } from "./json-fields.js";
import { readPattern } from "./pattern.js";

/** Rewrites a run of text before it is cut into words. Never called with "". */
export type Normalize = (text: string) => string;

/**
 * The normalizer of a tokenizer.json, as Python's tokenizers runs it.
 *
 * @throws Error for a kind that causal language models do not use.
 */
export function readNormalizer(fields: JsonFields | undefined): Normalize {
  if (fields === undefined) return (text) => text;
  const type = fields.string("type");
  switch (type) {
    case "Sequence": {
      const steps = fields.objects("normalizers").map(readNormalizer);
      return (text) => steps.reduce((current, step) => (current === "" ? "" : step(current)), text);
    }
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return (text) => text.normalize(type);
    case "Lowercase":
      return (text) => text.toLowerCase();
    case "Prepend": {
      const prefix = fields.string("prepend");
      return (text) => prefix + text;
    }
    case "Replace": {
      const pattern = readPattern(fields.object("pattern"));
      const content = fields.string("content");
      return (text) => text.replaceAll(pattern, () => content);
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

/** Not by an expression: /\s+$/ takes quadratic time over long runs of white space inside the text. */
function stripRight(text: string): string {
  let end = text.length;
  while (end > 0 && /\p{White_Space}/u.test(text[end - 1]!)) end--;
  return text.slice(0, end);
}
