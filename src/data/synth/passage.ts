import type { RagDocument } from "../../blocks/block.js";
import type { Random } from "../random.js";
import { LABELS, PUBLISHERS, STUDIOS } from "./names.js";
import { type Entity, type Person, type Town, type Work, type World, type WrittenDate, writeDate } from "./world.js";

/** What a passage may state of its subject, and a question may ask. */
export type Relation =
  | "director"
  | "author"
  | "performer"
  | "founder"
  | "year"
  | "mother"
  | "father"
  | "spouse"
  | "date of birth"
  | "place of birth"
  | "date of death"
  | "place of death"
  | "country"
  | "river";

/** What a relation leads to, as its passage writes it. */
export interface FactValue {
  readonly text: string;
  /** Other ways to write the same. */
  readonly also: readonly string[];
  /** Undefined for dates, years, rivers and the like. */
  readonly entity?: Entity | undefined;
  /** Set for dates and years. */
  readonly date?: WrittenDate | undefined;
}

export interface Fact {
  readonly subject: Entity;
  readonly relation: Relation;
  readonly value: FactValue;
}

/** A passage and what it states, all of it to be found in its text. */
export interface Passage extends RagDocument {
  readonly facts: readonly Fact[];
}

/** What a person's passage may tell beside dates. */
export interface PersonTies {
  readonly mother?: Person | undefined;
  readonly father?: Person | undefined;
  readonly spouse?: Person | undefined;
  /** Their other parent is told elsewhere, if at all. */
  readonly child?: Person | undefined;
  readonly birthPlace?: Town | string | undefined;
  readonly deathPlace?: string | undefined;
}

export const CREATOR = {
  film: "director",
  book: "author",
  song: "performer",
  band: "founder",
} as const satisfies Record<Work["kind"], Relation>;

const ofPerson = (person: Person): FactValue => ({ text: person.name, also: [], entity: person });
const ofDate = (date: WrittenDate): FactValue => {
  const other = date.style === "day first" ? "month first" : "day first";
  return { text: writeDate(date), also: [writeDate({ ...date, style: other })], date };
};
const ofYear = (year: number): FactValue => {
  return { text: String(year), also: [], date: { year, month: 1, day: 1, style: "day first" } };
};
const nameOf = (place: Town | string): string => (typeof place === "string" ? place : place.name);

