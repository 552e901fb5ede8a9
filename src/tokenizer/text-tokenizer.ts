import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { show } from "../files/options.js";
import { type AddedToken, AddedTokenFinder } from "./added-tokens.js";
import type { BpeModel } from "./bpe-model.js";
import type { Normalize } from "./normalizer.js";
import type { SplitStep } from "./pattern.js";
import { splitIntoWords } from "./pre-tokenizer.js";
import { runToEnd, type Steps } from "./steps.js";
import { DecodingStream, type TokenDecoder } from "./token-decoder.js";
import type { Tokenizer, TokenStream, TrustedText } from "./tokenizer.js";

/** What was done since the last step ended, in UTF-16 units of text. */
interface Work {
  numUnits: number;
}

/** A few milliseconds' worth. */
const unitsOfStep = 4096;
/** A word or token costs something however short it is. */
const unitsOfWord = 8;

function isStepDone(work: Work, numUnits: number): boolean {
  work.numUnits += numUnits + unitsOfWord;
  if (work.numUnits < unitsOfStep) return false;
  work.numUnits = 0;
  return true;
}

function* pushToken(id: number, ids: number[], work: Work): Steps<void> {
  ids.push(id);
  if (isStepDone(work, 0)) yield;
}

/** What a tokenizer is made of, whichever file it was read from. */
export interface TokenizerParts {
  /** The texts of the ids in the vocabulary; undefined where an id has none. */
  readonly tokens: readonly (string | undefined)[];
  readonly addedTokens: readonly AddedToken[];
  readonly normalize: Normalize;
  readonly splitSteps: readonly SplitStep[];
  readonly model: BpeModel;
  readonly decoder: TokenDecoder;
  readonly addsDummySpace: boolean;
  readonly bosTokenId: number | undefined;
  readonly endTokenIds: ReadonlySet<number>;
  readonly specialTokenIds: ReadonlySet<number>;
  readonly chatTemplate: string | undefined;
  readonly templateTokens: Tokenizer["templateTokens"];
  readonly digest: string;
  readonly warnings: readonly string[];
}

