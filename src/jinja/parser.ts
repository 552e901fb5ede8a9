import { isFilter, isTest } from "./filters.js";
import { type Token, type TokenType, tokenize } from "./lexer.js";
import {
  type Arguments,
  type Arithmetic,
  type Comparison,
  type Expression,
  type Filter,
  type For,
  namesIn,
  type Signature,
  type Statement,
  type Target,
} from "./syntax.js";
import type { Value } from "./values.js";

// Python itself ends at about a hundred.
const MAX_DEPTH = 100;

const CONSTANTS: Record<string, Value> = { true: true, True: true, false: false, False: false, none: null, None: null };
const COMPARISONS = ["==", "!=", "<", "<=", ">", ">="];
const NO_ARGUMENTS: Arguments = { positional: [], named: [], spread: undefined, namedSpread: undefined };

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
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;
  /** Filters and tests that are not known, less those that a choice may never reach. */
  readonly #unknown: string[] = [];
  #numOpenLoops = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  parseTemplate(): Statement[] {
    const body = this.#parseBody([]);
    if (this.#unknown[0] !== undefined) throw new SyntaxError(this.#unknown[0]);
    return body;
  }

  get #current(): Token {
    return this.#tokens[this.#at] ?? { type: "end", value: "", line: this.#tokens.at(-1)?.line ?? 1 };
  }

  #fail(what: string): never {
    throw new SyntaxError(`line ${this.#current.line}: ${what}`);
  }

  #describe(): string {
    const { type, value } = this.#current;
    if (type === "end") return "end of the template";
    return value === ""
      ? ({ blockEnd: '"%}"', outputEnd: '"}}"', blockBegin: '"{%"' }[type as string] ?? type)
      : JSON.stringify(value);
  }

  #next(): Token {
    const token = this.#current;
    this.#at++;
    return token;
  }

  #is(type: TokenType, ...values: string[]): boolean {
    const token = this.#current;
    return token.type === type && (values.length === 0 || values.includes(token.value));
  }

  #skip(type: TokenType, value: string): boolean {
    const isIt = this.#is(type, value);
    if (isIt) this.#at++;
    return isIt;
  }

  #expect(type: TokenType, value?: string): Token {
    if (!(value === undefined ? this.#is(type) : this.#is(type, value))) {
      const wanted = value ?? { blockEnd: "%}", outputEnd: "}}", name: "a name" }[type as string] ?? type;
      this.#fail(`unexpected ${this.#describe()}, wanted ${wanted}`);
    }
    return this.#next();
  }

  #nested<T>(parse: () => T): T {
    if (++this.#depth > MAX_DEPTH) this.#fail(`nested more than ${MAX_DEPTH} deep`);
    const parsed = parse();
    this.#depth--;
    return parsed;
  }

  /** Statements up to a tag that begins with one of these names, which is left to the caller; with none, to the end. */
  #parseBody(ends: readonly string[]): Statement[] {
    return this.#nested(() => {
      const body: Statement[] = [];
      while (this.#current.type !== "end") {
        const token = this.#next();
        if (token.type === "text") body.push({ kind: "text", text: token.value });
        else if (token.type === "outputBegin") {
          body.push({ kind: "output", value: this.#parseTuple() });
          this.#expect("outputEnd");
        } else {
          if (this.#is("name", ...ends) && ends.length > 0) return body;
          body.push(this.#parseStatement());
        }
      }
      if (ends.length > 0) this.#fail(`unexpected end of the template, wanted {% ${ends.join(" %} or {% ")} %}`);
      return body;
    });
  }

  /** A body with its end's tag. */
  #parseBlock(end: string): Statement[] {
    this.#expect("blockEnd");
    const body = this.#parseBody([end]);
    this.#at++;
    this.#expect("blockEnd");
    return body;
  }

  #parseStatement(): Statement {
    const name = this.#expect("name").value;
    switch (name) {
      case "if":
        return this.#parseIf();
      case "for":
        return this.#parseFor();
      case "set":
        return this.#parseSet();
      case "macro": {
        const macro = this.#expect("name").value;
        return this.#outsideLoops(() => ({ kind: "macro", name: macro, ...this.#parseSignature("endmacro") }));
      }
      case "call":
        return this.#outsideLoops(() => this.#parseCallBlock());
      case "filter": {
        const filter = this.#parseFilters(undefined);
        return { kind: "filterBlock", filter, body: this.#parseBlock("endfilter") };
      }
      case "with":
        return this.#parseWith();
      case "generation":
        return this.#outsideLoops(() => ({ kind: "generation", body: this.#parseBlock("endgeneration") }));
      case "break":
      case "continue":
        if (this.#numOpenLoops === 0) this.#fail(`{% ${name} %} outside of a loop`);
        this.#expect("blockEnd");
        return { kind: name };
      default:
        return this.#fail(`the statement "${name}" is not supported`);
    }
  }

  /** Of what becomes a function in Jinja2: a loop around it cannot be left from inside. */
  #outsideLoops<T>(parse: () => T): T {
    const numOpenLoops = this.#numOpenLoops;
    this.#numOpenLoops = 0;
    const parsed = parse();
    this.#numOpenLoops = numOpenLoops;
    return parsed;
  }

  #parseIf(): Statement {
    const numUnknown = this.#unknown.length;
    const branches: { test: Expression; body: Statement[] }[] = [];
    let otherwise: Statement[] = [];
    for (;;) {
      const test = this.#parseTuple({ withChoice: false });
      this.#expect("blockEnd");
      branches.push({ test, body: this.#parseBody(["elif", "else", "endif"]) });
      if (this.#skip("name", "elif")) continue;
      if (this.#skip("name", "else")) {
        this.#expect("blockEnd");
        otherwise = this.#parseBody(["endif"]);
      }
      this.#expect("name", "endif");
      this.#expect("blockEnd");
      this.#unknown.length = numUnknown;
      return { kind: "if", branches, otherwise };
    }
  }

  #parseFor(): For {
    const target = this.#parseTarget(["in"]);
    this.#expect("name", "in");
    const items = this.#parseTuple({ withChoice: false, ends: ["recursive"] });
    const test = this.#skip("name", "if") ? this.#parseExpression() : undefined;
    const isRecursive = this.#skip("name", "recursive");
    this.#expect("blockEnd");
    this.#numOpenLoops++;
    const body = this.#parseBody(["endfor", "else"]);
    this.#numOpenLoops--;
    let otherwise: Statement[] = [];
    if (this.#skip("name", "else")) {
      this.#expect("blockEnd");
      otherwise = this.#parseBody(["endfor"]);
    }
    this.#expect("name", "endfor");
    this.#expect("blockEnd");
    return { kind: "for", target, items, test, isRecursive, body, otherwise };
  }

  #parseSet(): Statement {
    const target = this.#parseTarget([], true);
    if (this.#skip("op", "=")) {
      const value = this.#parseTuple();
      this.#expect("blockEnd");
      return { kind: "set", target, value };
    }
    const filter = this.#is("op", "|") ? this.#parseFilters(undefined) : undefined;
    return { kind: "setBlock", target, filter, body: this.#parseBlock("endset") };
  }

  #parseCallBlock(): Statement {
    const parameters = this.#is("op", "(") ? this.#parseParameters() : [];
    const call = this.#parseExpression();
    if (call.kind !== "call") this.#fail("a call block wants a call");
    return { kind: "callBlock", call, ...this.#signed(parameters, "endcall") };
  }

  #parseWith(): Statement {
    const values: [Target, Expression][] = [];
    while (!this.#is("blockEnd")) {
      if (values.length > 0) this.#expect("op", ",");
      const target = this.#parseTarget();
      this.#expect("op", "=");
      values.push([target, this.#parseExpression()]);
    }
    return { kind: "with", values, body: this.#parseBlock("endwith") };
  }

  #parseSignature(end: string): Signature {
    return this.#signed(this.#parseParameters(), end);
  }

  #signed(parameters: Signature["parameters"], end: string): Signature {
    const body = this.#parseBlock(end);
    return { parameters, body, names: namesIn(body) };
  }

  #parseParameters(): Signature["parameters"] {
    const parameters: { name: string; fallback: Expression | undefined }[] = [];
    this.#expect("op", "(");
    while (!this.#is("op", ")")) {
      if (parameters.length > 0) this.#expect("op", ",");
      const { name } = this.#parseName();
      const fallback = this.#skip("op", "=") ? this.#parseExpression() : undefined;
      if (fallback === undefined && parameters.at(-1)?.fallback !== undefined) {
        this.#fail(`the parameter "${name}" has no default, but follows one that has`);
      }
      if (parameters.some((parameter) => parameter.name === name)) this.#fail(`the parameter "${name}" is there twice`);
      parameters.push({ name, fallback });
    }
    this.#next();
    return parameters;
  }

  #parseName(): { readonly kind: "name"; readonly name: string } {
    const name = this.#expect("name").value;
    if (Object.hasOwn(CONSTANTS, name)) this.#fail(`cannot assign to "${name}"`);
    return { kind: "name", name };
  }

  #parseTarget(ends: readonly string[] = [], withFields = false): Target {
    const items: Target[] = [];
    let isTuple = false;
    do {
      const isEnd =
        items.length > 0 &&
        (this.#is("op", "=", ")") || this.#is("blockEnd") || (ends.length > 0 && this.#is("name", ...ends)));
      if (isEnd) break;
      items.push(this.#parseOneTarget(withFields));
      isTuple ||= this.#is("op", ",");
    } while (this.#skip("op", ","));
    return isTuple ? { kind: "targets", items } : items[0]!;
  }

  #parseOneTarget(withFields: boolean): Target {
    if (this.#skip("op", "(")) {
      const target = this.#nested(() => this.#parseTarget());
      this.#expect("op", ")");
      return target;
    }
    const { name } = this.#parseName();
    if (withFields && this.#skip("op", "."))
      return { kind: "field", namespace: name, name: this.#expect("name").value };
    return { kind: "name", name };
  }

  /** One expression, or several with commas between them. */
  #parseTuple({ withChoice = true, ends = [] as readonly string[], inParentheses = false } = {}): Expression {
    const items: Expression[] = [];
    let isTuple = false;
    do {
      const isEnd =
        this.#is("outputEnd") ||
        this.#is("blockEnd") ||
        this.#is("op", ")") ||
        (ends.length > 0 && this.#is("name", ...ends));
      if (isEnd) break;
      items.push(withChoice ? this.#parseExpression() : this.#nested(() => this.#parseOr()));
      isTuple ||= this.#is("op", ",");
    } while (this.#skip("op", ","));
    if (isTuple || (items.length === 0 && inParentheses)) return { kind: "tuple", items };
    return items[0] ?? this.#fail(`unexpected ${this.#describe()}, wanted an expression`);
  }

  #parseExpression(): Expression {
    return this.#nested(() => {
      const numUnknown = this.#unknown.length;
      let value = this.#parseOr();
      while (this.#skip("name", "if")) {
        const test = this.#parseOr();
        const no = this.#skip("name", "else") ? this.#parseExpression() : undefined;
        value = { kind: "choice", test, yes: value, no };
        this.#unknown.length = numUnknown;
      }
      return value;
    });
  }

  #parseOr(): Expression {
    let left = this.#parseAnd();
    while (this.#skip("name", "or")) left = { kind: "or", left, right: this.#parseAnd() };
    return left;
  }

  #parseAnd(): Expression {
    let left = this.#parseNot();
    while (this.#skip("name", "and")) left = { kind: "and", left, right: this.#parseNot() };
    return left;
  }

  #parseNot(): Expression {
    if (this.#skip("name", "not")) return { kind: "not", value: this.#nested(() => this.#parseNot()) };
    const first = this.#parseSum();
    const rest: [Comparison, Expression][] = [];
    for (let op = this.#comparison(); op !== undefined; op = this.#comparison()) rest.push([op, this.#parseSum()]);
    return rest.length === 0 ? first : { kind: "compare", first, rest };
  }

  #comparison(): Comparison | undefined {
    if (this.#is("op", ...COMPARISONS)) return this.#next().value as Comparison;
    if (this.#skip("name", "in")) return "in";
    const { type, value } = this.#tokens[this.#at + 1] ?? this.#current;
    if (!this.#is("name", "not") || type !== "name" || value !== "in") return undefined;
    this.#at += 2;
    return "not in";
  }

  #parseSum(): Expression {
    return this.#parseChain(["+", "-"], () => {
      const items = [this.#parseProduct()];
      while (this.#skip("op", "~")) items.push(this.#parseProduct());
      return items.length === 1 ? items[0]! : { kind: "concat", items };
    });
  }

  #parseProduct(): Expression {
    return this.#parseChain(["*", "/", "//", "%"], () => this.#parseChain(["**"], () => this.#parseUnary(true)));
  }

  #parseChain(ops: readonly Arithmetic[], parse: () => Expression): Expression {
    let left = parse();
    while (this.#is("op", ...ops)) {
      const op = this.#next().value as Arithmetic;
      left = { kind: "arithmetic", op, left, right: parse() };
    }
    return left;
  }

  #parseUnary(withFilter: boolean): Expression {
    const sign = this.#is("op", "-", "+") ? this.#next().value : undefined;
    let value: Expression =
      sign === undefined
        ? this.#parsePrimary()
        : { kind: sign === "-" ? "minus" : "plus", value: this.#nested(() => this.#parseUnary(false)) };
    value = this.#parsePostfix(value);
    while (withFilter) {
      if (this.#is("op", "|")) value = this.#parseFilters(value);
      else if (this.#skip("name", "is")) value = this.#parseTest(value);
      else if (this.#is("op", "(")) value = { kind: "call", callee: value, args: this.#parseArguments() };
      else break;
    }
    return value;
  }

  #parsePrimary(): Expression {
    const { type, value } = this.#current;
    const token = this.#next();
    if (type === "name") {
      return Object.hasOwn(CONSTANTS, value)
        ? { kind: "constant", value: CONSTANTS[value]! }
        : { kind: "name", name: value };
    }
    if (type === "string") {
      let text = value;
      while (this.#is("string")) text += this.#next().value;
      return { kind: "constant", value: text };
    }
    if (type === "int") return { kind: "constant", value: BigInt(value.replaceAll("_", "")) };
    if (type === "float") return { kind: "constant", value: Number(value.replaceAll("_", "")) };
    if (type === "op" && value === "(") {
      const inside = this.#nested(() => this.#parseTuple({ inParentheses: true }));
      this.#expect("op", ")");
      return inside;
    }
    if (type === "op" && value === "[")
      return { kind: "list", items: this.#parseItems("]", () => this.#parseExpression()) };
    if (type === "op" && value === "{") {
      const entries = this.#parseItems("}", (): [Expression, Expression] => {
        const key = this.#parseExpression();
        this.#expect("op", ":");
        return [key, this.#parseExpression()];
      });
      return { kind: "dict", entries };
    }
    this.#at--;
    return this.#fail(`unexpected ${this.#describe()}, wanted an expression (${token.type})`);
  }

  #parseItems<T>(close: string, parse: () => T): T[] {
    const items: T[] = [];
    while (!this.#is("op", close)) {
      if (items.length > 0) this.#expect("op", ",");
      if (this.#is("op", close)) break;
      items.push(parse());
    }
    this.#next();
    return items;
  }

  #parsePostfix(start: Expression): Expression {
    let value = start;
    for (;;) {
      if (this.#skip("op", ".")) {
        const token = this.#is("int") ? this.#next() : this.#expect("name");
        if (token.type === "name") value = { kind: "attribute", object: value, name: token.value };
        else value = { kind: "item", object: value, key: { kind: "constant", value: BigInt(token.value) } };
      } else if (this.#skip("op", "[")) value = this.#parseSubscript(value);
      else if (this.#is("op", "(")) value = { kind: "call", callee: value, args: this.#parseArguments() };
      else return value;
    }
  }

  #parseSubscript(object: Expression): Expression {
    const bounds: (Expression | undefined)[] = [];
    let numColons = 0;
    while (!this.#is("op", "]")) {
      if (this.#skip("op", ":")) {
        if (++numColons > 2) this.#fail('unexpected ":"');
      } else if (bounds[numColons] === undefined && !this.#is("op", ",")) bounds[numColons] = this.#parseExpression();
      else if (this.#is("op", ",")) this.#fail("a subscript of several values is not supported");
      else this.#fail(`unexpected ${this.#describe()}`);
    }
    this.#next();
    if (numColons > 0) return { kind: "slice", object, bounds: [bounds[0], bounds[1], bounds[2]] };
    return { kind: "item", object, key: bounds[0] ?? this.#fail("a subscript is empty") };
  }

  #parseArguments(): Arguments {
    this.#expect("op", "(");
    const positional: Expression[] = [];
    const named: [string, Expression][] = [];
    let spread: Expression | undefined;
    let namedSpread: Expression | undefined;
    this.#parseItems(")", () => {
      const following = this.#tokens[this.#at + 1];
      if (namedSpread !== undefined) this.#fail("an argument follows **");
      if (this.#skip("op", "*")) {
        if (spread !== undefined) this.#fail("there are two * arguments");
        spread = this.#parseExpression();
      } else if (this.#skip("op", "**")) namedSpread = this.#parseExpression();
      else if (this.#is("name") && following?.type === "op" && following.value === "=") {
        const name = this.#next().value;
        if (named.some(([known]) => known === name)) this.#fail(`the argument "${name}" is there twice`);
        this.#next();
        named.push([name, this.#parseExpression()]);
      } else {
        if (named.length > 0 || spread !== undefined) this.#fail("a positional argument follows a named one");
        positional.push(this.#parseExpression());
      }
    });
    return { positional, named, spread, namedSpread };
  }

  /** `a|b|c`, the first one after "|" or, of a filter block, without it. */
  #parseFilters(start: Expression | undefined): Filter {
    let filter: Filter | undefined;
    let isFirst = start === undefined && !this.#is("op", "|");
    while (isFirst || this.#skip("op", "|")) {
      isFirst = false;
      const name = this.#parseDotted();
      this.#checkKnown("filter", name, isFilter(name));
      const args = this.#is("op", "(") ? this.#parseArguments() : NO_ARGUMENTS;
      filter = { kind: "filter", value: filter ?? start, name, args };
    }
    return filter!;
  }

  #parseTest(value: Expression): Expression {
    const isNegated = this.#skip("name", "not");
    const name = this.#parseDotted();
    this.#checkKnown("test", name, isTest(name));
    let args = NO_ARGUMENTS;
    if (this.#is("op", "(")) args = this.#parseArguments();
    else {
      const takesArgument =
        (this.#is("name") && !this.#is("name", "else", "or", "and")) ||
        this.#is("string") ||
        this.#is("int") ||
        this.#is("float") ||
        this.#is("op", "[", "{");
      if (takesArgument) {
        if (this.#is("name", "is")) this.#fail("tests cannot be chained with is");
        args = { ...NO_ARGUMENTS, positional: [this.#parsePostfix(this.#parsePrimary())] };
      }
    }
    const test: Expression = { kind: "test", value, name, args };
    return isNegated ? { kind: "not", value: test } : test;
  }

  #parseDotted(): string {
    let name = this.#expect("name").value;
    while (this.#skip("op", ".")) name += `.${this.#expect("name").value}`;
    return name;
  }

  #checkKnown(what: string, name: string, isKnown: boolean): void {
    if (!isKnown) this.#unknown.push(`line ${this.#current.line}: the ${what} "${name}" is not supported`);
  }
}
