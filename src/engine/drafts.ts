/** How many rows a sequence may have in a graph of decoding: its next token's, and a draft's. Kernels take rows by four. */
export const rowCounts = [1, 4, 8, 16] as const;
export const maxDraftTokens = 15;
/** The longest match that is told from a shorter one, in tokens. */
const longestMatch = 32;
/** How many earlier places are compared with the text's end. */
const maxCompared = 16;
/** How likely the token after a match is the next one, by the match's length from 2 on, before anything was seen of an answer. */
const priorOdds = [0.55, 0.65, 0.75, 0.85, 0.92, 0.97] as const;
/** As many observations the prior counts. */
const priorWeight = 4;
/** What a row more is expected to cost before it was measured, in graphs of one row. */
const unknownRowCost = 0.6;
/** How much faster a draft must be expected to be: its graph has to be built, and times are not exact. */
const leastGain = 1.25;
/** What a measured time keeps with each new measurement, and what of it gives way to the expected one with each of another number of rows. */
const [keptOfTime, forgottenOfTime] = [0.8, 1 / 256];

/** Tokens that may come next. */
export interface Draft {
  readonly tokenIds: readonly number[];
  /** For each, how likely it is right if those before it are. */
  readonly odds: readonly number[];
  /** How many tokens of the text so far were guessed right, computed as drafts or not. */
  readonly numRight: number;
}

/** A text's tokens, and where each pair of neighbours stands in it: as many steps to add a token, however long the text is. */
export class TokenPairs {
  readonly tokenIds: number[] = [];
  /** By a pair's hash, the place of its second token, the last one; and by place, the one before with the same hash. -1: none. */
  readonly #last: Int32Array;
  readonly #before: number[] = [];

  /** @param numTokens about how many there will be. */
  constructor(numTokens: number) {
    this.#last = new Int32Array(2 ** Math.ceil(Math.log2(Math.min(1 << 16, Math.max(64, 2 * numTokens))))).fill(-1);
  }

  add(tokenId: number): void {
    const place = this.tokenIds.push(tokenId) - 1;
    const hash = place === 0 ? undefined : this.#hash(this.tokenIds[place - 1] as number, tokenId);
    this.#before.push(hash === undefined ? -1 : (this.#last[hash] as number));
    if (hash !== undefined) this.#last[hash] = place;
  }

  /**
   * Where a text's last tokens stood before, the longest match, of equal ones the last: the place of its last token, which has one after it.
   *
   * @param ending the text's last tokens.
   * @param known a longer match, which is wanted at least.
   */
  longestMatch(ending: readonly number[], known = 0): { readonly place: number; readonly length: number } | undefined {
    const last = ending.length - 1;
    if (last < 1) return undefined;
    let best: { readonly place: number; readonly length: number } | undefined;
    let place = this.#last[this.#hash(ending[last - 1] as number, ending[last] as number)] as number;
    for (let numCompared = 0; place >= 0 && numCompared < maxCompared; numCompared++) {
      let length = 0;
      while (length <= last && length <= place && this.tokenIds[place - length] === ending[last - length]) length += 1;
      if (length >= 2 && length > (best?.length ?? known) && place + 1 < this.tokenIds.length) best = { place, length };
      place = this.#before[place] as number;
    }
    return best;
  }

  #hash(a: number, b: number): number {
    return (Math.imul(Math.imul(a, 0x9e3779b1) ^ b, 0x85ebca6b) >>> 7) & (this.#last.length - 1);
  }
}

/** Where a token is guessed from. */
interface Match {
  readonly of: TokenPairs;
  /** Its forerunner's. */
  readonly place: number;
  /** How many tokens up to there are those that the text ends with. */
  readonly length: number;
}

/**
 * Guesses an answer's next tokens: those that followed where its last tokens stood before, in the prompt or in the answer itself.
 *
 * Each guess is held against the token that comes, computed as a draft or not: so the odds are known though no draft is tried.
 */
export class Drafter {
  readonly #answer: TokenPairs;
  /** The text's last tokens, at most `longestMatch` when they are used. */
  #ending: number[];
  #match: Match | undefined;
  #numRight = 0;
  /** By the match's length, how many guesses were right. */
  readonly #seen = priorOdds.map((odds) => ({ right: odds * priorWeight, all: priorWeight as number }));

  /**
   * @param text the prompt, and after it what the answer is predicted to be, if anything: several answers share it.
   * @param promptIds the prompt's tokens, one or more.
   */
  constructor(
    private readonly text: TokenPairs,
    promptIds: readonly number[],
  ) {
    this.#answer = new TokenPairs(1024);
    this.#ending = promptIds.slice(-longestMatch);
    this.#match = this.#find();
  }

