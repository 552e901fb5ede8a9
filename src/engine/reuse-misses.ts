import type { Match } from "../kv/block-store.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { TokenizedPrompt } from "./prompt.js";
import type { PromptPart } from "./prompt-parts.js";
import type { ReuseMiss } from "./results.js";

/** Tokens of text that a miss shows, before and after the first that differs. */
const numShown = 12;
/** A block of at least so many tokens that has as many in common with a stored one, or half of its own, was expected to be there. */
const numExpected = 8;
/** Texts that are the same over so many characters differ by what is left out there: white space, or how it became tokens. */
const numCompared = 8;

export type Nearest = Pick<Match, "tokenIds" | "numShared">;

/** Finds out why parts of a prompt were computed though something like them is stored. */
export class ReuseMisses {
  readonly found: ReuseMiss[] = [];
  #promptIds: Int32Array | undefined;

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly prompt: TokenizedPrompt,
  ) {}

  /** A block that had to be encoded. @param match the block that began most like it before. */
  ofBlock(part: PromptPart, match: Nearest | undefined): void {
    const { length } = part.tokenIds;
    if (match === undefined || length < numExpected || match.numShared < Math.min(numExpected, length / 2)) return;
    this.#add("block", part, match.tokenIds, match.numShared);
  }

  /** A page from which on global text is computed. @param match the page that begins most like it. */
  ofPage(part: PromptPart, match: Nearest | undefined): void {
    const numShared = match?.numShared ?? 0;
    const kind = this.prompt.isConversation ? "conversation" : "prefix";
    const stored = match?.tokenIds ?? new Int32Array();
    // All was found, but its last token is computed always.
    if (numShared === part.tokenIds.length) return;
    // All that is stored was used: what follows is new.
    const isNew = stored.length === numShared;
    if (isNew && (numShared > 0 || part.place === 0 || !this.prompt.isConversation)) return;
    // A question of its own.
    const rest = this.#text(this.#ids.subarray(part.place + numShared));
    if (rest.length <= this.prompt.finalLength) return;
    this.#add(kind, part, stored, numShared);
  }

  get #ids(): Int32Array {
    this.#promptIds ??= Int32Array.from(this.prompt.spans.flatMap((span) => [...span.tokenIds]));
    return this.#promptIds;
  }

  /** With control tokens, which are the template's. */
  #text(ids: Int32Array): string {
    const known = [...ids].filter((id) => id < this.tokenizer.vocabSize);
    return Buffer.concat(known.map((id) => this.tokenizer.tokenBytes(id))).toString();
  }

  #add(
    kind: ReuseMiss["kind"],
    { tokenIds, place, span: { passage } }: PromptPart,
    stored: Int32Array,
    at: number,
  ): void {
    const texts = {
      before: this.#text(this.#ids.subarray(Math.max(0, place + at - numShown), place + at)),
      asked: this.#text(tokenIds.subarray(at, at + numShown)),
      stored: this.#text(stored.subarray(at, at + numShown)),
    };
    const reason = reasonOf(texts, kind === "block", this.tokenizer.specialTokenIds, tokenIds[at], stored[at]);
    this.found.push({ kind, ...(passage && { passage }), token: place + at, ...texts, reason });
  }
}

function reasonOf(
  { asked, stored }: Pick<ReuseMiss, "asked" | "stored">,
  isBlock: boolean,
  special: ReadonlySet<number>,
  askedId: number | undefined,
  storedId: number | undefined,
): string {
  const [bareAsked, bareStored] = [asked, stored].map((text) => text.replace(/\s+/g, "")) as [string, string];
  if (storedId === undefined && bareAsked !== "") {
    if (isBlock) return "the text goes on here, and the stored one ends";
    return "nothing is stored that saw exactly what stands before it: documents or text there changed or moved, or it was never kept (keep_prefixes), evicted, or another key's";
  }
  const isSpecial = (id: number | undefined) => id !== undefined && special.has(id);
  if (bareStored !== "" && (askedId === undefined || (isSpecial(askedId) && !isSpecial(storedId)))) {
    return "the text ends here, and the stored one goes on";
  }
  if (bareAsked === "" || bareStored === "")
    return "white space stands here in one of the two alone, for instance a trailing space";
  const isSame = (one: string, other: string) => {
    const length = Math.min(one.length, other.length, numCompared);
    return one.slice(0, length) === other.slice(0, length);
  };
  if (isSame(asked, stored)) return "the same text is other tokens: an answer is read back otherwise than it was drawn";
  if (isSame(bareAsked, bareStored)) return "only white space differs";
  if (isSpecial(askedId) || isSpecial(storedId)) {
    return "the chat template writes this place otherwise, for instance an earlier answer or a system text of its own";
  }
  if (isBlock)
    return "the text differs from here on: what changes with each request, such as a date, belongs outside of it";
  return "the text differs from here on: system text, documents in their order and earlier turns as they were belong before what changes, such as a date";
}
