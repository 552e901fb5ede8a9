/** A range of code points, both included. */
type Range = readonly [from: number, to: number];

/** What stands in no JSON string as it is: control characters, the quote and the backslash. */
const escaped: readonly Range[] = [
  [0, 0x1f],
  [0x22, 0x22],
  [0x5c, 0x5c],
];
const escapes: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, "0": 0 };
/** A string's rule: its quotes, and what stands between them. */
const stringRule = /^(\w+ ::= "\\"" )(.*)( "\\"")$/;
/** Quoted texts, which are passed over, and sets of characters. */
const literalOrSet = /"(?:[^"\\]|\\.)*"|\[(\^?)((?:[^\]\\]|\\.)*)\]/g;
const setMember = /\\(?:U([0-9a-fA-F]{8})|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))|([^\\])/gsu;

type Schema = boolean | Readonly<Record<string, unknown>>;

/**
 * The text of a schema as XGrammar takes it: it writes names of properties into its grammar as they are, where those that JSON escapes
 * would end the text that they stand in.
 */
export function schemaText(schema: Schema): string {
  return JSON.stringify(withEscapedNames(schema));
}

function withEscapedNames(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(withEscapedNames);
  if (typeof schema !== "object" || schema === null) return schema;
  const entries = Object.entries(schema).map(([keyword, value]): [string, unknown] => {
    if (keyword === "enum" || keyword === "const" || keyword === "default" || keyword === "examples")
      return [keyword, value];
    if (keyword === "required" && Array.isArray(value)) return [keyword, value.map(escapedName)];
    const isMap = /^(properties|patternProperties|\$defs|definitions)$/.test(keyword);
    if (!isMap || typeof value !== "object" || value === null) return [keyword, withEscapedNames(value)];
    const name = keyword === "properties" ? escapedName : (same: string) => same;
    return [keyword, Object.fromEntries(Object.entries(value).map(([key, of]) => [name(key), withEscapedNames(of)]))];
  });
  return Object.fromEntries(entries);
}

function escapedName(name: unknown): string {
  if (typeof name !== "string") return name as string;
  const inJson = JSON.stringify(name).slice(1, -1);
  return inJson === name ? name : JSON.stringify(inJson).slice(1, -1);
}

/** A quoted name before the @, whose quotes are JSON's escapes: such an address is not made. */
const quotedLocalPart = ' | "\\\\" "\\"" ( "\\\\" [ -~] | [ !#-[\\]-~] )* "\\\\" "\\"" )';

/**
 * XGrammar's grammar of a schema, corrected: strings that have a length or a pattern take no character that JSON must escape, and there
 * is no white space without end.
 *
 * @param ebnf a rule a line.
 * @param whiteSpace how many characters stand between the parts of JSON at most.
 * @throws RangeError where a pattern takes nothing but such characters.
 */
export function jsonGrammar(ebnf: string, whiteSpace: number): string {
  const lines = ebnf.split("\n").map((line) => {
    const [, begin, inside, end] = stringRule.exec(line) ?? [];
    if (inside === undefined) return line.replaceAll("[ \\n\\t]*", `[ \\n\\t]{0,${whiteSpace}}`);
    const safe = inside
      .replaceAll(quotedLocalPart, " )")
      .replaceAll(literalOrSet, (whole, not?: string, members?: string) =>
        members === undefined ? requirePlain(whole) : safeSet(not === "^", members),
      );
    return `${begin}${safe}${end}`;
  });
  return lines.join("\n");
}

/** Patterns name characters, not their escapes. */
function requirePlain(quoted: string): string {
  if (/\\["\\nrt0]|\\x[01][0-9a-fA-F]/.test(quoted.slice(1, -1)))
    throw new RangeError("a pattern with quotes, backslashes or control characters, which JSON escapes");
  return quoted;
}

function safeSet(isNot: boolean, members: string): string {
  const ranges = rangesOf(members);
  if (isNot) return `[^${[...ranges, ...escaped].map(written).join("")}]`;
  const left = escaped.reduce((all, [from, to]) => all.flatMap((range) => without(range, from, to)), ranges);
  if (left.length === 0) throw new RangeError("a pattern that wants a character which JSON escapes");
  return `[${left.map(written).join("")}]`;
}

function without([first, last]: Range, from: number, to: number): Range[] {
  if (to < first || from > last) return [[first, last]];
  const before: Range[] = first < from ? [[first, from - 1]] : [];
  return last > to ? [...before, [to + 1, last]] : before;
}

function rangesOf(members: string): Range[] {
  const points = [...members.matchAll(setMember)].map(([whole, long, short, byte, after, plain]) => {
    const hex = long ?? short ?? byte;
    const point =
      hex === undefined ? (escapes[after ?? ""] ?? (after ?? plain)?.codePointAt(0)) : Number.parseInt(hex, 16);
    return { point: point as number, isDash: whole === "-" };
  });
  const ranges: Range[] = [];
  for (let i = 0; i < points.length; i++) {
    const [from, dash, to] = points.slice(i, i + 3);
    const isRange = dash?.isDash === true && to !== undefined;
    ranges.push([from!.point, (isRange ? to : from)!.point]);
    if (isRange) i += 2;
  }
  return ranges;
}

function written([from, to]: Range): string {
  const one = (point: number) => `\\U${point.toString(16).toUpperCase().padStart(8, "0")}`;
  return from === to ? one(from) : `${one(from)}-${one(to)}`;
}