  /** Takes the answer's next token. */
  add(tokenId: number): void {
    const match = this.#match;
    const isRight = match !== undefined && match.of.tokenIds[match.place + 1] === tokenId;
    if (match !== undefined) {
      const seen = this.#seenOf(match.length);
      seen.all += 1;
      if (isRight) seen.right += 1;
    }
    if (isRight) this.#numRight += 1;
    this.#answer.add(tokenId);
    this.#ending.push(tokenId);
    if (this.#ending.length >= 2 * longestMatch) this.#ending = this.#ending.slice(-longestMatch);
    const goesOn = isRight && match.place + 2 < match.of.tokenIds.length;
    this.#match = goesOn ? { of: match.of, place: match.place + 1, length: match.length + 1 } : this.#find();
  }

  /** The next tokens, at most so many; undefined where nothing tells them. */
  draft(maxTokens: number): Draft | undefined {
    if (this.#match === undefined || maxTokens < 1) return undefined;
    const { of, place, length } = this.#match;
    const tokenIds: number[] = [];
    for (let at = place + 1; tokenIds.length < maxTokens; at++) {
      // Where the answer repeats itself, it goes on with what it has just guessed.
      const next = of.tokenIds[at] ?? (of === this.#answer ? tokenIds[at - of.tokenIds.length] : undefined);
      if (next === undefined) break;
      tokenIds.push(next);
    }
    const odds = tokenIds.map((_, i) => {
      const { right, all } = this.#seenOf(length + i);
      return right / all;
    });
    return { tokenIds, odds, numRight: this.#numRight };
  }

  #seenOf(length: number): { right: number; all: number } {
    return this.#seen[levelOf(length)] as { right: number; all: number };
  }

  #find(): Match | undefined {
    const ending = this.#ending.slice(-longestMatch);
    const own = this.#answer.longestMatch(ending);
    if (own?.length === ending.length) return { of: this.#answer, ...own };
    const given = this.text.longestMatch(ending, own?.length);
    return given ? { of: this.text, ...given } : own && { of: this.#answer, ...own };
  }
}

/** Of a match's length: 2, 3, up to 5, up to 9, up to 17, more. */
function levelOf(length: number): number {
  return Math.min(priorOdds.length - 1, Math.ceil(Math.log2(Math.max(1, length - 1))));
}

/** How long graphs of decoding take by their rows, as they were measured lately, in ms: graphs over about as many keys. */
export class RowTimes {
  readonly #ms = new Map<number, Map<number, number>>();

  add(numRows: number, numKeys: number, ms: number): void {
    const of = this.#ofKeys(numKeys);
    for (const [rows, known] of of) {
      if (rows === numRows) continue;
      // What was slow once is tried again some time.
      of.set(rows, known + forgottenOfTime * ((ms * expected(rows)) / expected(numRows) - known));
    }
    const known = of.get(numRows);
    of.set(numRows, known === undefined ? ms : keptOfTime * known + (1 - keptOfTime) * ms);
  }

  /** In graphs of one row where nothing was measured. */
  timeOf(numRows: number, numKeys: number): number {
    const of = this.#ofKeys(numKeys);
    const known = of.get(numRows);
    if (known !== undefined) return known;
    let nearest: number | undefined;
    for (const rows of of.keys()) {
      if (nearest === undefined || Math.abs(rows - numRows) < Math.abs(nearest - numRows)) nearest = rows;
    }
    if (nearest === undefined) return expected(numRows);
    return ((of.get(nearest) as number) * expected(numRows)) / expected(nearest);
  }

  #ofKeys(numKeys: number): Map<number, number> {
    const size = Math.ceil(Math.log2(Math.max(1, numKeys)));
    const of = this.#ms.get(size) ?? new Map<number, number>();
    this.#ms.set(size, of);
    return of;
  }
}

function expected(numRows: number): number {
  return 1 + unknownRowCost * (numRows - 1);
}

/**
 * How many rows each sequence gets in the next graph: as many as give the most tokens in the least time.
 *
 * @param drafts of each sequence, where it has one.
 * @param maxRows of all together.
 * @param timeOf how long a graph of so many rows takes. Default: drafts cost nothing.
 * @returns one of `rowCounts` for each.
 */
export function planRows(
  drafts: readonly (Draft | undefined)[],
  maxRows: number,
  timeOf?: (numRows: number) => number,
): number[] {
  const [least, time] = timeOf === undefined ? [1, () => 1] : [leastGain, timeOf];
  const plan = drafts.map(() => 1);
  let numRows = drafts.length;
  let numTokens = drafts.length;
  let speed = numTokens / time(numRows);
  const drafted = drafts.flatMap((draft, index) => (draft === undefined ? [] : { draft, index }));
  // The surest first: each joins with as many rows as make all together faster.
  drafted.sort((a, b) => gain(b.draft, maxDraftTokens) - gain(a.draft, maxDraftTokens) || a.index - b.index);
  for (const { draft, index } of drafted) {
    let best: { readonly rows: number; readonly speed: number } | undefined;
    for (const [i, rows] of rowCounts.entries()) {
      // Fewer rows may hold all of it.
      if (i === 0 || (rowCounts[i - 1] as number) > draft.tokenIds.length) continue;
      if (numRows + rows - 1 > maxRows) continue;
      const faster = (numTokens + gain(draft, rows - 1)) / time(numRows + rows - 1);
      if (faster > (best?.speed ?? least * speed)) best = { rows, speed: faster };
    }
    if (best === undefined) break;
    plan[index] = best.rows;
    numRows += best.rows - 1;
    numTokens += gain(draft, best.rows - 1);
    speed = best.speed;
  }
  return plan;
}

/** How many of a draft's first tokens are expected to be right. */
function gain({ odds }: Draft, numTokens: number): number {
  let [sum, chance] = [0, 1];
  for (const one of odds.slice(0, numTokens)) {
    chance *= one;
    sum += chance;
  }
  return sum;
}
