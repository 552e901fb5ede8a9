import type { RagDocument } from "../../blocks/block.js";
import { Bm25 } from "./bm25.js";
import type { RagRow } from "./rag-row.js";

/** The scores of each row's documents, in their order; higher is better. */
export type PassageScorer = (rows: readonly RagRow[]) => Promise<readonly (readonly number[])[]>;

/** Turns texts into vectors whose dot products say how well they fit. */
export interface TextEmbedder {
  /** One vector a text, in order. @throws Error if the model fails or is gone. */
  embed(texts: readonly string[]): Promise<readonly Float32Array[]>;
}

/** What of a document is scored. */
function scoredText(document: string | RagDocument, withTitle: boolean): string {
  if (typeof document === "string") return document;
  return withTitle ? `${document.title} ${document.text}` : document.text;
}

/**
 * Scores by BM25. How rare a word is counts over the passages of all rows: a passage that stands in two rows counts twice.
 *
 * @param rows read to their end before anything is scored.
 */
export async function bm25Scorer(rows: AsyncIterable<RagRow>, withTitle: boolean): Promise<PassageScorer> {
  const split = makeWordSplitter();
  const wordsOf = (document: string | RagDocument) => split(scoredText(document, withTitle));
  const bm25 = new Bm25();
  for await (const { documents } of rows) for (const document of documents) bm25.add(wordsOf(document));
  return async (scored) =>
    scored.map(({ question, documents }) => bm25.scores(split(question), documents.map(wordsOf)));
}

/** Scores by the dot product of question and passage. A text that stands in several rows is embedded once. */
export function denseScorer(embedder: TextEmbedder, withTitle: boolean): PassageScorer {
  return async (rows) => {
    const places = new Map<string, number>();
    const placeOf = (text: string): number => {
      const place = places.get(text) ?? places.size;
      places.set(text, place);
      return place;
    };
    const wanted = rows.map(({ question, documents }) => ({
      question: placeOf(question),
      documents: documents.map((document) => placeOf(scoredText(document, withTitle))),
    }));
    const vectors = await embedder.embed([...places.keys()]);
    if (vectors.length !== places.size) {
      throw new Error(`Cannot score passages: ${places.size} texts gave ${vectors.length} embeddings`);
    }
    const vectorOf = (place: number) => vectors[place] as Float32Array;
    return wanted.map(({ question, documents }) => documents.map((place) => dot(vectorOf(question), vectorOf(place))));
  };
}

/** @throws Error for vectors of different lengths. */
function dot(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) {
    throw new Error(`Cannot score a passage: its embedding has ${b.length} numbers, the question's ${a.length}`);
  }
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] as number) * (b[i] as number);
  return sum;
}

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
