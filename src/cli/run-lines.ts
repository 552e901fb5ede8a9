import { readPassage } from "../blocks/passage.js";
import type { JsonValue } from "../files/bounded-json.js";
import type { InputLine } from "../files/bounded-part.js";
import { openInput, readJsonLines } from "../files/json-lines.js";
import { quote } from "../files/quote.js";
import { UsageError } from "../files/usage-error.js";
import type { FlagsOf } from "./command.js";
import type { inputFlags } from "./options.js";
import { documentPart } from "./prompt-line.js";
import { errorLine, note, type Terminal, writeJson } from "./terminal.js";

/** Lines of input that are read once; whoever opens them closes what they are read from. */
export interface OpenLines extends AsyncIterable<InputLine>, Disposable {}

/**
 * The lines that a command works on: those of --input, or the one that the command itself spells. What they are read
 * from is opened at once, so that a wrong path is told before a model is loaded.
 *
 * @throws UsageError for none or several sources; Error if a file cannot be read.
 */
export async function openPromptLines(flags: FlagsOf<typeof inputFlags>, terminal: Terminal): Promise<OpenLines> {
  const { input, prompt, question, documents } = flags;
  const given = Object.entries({ "--input": input, "--prompt": prompt, "--question": question })
    .filter(([, value]) => value !== undefined)
    .map(([flag]) => flag);
  if (given.length === 0) {
    throw new UsageError("Cannot start: there is no prompt, wanted --input, --prompt, or --question with --documents");
  }
  if (given.length > 1) throw new UsageError(`Cannot use ${given[1]}: ${given[0]} is given too`);
  if ((question === undefined) !== (documents === undefined)) {
    const [flag, missing] = question === undefined ? ["--documents", "--question"] : ["--question", "--documents"];
    throw new UsageError(`Cannot use ${flag}: ${missing} is missing`);
  }
  if (input !== undefined) return openLines(input, terminal);
  if (prompt !== undefined) return oneLine({ prompt });
  const passages: JsonValue[] = [];
  for await (const line of await openLines(documents as string, terminal)) {
    if (line.kind === "bad") throw new Error(line.error);
    try {
      // Keys that no passage has are told when the prompt is made.
      readPassage(
        documentPart(line.value, () => undefined),
        passages.length,
      );
    } catch (error) {
      throw new Error(`${errorLine(error)} (line ${line.number} of the documents)`, { cause: error });
    }
    passages.push(line.value);
  }
  return oneLine({ question: question as string, documents: passages });
}

/** The lines of a file, or of standard input. @throws Error if the file cannot be read. */
export async function openLines(path: string, terminal: Terminal): Promise<OpenLines> {
  const stream = await openInput(path, terminal.stdin, terminal.signal);
  const lines = readJsonLines(stream, terminal.signal);
  return { [Symbol.asyncIterator]: () => lines, [Symbol.dispose]: () => void stream.destroy() };
}

/** One line that no file holds. */
export function oneLine(value: JsonValue): OpenLines {
  return {
    async *[Symbol.asyncIterator]() {
      yield { kind: "value", number: undefined, value };
    },
    [Symbol.dispose]: () => undefined,
  };
}

/** Tells a person of each key that no prompt is made of, once. */
export function passedOverNotes(terminal: Terminal): (key: string) => void {
  const told = new Set<string>();
  return (key) => {
    if (told.has(key) || told.size >= maxPassedOver) return;
    told.add(key);
    const more = told.size === maxPassedOver ? ", and maybe more" : "";
    note(terminal, `Passed over in lines: the key ${quote(key, 60)}${more}`);
  };
}

const maxPassedOver = 20;

/**
 * Does each line's work, in order. A line that fails gives an error in its place, and the others go on.
 *
 * @param json whether the error is a line of JSON on standard output, or one for a person on standard error.
 * @returns the exit code: 1 if a line failed.
 * @throws Error if the input breaks off; the signal's reason.
 */
export async function runLines(
  lines: AsyncIterable<InputLine>,
  json: boolean,
  terminal: Terminal,
  work: (value: JsonValue) => Promise<void>,
): Promise<number> {
  let exitCode = 0;
  for await (const line of lines) {
    try {
      if (line.kind === "bad") throw new Error(line.error);
      await work(line.value);
    } catch (error) {
      terminal.signal.throwIfAborted();
      exitCode = 1;
      const message = errorLine(error);
      if (json) await writeJson(terminal, { error: message });
      else note(terminal, line.number === undefined ? message : `Line ${line.number}: ${message}`);
    }
    terminal.signal.throwIfAborted();
  }
  return exitCode;
}