/** The passage of a person: dates and nationality first, then ties and what matters to nobody, in random order. */
export function personPassage(world: World, person: Person, ties: PersonTies): Passage {
  const { random } = world;
  const facts: Fact[] = [];
  const state = (subject: Entity, relation: Relation, value: FactValue): void => {
    facts.push({ subject, relation, value });
  };
  const is = person.died ? "was" : "is";
  const [he, his, He, His] = person.isWoman ? ["she", "her", "She", "Her"] : ["he", "his", "He", "His"];
  const son = person.isWoman ? "daughter" : "son";
  const wife = person.isWoman ? "husband" : "wife";
  const article = (word: string): string =>
    `${/^[aeiou]/i.test(word) && !/^(eu|uni|ukr)/i.test(word) ? "an" : "a"} ${word}`;
  const role = `${person.country.adjective} ${person.occupation}`;
  const born = writeDate(person.born);
  const died = person.died && writeDate(person.died);

  let birthPlace = ties.birthPlace;
  const sentences: string[] = [];
  const place = birthPlace === undefined ? undefined : nameOf(birthPlace);
  const inLead = place !== undefined && random.chance(0.5);
  const at = inLead ? ` in ${place}` : "";
  if (inLead && birthPlace !== undefined) {
    state(person, "place of birth", placeValue(birthPlace));
    birthPlace = undefined;
  }
  state(person, "date of birth", ofDate(person.born));
  if (person.died) state(person, "date of death", ofDate(person.died));
  const longName = random.chance(0.08) ? withMiddleName(person, random) : person.name;
  const lifespan = died
    ? random.pick([
        `(${born}${inLead ? `,${at.slice(3)}` : ""} – ${died})`,
        `(born ${born}${at}, died ${died})`,
        `(${born}${inLead ? ` in ${place}` : ""} - ${died})`,
      ])
    : random.pick([`(born ${born}${at})`, `(born ${born}${inLead ? `, ${place}` : ""})`]);
  const lead = random.pick([
    () => `${longName} ${lifespan} ${is} ${article(role)}.`,
    () => `${longName} ${lifespan} ${is} ${article(role)}.`,
    () => `${longName} ${lifespan}, ${article(role)}, ${is} known for ${his} early work.`,
    () =>
      `${longName} ${lifespan} ${is} ${article(role)} and ${random.pick(["teacher", "translator", "editor", "producer", "activist"])}.`,
  ])();

  const { mother, father, spouse, child } = ties;
  if (mother && father) {
    state(person, "mother", ofPerson(mother));
    state(person, "father", ofPerson(father));
    const [m, f] = [mother, father];
    sentences.push(
      random.pick([
        `${He} ${is} the ${son} of ${m.occupation} ${m.name} and ${f.occupation} ${f.name}.`,
        `${He} ${is} the ${son} of ${f.occupation} ${f.name} and ${m.occupation} ${m.name}.`,
        `${He} ${is} the ${son} of ${f.name} and ${m.name}.`,
        `${He} ${is} the ${son} of ${m.name} and ${f.name}.`,
        `${His} father ${is} the ${f.occupation} ${f.name}, and ${his} mother ${is} ${m.name}.`,
        `${His} mother, ${m.name}, was ${article(m.occupation)}, and ${his} father, ${f.name}, ${article(f.occupation)}.`,
        `${He} was born to ${f.name} and his wife ${m.name}.`,
        `${His} parents were the ${f.occupation} ${f.name} and his wife, the ${m.occupation} ${m.name}.`,
        `${He} was the ${random.pick(["first", "second", "third", "only", "eldest", "youngest"])} child of ${f.name}, ${article(f.occupation)}, and ${m.name}.`,
      ]),
    );
  } else if (mother) {
    state(person, "mother", ofPerson(mother));
    sentences.push(
      random.pick([
        `${His} mother ${is} the ${mother.occupation} ${mother.name}.`,
        `${His} mother was ${mother.name}, ${article(mother.occupation)}.`,
        `${He} ${is} the ${son} of ${mother.occupation} ${mother.name}.`,
        `${mother.name} was ${his} mother.`,
        `${He} was raised by ${his} mother, ${mother.name}.`,
        `As ${article(son)} of ${mother.name}, ${he} grew up among artists.`,
      ]),
    );
  } else if (father) {
    state(person, "father", ofPerson(father));
    sentences.push(
      random.pick([
        `${His} father ${is} the ${father.occupation} ${father.name}.`,
        `${His} father was ${father.name}, ${article(father.occupation)}.`,
        `${He} ${is} the ${son} of ${father.occupation} ${father.name}.`,
        `${father.name} was ${his} father.`,
        `${He} learned the trade from ${his} father, ${father.name}.`,
        `${He} is best known as the ${son} of ${father.name}.`,
      ]),
    );
  }
  if (spouse) {
    state(person, "spouse", ofPerson(spouse));
    const year = Math.max(person.born.year, spouse.born.year) + random.between(20, 30);
    sentences.push(
      random.pick([
        `${He} married ${spouse.occupation} ${spouse.name} in ${year}.`,
        `In ${year}, ${he} married ${spouse.name}.`,
        `${His} ${wife} ${is} the ${spouse.occupation} ${spouse.name}.`,
        `${He} was married to ${spouse.name}.`,
        `${He} lived with ${his} ${wife}, ${spouse.name}, in ${world.city()}.`,
        `${He} and ${his} ${wife} ${spouse.name} had ${random.pick(["two", "three", "four"])} children.`,
      ]),
    );
  }
  if (child) {
    state(child, person.isWoman ? "mother" : "father", ofPerson(person));
    sentences.push(
      random.pick([
        `${He} ${is} the ${person.isWoman ? "mother" : "father"} of ${child.occupation} ${child.name}.`,
        `${His} ${child.isWoman ? "daughter" : "son"} ${child.name} became ${article(child.occupation)}.`,
      ]),
    );
  }
  if (birthPlace !== undefined) {
    state(person, "place of birth", placeValue(birthPlace));
    sentences.unshift(
      random.pick([
        `${He} was born in ${place}.`,
        `${He} was born and raised in ${place}.`,
        `Born in ${place}, ${he} moved to ${world.city()} as a child.`,
        `${He} was born in ${place} and studied in ${world.city()}.`,
      ]),
    );
  }
  if (ties.deathPlace !== undefined && person.died) {
    state(person, "place of death", { text: ties.deathPlace, also: [] });
    sentences.push(
      random.pick([
        `${He} died in ${ties.deathPlace}.`,
        `${He} died at ${his} home in ${ties.deathPlace}.`,
        `After a long illness, ${he} died in ${ties.deathPlace}.`,
      ]),
    );
  }
  const idle = random.shuffle(idleSentences(world, person, He, he, his)).slice(0, random.pick([0, 0, 1, 1, 2]));
  const body = random.chance(0.6) ? [...sentences, ...idle] : [...idle, ...sentences];
  return written(random, person.name, [lead, ...body], facts);
}

