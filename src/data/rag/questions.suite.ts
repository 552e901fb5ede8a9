import type { RagDocument } from "../../blocks/block.js";

/** A line of a set with what is generated for it, for tests. */
export interface MadeUpQuestion {
  readonly id: string;
  readonly kind: string;
  readonly question: string;
  readonly answers: readonly string[];
  readonly generated: string;
  /** Places of the passages that the answer needs. */
  readonly supports: readonly number[];
  readonly documents: readonly RagDocument[];
}

const given = ["Anna", "Peter", "Maria", "Victor", "Elena", "Oscar", "Judith", "Henrik", "Laura", "Simon", "Clara"];
const surnames = ["Lind", "Kowalski", "Moreau", "Tanaka", "Berg", "Okafor", "Rossi", "Novak", "Silva", "Hughes"];
const towns = ["Bergen", "Lyon", "Turin", "Kyoto", "Porto", "Leeds", "Lagos"];
const nouns = ["Harbour", "Winter", "Mirror", "Orchard", "Signal", "Bridge", "Lantern", "River", "Garden"];

/**
 * Questions of two hops and of one in turn, each over passages of its own about films and their directors, which numbers from
 * `first` on decide.
 *
 * @param numPassages of a question: an even number, 2 or more.
 */
export function madeUpQuestions(count: number, numPassages: number, first = 0): MadeUpQuestion[] {
  return Array.from({ length: count }, (_, i) => {
    const number = first + i;
    const pairs = Array.from({ length: numPassages / 2 }, (_, p) => filmAndDirector(number * 101 + p));
    const place = number % pairs.length;
    const { film, director, mother } = pairs[place] as ReturnType<typeof filmAndDirector>;
    const firstHop = `The director of ${film} is ${director}.`;
    const line = { id: `made-up-${number}`, documents: pairs.flatMap(({ documents }) => documents) };
    if (number % 2 === 1) {
      const question = `Who is the director of film ${film}?`;
      return { ...line, kind: "single", question, answers: [director], generated: firstHop, supports: [2 * place] };
    }
    return {
      ...line,
      kind: "bridge",
      question: `Who is the mother of the director of film ${film}?`,
      answers: [mother],
      generated: `${firstHop} The mother of ${director} is ${mother}.`,
      supports: [2 * place, 2 * place + 1],
    };
  });
}

function filmAndDirector(number: number) {
  const pick = (list: readonly string[], step: number) => list[(number * step + step) % list.length] as string;
  const film = `The ${pick(nouns, 1)} of ${pick(towns, 2)} ${number}`;
  const surname = pick(surnames, 3);
  const [director, mother] = [`${pick(given, 1)} ${surname}`, `${pick(given, 5)} ${pick(surnames, 7)}-${surname}`];
  const documents = [
    { title: film, text: `${film} is a ${1930 + (number % 90)} drama film directed by ${director}.` },
    { title: director, text: `${director} was born in ${pick(towns, 3)}. The child of ${mother}, a painter.` },
  ];
  return { film, director, mother, documents };
}
