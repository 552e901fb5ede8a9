/** A text and its lines. */
export interface TextLines {
  readonly text: string;
  /** Where each line starts, and the text's end. */
  readonly starts: readonly number[];
  /** Code fences and tables, [start, end) ascending: nothing in them is a border. */
  readonly whole: readonly (readonly [number, number])[];
  /** Of each line, which of them it is in, from 1 on; 0 for none. */
  readonly wholeOf: Uint32Array;
}

/** A fence that nothing closes is none, and a table has two lines that begin with "|" or more. */
export function linesOf(text: string): TextLines {
  const starts = [0];
  for (let at = text.indexOf("\n"); at >= 0 && at + 1 < text.length; at = text.indexOf("\n", at + 1))
    starts.push(at + 1);
  const numLines = starts.length;
  starts.push(text.length);
  const wholeOf = new Uint32Array(numLines);
  const whole: [number, number][] = [];
  const keep = (first: number, end: number): void => {
    whole.push([starts[first]!, starts[end]!]);
    wholeOf.fill(whole.length, first, end);
  };
  const mark = /[ \t]{0,3}(`{3,}|~{3,}|\|)/y;
  const markOf = (line: number): string | undefined => {
    mark.lastIndex = starts[line]!;
    return line < numLines ? mark.exec(text)?.[1] : undefined;
  };
  let fence: { first: number; mark: string } | undefined;
  for (let line = 0; line < numLines; line++) {
    const found = markOf(line);
    if (found === undefined) continue;
    if (found !== "|") {
      if (fence === undefined) fence = { first: line, mark: found };
      else if (found.startsWith(fence.mark)) {
        keep(fence.first, line + 1);
        fence = undefined;
      }
    } else if (fence === undefined) {
      const first = line;
      while (markOf(line + 1) === "|") line++;
      if (line > first) keep(first, line + 1);
    }
  }
  return { text, starts, whole, wholeOf };
}

/** The line that a place is in. */
export function lineAt({ starts }: TextLines, at: number): number {
  let [low, high] = [0, starts.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (starts[middle]! <= at) low = middle;
    else high = middle;
  }
  return low;
}

/** The lines from the one that `from` is in up to `to`: where each begins, not before `from`, and ends, and its text. */
export function* eachLine(lines: TextLines, from: number, to: number): Generator<TextLine, void> {
  const { text, starts } = lines;
  for (let line = lineAt(lines, from); line + 1 < starts.length && starts[line]! < to; line++) {
    const start = Math.max(starts[line]!, from);
    const end = Math.min(endOfLine(text, start), to);
    // No line that matters is longer, and to copy more takes time.
    const content = text.slice(start, Math.min(end, start + 2000));
    yield { start, end, content: content.trim(), isWhole: lines.wholeOf[line]! > 0 };
  }
}

export interface TextLine {
  readonly start: number;
  /** Without its line break. */
  readonly end: number;
  /** At most the first 2,000 characters, without white space at both ends. */
  readonly content: string;
  /** Whether it is in a code fence or a table. */
  readonly isWhole: boolean;
}

function endOfLine(text: string, at: number): number {
  const end = text.indexOf("\n", at);
  return end < 0 ? text.length : end;
}

export function skipSpace(text: string, from: number): number {
  let at = from;
  while (at < text.length && /\s/.test(text[at]!)) at++;
  return at;
}

export function trimEnd(text: string, from: number, to: number): number {
  let end = to;
  while (end > from && /\s/.test(text[end - 1]!)) end--;
  return end;
}
