import type { Ordering, Value } from "./values.js";

/** An expression of a template. */
export type Expression =
  | { readonly kind: "constant"; readonly value: Value }
  | { readonly kind: "name"; readonly name: string }
  | { readonly kind: "tuple" | "list" | "concat"; readonly items: readonly Expression[] }
  | { readonly kind: "dict"; readonly entries: readonly (readonly [Expression, Expression])[] }
  | { readonly kind: "attribute"; readonly object: Expression; readonly name: string }
  | { readonly kind: "item"; readonly object: Expression; readonly key: Expression }
  | { readonly kind: "slice"; readonly object: Expression; readonly bounds: readonly (Expression | undefined)[] }
  | { readonly kind: "call"; readonly callee: Expression; readonly args: Arguments }
  | Filter
  | { readonly kind: "test"; readonly value: Expression; readonly name: string; readonly args: Arguments }
  | { readonly kind: "not" | "minus" | "plus"; readonly value: Expression }
  | { readonly kind: "and" | "or"; readonly left: Expression; readonly right: Expression }
  | { readonly kind: "arithmetic"; readonly op: Arithmetic; readonly left: Expression; readonly right: Expression }
  | {
      readonly kind: "compare";
      readonly first: Expression;
      readonly rest: readonly (readonly [Comparison, Expression])[];
    }
  | {
      readonly kind: "choice";
      readonly test: Expression;
      readonly yes: Expression;
      readonly no: Expression | undefined;
    };

export type Arithmetic = "+" | "-" | "*" | "/" | "//" | "%" | "**";
export type Comparison = Ordering | "==" | "!=" | "in" | "not in";

/** The value is absent where a block's text is filtered. */
export interface Filter {
  readonly kind: "filter";
  readonly value: Expression | undefined;
  readonly name: string;
  readonly args: Arguments;
}

export interface Arguments {
  readonly positional: readonly Expression[];
  readonly named: readonly (readonly [string, Expression])[];
  /** `*list` and `**dict`. */
  readonly spread: Expression | undefined;
  readonly namedSpread: Expression | undefined;
}

/** What `set` and `for` assign to. */
export type Target =
  | { readonly kind: "name"; readonly name: string }
  | { readonly kind: "field"; readonly namespace: string; readonly name: string }
  | { readonly kind: "targets"; readonly items: readonly Target[] };

export interface Signature {
  readonly parameters: readonly { readonly name: string; readonly fallback: Expression | undefined }[];
  readonly body: readonly Statement[];
  /** What the body reads: one that reads no "caller", "kwargs" or "varargs" takes none. */
  readonly names: ReadonlySet<string>;
}

/** A statement of a template. */
export type Statement =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "output"; readonly value: Expression }
  | { readonly kind: "if"; readonly branches: readonly Branch[]; readonly otherwise: readonly Statement[] }
  | For
  | { readonly kind: "set"; readonly target: Target; readonly value: Expression }
  | {
      readonly kind: "setBlock";
      readonly target: Target;
      readonly filter: Filter | undefined;
      readonly body: readonly Statement[];
    }
  | ({ readonly kind: "macro"; readonly name: string } & Signature)
  | ({ readonly kind: "callBlock"; readonly call: Expression & { readonly kind: "call" } } & Signature)
  | { readonly kind: "filterBlock"; readonly filter: Filter; readonly body: readonly Statement[] }
  | {
      readonly kind: "with";
      readonly values: readonly (readonly [Target, Expression])[];
      readonly body: readonly Statement[];
    }
  /** What the assistant says, marked for training; a scope of its own, and nothing else. */
  | { readonly kind: "generation"; readonly body: readonly Statement[] }
  | { readonly kind: "break" | "continue" };

export interface Branch {
  readonly test: Expression;
  readonly body: readonly Statement[];
}

export interface For {
  readonly kind: "for";
  readonly target: Target;
  readonly items: Expression;
  readonly test: Expression | undefined;
  readonly isRecursive: boolean;
  readonly body: readonly Statement[];
  readonly otherwise: readonly Statement[];
}

/** The names that are read in a program, in what it is made of too. */
export function namesIn(program: readonly Statement[]): Set<string> {
  const names = new Set<string>();
  const left: unknown[] = [program];
  while (left.length > 0) {
    const node = left.pop();
    if (typeof node !== "object" || node === null) continue;
    const { kind, name } = node as { kind?: unknown; name?: unknown };
    if (kind === "name") names.add(name as string);
    for (const child of Object.values(node)) left.push(child);
  }
  return names;
}
