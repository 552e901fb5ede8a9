import type { StructuralTagFormat, TagFormat } from "@mlc-ai/web-xgrammar";
import { z } from "zod";
import { isBounded, type Tool, type ToolForm, toolsField } from "../../blocks/tools.js";
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
  | { readonly type: "choice"; readonly choices: readonly string[] }
  /**
   * Calls of tools with arguments that their schemas take, as the model writes calls; `choice` "auto": or text, in which calls may
   * stand; `{ name }`: calls of that one. `parallel`: several calls too, not one alone; default true.
   */
  | {
      readonly type: "toolCalls";
      readonly tools: readonly Tool[];
      readonly choice: "auto" | "required" | { readonly name: string };
      readonly parallel?: boolean | undefined;
    };

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
      z
        .strictObject({
          type: z.literal("toolCalls"),
          tools: toolsField.schema,
          choice: z.union([z.enum(["auto", "required"]), z.strictObject({ name: z.string() })]),
          parallel: z.boolean().optional(),
        })
        .refine(({ tools, choice }) => typeof choice === "string" || tools.some(({ name }) => name === choice.name)),
    ])
    .optional(),
  wanted:
    'a {"type"} of json, jsonSchema with a "schema" of up to 256 KiB and 64 levels, regex with a "pattern", grammar with its "ebnf", choice with 1 to 1,024 "choices", or toolCalls with its "tools" and a "choice" of auto, required or {"name"} of one',
};

/** A constraint as XGrammar takes it; the same text for the same constraint. */
export type GrammarSource =
  | { readonly kind: "schema"; readonly text: string }
  | { readonly kind: "regex"; readonly text: string }
  | { readonly kind: "ebnf"; readonly text: string }
  /** A structural tag's format, as JSON; `isLoose` where no schema of the caller's is in it, so that compiling it takes no longer than it must. */
  | { readonly kind: "tags"; readonly text: string; readonly isLoose: boolean };

/** The grammars of a constraint: each in the place of the one before, where that takes too long. @param form how the model writes calls. */
export function grammarSources(constraint: Constraint, form: ToolForm): [GrammarSource, ...GrammarSource[]] {
  if (constraint.type !== "toolCalls") return [grammarSource(constraint)];
  const tags = (isLoose: boolean): GrammarSource => {
    return { kind: "tags", text: JSON.stringify(toolCallsFormat(constraint, form, isLoose)), isLoose };
  };
  return [tags(false), tags(true)];
}

function grammarSource(constraint: Exclude<Constraint, { type: "toolCalls" }>): GrammarSource {
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

/** @param isLoose arguments are objects, whatever their schemas say: compiling takes the time of one tool, not of all. */
function toolCallsFormat(
  { tools: all, choice, parallel = true }: Extract<Constraint, { type: "toolCalls" }>,
  form: ToolForm,
  isLoose: boolean,
): StructuralTagFormat {
  const tools = typeof choice === "string" ? all : all.filter(({ name }) => name === choice.name);
  const tagsOf = (before: string, key: string, after: string): TagFormat[] => {
    if (isLoose) {
      const names = tools.map(({ name }) => ({ type: "const_string" as const, value: JSON.stringify(name) }));
      const elements: StructuralTagFormat[] = [
        { type: "or", elements: names },
        { type: "const_string", value: `, "${key}": ` },
        { type: "json_schema", json_schema: { type: "object" } },
      ];
      return [{ type: "tag", begin: `${before}{"name": `, content: { type: "sequence", elements }, end: `}${after}` }];
    }
    return tools.map(({ name, parameters }) => ({
      type: "tag",
      begin: `${before}{"name": ${JSON.stringify(name)}, "${key}": `,
      content: { type: "json_schema", json_schema: argumentsSchema(parameters) },
      end: `}${after}`,
    }));
  };
  const listOf = (tags: TagFormat[], separator: string): StructuralTagFormat => {
    return { type: "tags_with_separator", tags, separator, at_least_one: true, stop_after_first: !parallel };
  };
  const isFree = choice === "auto";
  const triggered = (trigger: string, tags: TagFormat[], isOne: boolean): StructuralTagFormat => {
    return { type: "triggered_tags", triggers: [trigger], tags, at_least_one: false, stop_after_first: isOne };
  };
  switch (form) {
    case "hermes":
    case "generic": {
      const tags = tagsOf("<tool_call>\n", "arguments", "\n</tool_call>");
      return isFree ? triggered("<tool_call>", tags, !parallel) : listOf(tags, "\n");
    }
    case "mistral": {
      const content = listOf(tagsOf("", "arguments", ""), ", ");
      const list: TagFormat = { type: "tag", begin: "[TOOL_CALLS][", content, end: "]" };
      return isFree ? triggered("[TOOL_CALLS]", [list], true) : list;
    }
    case "llama": {
      const calls = tagsOf("", "parameters", "");
      // Nothing marks a call but that it is all of the answer.
      const text: StructuralTagFormat = { type: "regex", pattern: "([^{][\\s\\S]*)?" };
      return { type: "or", elements: isFree ? [...calls, text] : calls };
    }
    default:
      return form satisfies never;
  }
}

/** Of a call's arguments, which are an object whatever the schema leaves open. */
function argumentsSchema(parameters: Tool["parameters"] = { properties: {} }): Record<string, unknown> {
  const isOpen = !["type", "$ref", "anyOf", "oneOf", "allOf"].some((keyword) => keyword in parameters);
  return JSON.parse(schemaText(isOpen ? { type: "object", ...parameters } : parameters));
}
