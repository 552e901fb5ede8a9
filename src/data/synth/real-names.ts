import type { RagDocument } from "../../blocks/block.js";
import { holdsExampleName } from "./example-names.js";
import { OCCUPATIONS } from "./names.js";

/** Names that passages about people and works are titled by, and what those people are. */
export interface RealNames {
  readonly men: readonly string[];
  readonly women: readonly string[];
  readonly surnames: readonly string[];
  readonly titles: readonly string[];
  /** As often as they are told: "actress" tells a mother from a father, most others do not. */
  readonly menOccupations: readonly string[];
  readonly womenOccupations: readonly string[];
}

export const NO_REAL_NAMES: RealNames = {
  men: [],
  women: [],
  surnames: [],
  titles: [],
  menOccupations: [],
  womenOccupations: [],
};

/** Passages tell what they are about in their beginning. */
const LENGTH_OF_BEGINNING = 200;
const PERSON = /^[^.]*\([^)]*\b(?:born|died|\d{4})\b[^)]*\).*\b(?:is|was) an? /su;
const WORK = /\b(?:is|was) an? [^.]*?\b(?:film|album|song|novel|book|series|band)\b/u;
/** What is told of people who make works. */
const MAKER =
  /\b(?:born|died|actor|actress|director|producer|singer|songwriter|musician|writer|composer|editor|who)\b/u;
const MAN = /\b(?:he|his|son|brother|husband|actor)\b/iu;
const WOMAN = /\b(?:she|her|daughter|sister|wife|actress)\b/iu;
/** Two or three words; particles and numbers ("Henry II") are of no family's name. */
const FULL_NAME = /^\p{Lu}\p{Ll}[\p{L}'’-]*(?: \p{Lu}\p{Ll}[\p{L}'’-]*){1,2}$/u;
/** A question names titles between commas and full stops, and two with "or" between them. */
const TITLE = /^(?!.* or )(?=.*\p{L}{2})[\p{L}\p{N}' -]{2,40}$/u;

/**
 * Takes people's names and works' titles from the titles of passages. The parts of people's names are kept apart, so
 * that people are made up of them. Whose passage does not tell a man from a woman is left out, for of two parents a given
 * name may be all that tells which is the mother; so are names of the reference's example.
 */
export function realNames(passages: readonly RagDocument[]): RealNames {
  const men = new Set<string>();
  const women = new Set<string>();
  const surnames = new Set<string>();
  const menOccupations: string[] = [];
  const womenOccupations: string[] = [];
  const titles = new Set<string>();
  for (const { title, text } of passages) {
    const name = title.replace(/ \([^)]*\)$/u, "");
    if (holdsExampleName(name)) continue;
    const beginning = text.slice(0, LENGTH_OF_BEGINNING);
    if (WORK.test(beginning) && !MAKER.test(beginning)) {
      if (TITLE.test(name)) titles.add(name);
    } else if (PERSON.test(beginning) && FULL_NAME.test(name)) {
      const words = name.split(" ");
      const isMan = MAN.test(text);
      if (isMan === WOMAN.test(text)) continue;
      (isMan ? men : women).add(words[0] as string);
      const told = OCCUPATIONS.find(({ man, woman }) => beginning.includes(` ${isMan ? man : woman}`));
      if (told !== undefined) (isMan ? menOccupations : womenOccupations).push(isMan ? told.man : told.woman);
      surnames.add(words.at(-1) as string);
    }
  }
  const ofOne = (names: Set<string>, others: Set<string>) => [...names].filter((name) => !others.has(name));
  return {
    men: ofOne(men, women),
    women: ofOne(women, men),
    surnames: [...surnames],
    titles: [...titles],
    menOccupations,
    womenOccupations,
  };
}
