/** What ends a turn where a text still shows it: chat templates' end tokens. */
const endOfTurn = /<\|im_end\|>|<\|eot_id\|>|<\|end_of_text\|>|<\|endoftext\|>|<\/s>/;

/** Python's string.punctuation. */
const asciiPunctuation = /[!-/:-@[-`{-~]/g;
/** An article that is a word of its own; what a word is made of as in Unicode's TR18. */
const article =
  /(?<![\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d])(?:a|an|the)(?![\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u200c\u200d])/gu;
/** What Python's str.split() splits at. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: Python takes the separators 1c to 1f for white space
const whiteSpace = /[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g;

/** A generated text up to its first end-of-turn token. */
export function cutAtEndOfTurn(generated: string): string {
  const end = generated.search(endOfTurn);
  return end < 0 ? generated : generated.slice(0, end);
}

/**
 * A text as answers are compared: in lower case, without ASCII punctuation, without the words a, an and the, its words one
 * space apart. Punctuation goes without a space in its place, so "3.5" is "35".
 *
 * @see SQuAD's evaluation, whose normalization the paper's scoring takes over.
 * @example normalizeAnswer("The U.S., an island?") is "us island"
 */
export function normalizeAnswer(text: string): string {
  return text.toLowerCase().replace(asciiPunctuation, "").replace(article, " ").replace(whiteSpace, " ").trim();
}

/** Words whose period ends no sentence. */
const abbreviations = new Set(
  "mr mrs ms dr st sr jr prof rev gen col capt lt sgt hon gov sen rep mt ft vs etc co inc ltd bros ca cf vol op ed eds".split(
    " ",
  ),
);

/** A sentence's end, or a line's; marks of scripts that set no space after them too. */
const sentenceEnd = /([.!?…]+)["'”’»)\]]*\s+|[。！？｡]+[」』”’）]*\s*|[\r\n\u2028\u2029]+/gu;

/**
 * The last sentence of a text: what a chain of sentences comes to. A period after an initial ("George W. Bush"), after an
 * abbreviation ("Dr. No") or before a small letter ends no sentence; a line's end does.
 *
 * A title with a mark inside ("Help! My Title") cannot be told from two sentences.
 *
 * @example lastSentence("The director is Ann Lee. Her mother is Eve Lee.") is "Her mother is Eve Lee."
 */
export function lastSentence(text: string): string {
  const whole = text.trim();
  let start = 0;
  for (const match of whole.matchAll(sentenceEnd)) {
    const [all, mark] = match;
    const next = match.index + all.length;
    if (next === whole.length) break;
    if (mark !== undefined && !/[\r\n]/.test(all)) {
      if (/^\p{Ll}/u.test(whole.slice(next, next + 2))) continue;
      const before = whole.slice(start, match.index);
      if (mark === "." && endsInAbbreviation(before, whole.slice(next))) continue;
    }
    start = next;
  }
  return whole.slice(start);
}

function endsInAbbreviation(before: string, after: string): boolean {
  const word = /[\p{L}\p{M}.]+$/u.exec(before.slice(-40))?.[0].toLowerCase() ?? "";
  // "W", and "d.c" of "D.C."
  if (/^\p{L}\p{M}*(\.\p{L}\p{M}*)*$/u.test(word)) return true;
  return abbreviations.has(word) || (word === "no" && /^\d/.test(after));
}