function placeValue(place: Town | string): FactValue {
  return typeof place === "string" ? { text: place, also: [] } : { text: place.name, also: [], entity: place };
}

/** What a passage tells beside facts that are asked for. */
function idleSentences(world: World, person: Person, He: string, he: string, his: string): string[] {
  const { random } = world;
  const year = person.born.year + random.between(22, 30);
  return [
    `${He} studied at the University of ${world.city()}.`,
    `${He} graduated in ${year}.`,
    `In ${year} ${he} moved to ${world.city()}.`,
    `${He} received several awards for ${his} work.`,
    `${He} taught in ${world.city()} for ${random.between(3, 25)} years.`,
    `${He} spoke ${random.pick(["three", "four", "five"])} languages.`,
    `${He} worked in ${world.city()} and ${world.city()}.`,
    `${He} is a member of the Academy of ${random.pick(["Arts", "Sciences", "Letters", "Music"])}.`,
    `${His(his)} first success came in ${year + random.between(1, 12)}.`,
    `${He} was a friend of ${random.pick(["many painters", "several writers", "the royal family", "leading scientists"])}.`,
    `A street in ${world.city()} is named after ${he === "she" ? "her" : "him"}.`,
    `${He} retired in ${year + random.between(25, 40)}.`,
  ];
}

function His(his: string): string {
  return his === "her" ? "Her" : "His";
}

