import { InputTypeError } from "../files/input-error.js";
import { show } from "../files/options.js";
import { isDeep, objectOf } from "./tools.js";

/** What an answer of a model that has tools adds: text, a call that begins, or the next piece of its arguments. */
export type ToolCallPiece =
  | { readonly kind: "text"; readonly text: string }
  /** @param index of the answer's calls, from 0 on. */
  | { readonly kind: "call"; readonly index: number; readonly name: string }
  /** JSON, an object once it is whole; of an answer that was cut off, its beginning. */
  | { readonly kind: "arguments"; readonly index: number; readonly text: string };

/** What opens a call wherever it stands, and at an answer's start. */
const mark = /<tool_call>|<tools>|\[TOOL_CALLS\]/;
const bareMark = /^\s*(?:```\w*\s*)?(?=[[{])/;
const marks = ["<tool_call>", "<tools>", "[TOOL_CALLS]"];
const closers = ["</tool_call>", "</tools>", "```"];
/**
 * A call as it is asked for, up to its arguments, which are an object of JSON or an empty one. Qwen2.5-Coder's template asks for two
 * braces, and gets them.
 */
const header =
  /^(?:<tool_call>|<tools>|\[TOOL_CALLS\])?\s*(?:```\w*\s*)?(?:\[\s*)?\{\{?\s*"name"\s*:\s*"([\w.-]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{\s*["}])/;
/** What is no call by then, at an answer's start, is text. */
const maxBareHeader = 256;

/**
 * Reads the calls of tools in an answer as it comes: Hermes', Mistral's and Llama's forms. Calls that are written badly (other quotes,
 * another order, in a code fence or unclosed) are read once they are whole, where it is plain what they say; what calls no known tool
 * is text.
 *
 * @example
 * const reader = new ToolCallReader(new Set(["weather"]));
 * reader.push('Let me see. <tool_call>{"name": "weather", "arg'); // [{ "kind": "text", "text": "Let me see." }]
 * reader.push('uments": {"city": "Rome"}}</tool_call>')[0]; // { "kind": "call", "index": 0, "name": "weather" }
 */
export class ToolCallReader {
  #held = "";
  #state: "text" | "call" | "arguments" | "after" = "text";
  /** Whether nothing but white space came yet: a call may stand without a mark. */
  #isStart = true;
  #numCalls = 0;
  #scan = { depth: 0, inText: false, isEscaped: false };

  /** @param names of the tools. @throws InputTypeError for what is no Set. */
  constructor(private readonly names: ReadonlySet<string>) {
    if (!(names instanceof Set))
      throw new InputTypeError(`Cannot read calls of tools: the tools' names are ${show(names)}, wanted a Set of them`);
  }

  get numCalls(): number {
    return this.#numCalls;
  }

  /** @throws InputTypeError for what is no text. */
  push(text: string): ToolCallPiece[] {
    if (typeof text !== "string")
      throw new InputTypeError(`Cannot read calls of tools: the text is ${show(text)}, wanted text`);
    this.#held += text;
    const pieces: ToolCallPiece[] = [];
    while (this.#step(pieces, false));
    return pieces;
  }

  /** What was held back of an answer that has ended. */
  end(): ToolCallPiece[] {
    const pieces: ToolCallPiece[] = [];
    while (this.#step(pieces, true));
    if (this.#state === "text") this.#text(pieces, this.#held.length);
    return pieces;
  }

  /** @returns whether there may be more to do with what is held. */
  #step(pieces: ToolCallPiece[], isEnd: boolean): boolean {
    switch (this.#state) {
      case "text":
        return this.#readText(pieces);
      case "call":
        return this.#readCall(pieces, isEnd);
      case "arguments":
        return this.#readArguments(pieces);
      case "after":
        return this.#readAfter(isEnd);
      default:
        return this.#state satisfies never;
    }
  }

  #readText(pieces: ToolCallPiece[]): boolean {
    const found = mark.exec(this.#held);
    const isBare = this.#isStart && bareMark.test(this.#held);
    if (isBare || found) {
      const at = isBare ? 0 : found!.index;
      // White space before a call belongs to neither.
      const text = this.#held.slice(0, at).trimEnd();
      const rest = this.#held.slice(at);
      this.#text(pieces, text.length);
      this.#held = rest;
      this.#state = "call";
      return true;
    }
    // A mark, a code fence or white space before one may have begun.
    const opens = this.#isStart ? [...marks, "```json\n"] : marks;
    let end = this.#held.length;
    for (let at = end - 1; at >= Math.max(0, this.#held.length - 12); at--) {
      const tail = this.#held.slice(at);
      if (opens.some((open) => open.startsWith(tail))) end = at;
    }
    if (this.#isStart && this.#held.length < 64 && /^\s*(?:`{1,3}\w*\s*)?$/.test(this.#held)) end = 0;
    this.#text(pieces, this.#held.slice(0, end).trimEnd().length);
    return false;
  }

  /** Gives so much of what is held as text. */
  #text(pieces: ToolCallPiece[], length: number): void {
    if (length === 0) return;
    pieces.push({ kind: "text", text: this.#held.slice(0, length) });
    this.#held = this.#held.slice(length);
    this.#isStart = false;
  }

  #readCall(pieces: ToolCallPiece[], isEnd: boolean): boolean {
    const found = header.exec(this.#held);
    const name = found?.[1];
    if (found && name !== undefined && this.names.has(name)) {
      pieces.push({ kind: "call", index: this.#numCalls++, name });
      this.#held = this.#held.slice(found[0].length);
      this.#scan = { depth: 0, inText: false, isEscaped: false };
      this.#state = "arguments";
      return true;
    }
    const length = this.#lengthOfCandidate();
    const isBare = mark.exec(this.#held)?.index !== 0;
    const isWhole = length < this.#held.length;
    if (!isWhole && !isEnd && !(isBare && this.#held.length > maxBareHeader)) return false;
    const calls = isWhole || isEnd ? mended(this.#held.slice(0, length), this.names) : undefined;
    this.#state = "text";
    if (calls === undefined) this.#text(pieces, Math.max(length, 1));
    else {
      for (const { name, text } of calls) {
        const index = this.#numCalls++;
        pieces.push({ kind: "call", index, name }, { kind: "arguments", index, text });
      }
      this.#held = this.#held.slice(length);
      this.#state = "after";
    }
    return true;
  }

  /** Up to what closes the call, or opens the next one; all where neither has come. */
  #lengthOfCandidate(): number {
    const opening = /^(?:<tool_call>|<tools>|\[TOOL_CALLS\])?\s*(?:```\w*\s*)?/.exec(this.#held)![0];
    const ends = [...marks, ...closers].map((one) => this.#held.indexOf(one, Math.max(1, opening.length)));
    return Math.min(this.#held.length, ...ends.filter((at) => at > 0));
  }

  #readArguments(pieces: ToolCallPiece[]): boolean {
    let end = 0;
    let isWhole = false;
    for (; end < this.#held.length && !isWhole; end++) {
      const unit = this.#held[end]!;
      const scan = this.#scan;
      if (scan.isEscaped) scan.isEscaped = false;
      else if (scan.inText && unit === "\\") scan.isEscaped = true;
      else if (unit === '"') scan.inText = !scan.inText;
      else if (!scan.inText && (unit === "{" || unit === "[")) scan.depth++;
      else if (!scan.inText && (unit === "}" || unit === "]")) isWhole = --scan.depth === 0;
    }
    if (end > 0) pieces.push({ kind: "arguments", index: this.#numCalls - 1, text: this.#held.slice(0, end) });
    this.#held = this.#held.slice(end);
    if (isWhole) this.#state = "after";
    return isWhole;
  }

  /** Passes over what closes a call. */
  #readAfter(isEnd: boolean): boolean {
    // Mistral's calls may have an id.
    const closing = /^(?:\s*(?:,\s*"id"\s*:\s*"[^"]*"|[}\];]|<\/tool_call>|<\/tools>|```))*\s*/.exec(this.#held)![0];
    const rest = this.#held.slice(closing.length);
    const isOpen = rest === "" || closers.some((one) => one.startsWith(rest)) || /^,(?:[^{}]{0,99})?$/.test(rest);
    if (isOpen && !isEnd) return false;
    const list = /^,\s*(?=\{)/.exec(rest);
    this.#held = isOpen && !rest.startsWith(",") ? "" : rest.slice(list?.[0].length ?? 0);
    this.#state = list ? "call" : "text";
    return this.#held !== "";
  }
}

/** The calls that a text plainly says, though not as it was asked; undefined where it says none, or calls what is no tool. */
function mended(candidate: string, names: ReadonlySet<string>): { name: string; text: string }[] | undefined {
  const inner = candidate
    .replace(mark, "")
    .replace(/^\s*```\w*/, "")
    .trim();
  const value = [inner, jsonOfPython(inner), closed(inner), closed(jsonOfPython(inner))]
    .map(parsed)
    .find((one) => one !== undefined);
  const list = Array.isArray(value) ? value : [value];
  const calls = list.map((one: unknown) => callOf(one, names));
  return calls.length > 0 && calls.every((call) => call !== undefined) ? calls : undefined;
}

function parsed(text: string): unknown {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !isDeep(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function callOf(value: unknown, names: ReadonlySet<string>): { name: string; text: string } | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const {
    function: inner,
    name,
    arguments: given,
    parameters,
    type: _,
    id: __,
    ...others
  } = value as Record<string, unknown>;
  if (typeof inner === "object" && inner !== null && name === undefined) return callOf(inner, names);
  const called = typeof inner === "string" && name === undefined ? inner : name;
  if (typeof called !== "string" || !names.has(called) || Object.keys(others).length > 0) return undefined;
  const asked = given ?? parameters ?? {};
  const object = typeof asked === "string" ? objectOf(asked) : Array.isArray(asked) ? undefined : asked;
  return typeof object === "object" ? { name: called, text: JSON.stringify(object) } : undefined;
}

/** Python's literals and typographic quotes as JSON has them. */
function jsonOfPython(text: string): string {
  return text
    .replace(/[“”]/g, '"')
    .replace(/"(?:[^"\\]|\\.)*"|'((?:[^'\\]|\\.)*)'|\b(?:True|False|None)\b/gs, (whole, single?: string) => {
      if (single !== undefined) return JSON.stringify(single.replace(/\\(['"])/g, "$1"));
      return { True: "true", False: "false", None: "null" }[whole] ?? whole;
    });
}

/** The text with the brackets that it lacks at its end. */
function closed(text: string): string {
  const open: string[] = [];
  for (const [unit] of text.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{}]/gs)) {
    if (unit === "{") open.push("}");
    else if (unit === "[") open.push("]");
    else if (unit.length === 1) open.pop();
  }
  return text + open.reverse().join("");
}
