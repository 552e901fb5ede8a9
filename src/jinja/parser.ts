import { isFilter, isTest } from "./filters.js";
import { type Token, tokenize } from "./lexer.js";
import type { Arguments, Branch, Comparison, Expression, Macro, Operator, Statement, Target } from "./syntax.js";
import type { Value } from "./values.js";

// Python itself ends at about a hundred.
const MAX_DEPTH = 100;

const CONSTANTS: Record<string, Value> = { true: true, True: true, false: false, False: false, none: null, None: null };
/** Operators, those that bind closer later; comparisons are of the level of "not". */
const LEVELS = [["or"], ["and"], ["not"], ["+", "-"], ["~"], ["*", "/", "//", "%"], ["**"]];
const COMPARISONS = ["==", "!=", "<", "<=", ">", ">=", "in"];
const NO_ARGUMENTS: Arguments = { positional: [], named: [] };
/** What Jinja2 gives a macro that reads it. */
const OF_MACROS = ["caller", "kwargs", "varargs"];

/**
 * A template as a program, by the grammar of Jinja2 with the extensions that Transformers loads (`break`, `continue`,
 * `generation`). Filters and tests that are not known, or not supported, are refused here; but inside `if`, as in Jinja2,
 * only where they are reached.
 *
 * @throws SyntaxError with the line, for what is not Jinja or not supported.
 */
export function parse(template: string): Statement[] {
  return new Parser(tokenize(template)).parseTemplate();
}

class Parser {
  #at = 0;
  #depth = 0;
  /** Filters and tests that are not known, less those that a choice may never reach. */
  readonly #unknown: string[] = [];
  #numOpenLoops = 0;
  #numOpenMacros = 0;

  constructor(private readonly tokens: readonly Token[]) {}

  parseTemplate(): Statement[] {
    const body = this.#parseBody();
    if (this.#unknown[0] !== undefined) throw new SyntaxError(this.#unknown[0]);
    return body;
  }

  get #current(): Token {
    return this.tokens[this.#at] ?? { type: "end", value: "", line: this.tokens.at(-1)?.line ?? 1 };
  }

  #fail(what: string): never {
    throw new SyntaxError(`line ${this.#current.line}: ${what}`);
  }

