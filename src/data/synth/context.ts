import type { RagDocument } from "../../blocks/block.js";
import { Random } from "../random.js";
import { holdsExampleName } from "./example-names.js";
import { type Passage, personPassage, townPassage, workPassage } from "./passage.js";
import { allQuestions, QUESTION_KINDS, type QuestionKind, type SynthQuestion } from "./question.js";
import type { RealNames } from "./real-names.js";
import { type Person, type Split, type Work, World } from "./world.js";

export interface SynthOptions {
  /** All draws depend on it: equal options give equal contexts. */
  readonly seed: string;
  readonly split: Split;
  /** Passages of a context, both included, 2 to 20. */
  readonly minPassages: number;
  readonly maxPassages: number;
  /** Questions over one context, 1 or more; a context that has fewer asks those. */
  readonly numQuestions: number;
  /** The kinds asked, in turn. Default all. */
  readonly kinds?: readonly QuestionKind[] | undefined;
  /** Real passages, of which some contexts hold one or two that no question is about. */
  readonly noise: readonly RagDocument[];
  /** Names for some of the people and works, beside those that are there anyhow. Default none. */
  readonly realNames?: RealNames | undefined;
}

/** Passages and questions over them. */
export interface SynthContext {
  /** Unique among the contexts of one seed. */
  readonly id: string;
  readonly documents: readonly RagDocument[];
  readonly questions: readonly SynthQuestion[];
}

/**
 * The context number `index`: people, works and towns made up for it, passages that tell of them beside others that
 * share names or ties with them, and questions that these passages answer. It depends on the options and the index
 * alone, so contexts can be made in any order and by many processes. No two splits share a person, a work or a town.
 *
 * @throws RangeError for options out of range.
 */
export function synthesizeContext(index: number, options: SynthOptions): SynthContext {
  const { seed, split, minPassages, maxPassages, numQuestions, kinds = QUESTION_KINDS } = options;
  if (
    !(
      Number.isInteger(minPassages) &&
      Number.isInteger(maxPassages) &&
      2 <= minPassages &&
      minPassages <= maxPassages &&
      maxPassages <= 20
    )
  ) {
    throw new RangeError(
      `Cannot make questions: passages are ${minPassages} to ${maxPassages}, wanted whole numbers from 2 to 20`,
    );
  }
  if (!Number.isInteger(numQuestions) || numQuestions < 1) {
    throw new RangeError(`Cannot make questions: ${numQuestions} a context are asked for, wanted 1 or more`);
  }
  const id = `${split}-${seed}-${index}`;
  const random = new Random(id);
  for (;;) {
    const world = new World(random, split, options.realNames);
    const numPassages = random.between(minPassages, maxPassages);
    const noise = noiseOf(options.noise, random, numPassages);
    const passages = random.shuffle([...passagesOf(world, numPassages - noise.length), ...noise]);
    const questions = choose(allQuestions(passages, random), kinds, numQuestions, index, random);
    // Two passages may have nothing of a kind that is asked for.
    if (questions.length === 0) continue;
    return { id, documents: passages.map(({ title, text }) => ({ title, text })), questions };
  }
}

function noiseOf(noise: readonly RagDocument[], random: Random, numPassages: number): Passage[] {
  const count = noise.length === 0 || numPassages < 5 ? 0 : random.pick([0, 0, 1, 1, 2]);
  const drawn: Passage[] = [];
  while (drawn.length < count) {
    const { title, text } = random.pick(noise);
    const isUsable = text.length <= 700 && !holdsExampleName(`${title} ${text}`);
    if (isUsable && !drawn.some((other) => other.title === title)) drawn.push({ title, text, facts: [] });
    else if (random.chance(0.01)) break;
  }
  return drawn;
}

