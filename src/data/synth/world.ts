import { createHash } from "node:crypto";
import type { Random } from "../random.js";
import { holdsExampleName } from "./example-names.js";
import {
  BOOK_GENRES,
  CITIES,
  COUNTRIES,
  FILM_GENRES,
  MEN,
  MONTHS,
  MUSIC_GENRES,
  OCCUPATIONS,
  RIVERS,
  SURNAMES,
  TITLE_ADJECTIVES,
  TITLE_NOUNS,
  TOWN_ENDS,
  TOWN_STARTS,
  WOMEN,
} from "./names.js";
import { NO_REAL_NAMES, type RealNames } from "./real-names.js";

export type Split = "train" | "dev" | "test";

/** A day, and how its passage writes it. */
export interface WrittenDate {
  readonly year: number;
  /** From 1. */
  readonly month: number;
  readonly day: number;
  readonly style: "day first" | "month first";
}

export interface Person {
  readonly kind: "person";
  readonly name: string;
  readonly given: string;
  readonly surname: string;
  readonly isWoman: boolean;
  readonly country: (typeof COUNTRIES)[number];
  readonly occupation: string;
  readonly born: WrittenDate;
  readonly died: WrittenDate | undefined;
}

export interface Work {
  readonly kind: "film" | "book" | "song" | "band";
  /** As it is called. */
  readonly name: string;
  /** As its passage is called: with "(film)" and the like where that tells it from others. */
  readonly title: string;
  readonly year: number;
  readonly country: (typeof COUNTRIES)[number];
  readonly genre: string;
}

export interface Town {
  readonly kind: "town";
  readonly name: string;
  readonly country: (typeof COUNTRIES)[number];
  readonly river: string;
}

export type Entity = Person | Work | Town;

/** How many of the names are real ones, where there are any; the others stay in use beside them. */
const REAL_NAMES_SHARE = 0.4;

/** Which split an entity belongs to, by its name alone: 2 of 32 to dev, 4 to test, so that no two splits share one. */
function splitOf(name: string): Split {
  const bucket = (createHash("sha256").update(`split ${name}`, "utf8").digest()[0] as number) % 32;
  return bucket < 2 ? "dev" : bucket < 6 ? "test" : "train";
}

/** Makes the people, works and towns of one context: of one split, no name twice. */
export class World {
  readonly #names = new Set<string>();

  constructor(
    readonly random: Random,
    readonly split: Split,
    readonly realNames: RealNames = NO_REAL_NAMES,
  ) {}

  /**
   * @param like what the person shares with others: a surname by family, a given or a family name by chance.
   */
  person(
    like: {
      readonly surname?: string | undefined;
      readonly given?: string | undefined;
      readonly isWoman?: boolean | undefined;
      readonly occupation?: string | undefined;
      readonly country?: (typeof COUNTRIES)[number] | undefined;
      readonly bornAfter?: number | undefined;
      readonly bornBefore?: number | undefined;
    } = {},
  ): Person {
    const { random } = this;
    const isWoman = like.isWoman ?? random.chance(0.5);
    const names = isWoman ? WOMEN : MEN;
    const [given, surname] = this.#unused(() => {
      const first = like.given ?? this.#real(isWoman ? "women" : "men") ?? random.pick(names);
      const middle = random.chance(0.06)
        ? ` ${random.pick(names)}`
        : random.chance(0.04)
          ? ` ${random.pick("ABCDEFGHJKLMNPRSTW".split(""))}.`
          : "";
      const last =
        like.surname ?? this.#real("surnames") ?? (random.chance(0.05) ? doubleSurname(random) : random.pick(SURNAMES));
      return [`${first}${middle}`, last];
    });
    const { man, woman } = random.pick(OCCUPATIONS);
    const earliest = like.bornAfter ?? Math.min(1840, (like.bornBefore ?? 2000) - 40);
    const year = random.between(earliest, Math.max(earliest, like.bornBefore ?? Math.min(earliest + 150, 2000)));
    const style = random.chance(0.6) ? "day first" : "month first";
    const age = random.between(31, 97);
    const died =
      year + age <= 2020 && (year < 1925 || random.chance(0.4)) ? writtenDate(random, year + age, style) : undefined;
    return {
      kind: "person",
      name: `${given} ${surname}`,
      given: given.split(" ")[0] as string,
      surname,
      isWoman,
      country: like.country ?? random.pick(COUNTRIES),
      occupation:
        like.occupation ?? this.#real(isWoman ? "womenOccupations" : "menOccupations") ?? (isWoman ? woman : man),
      born: writtenDate(random, year, style),
      died,
    };
  }

  /** @param sharing a word that the title takes over from another's. */
  work(kind: Work["kind"], sharing?: string): Work {
    const { random } = this;
    const [name] = this.#unused(() => [
      (sharing === undefined ? this.#real("titles") : undefined) ?? titleOf(random, kind, sharing),
    ]);
    const year = random.between(1915, 2020);
    const suffix = { film: "film", book: "novel", song: "song", band: "band" }[kind];
    const title = random.chance(0.75)
      ? name
      : random.chance(0.5)
        ? `${name} (${suffix})`
        : `${name} (${year} ${suffix})`;
    const genre = random.pick(kind === "film" ? FILM_GENRES : kind === "book" ? BOOK_GENRES : MUSIC_GENRES);
    return { kind, name, title, year, country: random.pick(COUNTRIES), genre };
  }

  town(): Town {
    const { random } = this;
    const [name] = this.#unused(() => {
      const plain = `${random.pick(TOWN_STARTS)}${random.pick(TOWN_ENDS)}`;
      return [
        random.chance(0.15)
          ? `${random.pick(["Upper", "Lower", "Great", "Little", "Port", "Saint", "Mount"])} ${plain}`
          : plain,
      ];
    });
    return { kind: "town", name, country: random.pick(COUNTRIES), river: random.pick(RIVERS) };
  }

  city(): string {
    return this.random.pick(CITIES);
  }

  /** A real name or occupation, or undefined for one of our own. */
  #real(kind: keyof RealNames): string | undefined {
    const names = this.realNames[kind];
    return names.length > 0 && this.random.chance(REAL_NAMES_SHARE) ? this.random.pick(names) : undefined;
  }

  /** Draws until the parts, joined, are a name of this split that nothing here has yet. */
  #unused<T extends readonly string[]>(draw: () => T): T {
    for (;;) {
      const parts = draw();
      const name = parts.join(" ");
      const words = new Set(name.split(" "));
      const isTaken = this.#names.has(name) || words.size < name.split(" ").length;
      if (isTaken || splitOf(name) !== this.split || holdsExampleName(name)) continue;
      this.#names.add(name);
      return parts;
    }
  }
}

