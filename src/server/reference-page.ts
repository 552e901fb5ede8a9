import type { FastifyInstance } from "fastify";

const contentSecurityPolicy =
  "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** `GET /openapi.json`, and at `/docs` the same for people: one page and its stylesheet, no script, nothing from elsewhere. */
export function registerReference(app: FastifyInstance): void {
  app.get("/openapi.json", { schema: { hide: true } }, () => app.swagger());
  const options = { config: { isPublic: true }, schema: { hide: true } };
  app.get("/docs", options, (_request, reply) => {
    reply.header("content-security-policy", contentSecurityPolicy);
    return reply.type("text/html; charset=utf-8").send(referenceHtml(app.swagger()));
  });
  app.get("/docs/style.css", options, (_request, reply) =>
    reply.type("text/css; charset=utf-8").header("cache-control", "public, max-age=3600").send(referenceStyle),
  );
}

/** JSON Schema as the document has it: what the page shows of it. */
interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly additionalProperties?: boolean | Schema;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly default?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly maxLength?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
}

interface Content {
  readonly description?: string;
  readonly content?: Readonly<Record<string, { readonly schema?: Schema }>>;
}

interface Operation {
  readonly summary?: string;
  readonly description?: string;
  readonly tags?: readonly string[];
  readonly parameters?: readonly { readonly name: string; readonly in: string; readonly schema?: Schema }[];
  readonly requestBody?: Content;
  readonly responses?: Readonly<Record<string, Content>>;
}

interface Document {
  readonly info: { readonly title: string; readonly version: string; readonly description?: string };
  readonly paths?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  readonly components?: { readonly schemas?: Readonly<Record<string, Schema>> };
}

const methods = ["get", "post", "put", "patch", "delete"];
/** How deep fields are shown inside fields. */
const maxDepth = 8;

/** An OpenAPI document as a page for people: operations by tag, each with its fields, limits and answers. */
function referenceHtml(document: object): string {
  const { info, paths = {}, components } = document as Document;
  const byTag = new Map<string, string[]>();
  for (const [path, item] of Object.entries(paths)) {
    for (const method of methods) {
      const operation = item[method] as Operation | undefined;
      if (operation === undefined) continue;
      const tag = operation.tags?.[0] ?? "Other";
      byTag.set(tag, [...(byTag.get(tag) ?? []), operationHtml(method, path, operation, components?.schemas ?? {})]);
    }
  }
  const sections = [...byTag].map(([tag, operations]) => `<h2>${escapeHtml(tag)}</h2>\n${operations.join("\n")}`);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(info.title)}: API reference</title>
