import { quote } from "../files/quote.js";
import { byteAlphabet } from "./byte-level.js";
import type { JsonFields } from "./json-fields.js";
import { maxContent } from "./normalizer.js";
import { readLinearPattern, readLiteral } from "./pattern.js";
import { readMark } from "./pre-tokenizer.js";
import type { TokenStream } from "./tokenizer.js";

/** How tokens become text: each token to bytes, the bytes to text, the text through filters. All of it works on what has come so far. */
export interface TokenDecoder {
  /** The bytes of a token of the model's vocabulary; added tokens stand for their own spelling. */
  readonly bytesOf: (token: string) => Uint8Array;
  readonly filters: readonly FilterKind[];
}

export type FilterKind =
  /** Replaces a text wherever it occurs. */
  | { readonly kind: "replace"; readonly from: string; readonly to: string }
  /** Drops up to `count` of a text at the start of the text: SPM's dummy space. */
  | { readonly kind: "drop-at-start"; readonly text: string; readonly count: number };

/** Byte-level BPE. A token with a character outside GPT-2's alphabet stands for its own UTF-8. */
export function byteLevelDecoder(): TokenDecoder {
  const bytes = new Map(byteAlphabet().map((character, byte) => [character, byte]));
  return {
    bytesOf: (token) => {
      const mapped = Array.from(token, (character) => bytes.get(character));
      return mapped.every((byte) => byte !== undefined) ? Uint8Array.from(mapped) : Buffer.from(token, "utf8");
    },
    filters: [],
  };
}

/** SPM: ▁ is a space, <0x0A> a byte. */
export function spmDecoder(dropsDummySpace: boolean): TokenDecoder {
  return {
    bytesOf: (token) => byteOfFallback(token) ?? Buffer.from(token.replaceAll("▁", " "), "utf8"),
    filters: dropsDummySpace ? [{ kind: "drop-at-start", text: " ", count: 1 }] : [],
  };
}

function byteOfFallback(token: string): Uint8Array | undefined {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? Uint8Array.of(Number.parseInt(token.slice(3, 5), 16)) : undefined;
}

/**
 * The decoder of a tokenizer.json, as Python's tokenizers runs it, but for two things: added tokens keep their spelling,
 * and bytes that are no UTF-8 become U+FFFD as TextDecoder does it, for a stream cannot take back a byte before it.
 *
 * @throws Error for a kind that causal language models do not use, or an order that cannot be streamed.
 */
export function readDecoder(fields: JsonFields): TokenDecoder {
  const steps = fields.sequence("decoders", maxSteps);
  const perToken: ((token: string) => string)[] = [];
  const filters: FilterKind[] = [];
  let bytesOf: ((token: string) => Uint8Array | undefined) | undefined;
  // Until the tokens are put together, a step sees each token alone.
  let fused = false;
  let growth = 1;
  for (const step of steps) {
    const type = step.string("type");
    switch (type) {
      case "ByteLevel": {
        if (fused || bytesOf !== undefined) return step.fail("a ByteLevel after tokens were decoded is not supported");
        bytesOf = byteLevelDecoder().bytesOf;
        fused = true;
        break;
      }
      case "ByteFallback":
        if (fused) return step.fail("a ByteFallback after tokens were put together is not supported");
        bytesOf = byteOfFallback;
        break;
      case "Fuse":
        fused = true;
        break;
      case "Metaspace": {
        if (fused) return step.fail("a Metaspace after tokens were put together is not supported");
        const mark = readMark(step);
        perToken.push((token) => token.replaceAll(mark, " "));
        if (step.optionalString("prepend_scheme") !== "never" && step.boolean("add_prefix_space", true)) {
          filters.push({ kind: "drop-at-start", text: " ", count: 1 });
        }
        break;
      }
      case "Replace": {
        const content = step.shortString("content", maxContent);
        const literal = readLiteral(step.object("pattern"));
        const pattern = literal ?? readLinearPattern(step.object("pattern"));
        growth *= Math.max(1, literal === undefined ? content.length + 1 : content.length / literal.length);
        if (growth > maxGrowth) return step.fail(`it makes a text more than ${maxGrowth} times as long`);
        if (!fused) perToken.push((token) => token.replaceAll(pattern, () => content));
        else if (literal === undefined)
          return step.fail("replacing an expression in what was put together cannot be streamed");
        else filters.push({ kind: "replace", from: literal, to: content });
        break;
      }
      case "Strip": {
        const text = step.string("content");
        const start = step.optionalInteger("start") ?? 0;
        const stop = step.optionalInteger("stop") ?? 0;
        if (!fused) {
          perToken.push((token) => stripToken(token, text, start, stop));
        } else if (stop > 0) {
          return step.fail("stripping the end of what was put together cannot be streamed");
        } else {
          filters.push({ kind: "drop-at-start", text, count: start });
        }
        break;
      }
      default:
        return step.fail(`the decoder ${quote(type)} is not supported`);
    }
  }
  return {
    bytesOf: (token) => {
      const text = perToken.reduce((current, step) => step(current), token);
      return bytesOf?.(text) ?? Buffer.from(text, "utf8");
    },
    filters,
  };
}

