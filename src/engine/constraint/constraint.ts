import { z } from "zod";
import { isBounded } from "../../blocks/tools.js";
import { schemaText } from "./json-grammar.js";

/** What an answer must be, whole: an answer that ends by itself is one. One that reaches its longest length may be the beginning of one. */
export type Constraint =
  /** A JSON object. */
  | { readonly type: "json" }
  /** JSON that a JSON Schema takes. */
  | { readonly type: "jsonSchema"; readonly schema: boolean | Readonly<Record<string, unknown>> }
  /** What a regular expression takes, from its beginning to its end. */
  | { readonly type: "regex"; readonly pattern: string }
  /** What a grammar in EBNF (as of GBNF and XGrammar) takes, from its rule `root` on. */
  | { readonly type: "grammar"; readonly ebnf: string }
  /** One of these. */
  | { readonly type: "choice"; readonly choices: readonly string[] };

/** Bytes of a schema, a pattern or a grammar. */
const maxText = 2 ** 18;
const someText = z.string().min(1).max(maxText);

export const constraintField = {
  schema: z
    .discriminatedUnion("type", [
      z.strictObject({ type: z.literal("json") }),
      z.strictObject({
        type: z.literal("jsonSchema"),
        schema: z.union([z.boolean(), z.record(z.string(), z.unknown())]).refine(isBounded),
      }),
      z.strictObject({ type: z.literal("regex"), pattern: someText }),
      z.strictObject({ type: z.literal("grammar"), ebnf: someText }),
      z.strictObject({ type: z.literal("choice"), choices: z.array(z.string().min(1).max(4096)).min(1).max(1024) }),
    ])
    .optional(),
  wanted:
    'a {"type"} of json, jsonSchema with a "schema" of up to 256 KiB and 64 levels, regex with a "pattern", grammar with its "ebnf", or choice with 1 to 1,024 "choices"',
};

/** A constraint as XGrammar takes it; the same text for the same constraint. */
export type GrammarSource =
  | { readonly kind: "schema"; readonly text: string }
  | { readonly kind: "regex"; readonly text: string }
  | { readonly kind: "ebnf"; readonly text: string };

export function grammarSource(constraint: Constraint): GrammarSource {
  switch (constraint.type) {
    case "json":
      return { kind: "schema", text: '{"type":"object"}' };
    case "jsonSchema":
      return { kind: "schema", text: schemaText(constraint.schema) };
    case "regex":
      return { kind: "regex", text: constraint.pattern };
    case "grammar":
      return { kind: "ebnf", text: constraint.ebnf };
    case "choice":
      return { kind: "ebnf", text: `root ::= ${constraint.choices.map(quoted).join(" | ")}` };
    default:
      return constraint satisfies never;
  }
}

/** A text as EBNF quotes it. */
function quoted(text: string): string {
  const escaped = Array.from(text, (character) =>
    /[a-z0-9 ]/i.test(character)
      ? character
      : `\\U${(character.codePointAt(0) as number).toString(16).toUpperCase().padStart(8, "0")}`,
  );
  return `"${escaped.join("")}"`;
}
