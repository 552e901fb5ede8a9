import type { Value } from "./values.js";

export type Arithmetic = "+" | "-" | "*" | "/" | "//" | "%" | "**" | "~";
export type Operator = Arithmetic | "and" | "or";
export type Comparison = "<" | "<=" | ">" | ">=" | "==" | "!=" | "in" | "not in";

/** An expression of a template. */
export type Expression = Readonly<
  | { kind: "constant"; value: Value }
  | { kind: "name"; name: string }
  | { kind: "tuple" | "list"; items: readonly Expression[] }
  | { kind: "dict"; entries: readonly (readonly [Expression, Expression])[] }
  | { kind: "attribute"; object: Expression; name: string }
  | { kind: "item"; object: Expression; key: Expression }
  | { kind: "slice"; object: Expression; bounds: readonly (Expression | undefined)[] }
  | { kind: "call"; callee: Expression; args: Arguments }
  | { kind: "filter" | "test"; name: string; value: Expression; args: Arguments }
  | { kind: "not" | "minus" | "plus"; value: Expression }
  | { kind: "binary"; op: Operator; left: Expression; right: Expression }
  | { kind: "compare"; first: Expression; rest: readonly (readonly [Comparison, Expression])[] }
  | { kind: "choice"; test: Expression; yes: Expression; no: Expression | undefined }
  /** What a body prints, in a scope of its own. */
  | { kind: "printed"; body: Body }
>;

export interface Arguments {
  readonly positional: readonly Expression[];
  readonly named: readonly (readonly [string, Expression])[];
}

/** What `set` and `for` assign to. */
export type Target = Readonly<
  | { kind: "name"; name: string }
  | { kind: "field"; namespace: string; name: string }
  | { kind: "targets"; items: readonly Target[] }
>;

type Body = readonly Statement[];

/** A statement of a template. */
export type Statement = Readonly<
  | { kind: "text"; text: string }
  /** Where `isFiltered`, what a filter makes of a body has to be text. */
  | { kind: "output"; value: Expression; isFiltered?: boolean }
  | { kind: "if"; branches: readonly Branch[]; otherwise: Body }
  | { kind: "for"; target: Target; items: Expression; test: Expression | undefined; body: Body; otherwise: Body }
  | { kind: "set"; target: Target; value: Expression }
  | { kind: "macro"; name: string; parameters: readonly Parameter[]; body: Body }
  | { kind: "break" | "continue" }
>;

export type For = Extract<Statement, { kind: "for" }>;
export type Macro = Extract<Statement, { kind: "macro" }>;

interface Parameter {
  readonly name: string;
  readonly fallback: Expression | undefined;
}

export interface Branch {
  readonly test: Expression;
  readonly body: Body;
}