/** Real ones have up to four. */
const maxSteps = 32;
/** How many times as long as the tokens a text may become. */
const maxGrowth = 32;

function stripToken(token: string, text: string, start: number, stop: number): string {
  let kept = token;
  for (let i = 0; i < start && text !== "" && kept.startsWith(text); i++) kept = kept.slice(text.length);
  for (let i = 0; i < stop && text !== "" && kept.endsWith(text); i++) kept = kept.slice(0, -text.length);
  return kept;
}

/**
 * Decodes tokens as they come. Bytes of an unfinished character, and text that may become part of a replacement, wait.
 *
 * @param bytesOf the bytes of an id; none for a token that is not shown.
 */
export class DecodingStream implements TokenStream {
  readonly #bytesOf: (id: number) => Uint8Array;
  // ignoreBOM: a byte order mark is text like any other here.
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  readonly #filters: readonly TextFilter[];

  constructor(bytesOf: (id: number) => Uint8Array, filters: readonly FilterKind[]) {
    this.#bytesOf = bytesOf;
    this.#filters = filters.map((filter) =>
      filter.kind === "replace"
        ? new Replacing(filter.from, filter.to)
        : new DroppingAtStart(filter.text, filter.count),
    );
  }

  push(id: number): string {
    const text = this.#decoder.decode(this.#bytesOf(id), { stream: true });
    return this.#filters.reduce((current, filter) => filter.push(current), text);
  }

  end(): string {
    return this.#filters.reduce((current, filter) => filter.push(current) + filter.end(), this.#decoder.decode());
  }
}

interface TextFilter {
  push(text: string): string;
  end(): string;
}

/** String.replaceAll over text that comes in pieces. */
class Replacing implements TextFilter {
  readonly #from: string;
  readonly #to: string;
  #waiting = "";

  constructor(from: string, to: string) {
    this.#from = from;
    this.#to = to;
  }

  push(text: string): string {
    const parts = (this.#waiting + text).split(this.#from);
    const last = parts.pop()!;
    let numWaiting = Math.min(last.length, this.#from.length - 1);
    while (!this.#from.startsWith(last.slice(last.length - numWaiting))) numWaiting--;
    this.#waiting = last.slice(last.length - numWaiting);
    return [...parts, last.slice(0, last.length - numWaiting)].join(this.#to);
  }

  end(): string {
    const rest = this.#waiting;
    this.#waiting = "";
    return rest;
  }
}

class DroppingAtStart implements TextFilter {
  readonly #text: string;
  #numLeft: number;
  #waiting = "";

  constructor(text: string, count: number) {
    this.#text = text;
    this.#numLeft = text === "" ? 0 : count;
  }

  push(text: string): string {
    if (this.#numLeft === 0) return text;
    let all = this.#waiting + text;
    while (this.#numLeft > 0 && all.startsWith(this.#text)) {
      all = all.slice(this.#text.length);
      this.#numLeft--;
    }
    if (this.#numLeft > 0 && this.#text.startsWith(all)) {
      this.#waiting = all;
      return "";
    }
    this.#numLeft = 0;
    this.#waiting = "";
    return all;
  }

  end(): string {
    const rest = this.#waiting;
    this.#waiting = "";
    return rest;
  }
}