/** Passages in clusters of one to three that belong together; later ones often share a name with earlier ones. */
function passagesOf(world: World, count: number): Passage[] {
  const { random } = world;
  const passages: Passage[] = [];
  const people: Person[] = [];
  const works: Work[] = [];
  const mainKind = random.pick(["film", "film", "film", "book", "song", "band"] as const);
  while (passages.length < count) {
    const room = count - passages.length;
    // What it shares with what is there: a given name, a surname, a word of a title.
    const like = people.length > 0 && random.chance(0.5) ? namesake(random, random.pick(people)) : {};
    const kind = random.chance(0.7) ? mainKind : random.pick(["film", "book", "song", "band"] as const);
    const roll = random.below(100);
    if (room >= 2 && roll < 55) {
      const sharing = works.length > 0 && random.chance(0.4) ? lastWord(random.pick(works).name) : undefined;
      const work = world.work(kind, sharing);
      const creator = world.person({
        ...like,
        occupation: makerOf(work, random),
        bornAfter: work.year - 62,
        bornBefore: work.year - 22,
      });
      works.push(work);
      passages.push(workPassage(world, work, creator));
      passages.push(...family(world, creator, people, Math.min(room - 1, random.chance(0.35) ? 2 : 1)));
    } else if (room >= 2 && roll < 85) {
      passages.push(
        ...family(
          world,
          world.person({ ...like, bornAfter: 1880 }),
          people,
          Math.min(room, random.chance(0.25) ? 3 : 2),
        ),
      );
    } else if (room >= 2 && roll < 92) {
      const town = world.town();
      passages.push(personWithTies(world, world.person(like), people, { birthPlace: town }), townPassage(world, town));
    } else {
      passages.push(...family(world, world.person(like), people, 1));
    }
  }
  return passages;
}

function namesake(random: Random, person: Person): { surname: string } | { given: string; isWoman: boolean } {
  return random.chance(0.5) ? { surname: person.surname } : { given: person.given, isWoman: person.isWoman };
}

function lastWord(title: string): string {
  return title.split(" ").at(-1) as string;
}

function makerOf(work: Work, random: Random): string {
  switch (work.kind) {
    case "film":
      return random.pick(["film director", "film director", "film director", "director", "filmmaker", "screenwriter"]);
    case "book":
      return random.pick(["writer", "author", "novelist", "poet", "journalist"]);
    case "song":
      return random.pick(["singer", "singer-songwriter", "musician"]);
    case "band":
      return random.pick(["musician", "guitarist", "singer", "drummer"]);
    default:
      return work.kind satisfies never;
  }
}

interface Ties {
  readonly mother?: Person;
  readonly father?: Person;
  readonly spouse?: Person;
}

/** A person's passage, then those of parents or of the spouse, up to `count` in all. */
function family(world: World, person: Person, people: Person[], count: number): Passage[] {
  const { random } = world;
  const ties = tiesOf(world, person, count > 1);
  const passages = [personWithTies(world, person, people, {}, ties)];
  const kin = random.shuffle([ties.mother, ties.father, ties.spouse].filter((one) => one !== undefined));
  for (const relative of kin.slice(0, count - 1)) {
    passages.push(personWithTies(world, relative, people, {}, tiesOf(world, relative, true)));
  }
  return passages;
}

function tiesOf(world: World, person: Person, wantsOne: boolean): Ties {
  const { random } = world;
  const { born, country } = person;
  const before = { bornBefore: born.year - 20, bornAfter: born.year - 45, country };
  const hasMother = random.chance(0.6);
  const hasFather = random.chance(0.6) || (wantsOne && !hasMother);
  const father = hasFather
    ? world.person({ ...before, isWoman: false, ...(random.chance(0.7) && { surname: person.surname }) })
    : undefined;
  const mother = hasMother
    ? world.person({ ...before, isWoman: true, ...(random.chance(0.2) && { surname: person.surname }) })
    : undefined;
  const spouse = random.chance(0.4)
    ? world.person({ bornAfter: born.year - 8, bornBefore: born.year + 8, isWoman: !person.isWoman })
    : undefined;
  return { ...(mother && { mother }), ...(father && { father }), ...(spouse && { spouse }) };
}

function personWithTies(
  world: World,
  person: Person,
  people: Person[],
  places: { readonly birthPlace?: ReturnType<World["town"]> },
  ties: Ties = tiesOf(world, person, false),
): Passage {
  const { random } = world;
  people.push(person, ...[ties.mother, ties.father, ties.spouse].filter((one) => one !== undefined));
  return personPassage(world, person, {
    ...ties,
    birthPlace: places.birthPlace ?? (random.chance(0.6) ? world.city() : undefined),
    deathPlace: random.chance(0.4) ? world.city() : undefined,
  });
}

/** Questions of each kind in turn, none asked twice; which kind comes first goes by the context's index. */
function choose(
  all: readonly SynthQuestion[],
  kinds: readonly QuestionKind[],
  count: number,
  index: number,
  random: Random,
): SynthQuestion[] {
  const queues = kinds.map((kind) => random.shuffle(all.filter((question) => question.kind === kind)));
  const chosen = new Map<string, SynthQuestion>();
  for (let turn = index; chosen.size < count && queues.some((queue) => queue.length > 0); turn++) {
    const next = (queues[turn % queues.length] as SynthQuestion[]).pop();
    if (next) chosen.set(next.key, next);
  }
  return [...chosen.values()];
}
