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
    for (const { segment, isWordLike } of segmenter.segment(text.normalize("NFKC").toLowerCase())) {
      if (isWordLike) words.push(segment);
    }
    return words;
  };
}