/** The tokenizer of a model: added tokens cut the text, the rest is normalized, cut into words, and encoded word by word. */
export class TextTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  readonly endTokenIds: ReadonlySet<number>;
  readonly specialTokenIds: ReadonlySet<number>;
  readonly addsDummySpace: boolean;
  readonly chatTemplate: string | undefined;
  readonly templateTokens: Tokenizer["templateTokens"];
  readonly digest: string;
  readonly warnings: readonly string[];
  readonly #written: AddedTokenFinder;
  readonly #normalized: AddedTokenFinder | undefined;
  readonly #addedContents: ReadonlyMap<number, string>;
  readonly #bytes: (Uint8Array | undefined)[] = [];

  constructor(private readonly parts: TokenizerParts) {
    this.vocabSize = parts.tokens.length;
    this.bosTokenId = parts.bosTokenId;
    this.endTokenIds = parts.endTokenIds;
    this.specialTokenIds = parts.specialTokenIds;
    this.addsDummySpace = parts.addsDummySpace;
    this.chatTemplate = parts.chatTemplate;
    this.templateTokens = parts.templateTokens;
    this.digest = parts.digest;
    this.warnings = parts.warnings;
    const inNormalized = (token: AddedToken) => token.normalized && !token.control;
    const normalized = parts.addedTokens.filter(inNormalized);
    this.#written = new AddedTokenFinder(parts.addedTokens.filter((token) => !inNormalized(token)));
    this.#normalized =
      normalized.length > 0 ? new AddedTokenFinder(normalized, (token) => parts.normalize(token.content)) : undefined;
    this.#addedContents = new Map(parts.addedTokens.map((token) => [token.id, token.content]));
  }

  encode(text: string, trusted: TrustedText): number[] {
    if (trusted !== "all" && trusted !== "none" && !Array.isArray(trusted)) {
      throw new InputTypeError(
        `Cannot tokenize the text: trusted is ${show(trusted)}, wanted "all", "none" or runs of the text`,
      );
    }
    const ids: number[] = [];
    runToEnd(this.encodeInSteps(text, trusted, ids));
    return ids;
  }

  *encodeInSteps(text: string, trusted: TrustedText, ids: number[]): Steps<void> {
    if (typeof text !== "string")
      throw new InputTypeError(`Cannot tokenize the text: it is ${show(text)}, wanted text`);
    // With flag u, only a surrogate without its partner is one.
    const lone = text.isWellFormed() ? -1 : text.search(/\p{Surrogate}/u);
    if (lone !== -1)
      throw new InputRangeError(`Cannot tokenize the text: UTF-16 unit ${lone} is a lone surrogate, not a character`);
    const work = { numUnits: 0 };
    for (const part of this.#written.split(text, trusted)) {
      if (part.kind === "token") yield* pushToken(part.id, ids, work);
      else yield* this.#encodePlain(text.slice(part.start, part.end), part.start === 0, ids, work);
    }
  }

  *#encodePlain(text: string, atStart: boolean, ids: number[], work: Work): Steps<void> {
    const normalized = this.parts.normalize(text);
    if (this.#normalized === undefined) {
      yield* this.#encodeWords(normalized, atStart, ids, work);
      return;
    }
    for (const part of this.#normalized.split(normalized, "none")) {
      if (part.kind === "token") yield* pushToken(part.id, ids, work);
      else yield* this.#encodeWords(normalized.slice(part.start, part.end), atStart && part.start === 0, ids, work);
    }
  }

  *#encodeWords(text: string, atStart: boolean, ids: number[], work: Work): Steps<void> {
    const { model, splitSteps } = this.parts;
    for (const word of splitIntoWords(text, atStart, splitSteps)) {
      if (word !== "" && !model.encodeKnown(word, ids)) yield* model.encode(word, ids);
      // The search for a word has taken some milliseconds where it gave none.
      if (word === "" || isStepDone(work, word.length)) yield;
    }
  }

  decode(ids: readonly number[]): string {
    if (!Array.isArray(ids)) throw new InputTypeError(`Cannot decode tokens: they are ${show(ids)}, wanted an array`);
    const stream = this.stream();
    const texts = Array.from(ids, (id) => stream.push(id));
    return texts.join("") + stream.end();
  }

  tokenBytes(id: number): Uint8Array {
    if (this.specialTokenIds.has(id)) return Buffer.from(this.#addedContents.get(id) ?? this.parts.tokens[id] ?? "");
    const { filters } = this.parts.decoder;
    // What is dropped at the start of an answer belongs to the token all the same.
    return filters.reduce(
      (bytes, filter) => (filter.kind === "replace" ? replaceBytes(bytes, filter.from, filter.to) : bytes),
      this.#bytesOf(id),
    );
  }

  stream({ goesOn } = { goesOn: false }): TokenStream {
    const { filters } = this.parts.decoder;
    return new DecodingStream(
      (id) => this.#bytesOf(id),
      goesOn ? filters.filter((filter) => filter.kind !== "drop-at-start") : filters,
    );
  }

  #bytesOf(id: number): Uint8Array {
    if (!Number.isInteger(id) || id < 0 || id >= this.vocabSize) {
      throw new InputRangeError(`Cannot decode token ${show(id)}: the vocabulary has ids 0 to ${this.vocabSize - 1}`);
    }
    const known = this.#bytes[id];
    if (known !== undefined) return known;
    const bytes = this.#decodeToken(id);
    this.#bytes[id] = bytes;
    return bytes;
  }

  #decodeToken(id: number): Uint8Array {
    if (this.specialTokenIds.has(id)) return new Uint8Array();
    const added = this.#addedContents.get(id);
    if (added !== undefined) return Buffer.from(added, "utf8");
    const token = this.parts.tokens[id];
    return token === undefined ? new Uint8Array() : this.parts.decoder.bytesOf(token);
  }
}

/** String.replaceAll over UTF-8, whole characters or not: no character's bytes occur inside another's. */
function replaceBytes(bytes: Uint8Array, from: string, to: string): Uint8Array {
  const latin1 = (part: Uint8Array) => Buffer.from(part).toString("latin1");
  const replaced = latin1(bytes).replaceAll(latin1(Buffer.from(from)), () => latin1(Buffer.from(to)));
  return Buffer.from(replaced, "latin1");
}
