import { setImmediate as nextTurn } from "node:timers/promises";
import type { RagDocument } from "../blocks/block.js";
import { Random } from "../data/random.js";
import { goldMatcher } from "./metrics.js";
import { normalizeAnswer } from "./normalize.js";
import { documentText, type GoldLine, type RagLine } from "./rag-line.js";

type Document = string | RagDocument;

/** Where a line's gold passages stand among the others. */
export const GOLD_ORDERS = ["gold-first", "gold-middle", "gold-last"] as const;
export type GoldOrder = (typeof GOLD_ORDERS)[number];

/** The lines of a set that a sweep can use, ready to be laid out at any size. */
export interface SweepSet {
  readonly lines: readonly SweepLine[];
  /** Lines that name a passage which is not among theirs. */
  readonly missingSupport: number;
  /** Lines that name no gold passage, and none of whose passages holds a gold answer. */
  readonly noGold: number;
}

/** A line, its passages apart. */
interface SweepLine {
  readonly line: RagLine;
  /** The passages that the answer needs, in their order. */
  readonly gold: readonly Document[];
  /** Others, none of which holds a gold answer: the line's own first, best first, then other lines'. */
  readonly others: readonly Document[];
}

/** The lines of one point of a sweep. */
export interface PointLines {
  readonly lines: readonly RagLine[];
  /** Lines left out: they need more gold passages than the point has. */
  readonly moreGold: number;
  /** Lines left out: the set has too few passages that do not hold their answers. */
  readonly fewOthers: number;
}

export interface SweepSetOptions {
  /** The largest number of passages of any point. */
  readonly maxPassages: number;
  /** Decides which passages of other lines a line gets. */
  readonly seed: string;
  /** Passages beside the lines' own, to fill lines up with. */
  readonly pool?: readonly Document[] | undefined;
  readonly signal: AbortSignal;
}

/** Lines after which others get a turn. */
const linesPerTurn = 64;

/**
 * Finds each line's gold passages and draws the passages that it is filled up with: all of its own that hold no gold answer,
 * then those of other lines in an order that the seed and the line decide. A larger point of a line holds all passages of a
 * smaller one.
 *
 * @throws the signal's reason.
 */
export async function sweepSet(lines: readonly GoldLine[], options: SweepSetOptions): Promise<SweepSet> {
  const { maxPassages, seed, signal } = options;
  const pool = new PassagePool([...lines.flatMap(({ documents }) => documents), ...(options.pool ?? [])]);
  const usable: SweepLine[] = [];
  let missingSupport = 0;
  let noGold = 0;
  for (const [i, { gold, ...line }] of lines.entries()) {
    if (i % linesPerTurn === 0) {
      signal.throwIfAborted();
      await nextTurn();
    }
    if (gold === "missing") missingSupport += 1;
    else if (gold === "none") noGold += 1;
    else {
      const goldDocuments = gold.map((place) => line.documents[place] as Document);
      const own = line.documents.filter((_, place) => !gold.includes(place));
      const draw = { gold: goldDocuments, own, answers: line.answers, count: maxPassages - gold.length };
      usable.push({ line, gold: goldDocuments, others: pool.fill(draw, `${seed} ${line.id ?? i} ${line.question}`) });
    }
  }
  return { lines: usable, missingSupport, noGold };
}

/** The lines of a set with so many passages each, the gold ones where the order says, or at random. */
export function pointLines({ lines }: SweepSet, numPassages: number, order: GoldOrder | "shuffled"): PointLines {
  const laid: RagLine[] = [];
  let moreGold = 0;
  let fewOthers = 0;
  for (const { line, gold, others } of lines) {
    const numOthers = numPassages - gold.length;
    if (numOthers < 0) moreGold += 1;
    else if (numOthers > others.length) fewOthers += 1;
    else {
      const chosen = others.slice(0, numOthers);
      const documents = order === "shuffled" ? shuffle([...gold, ...chosen], line) : layOut(gold, chosen, order);
      laid.push({ ...line, documents });
    }
  }
  return { lines: laid, moreGold, fewOthers };
}

/** An order that the question alone decides. */
function shuffle(documents: readonly Document[], { id, question }: RagLine): Document[] {
  const random = new Random(`order ${id ?? ""} ${question}`);
  return random.shuffle(documents);
}

function layOut(gold: readonly Document[], others: readonly Document[], order: GoldOrder): Document[] {
  const numBefore = { "gold-first": 0, "gold-middle": others.length >> 1, "gold-last": others.length }[order];
  return [...others.slice(0, numBefore), ...gold, ...others.slice(numBefore)];
}

interface Fill {
  readonly gold: readonly Document[];
  readonly own: readonly Document[];
  readonly answers: readonly string[];
  readonly count: number;
}

/** The passages of all lines, each once. */
class PassagePool {
  readonly #documents: Document[] = [];
  readonly #normalized: (string | undefined)[] = [];
  readonly #places = new Map<string, number>();

  constructor(documents: readonly Document[]) {
    for (const document of documents) {
      const text = documentText(document);
      if (this.#places.has(text)) continue;
      this.#places.set(text, this.#documents.length);
      this.#documents.push(document);
    }
  }

  /** Up to `count` passages, no two alike, none of them gold or with a gold answer in it. */
  fill({ gold, own, answers, count }: Fill, seed: string): Document[] {
    const holdsGold = goldMatcher(answers);
    const placeOf = (document: Document) => this.#places.get(documentText(document)) as number;
    const taken = new Set(gold.map(placeOf));
    const filled: Document[] = [];
    const take = (place: number): void => {
      if (taken.has(place) || holdsGold(this.#textAt(place))) return;
      taken.add(place);
      filled.push(this.#documents[place] as Document);
    };
    for (const document of own) if (filled.length < count) take(placeOf(document));
    // A shuffle of all places, of which only what is drawn is ever made.
    const random = new Random(seed);
    const moved = new Map<number, number>();
    for (let left = this.#documents.length; left > 0 && filled.length < count; left--) {
      const drawn = random.below(left);
      take(moved.get(drawn) ?? drawn);
      moved.set(drawn, moved.get(left - 1) ?? left - 1);
    }
    return filled;
  }

  #textAt(place: number): string {
    this.#normalized[place] ??= normalizeAnswer(documentText(this.#documents[place] as Document));
    return this.#normalized[place] as string;
  }
}
