import { createContext, Script } from "node:vm";
import { SplitPreTokenizer } from "@huggingface/tokenizers";
import { InputRangeError } from "../files/input-error.js";
import { quote } from "../files/quote.js";
import type { JsonFields } from "./json-fields.js";
import { judgeExpression } from "./linear-expression.js";

/** What is looked for in a text. */
export interface Pattern {
  /** With flags g and u. */
  readonly expression: RegExp;
  /** Runs searches that may take far longer than the text is long; undefined where none does. */
  readonly stopwatch: Stopwatch | undefined;
}

/** How text is cut where a pattern occurs: tokenizer.json's `behavior`. */
export type SplitBehavior = "isolated" | "removed" | "contiguous" | "mergedwithprevious" | "mergedwithnext";

/**
 * Cuts pieces of text into smaller ones, lazily: what one step of an iteration takes is bounded, whatever the text. An
 * empty piece is none, but a place to pause at: a step has worked for some milliseconds.
 *
 * @param atStart the first piece starts where the text does.
 */
export type SplitStep = (pieces: Iterable<string>, atStart: boolean) => Iterable<string>;

/**
 * The pattern of a tokenizer.json, `{"String": …}` or `{"Regex": …}`. The second kind is written for Oniguruma; the
 * tokenizer library translates it. One that may backtrack is tried on hard texts.
 *
 * @throws Error for an empty or very long one, and an expression that JavaScript cannot say or that explodes.
 */
export function readPattern(fields: JsonFields): Pattern {
  const text = readLiteral(fields);
  if (text !== undefined) return { expression: new RegExp(escapeRegExp(text), "gu"), stopwatch: undefined };
  const source = fields.string("Regex");
  if (source === "" || source.length > maxExpressionLength) {
    return fields.fail(`the expression has ${source.length} UTF-16 units, not 1 to ${maxExpressionLength}`);
  }
  const pattern = compileOniguruma(source, (reason) => fields.fail(reason));
  if (pattern.stopwatch !== undefined) tryHardTexts(source, pattern, fields);
  return pattern;
}

/**
 * A pattern that takes no longer than the text is long, for work that cannot pause.
 *
 * @throws Error as readPattern(), and for an expression that may backtrack.
 */
export function readLinearPattern(fields: JsonFields): RegExp {
  const { expression, stopwatch } = readPattern(fields);
  if (stopwatch === undefined) return expression;
  return fields.fail(
    `the expression ${quote(fields.string("Regex"), 60)} may backtrack, which only those of a Split may`,
  );
}

/** The text of a `{"String": …}`. @throws Error for an empty or very long one. */
export function readLiteral(fields: JsonFields): string | undefined {
  const text = fields.optionalString("String");
  if (text !== undefined && (text === "" || text.length > maxLiteralLength)) {
    return fields.fail(`the text to look for has ${text.length} UTF-16 units, not 1 to ${maxLiteralLength}`);
  }
  return text;
}

/** In UTF-16 units. Real ones have a few. */
const maxLiteralLength = 256;
/** In UTF-16 units. DeepSeek's list of letters has 1,000. */
const maxExpressionLength = 8192;

function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

/** Translates an Oniguruma expression. */
export function compileOniguruma(source: string, fail: (reason: string) => never): Pattern {
  try {
    const { pattern } = new SplitPreTokenizer({
      type: "Split",
      pattern: { Regex: linearTwins.get(source) ?? source },
      behavior: "Isolated",
      invert: false,
    });
    if (pattern !== null) {
      const kind = linearTwins.has(source) ? "linear" : judgeExpression(pattern.source);
      if (kind !== "too-large")
        return { expression: pattern, stopwatch: kind === "slow" ? new Stopwatch() : undefined };
      return fail(`the expression ${quote(source, 60)} repeats too much`);
    }
  } catch (error) {
    // RangeError: groups inside groups, deeper than the stack.
    if (!(error instanceof SyntaxError || error instanceof RangeError)) throw error;
  }
  return fail(`the expression ${quote(source)} is not understood`);
}

const lineEnds = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
const lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
const before = "[^\\r\\n\\p{L}\\p{N}]?";
const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
const cased = (suffix: string) => `${before}${upper}*${lower}+${suffix}|${before}${upper}+${lower}*${suffix}`;
const signs = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*";