/** A date as its passage writes it. @example 4 May 1950, or May 4, 1950 */
export function writeDate({ year, month, day, style }: WrittenDate): string {
  const name = MONTHS[month - 1] as string;
  return style === "day first" ? `${day} ${name} ${year}` : `${name} ${day}, ${year}`;
}

/** A number that orders days. */
export function dayNumber({ year, month, day }: WrittenDate): number {
  return (year * 12 + month) * 31 + day;
}

function writtenDate(random: Random, year: number, style: WrittenDate["style"]): WrittenDate {
  return { year, month: random.between(1, 12), day: random.between(1, 28), style };
}

function doubleSurname(random: Random): string {
  const [a, b] = [random.pick(SURNAMES), random.pick(SURNAMES)];
  return random.chance(0.5) ? `${a}-${b}` : `${random.pick(["van", "de", "von", "di", "le", "da"])} ${a}`;
}

function titleOf(random: Random, kind: Work["kind"], sharing: string | undefined): string {
  const noun = () => random.pick(TITLE_NOUNS);
  const plural = (word: string) =>
    /(s|x|ch|sh)$/.test(word) ? `${word}es` : /[^aeiou]y$/.test(word) ? `${word.slice(0, -1)}ies` : `${word}s`;
  const adjective = () => random.pick(TITLE_ADJECTIVES);
  const shared = sharing ?? noun();
  const patterns: (() => string)[] = [
    () => `The ${adjective()} ${shared}`,
    () => `${adjective()} ${shared}`,
    () => `The ${shared} of ${random.chance(0.5) ? `the ${noun()}` : random.pick(CITIES)}`,
    () => `The ${noun()} and the ${shared}`,
    () => `${shared} in ${random.chance(0.5) ? random.pick(CITIES) : `the ${noun()}`}`,
    () => `${plural(shared)} of ${random.chance(0.5) ? random.pick(CITIES) : noun()}`,
    () => `A ${shared} for ${random.pick(random.chance(0.5) ? MEN : WOMEN)}`,
    () => `The ${random.pick(SURNAMES)} ${shared}`,
    () => `${random.pick(random.chance(0.5) ? MEN : WOMEN)} and the ${shared}`,
    () =>
      `${random.pick(["Beyond", "Under", "Before", "After", "Without", "Against", "Across", "Beneath"])} the ${adjective()} ${shared}`,
    () => `${adjective()} ${plural(shared)}`,
    () => `The ${shared}`,
  ];
  if (kind === "band") {
    patterns.push(
      () => `The ${plural(shared)}`,
      () => `The ${adjective()} ${plural(shared)}`,
      () => `${shared} ${noun()}`,
    );
  }
  return random.pick(patterns)();
}
