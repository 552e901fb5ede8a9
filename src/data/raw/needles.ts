import type { RagDocument } from "../../blocks/block.js";
import { InputRangeError } from "../../files/input-error.js";
import { ragDocument } from "../rag/rag-row.js";
import { Random } from "../random.js";
import type { RowReport } from "../row-tally.js";
import { type MadeFile, writeMadeLines } from "./made-lines.js";
import type { RagLineFields } from "./rag-line.js";

export interface NeedleOptions {
  /** Lines of each kind. */
  readonly count: number;
  /** Passages that lead to a tracked variable's value, its own among them. */
  readonly hops: number;
  readonly seed: string;
}

/** What is asked for: a number that stands in one passage, or one that several lead to. */
type NeedleLine = RagLineFields & { readonly kind: "needle" | "tracking" };

const adjectives =
  "amber ancient brisk calm copper crimson distant eager faint gentle golden hollow idle jagged lively modest narrow quiet rapid rustic silver sturdy tidy vivid".split(
    " ",
  );
const nouns =
  "anchor basket beacon canyon castle compass ferry garden harbor island kettle ladder lantern meadow mirror orchard pebble quarry ribbon saddle temple tunnel valley willow".split(
    " ",
  );

/**
 * Writes questions whose answers were hidden in real passages: what RULER (arXiv:2404.06654) calls needles and variable tracking. A
 * line has its own passages alone; `eval sweep` and `eval repair` fill it up with other lines', which hold other needles, and a pool's.
 *
 * @throws as writeMadeLines(); InputRangeError where the passages or the names do not reach.
 */
export function writeNeedles(options: NeedleOptions & MadeFile): Promise<RowReport> {
  const { count, hops, seed, ...files } = options;
  return writeMadeLines({
    ...files,
    command: "data needles",
    told: { count, hops, seed },
    read: (row, where) => {
      const passage = ragDocument(row, 0, (what) => new Error(`Cannot read ${where}: ${what}`));
      return [typeof passage === "string" ? { title: "", text: passage } : passage];
    },
    make: (passages) => needleLines(passages, options),
  });
}

/** Each passage stands in one line at most; names and numbers are each used once. */
export function needleLines(passages: readonly RagDocument[], { count, hops, seed }: NeedleOptions): NeedleLine[] {
  const needed = count * (1 + hops);
  const names = adjectives.flatMap((adjective) => nouns.map((noun) => `${adjective} ${noun}`));
  if (passages.length < needed)
    throw new InputRangeError(`Cannot hide needles: ${needed} passages are needed, the input has ${passages.length}`);
  if (count > names.length)
    throw new InputRangeError(`Cannot hide needles: count is ${count}, wanted ${names.length} at most`);
  const random = new Random(JSON.stringify(["needles", seed]));
  const shuffled = random.shuffle(passages);
  const chosen = random.shuffle(names);
  const used = new Set<string>();
  const unique = (draw: () => string): string => {
    for (;;) {
      const text = draw();
      if (used.has(text)) continue;
      used.add(text);
      return text;
    }
  };
  const number = () => unique(() => `${random.between(100_000, 999_999)}`);
  const variable = () =>
    unique(() => Array.from({ length: 5 }, () => String.fromCharCode(random.between(65, 90))).join(""));
  let next = 0;
  const hide = (sentence: string): RagDocument => {
    const { title, text } = shuffled[next++] as RagDocument;
    const sentences = text.split(/(?<=[.!?]) +/);
    return { title, text: sentences.toSpliced(random.between(0, sentences.length), 0, sentence).join(" ") };
  };
  const line = (kind: NeedleLine["kind"], i: number, question: string, answer: string, found: RagDocument[]) => {
    const places = random.shuffle([...found.keys()]);
    const documents = places.map((place) => found[place] as RagDocument);
    const supports = [...found.keys()];
    return { id: `${kind}-${i}`, kind, question, answers: [answer], generated: "" as const, supports, documents };
  };
  return Array.from({ length: count }, (_, i): NeedleLine[] => {
    const [name, value, tracked] = [chosen[i] as string, number(), number()];
    const variables = Array.from({ length: hops }, variable);
    const assigned = variables.map((of, hop) =>
      hide(`VAR ${of} = ${hop === 0 ? tracked : `VAR ${variables[hop - 1]}`}.`),
    );
    const needle = hide(`The special magic number for ${name} is ${value}.`);
    return [
      line("needle", i, `What is the special magic number for ${name}?`, value, [needle]),
      line("tracking", i, `What number is the value of VAR ${variables.at(-1)}?`, tracked, assigned),
    ];
  }).flat();
}
