import type { PairMerges } from "./pair-merges.js";
import type { Steps } from "./steps.js";

/** How a word becomes its first symbols, before any merge. */
export type FirstSymbols =
  /** Byte-level BPE: entry b is the id of byte b's character, -1 where the vocabulary has none. */
  | { readonly kind: "bytes"; readonly ids: Int32Array; readonly alphabet: readonly string[] }
  /** Characters; one that is no symbol becomes its UTF-8 bytes where all of them have ids. */
  | {
      readonly kind: "characters";
      readonly ids: ReadonlyMap<string, number>;
      readonly byteIds: Int32Array | undefined;
    };

export interface BpeOptions {
  readonly first: FirstSymbols;
  readonly merges: PairMerges;
  /** For what is no symbol and has no bytes; undefined: it is left out. */
  readonly unknownId: number | undefined;
  /** Neighbouring unknown characters become one unknown token. */
  readonly fuseUnknown: boolean;
  /** Words that are a token as they stand, whatever the merges say (`ignore_merges`), by their text in the vocabulary. */
  readonly wholeWords: ReadonlyMap<string, number> | undefined;
  /** Symbols that exist only between merges and are no tokens: the ids to put for one that is left at the end. */
  readonly expansions: ReadonlyMap<number, readonly number[]>;
}

/** Byte-pair encoding of one word at a time; SPM too, whose merges are derived from its scores. Remembers the words it met. */
export class BpeModel {
  /** In UTF-16 units of the vocabulary's writing, which never has fewer than the text. */
  #longestWholeWord = 0;
  readonly #known = new Map<string, readonly number[]>();

  constructor(private readonly options: BpeOptions) {
    for (const word of options.wholeWords?.keys() ?? []) {
      this.#longestWholeWord = Math.max(this.#longestWholeWord, word.length);
    }
  }

  /** Appends the ids of a word that is remembered. @returns whether it is. */
  encodeKnown(word: string, ids: number[]): boolean {
    const found = this.#known.get(word);
    if (found === undefined) return false;
    for (const id of found) ids.push(id);
    return true;
  }

  /** Appends the ids of any word. It yields every few milliseconds, as a word may be as long as a text. */
  *encode(word: string, ids: number[]): Steps<void> {
    const found = yield* this.#encodeNew(word);
    if (word.length <= maxRememberedLength) {
      if (this.#known.size >= maxRememberedWords) this.#known.clear();
      // A copy: a word cut from a text keeps the whole text in memory.
      this.#known.set(Buffer.from(word).toString(), found);
    }
    for (const [i, id] of found.entries()) {
      ids.push(id);
      if (i % stepsBetweenYields === stepsBetweenYields - 1) yield;
    }
  }

  *#encodeNew(word: string): Steps<number[]> {
    const { first, wholeWords, merges, expansions } = this.options;
    const bytes = first.kind === "bytes" ? Buffer.from(word, "utf8") : undefined;
    if (wholeWords !== undefined && word.length <= this.#longestWholeWord) {
      const written = first.kind === "bytes" ? Array.from(bytes!, (byte) => first.alphabet[byte]).join("") : word;
      const id = wholeWords.get(written);
      if (id !== undefined) return [id];
    }
    const symbols = first.kind === "bytes" ? yield* this.#ofBytes(bytes!, first.ids) : yield* this.#ofCharacters(word);
    const merged = yield* merges.apply(symbols);
    return expansions.size === 0 ? merged : merged.flatMap((id) => expansions.get(id) ?? id);
  }

  *#ofBytes(bytes: Uint8Array, idsOfBytes: Int32Array): Steps<number[]> {
    const symbols: number[] = [];
    for (let i = 0; i < bytes.length; i++) {
      const id = idsOfBytes[bytes[i]!]!;
      if (id >= 0) symbols.push(id);
      else this.#pushUnknown(symbols);
      if (i % stepsBetweenYields === stepsBetweenYields - 1) yield;
    }
    return symbols;
  }

  *#ofCharacters(word: string): Steps<number[]> {
    const first = this.options.first as Extract<FirstSymbols, { kind: "characters" }>;
    const symbols: number[] = [];
    let numSeen = 0;
    for (const character of word) {
      if (++numSeen % stepsBetweenYields === 0) yield;
      const id = first.ids.get(character);
      if (id !== undefined) {
        symbols.push(id);
        continue;
      }
      const byteIds = first.byteIds && Array.from(Buffer.from(character, "utf8"), (byte) => first.byteIds![byte]!);
      if (byteIds?.every((byteId) => byteId >= 0)) symbols.push(...byteIds);
      else this.#pushUnknown(symbols);
    }
    return symbols;
  }

  #pushUnknown(symbols: number[]): void {
    const { unknownId, fuseUnknown } = this.options;
    if (unknownId === undefined || (fuseUnknown && symbols.at(-1) === unknownId)) return;
    symbols.push(unknownId);
  }
}

const stepsBetweenYields = 8192;
const maxRememberedWords = 50_000;
/** In UTF-16 units. No vocabulary's words are longer. */
const maxRememberedLength = 256;
