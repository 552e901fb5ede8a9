import type { Random } from "../random.js";
import { CREATOR, type Fact, type FactValue, type Passage, type Relation } from "./passage.js";
import { dayNumber, type Entity, type Person, type Work } from "./world.js";

/**
 * `single`: one fact. `bridge`: through somebody or something that the question does not name. `inference`: a tie of
 * kinship that no passage names, for instance a grandmother. `comparison`: which of two.
 */
export const QUESTION_KINDS = ["single", "bridge", "inference", "comparison"] as const;
export type QuestionKind = (typeof QUESTION_KINDS)[number];

export interface SynthQuestion {
  readonly kind: QuestionKind;
  readonly question: string;
  /** Any of them is right. */
  readonly answers: readonly string[];
  /** A sentence a hop; the last one holds the answer, and of two candidates the right one alone. */
  readonly chain: string;
  /** What the first hop leads to: what a model answers that stops there. */
  readonly firstHop: string;
  /** The passages that it takes, by index, ascending. */
  readonly supports: readonly number[];
  /** What is asked, whatever the words: no context asks it twice. */
  readonly key: string;
}

interface KnownFact extends Fact {
  readonly passage: number;
}

/** All questions that passages answer, each worded at random. */
export function allQuestions(passages: readonly Passage[], random: Random): SynthQuestion[] {
  const facts = passages.flatMap(({ facts }, passage) => facts.map((fact): KnownFact => ({ ...fact, passage })));
  const bySubject = new Map<Entity, KnownFact[]>();
  for (const fact of facts) {
    const known = bySubject.get(fact.subject) ?? [];
    // Told twice, by a parent's passage and the child's own: the first is enough.
    if (!known.some(({ relation }) => relation === fact.relation)) bySubject.set(fact.subject, [...known, fact]);
  }
  const of = (entity: Entity | undefined): readonly KnownFact[] => (entity && bySubject.get(entity)) ?? [];
  const questions: SynthQuestion[] = [];
  for (const known of bySubject.values()) {
    for (const first of known) {
      questions.push(along([first], random));
      for (const second of of(first.value.entity)) {
        questions.push(along([first, second], random));
        for (const third of of(second.value.entity)) {
          if (isKin(second.relation) && isKin(third.relation)) questions.push(along([first, second, third], random));
        }
      }
    }
  }
  questions.push(...comparisons(bySubject, random));
  return questions.filter(({ question, chain }) => question !== "" && chain !== "");
}

const KIN: readonly Relation[] = ["mother", "father", "spouse"];
const isKin = (relation: Relation): boolean => KIN.includes(relation);

/** The question that follows facts from one to the next. */
function along(path: readonly KnownFact[], random: Random): SynthQuestion {
  const [first] = path as [KnownFact];
  const last = path.at(-1) as KnownFact;
  const kin = path.slice(-2);
  const isInference =
    path.length > 1 && kin.every(({ relation }) => isKin(relation)) && last.value.entity !== first.subject;
  const kind: QuestionKind = path.length === 1 ? "single" : isInference ? "inference" : "bridge";
  // Who married whom leads back; and three hops are asked only as somebody's kin.
  const seen = new Set<Entity>([first.subject]);
  const leadsBack = path.some(({ value }) => value.entity !== undefined && seen.size === seen.add(value.entity).size);
  const tie = isInference ? kinship(kin as [KnownFact, KnownFact]) : undefined;
  const isAsked = !leadsBack && (!isInference || tie !== undefined);
  const middle = isInference ? path.slice(0, -2) : path.slice(0, -1);
  let phrase = nameIn(first.subject, random);
  for (const fact of middle) phrase = nounPhrase(fact, phrase, random);
  const question = !isAsked ? "" : tie ? askKin(tie, phrase, random) : ask(last, phrase, random);
  return {
    kind,
    question,
    answers: [last.value.text, ...last.value.also],
    chain: path.map(hop).join(" "),
    firstHop: first.value.text,
    supports: [...new Set(path.map(({ passage }) => passage))].sort((a, b) => a - b),
    key: `${titleOf(first.subject)} ${path.map(({ relation }) => relation).join(" ")}`,
  };
}

