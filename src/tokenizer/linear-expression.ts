/** How long a search with an expression may take, seen from its form. */
export type ExpressionKind =
  /** No longer than some times the text's length. */
  | "linear"
  /** Perhaps far longer: it may try one place in many ways. */
  | "slow"
  /** Its repetitions, written out, are more than a few thousand characters. */
  | "too-large";

/**
 * Judges a JavaScript expression with flag u that compiles.
 *
 * Linear is what needs no way back: of each alternative, what stands before its first endless repetition can be tried in a
 * few ways only, that repetition is of single characters, and what follows it may be absent. So what an alternative looks
 * at beyond some first characters, it takes.
 *
 * @example judgeExpression(" ?\\p{L}+|\\p{N}{1,3}") is "linear", judgeExpression("(a|a)*b") is "slow"
 */
export function judgeExpression(source: string): ExpressionKind {
  const parser = new Parser(source.replace(lineEnds, "$1$2"));
  const alternatives = parser.alternatives();
  if (sum(alternatives.flat(), (part) => part.size) > maxSize) return "too-large";
  return !parser.hasReference && sum(alternatives, effort) <= maxEffort ? "linear" : "slow";
}

/** Characters. The largest expressions of known models have some hundred. */
const maxSize = 5000;
/** Characters looked at in vain at one place of the text. */
const maxEffort = 256;

/**
 * The end of most expressions for words, `\s*[\r\n]+|\s+(?!\S)|\s+` and parts of it. What the first two look at in vain
 * the last takes, so that they cost as much as it does alone.
 */
const lineEnds =
  /(^|\|)(?:\\p\{White_Space\}\*\[\\r\\n\]\+?\|)?(?:\\p\{White_Space\}\+\(\?!\\P\{White_Space\}\)\|)?(\\p\{White_Space\}\+)$/;

interface Part {
  /** Characters, with repetitions written out; of what is endless, those that it must have. */
  readonly size: number;
  /** In how many ways it may fit at one place, where it is not endless. */
  readonly ways: number;
  readonly isEndless: boolean;
  /** One character, a class of them or an escape, however often: no group, assertion or reference. */
  readonly isCharacter: boolean;
  /** May be absent, and takes as much as it can. */
  readonly isOptional: boolean;
}

/** How many characters an alternative may look at in vain at one place. */
function effort(parts: readonly Part[]): number {
  const endless = parts.findIndex((part) => part.isEndless);
  const rest = endless === -1 ? [] : parts.slice(endless + 1);
  if (endless !== -1 && !parts[endless]!.isCharacter) return Number.POSITIVE_INFINITY;
  if (!rest.every((part) => part.isCharacter && part.isOptional)) return Number.POSITIVE_INFINITY;
  const tried = endless === -1 ? parts : parts.slice(0, endless + 1);
  const before = tried.slice(0, -1).reduce((product, part) => product * part.ways, 1);
  return before * sum(tried, (part) => part.size);
}

class Parser {
  hasReference = false;
  #at = 0;

  constructor(private readonly source: string) {}

  /** The alternatives up to the end or to the group's closing bracket. */
  alternatives(): Part[][] {
    const alternatives: Part[][] = [[]];
    while (this.#at < this.source.length && this.source[this.#at] !== ")") {
      if (this.#take(/\|/y) === null) alternatives.at(-1)!.push(this.#repeated(this.#atom()));
      else alternatives.push([]);
    }
    return alternatives;
  }

  #take(expression: RegExp): RegExpExecArray | null {
    expression.lastIndex = this.#at;
    const found = expression.exec(this.source);
    this.#at += found?.[0].length ?? 0;
    return found;
  }

  #atom(): Part {
    if (this.#take(/\((?:\?(?:[:=!]|<[=!]|<[^>]*>))?/y) !== null) {
      const alternatives = this.alternatives();
      this.#at++;
      return {
        // A group costs as a character does.
        size: sum(alternatives.flat(), (part) => part.size) + 1,
        ways: sum(alternatives, (parts) => parts.reduce((product, part) => product * part.ways, 1)),
        isEndless: alternatives.flat().some((part) => part.isEndless),
        isCharacter: false,
        isOptional: false,
      };
    }
    if (/\\(?:[1-9]|k<)/y.test(this.source.slice(this.#at, this.#at + 3))) this.hasReference = true;
    // Else an anchor, which takes no character.
    const isCharacter = this.#take(/\\[^bB]|\[(?:\\.|[^\]\\])*\]|[^\\^$]/suy) !== null;
    if (!isCharacter) this.#take(/\\.|[\^$]/sy);
    else if (/^\\[pPuk]$/.test(this.source.slice(this.#at - 2, this.#at))) this.#take(/\{[^}]*\}|<[^>]*>|.{4}/suy);
    return { size: 1, ways: 1, isEndless: false, isCharacter, isOptional: false };
  }

  #repeated(part: Part): Part {
    const found = this.#take(/(?:([*+?])|\{(\d+)(,?)(\d*)\})(\??)/y);
    if (found === null) return part;
    const [, sign, least, comma, most, lazy] = found;
    const min = least === undefined ? (sign === "+" ? 1 : 0) : Number(least);
    const max = most ? Number(most) : sign === "?" ? 1 : sign === undefined && comma === "" ? min : undefined;
    return {
      size: part.size * Math.max(max ?? min, 1),
      ways: part.ways === 1 ? (max ?? min) - min + 1 : part.ways ** (max ?? min) * ((max ?? min) - min + 1),
      isEndless: part.isEndless || max === undefined,
      isCharacter: part.isCharacter && (max !== undefined || lazy === ""),
      isOptional: part.isCharacter && min === 0 && lazy === "",
    };
  }
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}