/** Expressions of well-known models that are linear in ways that isLinear() does not see, and what they are run as. */
const linearTwins: ReadonlyMap<string, string> = new Map([
  // Mistral's tekken: what the first alternative looks at in vain, the second takes.
  ...[`${cased("")}|\\p{N}|${signs}|${lineEnds}`, `${cased(contractions)}|\\p{N}{1,3}|${signs}|${lineEnds}`].map(
    (source) => [source, source] as const,
  ),
  // DeepSeek LLM: a run of white space inside the text would be tried from each of its characters.
  ["\\s+$", "(?<!\\s)\\s+$"],
]);

/** Cuts where a pattern occurs. Put together, the pieces are the text, unless matches are removed. */
export function splitStep(pattern: Pattern, behavior: SplitBehavior, invert: boolean): SplitStep {
  const { expression, stopwatch } = pattern;
  const cut = (pieces: Iterable<string>, state: Cut) =>
    stopwatch === undefined ? cutLinearly(pieces, expression, state) : cutSlowly(pieces, expression, stopwatch, state);
  switch (behavior) {
    case "isolated":
      return (pieces) => cut(pieces, new Cut(invert));
    case "removed":
      return function* (pieces) {
        const state = new Cut(invert);
        for (const piece of cut(pieces, state)) {
          if (piece === "" || !state.isMatch) yield piece;
          else if (state.isPauseDue()) yield "";
        }
      };
    case "contiguous":
      return joining((last, next) => last === next);
    case "mergedwithprevious":
      return joining((last, next) => next && !last);
    case "mergedwithnext":
      return joining((last, next) => last && !next);
    default:
      return behavior satisfies never;
  }

  /** Puts neighbours of one piece together. */
  function joining(together: (last: boolean, next: boolean) => boolean): SplitStep {
    return function* (pieces) {
      const state = new Cut(invert);
      let whole = "";
      let last = false;
      for (const piece of cut(pieces, state)) {
        if (piece !== "" && (state.isFirst || !together(last, state.isMatch))) {
          if (whole !== "") yield whole;
          whole = piece;
        } else {
          whole += piece;
          if (piece === "" || state.isPauseDue()) yield "";
        }
        last = state.isMatch;
      }
      if (whole !== "") yield whole;
    };
  }
}

/** What the piece is that a cut has just given. */
class Cut {
  #numSilent = 0;
  isMatch = false;
  /** The first of those that come from one piece. */
  isFirst = true;

  constructor(private readonly inverts: boolean) {}

  /** Where no piece is given: whether the last pause is long ago. */
  isPauseDue(): boolean {
    this.#numSilent++;
    return this.#numSilent % 1024 === 0;
  }

  found(isFirst: boolean, isMatch: boolean): void {
    this.isFirst = isFirst;
    this.isMatch = isMatch !== this.inverts;
  }
}

function* cutLinearly(pieces: Iterable<string>, expression: RegExp, state: Cut): Generator<string> {
  for (const text of pieces) {
    let position = 0;
    let from = 0;
    while (position < text.length) {
      // Set each time: other texts are cut with this expression between two pieces of this one.
      expression.lastIndex = from;
      const found = expression.exec(text);
      if (found === null) break;
      const start = found.index;
      from = start + found[0].length;
      if (found[0] === "") {
        from += characterLength(text, start);
        if (state.isPauseDue()) yield "";
        continue;
      }
      if (start > position) {
        state.found(position === 0, false);
        yield text.slice(position, start);
      }
      state.found(start === 0, true);
      yield found[0];
      position = from;
    }
    if (position < text.length || text === "") {
      state.found(position === 0, false);
      yield text.slice(position);
    }
  }
}

function characterLength(text: string, index: number): number {
  return (text.codePointAt(index) ?? 0) > 0xffff ? 2 : 1;
}