/** One hop of a chain. @example The mother of Sean Penn is Eileen Ryan. */
function hop({ subject, relation, value }: Fact): string {
  return `The ${label(relation, subject)} of ${titleOf(subject)} is ${value.text}.`;
}

function label(relation: Relation, subject: Entity): string {
  if (relation === "spouse") return (subject as Person).isWoman ? "husband" : "wife";
  if (relation === "year")
    return { film: "release year", book: "publication year", song: "release year", band: "founding year" }[
      (subject as Work).kind
    ];
  return relation;
}

function titleOf(entity: Entity): string {
  return "title" in entity ? entity.title : entity.name;
}

/** A subject as a question names it. */
function nameIn(entity: Entity, random: Random): string {
  if (entity.kind === "person" || entity.kind === "town") return entity.name;
  const kind = entity.kind === "book" ? random.pick(["book", "novel"]) : entity.kind;
  const name = random.pick([entity.title, entity.title.replace("(film)", "(Film)"), entity.name]);
  return random.pick([`${kind} ${name}`, `${kind} ${name}`, `the ${kind} ${name}`, name]);
}

/** Whether "X's mother" can be said of it: of a name, not of what has an "of" or a "who" in it. */
const isName = (phrase: string): boolean => !/^(the|film|book|novel|song|band) /.test(phrase);

/** Somebody or something by what leads there. */
function nounPhrase({ subject, relation, value }: Fact, of: string, random: Random): string {
  const isWoman = (value.entity as Person | undefined)?.isWoman;
  const person = random.pick(["person", isWoman ? "woman" : "man"]);
  switch (relation) {
    case "director":
      return random.pick([
        `the director of ${of}`,
        `the director of ${of}`,
        `the ${person} who directed ${of}`,
        `the director who made ${of}`,
      ]);
    case "author":
      return random.pick([
        `the author of ${of}`,
        `the author of ${of}`,
        `the ${person} who wrote ${of}`,
        `the writer of ${of}`,
      ]);
    case "performer":
      return random.pick([
        `the performer of ${of}`,
        `the performer of ${of}`,
        `the singer of ${of}`,
        `the ${person} who performed ${of}`,
      ]);
    case "founder":
      return random.pick([
        `the founder of ${of}`,
        `the ${person} who founded ${of}`,
        `the ${person} who started ${of}`,
      ]);
    case "place of birth":
      return random.pick([`the place of birth of ${of}`, `the town where ${of} was born`, `the birthplace of ${of}`]);
    case "spouse":
      return `the ${label(relation, subject)} of ${of}`;
    default:
      return random.pick([
        `the ${relation} of ${of}`,
        `the ${relation} of ${of}`,
        isName(of) ? `${of}'s ${relation}` : `the ${relation} of ${of}`,
      ]);
  }
}

