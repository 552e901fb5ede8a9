type TokenType = "text" | "name" | "string" | "int" | "float" | "op" | "end";

export interface Token {
  readonly type: TokenType;
  /** Of a string what it spells, of all else the source. */
  readonly value: string;
  readonly line: number;
}

/** White space as Python has it; JavaScript's \s differs in eight characters. */
export const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const SPACES_AT_END = new RegExp(`(?<!${SPACE})${SPACE}+$`);
const ONLY_SPACES = new RegExp(`^${SPACE}+$`);
const AFTER_MINUS = `${SPACE}*`;

const BEGIN = /\{(?<kind>[%{#])(?<sign>[-+]?)/g;
const COMMENT_END = new RegExp(`\\+#\\}|-#\\}${AFTER_MINUS}|#\\}\\n?`, "g");
const BLOCK_END = new RegExp(`\\+%\\}|-%\\}${AFTER_MINUS}|%\\}\\n?`, "y");
const OUTPUT_END = new RegExp(`-\\}\\}${AFTER_MINUS}|\\}\\}`, "y");
const IN_TAG: readonly (readonly [TokenType | "space", RegExp])[] = [
  ["space", new RegExp(`${SPACE}+`, "y")],
  ["float", /(?<!\.)(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy],
  ["int", /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy],
  ["name", /[\p{ID_Start}_]\p{ID_Continue}*/uy],
  ["string", /'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"/sy],
  ["op", /\*\*|\/\/|==|!=|>=|<=|[-+/*%~[\](){}<>=.:|,;]/y],
];
const CLOSING: Record<string, string> = { "(": ")", "[": "]", "{": "}" };

/**
 * A template's tokens, as Jinja2 with `trim_blocks` and `lstrip_blocks` reads them: `\r\n` and `\r` are `\n`, one line
 * break at the end is dropped, a block's or comment's line break after it too, and the white space before it on its line.
 *
 * @throws SyntaxError for what is no token, or has no end.
 */
export function tokenize(template: string): Token[] {
  const source = template.replace(/\r\n?/g, "\n").replace(/\n$/, "");
  const tokens: Token[] = [];
  let position = 0;
  let line = 1;
  let counted = 0;
  const lineAt = (at: number): number => {
    for (; counted < at; counted++) if (source[counted] === "\n") line++;
    return line;
  };
  const push = (type: TokenType, value: string, at: number) => tokens.push({ type, value, line: lineAt(at) });
  const find = (pattern: RegExp, from: number): RegExpExecArray | null => {
    pattern.lastIndex = from;
    return pattern.exec(source);
  };
  const fail = (what: string, at: number): never => {
    throw new SyntaxError(`line ${lineAt(at)}: ${what}`);
  };
  /** The text from `position` to a tag, less the white space that the tag takes. */
  const pushText = (end: number, sign: string, isBlock: boolean) => {
    let text = source.slice(position, end);
    if (sign === "-") text = text.replace(SPACES_AT_END, "");
    else if (sign === "" && isBlock) {
      const start = text.lastIndexOf("\n") + 1;
      const isAtLineStart = start > 0 || position === 0 || source[position - 1] === "\n";
      if (isAtLineStart && ONLY_SPACES.test(text.slice(start))) text = text.slice(0, start);
    }
    if (text !== "") push("text", text, position);
  };

  while (position < source.length) {
    const begin = find(BEGIN, position);
    if (begin === null) {
      push("text", source.slice(position), position);
      break;
    }
    const { kind, sign = "" } = begin.groups!;
    pushText(begin.index, sign, kind !== "{");
    position = begin.index + begin[0].length;
    if (kind === "#") {
      const end = find(COMMENT_END, position) ?? fail("a comment has no end", begin.index);
      position = end.index + end[0].length;
    } else {
      position = readTag(kind === "{", begin.index);
    }
  }
  return tokens;

  function readTag(isOutput: boolean, start: number): number {
    push("op", isOutput ? "{{" : "{%", start);
    const wanted: string[] = [];
    let at = position;
    while (at < source.length) {
      if (wanted.length === 0) {
        const end = find(isOutput ? OUTPUT_END : BLOCK_END, at);
        if (end !== null) {
          push("op", isOutput ? "}}" : "%}", at);
          return at + end[0].length;
        }
      }
      const matched = IN_TAG.map(([type, pattern]) => [type, find(pattern, at)?.[0]] as const).find(
        ([, text]) => text !== undefined,
      );
      if (matched?.[1] === undefined) fail(`unexpected ${JSON.stringify(source[at])}`, at);
      const [type, text] = matched as readonly [TokenType | "space", string];
      if (type === "op") {
        if (CLOSING[text] !== undefined) wanted.push(CLOSING[text]);
        else if (")]}".includes(text) && wanted.pop() !== text) fail(`unexpected "${text}"`, at);
      }
      if (type !== "space") push(type, type === "string" ? decode(text.slice(1, -1), at) : text, at);
      at += text.length;
    }
    return fail(`a tag has no end`, start);
  }

  function decode(text: string, at: number): string {
    return text.replace(ESCAPE, (written: string, hex?: string, octal?: string, other?: string) => {
      const code =
        hex !== undefined ? Number.parseInt(hex.slice(1), 16) : octal !== undefined ? Number.parseInt(octal, 8) : -1;
      if (code > 0x10ffff) fail(`unexpected "${written}"`, at);
      if (code >= 0) return String.fromCodePoint(code);
      if (other === "N" || other === "x" || other === "u" || other === "U" || other! > "\x7f") {
        fail(`the escape "${written}" is not supported`, at);
      }
      // Python keeps the backslash of what is no escape.
      return ESCAPED[other!] ?? (/[\\'"]/.test(other!) ? other! : written);
    });
  }
}

const ESCAPE = /\\(?:(x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8})|([0-7]{1,3})|(.))/gsu;
const ESCAPED: Record<string, string> = { "\n": "", a: "\x07", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", v: "\v" };