  #failUnexpected(wanted: string): never {
    const { type, value } = this.#current;
    this.#fail(`unexpected ${type === "end" ? "end of the template" : JSON.stringify(value)}, wanted ${wanted}`);
  }

  #next(): Token {
    const token = this.#current;
    this.#at++;
    return token;
  }

  /** Whether the current token is one of these names or operators. */
  #is(...values: string[]): boolean {
    const { type, value } = this.#current;
    return (type === "name" || type === "op") && values.includes(value);
  }

  #skip(...values: string[]): boolean {
    const isOne = this.#is(...values);
    if (isOne) this.#at++;
    return isOne;
  }

  #expect(value: string): void {
    if (!this.#skip(value)) this.#failUnexpected(value);
  }

  #expectName(): string {
    return this.#current.type === "name" ? this.#next().value : this.#failUnexpected("a name");
  }

  #nested<T>(parse: () => T): T {
    if (++this.#depth > MAX_DEPTH) this.#fail(`nested more than ${MAX_DEPTH} deep`);
    const parsed = parse();
    this.#depth--;
    return parsed;
  }

  /** Statements up to a tag that begins with one of these names, which is left to the caller; with none, to the end. */
  #parseBody(...ends: string[]): Statement[] {
    return this.#nested(() => {
      const body: Statement[] = [];
      while (this.#current.type !== "end") {
        const { type, value } = this.#next();
        if (type === "text") body.push({ kind: "text", text: value });
        else if (value === "{{") {
          body.push({ kind: "output", value: this.#parseTuple() });
          this.#expect("}}");
        } else {
          if (this.#is(...ends)) return body;
          body.push(this.#parseStatement());
        }
      }
      if (ends.length > 0) this.#failUnexpected(`{% ${ends.join(" %} or {% ")} %}`);
      return body;
    });
  }

  /** A body between the ends of two tags. */
  #parseBlock(end: string): Statement[] {
    this.#expect("%}");
    const body = this.#parseBody(end);
    this.#expect(end);
    this.#expect("%}");
    return body;
  }

  #parseElse(end: string): Statement[] {
    if (this.#skip("else")) return this.#parseBlock(end);
    this.#expect(end);
    this.#expect("%}");
    return [];
  }

  #parseStatement(): Statement {
    const name = this.#expectName();
    switch (name) {
      case "if":
        return this.#parseIf();
      case "for":
        return this.#parseFor();
      case "set":
        return this.#parseSet();
      case "macro":
        return this.#parseMacro();
      case "filter":
        return { kind: "output", value: this.#parsePrinted("endfilter", true), isFiltered: true };
      case "generation":
        return { kind: "output", value: { kind: "printed", body: this.#parseInner("endgeneration") } };
      case "break":
      case "continue":
        if (this.#numOpenLoops === 0) this.#fail(`{% ${name} %} outside of a loop`);
        this.#expect("%}");
        return { kind: name };
      default:
        return this.#fail(`the statement "${name}" is not supported`);
    }
  }

  #parseIf(): Statement {
    const numUnknown = this.#unknown.length;
    const branches: Branch[] = [];
    do {
      const test = this.#parseTuple({ withChoice: false });
      this.#expect("%}");
      branches.push({ test, body: this.#parseBody("elif", "else", "endif") });
    } while (this.#skip("elif"));
    const otherwise = this.#parseElse("endif");
    this.#unknown.length = numUnknown;
    return { kind: "if", branches, otherwise };
  }

  #parseFor(): Statement {
    const target = this.#parseTarget();
    this.#expect("in");
    const items = this.#parseTuple({ withChoice: false });
    const test = this.#skip("if") ? this.#parseExpression() : undefined;
    if (this.#is("recursive")) this.#fail('"recursive" is not supported');
    this.#expect("%}");
    this.#numOpenLoops++;
    const body = this.#parseBody("endfor", "else");
    this.#numOpenLoops--;
    return { kind: "for", target, items, test, body, otherwise: this.#parseElse("endfor") };
  }

  #parseSet(): Statement {
    const target = this.#parseTarget(true);
    if (!this.#skip("=")) return { kind: "set", target, value: this.#parsePrinted("endset") };
    const value = this.#parseTuple();
    this.#expect("%}");
    return { kind: "set", target, value };
  }

  #parseMacro(): Macro {
    const name = this.#expectName();
    const parameters: Macro["parameters"][number][] = [];
    this.#expect("(");
    while (!this.#skip(")")) {
      if (parameters.length > 0) this.#expect(",");
      const parameter = this.#parseAssignedName();
      const fallback = this.#skip("=") ? this.#parseExpression() : undefined;
      if (fallback === undefined && parameters.at(-1)?.fallback !== undefined) {
        this.#fail(`the parameter "${parameter}" has no default, but follows one that has`);
      }
      if (parameters.some(({ name }) => name === parameter)) this.#fail(`the parameter "${parameter}" is there twice`);
      parameters.push({ name: parameter, fallback });
    }
    this.#numOpenMacros++;
    const body = this.#parseInner("endmacro");
    this.#numOpenMacros--;
    return { kind: "macro", name, parameters, body };
  }

  /** A block from which the loop around it cannot be left. */
  #parseInner(end: string): Statement[] {
    const numOpenLoops = this.#numOpenLoops;
    this.#numOpenLoops = 0;
    const body = this.#parseBlock(end);
    this.#numOpenLoops = numOpenLoops;
    return body;
  }

  /** What a body prints, through the filters that stand in the tag before it. */
  #parsePrinted(end: string, startsWithFilter = false): Expression {
    const body: Statement[] = [];
    const printed: Expression = { kind: "printed", body };
    const value = this.#parseFilters(startsWithFilter ? this.#parseFilter(printed) : printed);
    body.push(...this.#parseInner(end));
    return value;
  }

  #parseAssignedName(): string {
    const name = this.#expectName();
    if (Object.hasOwn(CONSTANTS, name)) this.#fail(`cannot assign to "${name}"`);
    return name;
  }

  #parseTarget(withFields = false): Target {
    const items: Target[] = [];
    let isTuple = false;
    do {
      const isEnd = items.length > 0 && (this.#is("in") || (this.#current.type !== "name" && !this.#is("(")));
      if (isEnd) break;
      items.push(this.#parseOneTarget(withFields));
      isTuple ||= this.#is(",");
    } while (this.#skip(","));
    return isTuple ? { kind: "targets", items } : items[0]!;
  }

  #parseOneTarget(withFields: boolean): Target {
    if (this.#skip("(")) {
      const target = this.#nested(() => this.#parseTarget());
      this.#expect(")");
      return target;
    }
    const name = this.#parseAssignedName();
    if (withFields && this.#skip(".")) return { kind: "field", namespace: name, name: this.#expectName() };
    return { kind: "name", name };
  }

  /** One expression, or several with commas between them. */
  #parseTuple({ withChoice = true, inParentheses = false } = {}): Expression {
    const items: Expression[] = [];
    let isTuple = false;
    do {
      if (this.#is("}}", "%}", ")")) break;
      items.push(withChoice ? this.#parseExpression() : this.#nested(() => this.#parseBinary()));
      isTuple ||= this.#is(",");
    } while (this.#skip(","));
    if (isTuple || (items.length === 0 && inParentheses)) return { kind: "tuple", items };
    return items[0] ?? this.#failUnexpected("an expression");
  }

  #parseExpression(): Expression {
    return this.#nested(() => {
      const numUnknown = this.#unknown.length;
      let value = this.#parseBinary();
      while (this.#skip("if")) {
        const test = this.#parseBinary();
        const no = this.#skip("else") ? this.#parseExpression() : undefined;
        value = { kind: "choice", test, yes: value, no };
        this.#unknown.length = numUnknown;
      }
      return value;
    });
  }

  /** Operators of one level, from the left. */
  #parseBinary(level = 0): Expression {
    const ops = LEVELS[level];
    if (ops === undefined) return this.#parseUnary(true);
    if (ops.includes("not")) return this.#parseNot(level + 1);
    let left = this.#parseBinary(level + 1);
    while (this.#is(...ops)) {
      const op = this.#next().value as Operator;
      left = { kind: "binary", op, left, right: this.#parseBinary(level + 1) };
    }
    return left;
  }

  /** Comparisons, and "not" before them, of operands that bind closer. */
  #parseNot(level: number): Expression {
    if (this.#skip("not")) return { kind: "not", value: this.#nested(() => this.#parseNot(level)) };
    const first = this.#parseBinary(level);
    const rest: [Comparison, Expression][] = [];
    for (let op = this.#comparison(); op !== undefined; op = this.#comparison()) {
      rest.push([op, this.#parseBinary(level)]);
    }
    return rest.length === 0 ? first : { kind: "compare", first, rest };
  }

  #comparison(): Comparison | undefined {
    if (this.#is(...COMPARISONS)) return this.#next().value as Comparison;
    const following = this.tokens[this.#at + 1];
    if (!this.#is("not") || following?.type !== "name" || following.value !== "in") return undefined;
    this.#at += 2;
    return "not in";
  }

  #parseUnary(withFilter: boolean): Expression {
    const sign = this.#is("-", "+") ? this.#next().value : undefined;
    let value: Expression =
      sign === undefined
        ? this.#parsePrimary()
        : { kind: sign === "-" ? "minus" : "plus", value: this.#nested(() => this.#parseUnary(false)) };
    value = this.#parsePostfix(value);
    while (withFilter) {
      if (this.#is("|")) value = this.#parseFilters(value);
      else if (this.#skip("is")) value = this.#parseTest(value);
      else if (this.#skip("(")) value = { kind: "call", callee: value, args: this.#parseArguments() };
      else break;
    }
    return value;
  }

  #parsePrimary(): Expression {
    const { type, value } = this.#current;
    if (type === "name") {
      if (this.#numOpenMacros > 0 && OF_MACROS.includes(value)) this.#fail(`"${value}" in a macro is not supported`);
      this.#at++;
      const isConstant = Object.hasOwn(CONSTANTS, value);
      return isConstant ? { kind: "constant", value: CONSTANTS[value]! } : { kind: "name", name: value };
    }
    if (type === "string") {
      let text = "";
      while (this.#current.type === "string") text += this.#next().value;
      return { kind: "constant", value: text };
    }
    if (type === "int" || type === "float") {
      this.#at++;
      const digits = value.replaceAll("_", "");
      return { kind: "constant", value: type === "int" ? BigInt(digits) : Number(digits) };
    }
    if (this.#skip("(")) {
      const inside = this.#nested(() => this.#parseTuple({ inParentheses: true }));
      this.#expect(")");
      return inside;
    }
    if (this.#skip("[")) return { kind: "list", items: this.#parseItems("]", () => this.#parseExpression()) };
    if (!this.#skip("{")) this.#failUnexpected("an expression");
    const entries = this.#parseItems("}", (): [Expression, Expression] => {
      const key = this.#parseExpression();
      this.#expect(":");
      return [key, this.#parseExpression()];
    });
    return { kind: "dict", entries };
  }

  #parseItems<T>(close: string, parse: () => T): T[] {
    const items: T[] = [];
    while (!this.#skip(close)) {
      if (items.length > 0) this.#expect(",");
      if (this.#skip(close)) break;
      items.push(parse());
    }
    return items;
  }

  #parsePostfix(start: Expression): Expression {
    let value = start;
    for (;;) {
      if (this.#skip(".")) {
        if (this.#current.type === "int") {
          value = { kind: "item", object: value, key: { kind: "constant", value: BigInt(this.#next().value) } };
        } else value = { kind: "attribute", object: value, name: this.#expectName() };
      } else if (this.#skip("[")) value = this.#parseSubscript(value);
      else if (this.#skip("(")) value = { kind: "call", callee: value, args: this.#parseArguments() };
      else return value;
    }
  }

  #parseSubscript(object: Expression): Expression {
    const bounds: (Expression | undefined)[] = [undefined];
    while (!this.#skip("]")) {
      if (bounds.length < 3 && this.#skip(":")) bounds.push(undefined);
      else if (bounds.at(-1) === undefined && !this.#is(",", ":")) bounds[bounds.length - 1] = this.#parseExpression();
      else if (this.#is(",")) this.#fail("a subscript of several values is not supported");
      else this.#failUnexpected("]");
    }
    if (bounds.length > 1) return { kind: "slice", object, bounds };
    return { kind: "item", object, key: bounds[0] ?? this.#fail("a subscript is empty") };
  }

  #parseArguments(): Arguments {
    const positional: Expression[] = [];
    const named: [string, Expression][] = [];
    this.#parseItems(")", () => {
      if (this.#is("*", "**")) this.#fail("an argument with * is not supported");
      const { type } = this.#current;
      const following = this.tokens[this.#at + 1];
      if (type === "name" && following?.type === "op" && following.value === "=") {
        const name = this.#next().value;
        if (named.some(([known]) => known === name)) this.#fail(`the argument "${name}" is there twice`);
        this.#next();
        named.push([name, this.#parseExpression()]);
      } else {
        if (named.length > 0) this.#fail("a positional argument follows a named one");
        positional.push(this.#parseExpression());
      }
    });
    return { positional, named };
  }

  #parseFilters(start: Expression): Expression {
    let value = start;
    while (this.#skip("|")) value = this.#parseFilter(value);
    return value;
  }

  #parseFilter(value: Expression): Expression {
    const name = this.#parseKnown("filter", isFilter);
    return { kind: "filter", name, value, args: this.#skip("(") ? this.#parseArguments() : NO_ARGUMENTS };
  }

  #parseTest(value: Expression): Expression {
    const isNegated = this.#skip("not");
    const name = this.#parseKnown("test", isTest);
    let args = NO_ARGUMENTS;
    if (this.#skip("(")) args = this.#parseArguments();
    else if (this.#is("is")) this.#fail("tests cannot be chained with is");
    else if (this.#is("[", "{") || (this.#current.type !== "op" && !this.#is("else", "or", "and"))) {
      args = { ...NO_ARGUMENTS, positional: [this.#parsePostfix(this.#parsePrimary())] };
    }
    const test: Expression = { kind: "test", name, value, args };
    return isNegated ? { kind: "not", value: test } : test;
  }

  #parseKnown(what: string, isKnown: (name: string) => boolean): string {
    const name = this.#expectName();
    if (!isKnown(name)) this.#unknown.push(`line ${this.#current.line}: the ${what} "${name}" is not supported`);
    return name;
  }
}