function ask({ subject, relation, value }: Fact, of: string, random: Random): string {
  const kind = subject.kind;
  switch (relation) {
    case "director":
      return random.pick([
        `Who is the director of ${of}?`,
        `Who directed ${of}?`,
        `${sentence(of)} was directed by whom?`,
        `By whom was ${of} directed?`,
      ]);
    case "author":
      return random.pick([
        `Who is the author of ${of}?`,
        `Who wrote ${of}?`,
        `By whom was ${of} written?`,
        `${sentence(of)} was written by whom?`,
      ]);
    case "performer":
      return random.pick([
        `Who is the performer of ${of}?`,
        `Who performed ${of}?`,
        `Who sang ${of}?`,
        `By whom was ${of} performed?`,
      ]);
    case "founder":
      return random.pick([`Who is the founder of ${of}?`, `Who founded ${of}?`, `Who started ${of}?`]);
    case "year": {
      const was = kind === "band" ? "founded" : kind === "book" ? "published" : "released";
      return random.pick([`When was ${of} ${was}?`, `In which year was ${of} ${was}?`, `What year was ${of} ${was}?`]);
    }
    case "date of birth":
      return random.pick([
        `When was ${of} born?`,
        `What is the date of birth of ${of}?`,
        `On which date was ${of} born?`,
        isName(of) ? `When is ${of}'s birthday?` : `When was ${of} born?`,
      ]);
    case "place of birth":
      return random.pick([
        `Where was ${of} born?`,
        `What is the place of birth of ${of}?`,
        `In which place was ${of} born?`,
        `Which place was ${of} born in?`,
      ]);
    case "date of death":
      return random.pick([
        `When did ${of} die?`,
        `What is the date of death of ${of}?`,
        `On which date did ${of} die?`,
      ]);
    case "place of death":
      return random.pick([
        `Where did ${of} die?`,
        `What is the place of death of ${of}?`,
        `In which place did ${of} die?`,
      ]);
    case "country":
      return random.pick([
        `In which country is ${of}?`,
        `Which country is ${of} in?`,
        `What country does ${of} belong to?`,
      ]);
    case "river":
      return random.pick([
        `On which river does ${of} lie?`,
        `Which river does ${of} lie on?`,
        `What river is ${of} on?`,
      ]);
    case "mother":
    case "father":
      return random.pick([
        `Who is the ${relation} of ${of}?`,
        isName(of) ? `Who is ${of}'s ${relation}?` : `Who is the ${relation} of ${of}?`,
        `Who was the ${relation} of ${of}?`,
        `What is the name of the ${relation} of ${of}?`,
        `Whose ${(subject as Person).isWoman ? "daughter" : "son"} is ${of} on the ${relation}'s side?`,
      ]);
    case "spouse": {
      const spouse = (value.entity as Person).isWoman ? "wife" : "husband";
      return random.pick([
        `Who is the spouse of ${of}?`,
        `Who is the ${spouse} of ${of}?`,
        `Whom did ${of} marry?`,
        `Who was ${of} married to?`,
      ]);
    }
    default:
      return relation satisfies never;
  }
}

const sentence = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** What two ties of kinship make, in words; undefined where there is no one word for it. */
function kinship([first, second]: readonly [Fact, Fact]): string[] | undefined {
  const path = `${first.relation} ${second.relation}`;
  switch (path) {
    case "father father":
      return ["paternal grandfather", "grandfather on the father's side"];
    case "father mother":
      return ["paternal grandmother", "grandmother on the father's side"];
    case "mother father":
      return ["maternal grandfather", "grandfather on the mother's side"];
    case "mother mother":
      return ["maternal grandmother", "grandmother on the mother's side"];
    case "spouse mother":
      return ["mother-in-law"];
    case "spouse father":
      return ["father-in-law"];
    default:
      return undefined;
  }
}

function askKin(tie: readonly string[], of: string, random: Random): string {
  const word = random.pick(tie);
  return word.includes("side")
    ? random.pick([`Who is the ${word} of ${of}?`, `Who was the ${word} of ${of}?`])
    : random.pick([
        `Who is the ${word} of ${of}?`,
        isName(of) ? `Who is ${of}'s ${word}?` : `Who is the ${word} of ${of}?`,
        `Who was the ${word} of ${of}?`,
        `What is the name of the ${word} of ${of}?`,
      ]);
}

/** One side of a comparison: what is compared, and the facts that lead to its date. */
interface Side {
  readonly entity: Entity;
  readonly path: readonly KnownFact[];
}

