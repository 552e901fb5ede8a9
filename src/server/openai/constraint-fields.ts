import { z } from "zod";
import type { Constraint } from "../../engine/constraint/constraint.js";
import { parseJson } from "../../files/bounded-json.js";
import { fieldError } from "../api-error.js";
import { type RequestFields, readField, type requestSchema } from "./request-field.js";

const anySchema = z.union([z.boolean(), z.record(z.string(), z.unknown())]);
const schemaOrText = z.union([anySchema, z.string()]);
/** One issue for all that are no texts. */
const choices = z
  .array(z.unknown() as z.ZodType<string>)
  .min(1)
  .max(1024)
  .check(({ value, issues }) => {
    const wrong = value.findIndex((choice) => typeof choice !== "string");
    if (wrong >= 0)
      issues.push({ code: "custom", input: value, path: [wrong], message: "wanted text", continue: false });
  })
  .meta({ items: { type: "string" } });
const pattern = z.string();
const ebnf = z.string();
const held = "Holds the answer to";

/** What an answer must be, as OpenAI says it and as other servers do. At most one of them is given. */
export const constraintFields = {
  response_format: readField(
    z.discriminatedUnion("type", [
      z.strictObject({ type: z.literal("text") }),
      z.strictObject({ type: z.literal("json_object"), schema: anySchema.nullish() }),
      z.strictObject({
        type: z.literal("json_schema"),
        json_schema: z.strictObject({
          name: z.string().nullish(),
          description: z.string().nullish(),
          schema: anySchema.nullish(),
          strict: z.boolean().nullish(),
        }),
      }),
    ]),
    'an object of type "text", "json_object" or "json_schema"',
    "Holds the answer to JSON, or to JSON that a JSON Schema takes, `strict` or not.",
  ),
  guided_json: readField(schemaOrText, "a JSON Schema, or its text", `${held} it. vLLM's.`),
  guided_regex: readField(pattern, "text", `${held} a regular expression. vLLM's.`),
  guided_choice: readField(choices, "a list of 1 to 1024 texts", `${held} one of them. vLLM's.`),
  guided_grammar: readField(ebnf, "text", `${held} a grammar in EBNF. vLLM's.`),
  structured_outputs: readField(
    z.strictObject({
      json: schemaOrText.nullish(),
      regex: pattern.nullish(),
      choice: choices.nullish(),
      grammar: ebnf.nullish(),
      json_object: z.boolean().nullish(),
    }),
    "an object with one of json, regex, choice, grammar, json_object",
    `${held} it. vLLM's.`,
  ),
  json_schema: readField(anySchema, "a JSON Schema", `${held} it. llama-server's.`),
  grammar: readField(ebnf, "text", `${held} a grammar in EBNF. llama-server's.`),
} satisfies RequestFields;

type ConstraintBody = z.output<ReturnType<typeof requestSchema<typeof constraintFields>>>;

/** @throws ApiError for two of them, or a text that is no JSON. */
export function constraintOf(body: ConstraintBody): Constraint | undefined {
  const { response_format: format, structured_outputs: structured } = body;
  const given: [name: string, constraint: Constraint][] = [];
  const add = (name: string, constraint: Constraint) => given.push([name, constraint]);
  const addSchema = (name: string, schema: boolean | string | Record<string, unknown> | null | undefined) => {
    if (schema == null) return;
    add(name, { type: "jsonSchema", schema: typeof schema === "string" ? schemaOf(schema, name) : schema });
  };
  const addOthers = (prefix: string, regex?: string | null, choice?: string[] | null, grammar?: string | null) => {
    if (regex != null) add(`${prefix}regex`, { type: "regex", pattern: regex });
    if (choice != null) add(`${prefix}choice`, { type: "choice", choices: choice });
    if (grammar != null) add(`${prefix}grammar`, { type: "grammar", ebnf: grammar });
  };
  if (format?.type === "json_object") {
    if (format.schema == null) add("response_format", { type: "json" });
    else addSchema("response_format.schema", format.schema);
  }
  if (format?.type === "json_schema") addSchema("response_format.json_schema.schema", format.json_schema.schema ?? {});
  addSchema("guided_json", body.guided_json);
  addOthers("guided_", body.guided_regex, body.guided_choice, body.guided_grammar);
  addSchema("structured_outputs.json", structured?.json);
  addOthers("structured_outputs.", structured?.regex, structured?.choice, structured?.grammar);
  if (structured?.json_object) add("structured_outputs.json_object", { type: "json" });
  addSchema("json_schema", body.json_schema);
  addOthers("", undefined, undefined, body.grammar);
  const [first, second] = given;
  if (first && second) throw fieldError(second[0], `${first[0]} holds the answer to something else already`);
  return first?.[1];
}

function schemaOf(text: string, name: string): boolean | Record<string, unknown> {
  let value: unknown;
  try {
    value = parseJson(text, name);
  } catch {
    value = undefined;
  }
  const parsed = anySchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw fieldError(name, "it is no JSON object, wanted a JSON Schema, or its text");
}
