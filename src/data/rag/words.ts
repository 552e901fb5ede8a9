/**
 * Makes a splitter of texts into words for search: Unicode's word borders (UAX 29, with the dictionaries of the ICU that Node
 * carries for scripts that have no spaces), compatibility forms made one (NFKC), lower case. Neither stems nor stop words.
 *
 * @example makeWordSplitter()("The Café's 3.5 km") is ["the", "café's", "3.5", "km"]
 */
export function makeWordSplitter(): (text: string) => string[] {
  const segmenter = new Intl.Segmenter("und", { granularity: "word" });
  return (text) => {
    const words: string[] = [];
    // No word goes over a space, so the segmenter, twenty times slower, is asked for the stretches that need it alone.
    for (const stretch of text
      .normalize("NFKC")
      .toLowerCase()
      .split(/[ \t\r\n]+/)) {
      if (!unclear.test(stretch)) words.push(...(stretch.match(plainWord) ?? []));
      else for (const { segment, isWordLike } of segmenter.segment(stretch)) if (isWordLike) words.push(segment);
    }
    return words;
  };
}

/** Beyond ASCII, or where releases of ICU differ: the underscore, and a colon between letters. */
const unclear = /[^\p{ASCII}]|_|[a-z]:[a-z]/u;

/** UAX 29 for the rest: letters and digits, ' and . between letters, ' . , ; between digits. */
const plainWord = /[a-z0-9]+(?:(?:(?<=[a-z])['.](?=[a-z])|(?<=[0-9])['.,;](?=[0-9]))[a-z0-9]+)*/g;
