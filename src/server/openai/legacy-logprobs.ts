import { z } from "zod";
import { countCharacters } from "../../blocks/segment.js";
import type { SpelledToken, Token } from "../../engine/results.js";
import { finite } from "./chat-answer.js";

/** The log-probabilities of `/v1/completions`: lists that go together. */
export const legacyLogprobsSchema = z.object({
  tokens: z.array(z.string()).describe('A token that is no whole characters is spelled as "bytes:\\xf0\\x9f".'),
  token_logprobs: z.array(z.number().nullable()).describe("Null for a prompt's first token: nothing is before it."),
  top_logprobs: z
    .array(z.record(z.string(), z.number()).nullable())
    .nullable()
    .describe("The likeliest tokens and the token itself; null where none were asked for."),
  text_offset: z.array(z.int().min(0)).describe("Where each token starts in `text`, in code points."),
});

export type LegacyLogprobs = z.output<typeof legacyLogprobsSchema>;

/** Makes the lists of one answer, all at once or as its tokens come. */
export class LegacyLogprobsWriter {
  #decoder = new TextDecoder();
  /** Code points of the text before the next token. */
  #offset = 0;
  #hasAnswer = false;

  constructor(private readonly numTop: number) {}

  /**
   * The prompt's tokens, where it is echoed.
   *
   * @param text the prompt as `text` has it. Tokens that the server put before it, such as BOS, start where it does.
   */
  echo(tokens: readonly SpelledToken[], text: string): LegacyLogprobs {
    const spelled = spellTokens(tokens);
    if (spelled.endsWith(text)) this.#offset = countCharacters(text) - countCharacters(spelled);
    const end = countCharacters(text);
    const lists = this.#lists(tokens, end);
    this.#decoder = new TextDecoder();
    this.#offset = end;
    return lists;
  }

  /** @param text what the answer's first tokens gave: a tokenizer's dummy space is in the token, not in the answer. */
  answer(tokens: readonly SpelledToken[], text: string): LegacyLogprobs {
    const first = tokens[0];
    const isDropped = !this.#hasAnswer && first?.text.startsWith(" ") === true && text !== "" && !text.startsWith(" ");
    this.#hasAnswer ||= first !== undefined;
    if (!isDropped) return this.#lists(tokens, Number.POSITIVE_INFINITY);
    const start = this.#offset;
    this.#offset -= 1;
    const lists = this.#lists(tokens, Number.POSITIVE_INFINITY);
    return { ...lists, text_offset: lists.text_offset.map((offset) => Math.max(offset, start)) };
  }

  #lists(tokens: readonly SpelledToken[], end: number): LegacyLogprobs {
    const offsets = tokens.map(({ bytes }) => {
      const offset = Math.min(Math.max(this.#offset, 0), end);
      this.#offset += countCharacters(this.#decoder.decode(Uint8Array.from(bytes), { stream: true }));
      return offset;
    });
    return {
      tokens: tokens.map(spell),
      token_logprobs: tokens.map(({ logprob }) => (logprob === undefined ? null : finite(logprob))),
      top_logprobs: this.numTop === 0 ? null : tokens.map(topOf),
      text_offset: offsets,
    };
  }
}

/** Puts lists together, of one answer in order. */
export function joinLegacyLogprobs(parts: readonly LegacyLogprobs[]): LegacyLogprobs {
  return {
    tokens: parts.flatMap((part) => part.tokens),
    token_logprobs: parts.flatMap((part) => part.token_logprobs),
    top_logprobs: parts.every((part) => part.top_logprobs === null)
      ? null
      : parts.flatMap((part) => part.top_logprobs ?? []),
    text_offset: parts.flatMap((part) => part.text_offset),
  };
}

/** The text of tokens, control tokens included. */
export function spellTokens(tokens: readonly Token[]): string {
  return new TextDecoder().decode(Uint8Array.from(tokens.flatMap((token) => token.bytes)));
}

function topOf(token: SpelledToken): Record<string, number> | null {
  if (token.logprob === undefined) return null;
  const entries = new Map<string, number>();
  for (const { logprob, ...other } of [...token.top, { ...token, logprob: token.logprob }]) {
    const name = spell(other);
    // Of two tokens that spell the same, the likelier comes first.
    if (!entries.has(name)) entries.set(name, finite(logprob));
  }
  return Object.fromEntries(entries);
}

/** @example a token of the byte 0xF0 is "bytes:\xf0" */
function spell({ text, bytes }: Token): string {
  const isWhole = Buffer.from(text).equals(Uint8Array.from(bytes));
  return isWhole ? text : `bytes:${bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;
}