/** As cutLinearly(), searching for a short time at a stretch, and for half a second without getting on. */
function* cutSlowly(pieces: Iterable<string>, expression: RegExp, stopwatch: Stopwatch, state: Cut): Generator<string> {
  let allowedMs = 500;
  let batch: string[] = [];
  let numUnits = 0;
  for (const piece of pieces) {
    batch.push(piece);
    numUnits += piece.length;
    // The clock costs as much as a few hundred short searches.
    if (piece !== "" && batch.length < 256 && numUnits < 2 ** 14) continue;
    yield* cutBatch();
    batch = [];
    numUnits = 0;
  }
  yield* cutBatch();

  function* cutBatch(): Generator<string> {
    // Where the search stands, in which piece; and how far pieces are given.
    let index = 0;
    let from = 0;
    let numDone = 0;
    let given = 0;
    let position = 0;
    while (index < batch.length) {
      const numBefore = numDone + from;
      const spans: number[] = [];
      const tookMs = stopwatch.run(() => {
        while (index < batch.length && spans.length < 3072) {
          const text = batch[index]!;
          expression.lastIndex = from;
          const found = expression.exec(text);
          if (found === null) {
            numDone += text.length;
            index++;
            from = 0;
            continue;
          }
          const end = found.index + found[0].length;
          if (end > found.index) spans.push(index, found.index, end);
          from = end > found.index ? end : end + characterLength(text, end);
        }
      });
      allowedMs += (numDone + from - numBefore) * allowedMsPerUnit - tookMs;
      if (allowedMs < 0) {
        throw new InputRangeError(
          `Cannot tokenize the text: an expression of the tokenizer explodes over ${quote(batch[index]?.slice(from) ?? "", 40)}`,
        );
      }
      for (let at = 0; at < spans.length; at += 3) {
        const [of, start, end] = spans.slice(at, at + 3) as [number, number, number];
        while (given < of) yield restOfPiece();
        const text = batch[of]!;
        if (start > position) {
          state.found(position === 0, false);
          yield text.slice(position, start);
        }
        state.found(start === 0, true);
        yield text.slice(start, end);
        position = end;
      }
      while (given < index) yield restOfPiece();
      if (tookMs > 1) yield "";
    }

    function restOfPiece(): string {
      state.found(position === 0, false);
      const rest = batch[given]!.slice(position);
      given++;
      position = 0;
      return rest;
    }
  }
}

/** Far more than an expression takes that gets on, far less than one that explodes. */
const allowedMsPerUnit = 0.005;
/** In milliseconds. */
const longestStretch = 40;

/** Runs searches, none longer than a short time at a stretch. */
class Stopwatch {
  readonly #context = createContext({});
  readonly #script = new Script("search()");

  /** @returns how long it ran, in milliseconds; all of `longestStretch` where it was stopped. */
  run(search: () => void): number {
    const from = performance.now();
    this.#context.search = search;
    try {
      this.#script.runInContext(this.#context, { timeout: longestStretch });
    } catch (error) {
      const { code } = error as { code?: unknown };
      // V8 has no memory left for ways to go back to: it would not get on the next time.
      if (code !== "ERR_SCRIPT_EXECUTION_TIMEOUT") return Number.POSITIVE_INFINITY;
    }
    // More has passed only where the machine stood still.
    return Math.min(performance.now() - from, longestStretch);
  }
}

/** @throws Error naming a text over which the expression explodes. */
function tryHardTexts(source: string, pattern: Pattern, fields: JsonFields): void {
  try {
    for (const _ of splitStep(pattern, "isolated", false)(hardTexts(source), true));
  } catch (error) {
    if (!(error instanceof InputRangeError)) throw error;
    const { message } = error;
    fields.fail(`the expression ${quote(source, 60)} explodes over ${message.slice(message.indexOf('"'))}`);
  }
}

/** Long runs of what an expression speaks of, and of what any text has, with an end that few expressions take. */
function* hardTexts(source: string): Generator<string> {
  const spelled = source.replace(/\\[pP]\{[^}]*\}|\\./gu, " ");
  const units = new Set([
    ...["a", "Z", "1", " ", "\n", "!", "é", "漢", "_", "ab ", "a1", " \n", "\t ", "'s"],
    ...Array.from(spelled).slice(0, 24),
    ...(spelled.match(/\p{L}{2,8}/gu) ?? []).slice(0, 8),
  ]);
  for (const unit of units) {
    for (const count of [28, 1000]) {
      for (const end of ["", "\ue000", "\n!"]) yield unit.repeat(count) + end;
    }
  }
}