function comparisons(bySubject: ReadonlyMap<Entity, readonly KnownFact[]>, random: Random): SynthQuestion[] {
  const factOf = (entity: Entity | undefined, relation: Relation) =>
    entity && bySubject.get(entity)?.find((fact) => fact.relation === relation);
  const sides = (kind: Entity["kind"], relation: Relation): Side[] =>
    [...bySubject.keys()].flatMap((entity) => {
      const fact = entity.kind === kind ? factOf(entity, relation) : undefined;
      return fact ? [{ entity, path: [fact] }] : [];
    });
  const byCreator = (kind: Work["kind"]): Side[] =>
    [...bySubject.keys()].flatMap((entity) => {
      const made = entity.kind === kind ? factOf(entity, CREATOR[kind]) : undefined;
      const born = factOf(made?.value.entity, "date of birth");
      return made && born ? [{ entity, path: [made, born] }] : [];
    });
  const questions: SynthQuestion[] = [];
  for (const kind of ["film", "book", "song", "band"] as const) {
    questions.push(...pairs(sides(kind, "year"), `${kind} year`, random));
    questions.push(...pairs(byCreator(kind), `${kind} creator`, random));
  }
  questions.push(...pairs(sides("person", "date of birth"), "person birth", random));
  questions.push(...pairs(sides("person", "date of death"), "person death", random));
  return questions;
}

function pairs(sides: readonly Side[], what: string, random: Random): SynthQuestion[] {
  const questions: SynthQuestion[] = [];
  for (const [i, first] of sides.entries()) {
    for (const second of sides.slice(i + 1)) {
      const [a, b] = random.chance(0.5) ? [first, second] : [second, first];
      const [dateA, dateB] = [a, b].map(({ path }) =>
        dayNumber((path.at(-1) as KnownFact).value.date as NonNullable<FactValue["date"]>),
      ) as [number, number];
      // By more than a year, so that it is the year that tells.
      if (Math.abs(dateA - dateB) < 2 * 12 * 31) continue;
      const wantsEarlier = random.chance(0.5);
      const right = dateA < dateB === wantsEarlier ? a : b;
      const facts = [
        ...a.path.slice(0, -1),
        ...b.path.slice(0, -1),
        a.path.at(-1) as KnownFact,
        b.path.at(-1) as KnownFact,
      ];
      questions.push({
        kind: "comparison",
        question: askWhich(what, a.entity, b.entity, wantsEarlier, random),
        answers: [...new Set([titleOf(right.entity), right.entity.name])],
        chain: `${facts.map(hop).join(" ")} ${conclusion(what, wantsEarlier)} ${titleOf(right.entity)}.`,
        firstHop: (facts[0] as KnownFact).value.text,
        supports: [...new Set(facts.map(({ passage }) => passage))].sort((x, y) => x - y),
        key: `${what} ${[titleOf(first.entity), titleOf(second.entity)].join(" ")}`,
      });
    }
  }
  return questions;
}

function conclusion(what: string, wantsEarlier: boolean): string {
  const which = wantsEarlier ? "earlier" : "later";
  return what.endsWith("creator") ? `The ${what.split(" ")[0]} with the ${which} birth is` : `The ${which} one is`;
}

function askWhich(what: string, a: Entity, b: Entity, wantsEarlier: boolean, random: Random): string {
  const [kind, by] = what.split(" ") as [Entity["kind"], string];
  const names = random.pick([`${titleOf(a)} or ${titleOf(b)}`, `${a.name} or ${b.name}`]);
  const first = wantsEarlier ? random.pick(["first", "earlier"]) : "later";
  if (by === "birth") {
    const older = wantsEarlier ? "older" : "younger";
    return random.pick([
      `Who was born ${first}, ${names}?`,
      `Who is ${older}, ${names}?`,
      `Which of the two was born ${first}, ${names}?`,
    ]);
  }
  if (by === "death") return random.pick([`Who died ${first}, ${names}?`, `Which of the two died ${first}, ${names}?`]);
  if (by === "creator") {
    const creator = CREATOR[kind as Work["kind"]];
    const older = wantsEarlier ? "older" : "younger";
    return random.pick([
      `Which ${kind} has the ${creator} who was born ${first}, ${names}?`,
      `Which ${kind} has the ${older} ${creator}, ${names}?`,
    ]);
  }
  const was =
    kind === "band" ? "was founded" : kind === "book" ? "was published" : random.pick(["came out", "was released"]);
  return random.pick([`Which ${kind} ${was} ${first}, ${names}?`, `Which ${was} ${first}, ${names}?`]);
}