/** The passage of a film, book, song or band: who made it, when, and people who are not asked for. */
export function workPassage(world: World, work: Work, creator: Person): Passage {
  const { random } = world;
  const facts: Fact[] = [
    { subject: work, relation: CREATOR[work.kind], value: ofPerson(creator) },
    { subject: work, relation: "year", value: ofYear(work.year) },
  ];
  const { title, year, genre } = work;
  const nation = work.country.adjective;
  const name = creator.name;
  const a = (word: string): string => `${/^[aeiou]/i.test(word) && !/^(eu|uni|ukr)/i.test(word) ? "an" : "a"} ${word}`;
  const other = (): string => world.person().name;
  const by = `${creator.country.adjective} ${{ film: "director", book: "author", song: "singer", band: "musician" }[work.kind]} ${name}`;
  const leads: Record<Work["kind"], (() => string)[]> = {
    film: [
      () => `${title} is a ${year} ${nation} ${genre} film directed by ${name}.`,
      () => `${title} is a ${year} ${nation} ${genre} film directed by ${name} and starring ${other()} and ${other()}.`,
      () => `${title} is ${a(nation)} ${genre} film, released in ${year} and directed by ${name}.`,
      () => `Directed by ${name}, ${title} is a ${year} ${nation} ${genre} film.`,
      () => `${title} is a ${year} ${genre} film written and directed by ${name}.`,
      () => `${title} is ${a(nation)} film of ${year}, directed by ${name}, with ${other()} in the leading role.`,
      () => `${title} is a ${year} film starring ${other()}. It was directed by ${name} and produced by ${other()}.`,
      () => `${title} is a ${year} ${nation} ${genre} film by ${by}, based on a novel by ${other()}.`,
    ],
    book: [
      () => `${title} is a ${year} ${genre} by ${by}.`,
      () => `${title} is ${a(genre)} written by ${name} and published in ${year}.`,
      () => `${title} is ${a(genre)} by ${name}, first published in ${year} by ${random.pick(PUBLISHERS)}.`,
      () => `Written by ${name}, ${title} is a ${year} ${genre}.`,
      () => `${title} is a ${year} ${genre} by ${name}, illustrated by ${other()}.`,
    ],
    song: [
      () => `${title} is a song by ${by}, released in ${year}.`,
      () => `${title} is a ${year} ${genre} song performed by ${name} and written by ${other()}.`,
      () => `${title} is ${a(genre)} song recorded by ${by} in ${year} for ${random.pick(LABELS)}.`,
      () => `Written by ${other()}, ${title} is a song performed by ${name}. It was released in ${year}.`,
    ],
    band: [
      () => `${title} is ${a(nation)} ${genre} band founded in ${year} by ${name}.`,
      () => `${title} was ${a(genre)} band from ${world.city()}, founded by ${name} in ${year}.`,
      () => `${title} is ${a(nation)} ${genre} group. It was founded in ${year} by ${by}.`,
      () => `Founded by ${name} in ${year}, ${title} is ${a(nation)} ${genre} band.`,
    ],
  };
  const idle: Record<Work["kind"], string[]> = {
    film: [
      `It stars ${other()} and ${other()}.`,
      `The film was shot in ${world.city()}.`,
      `It was produced by ${random.pick(STUDIOS)}.`,
      `The music was composed by ${other()}.`,
      `It premiered in ${world.city()}.`,
      "The film was a success with critics.",
      `The screenplay was written by ${other()}.`,
    ],
    book: [
      `It is set in ${world.city()}.`,
      `It was translated into ${random.between(5, 40)} languages.`,
      "It won a literary prize.",
      `It tells of a ${random.pick(["family", "teacher", "soldier", "doctor", "sailor"])} in ${world.city()}.`,
      `It was adapted for the stage by ${other()}.`,
    ],
    song: [
      `It reached number ${random.between(1, 40)} in the charts.`,
      `It was recorded in ${world.city()}.`,
      `The song was produced by ${other()}.`,
      `It was later covered by ${other()}.`,
    ],
    band: [
      `Its drummer is ${other()}.`,
      `The band has released ${random.between(2, 15)} albums.`,
      `Their first album was recorded in ${world.city()}.`,
      `${other()} joined as guitarist.`,
    ],
  };
  const rest = random.shuffle(idle[work.kind]).slice(0, random.pick([0, 1, 1, 2]));
  return written(random, title, [random.pick(leads[work.kind])(), ...rest], facts);
}

export function townPassage(world: World, town: Town): Passage {
  const { random } = world;
  const facts: Fact[] = [
    {
      subject: town,
      relation: "country",
      value: { text: town.country.name, also: [town.country.name.replace(/^the /, "")] },
    },
    { subject: town, relation: "river", value: { text: town.river, also: [] } },
  ];
  const lead = random.pick([
    `${town.name} is a town in ${town.country.name} on the river ${town.river}.`,
    `${town.name} is a city in ${town.country.name}. It lies on the river ${town.river}.`,
    `Lying on the river ${town.river}, ${town.name} is a market town in ${town.country.name}.`,
  ]);
  const idle = [
    `It had ${random.between(2, 90)},${String(random.between(0, 999)).padStart(3, "0")} inhabitants in ${random.between(1950, 2015)}.`,
    `Its church was built in ${random.between(1150, 1890)}.`,
    `The railway to ${world.city()} was opened in ${random.between(1840, 1910)}.`,
    `Its mayor is ${world.person().name}.`,
  ];
  return written(random, town.name, [lead, ...random.shuffle(idle).slice(0, random.below(3))], facts);
}

/** Joins sentences; some passages are spaced as the 2Wiki corpus often is. */
function written(random: Random, title: string, sentences: readonly string[], facts: readonly Fact[]): Passage {
  let text = sentences.join(random.chance(0.1) ? "" : " ");
  if (random.chance(0.12)) text = text.replaceAll(" (", "( ");
  return { title, text, facts };
}

function withMiddleName(person: Person, random: Random): string {
  const at = person.name.indexOf(" ");
  return `${person.name.slice(0, at)} ${random.pick(["Maria", "Louis", "Jean", "Marie", "Lee", "Ann", "James", "Rae", "Kai"])}${person.name.slice(at)}`;
}
