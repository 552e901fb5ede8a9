/**
 * Makes a splitter of texts into words for search: Unicode's word borders (UAX 29, with the dictionaries of the ICU that Node
 * carries for scripts that have no spaces), compatibility forms made one (NFKC), lower case. Neither stems nor stop words.
 *
 * @example makeWordSplitter()("The Café's 3.5 km") is ["the", "café's", "3.5", "km"]
 */
export function makeWordSplitter(): (text: string) => string[] {
  const segmenter = new Intl.Segmenter("und", { granularity: "word" });
  /** Of stretches that were met lately. */
  const known = new Map<string, readonly string[]>();
  const wordsOf = (stretch: string): readonly string[] => {
    if (!unclear.test(stretch)) return stretch.match(plainWord) ?? [];
    return [...segmenter.segment(stretch)].flatMap(({ segment, isWordLike }) => (isWordLike ? [segment] : []));
  };
  return (text) => {
    const words: string[] = [];
    // No word goes over a space, and texts repeat what stands between spaces: each is looked at once.
    for (const stretch of text
      .normalize("NFKC")
      .toLowerCase()
      .split(/[ \t\r\n]+/)) {
      let found = known.get(stretch);
      if (found === undefined) {
        found = wordsOf(stretch);
        if (stretch.length <= maxKnownLength) {
          if (known.size === maxKnown) known.clear();
          known.set(stretch, found);
        }
      }
      for (const word of found) words.push(word);
    }
    return words;
  };
}

/** Some 10 MB. */
const [maxKnown, maxKnownLength] = [50_000, 40];

/** Beyond ASCII, or where releases of ICU differ: the underscore, and a colon between letters. */
const unclear = /[^\p{ASCII}]|_|[a-z]:[a-z]/u;

/** UAX 29 for the rest: letters and digits, ' and . between letters, ' . , ; between digits. */
const plainWord = /[a-z0-9]+(?:(?:(?<=[a-z])['.](?=[a-z])|(?<=[0-9])['.,;](?=[0-9]))[a-z0-9]+)*/g;