<link rel="stylesheet" href="/docs/style.css">
</head>
<body>
<h1>${escapeHtml(info.title)} <small>${escapeHtml(info.version)}</small></h1>
<p>${escapeHtml(info.description ?? "")} The same for programs: <a href="/openapi.json"><code>/openapi.json</code></a>.</p>
<main>
${sections.join("\n")}
</main>
</body>
</html>
`;
}

type Schemas = Readonly<Record<string, Schema>>;

function operationHtml(method: string, path: string, operation: Operation, schemas: Schemas): string {
  const { summary = "", description, parameters = [], requestBody, responses = {} } = operation;
  const parts = [
    description === undefined ? "" : `<p>${escapeHtml(description)}</p>`,
    parameters.length === 0
      ? ""
      : `<h3>Parameters</h3><ul>${parameters
          .map(({ name, in: place, schema }) => fieldHtml(`${name} (${place})`, schema ?? {}, true, schemas, 0))
          .join("")}</ul>`,
    requestBody === undefined ? "" : `<h3>Body</h3>${contentHtml(requestBody, schemas)}`,
    `<h3>Answers</h3><table>${Object.entries(responses)
      .map(([status, content]) => answerHtml(status, content, schemas))
      .join("")}</table>`,
  ];
  return `<details class="operation"><summary><span class="method">${method.toUpperCase()}</span> <span class="path">${escapeHtml(
    path,
  )}</span> <span class="about">${escapeHtml(summary)}</span></summary><div class="body">${parts.join("")}</div></details>`;
}

/** Every error has the same fields: they are told in words alone. */
function answerHtml(status: string, content: Content, schemas: Schemas): string {
  const isError = status.startsWith("4") || status.startsWith("5");
  const schema = Object.values(content.content ?? {})[0]?.schema;
  const about = content.description === "Default Response" ? schema?.description : content.description;
  const fields = isError ? "" : contentHtml(content, schemas);
  return `<tr><td><code>${escapeHtml(status)}</code></td><td>${escapeHtml(about ?? "")}${fields}</td></tr>`;
}

function contentHtml({ content = {} }: Content, schemas: Schemas): string {
  return Object.entries(content)
    .map(([type, { schema }]) => `<div><code>${escapeHtml(type)}</code>${schemaHtml(schema ?? {}, schemas, 0)}</div>`)
    .join("");
}

function schemaHtml(given: Schema, schemas: Schemas, depth: number): string {
  const schema = resolve(given, schemas);
  if (depth > maxDepth) return "";
  const forms = schema.anyOf ?? schema.oneOf;
  if (forms !== undefined) {
    const shown = forms.map((form) => resolve(form, schemas)).filter((form) => isNested(form));
    if (shown.length === 0) return "";
    return shown.map((form, i) => (i === 0 ? "" : "<div>or</div>") + schemaHtml(form, schemas, depth + 1)).join("");
  }
  if (schema.items !== undefined) return schemaHtml(schema.items, schemas, depth + 1);
  const fields = Object.entries(schema.properties ?? {});
  if (fields.length === 0) return "";
  const isRequired = new Set(schema.required ?? []);
  return `<ul>${fields.map(([name, field]) => fieldHtml(name, field, isRequired.has(name), schemas, depth)).join("")}</ul>`;
}

function fieldHtml(name: string, given: Schema, isRequired: boolean, schemas: Schemas, depth: number): string {
  const schema = resolve(given, schemas);
  const about = schema.description === undefined ? "" : `: ${escapeHtml(schema.description)}`;
  const limits = limitsOf(schema);
  return (
    `<li><code>${escapeHtml(name)}</code> <span class="type">${escapeHtml(typeOf(schema, schemas, depth))}${isRequired ? ", required" : ""}</span>${about}` +
    `${limits === "" ? "" : ` <span class="limits">(${escapeHtml(limits)})</span>`}${schemaHtml(schema, schemas, depth + 1)}</li>`
  );
}

function typeOf(given: Schema, schemas: Schemas, depth: number): string {
  const schema = resolve(given, schemas);
  if (depth > maxDepth) return "any";
  const forms = schema.anyOf ?? schema.oneOf;
  if (forms !== undefined) return [...new Set(forms.map((form) => typeOf(form, schemas, depth + 1)))].join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum !== undefined) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.items !== undefined) return `list of ${typeOf(schema.items, schemas, depth + 1)}`;
  return [schema.type ?? "any"].flat().join(" or ");
}

function limitsOf({ minimum, maximum, maxLength, minItems, maxItems, default: fallback }: Schema): string {
  const isLimit = (value: number | undefined): boolean =>
    value !== undefined && Math.abs(value) < Number.MAX_SAFE_INTEGER;
  return [
    isLimit(minimum) ? `from ${minimum}` : "",
    isLimit(maximum) ? `to ${maximum}` : "",
    maxLength === undefined ? "" : `up to ${maxLength} characters`,
    minItems === undefined ? "" : `at least ${minItems}`,
    maxItems === undefined ? "" : `at most ${maxItems}`,
    fallback === undefined ? "" : `default ${JSON.stringify(fallback)}`,
  ]
    .filter((part) => part !== "")
    .join(", ");
}

function isNested({ properties, items, anyOf, oneOf }: Schema): boolean {
  return properties !== undefined || items !== undefined || anyOf !== undefined || oneOf !== undefined;
}

function resolve(schema: Schema, schemas: Schemas): Schema {
  const name = schema.$ref?.split("/").at(-1);
  return name === undefined ? schema : (schemas[name] ?? {});
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** The reference page's stylesheet: light and dark, wide and narrow. */
const referenceStyle = `
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --dim: light-dark(#555, #aaa); }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
code, .path { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
.operation { border: 1px solid var(--line); border-radius: .5rem; margin: .6rem 0; }
.operation > summary { padding: .6rem .8rem; cursor: pointer; display: flex; flex-wrap: wrap; gap: .2rem .8rem; }
.operation > summary:focus-visible { outline: 2px solid Highlight; }
.operation[open] > summary { border-bottom: 1px solid var(--line); background: var(--soft); border-radius: .5rem .5rem 0 0; }
.method { font-weight: 700; min-width: 4rem; } .about { color: var(--dim); }
.body { padding: .2rem .8rem .8rem; } h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
ul { margin: .2rem 0; padding-left: 1.2rem; } li { margin: .25rem 0; }
.type, .limits { color: var(--dim); } table { border-collapse: collapse; width: 100%; }
td { border-top: 1px solid var(--line); padding: .3rem .6rem .3rem 0; vertical-align: top; }
`;
