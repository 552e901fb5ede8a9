import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import type { z } from "zod";
import { loadConfig } from "../server-config.js";
import { embeddingFields } from "./embeddings-route.js";
import { chatFields, chatPassedOver, completionFields, completionPassedOver, innerChatFields } from "./fields.js";
import { type RequestFields, requestSchema } from "./request-field.js";
import { responseFields } from "./responses-request.js";

const limits = await loadConfig({ options: {}, env: {} });
const doc = await readFile(new URL("../../../docs/openai-compatibility.md", import.meta.url), "utf8");

/** What the docs say of fields, as they say it. */
function fieldTable(fields: RequestFields): string {
  const rows = Object.entries(fields).map(([name, { use, wanted, about }]) => {
    const told = use === "neutral" ? `${about[0]!.toUpperCase()}${about.slice(1)}.` : about;
    return `| \`${name}\` | ${use} | ${wanted} | ${told} |`;
  });
  return ["| field | | takes | |", "|---|---|---|---|", ...rows].join("\n");
}

test.each([
  ["chat fields", { ...chatFields(limits), ...innerChatFields }],
  ["completion fields", completionFields(limits)],
  ["response fields", responseFields(limits)],
  ["embedding fields", embeddingFields],
])("%s: the docs tell every one as the schema has it", (name, fields) => {
  const section = doc.split(`<!-- ${name} -->\n`)[1]?.split("\n<!-- end -->")[0];
  expect(section).toBe(fieldTable(fields));
});

test("requestSchema(): has the fields that the docs tell, and no others", () => {
  for (const fields of [chatFields(limits), completionFields(limits), responseFields(limits)] as RequestFields[]) {
    const schema = requestSchema(fields);
    expect(Object.keys(schema.shape)).toEqual(Object.keys(fields));
    for (const [name, { use }] of Object.entries(fields)) {
      // Null is the default, whatever the use.
      const issues = schema.safeParse({ [name]: null }).error?.issues ?? [];
      expect(issues.filter((issue) => issue.path[0] === name)).toHaveLength(name === "messages" ? 1 : 0);
      // A value of no field's kind is refused.
      expect(schema.safeParse({ [name]: Symbol("none") }).success, `${name} ${use}`).toBe(false);
    }
    expect(schema.safeParse({ another: null }).success).toBe(false);
  }
});

test("requestSchema(): a list that does not fit has a few issues, not one for each of its numbers", () => {
  const numIssues = (issues: readonly z.core.$ZodIssue[]): number =>
    issues.reduce(
      (sum, issue) =>
        sum + 1 + (issue.code === "invalid_union" ? issue.errors.reduce((all, some) => all + numIssues(some), 0) : 0),
      0,
    );
  for (const fields of [chatFields(limits), completionFields(limits), responseFields(limits)] as RequestFields[]) {
    for (const name of Object.keys(fields)) {
      for (const number of [-1, 0.5]) {
        const list = new Array(2000).fill(number);
        for (const value of [list, [list], [[1, ...list]]]) {
          const { error } = requestSchema({ [name]: fields[name]! }).safeParse({ [name]: value });
          expect(error, name).toBeDefined();
          expect(numIssues(error?.issues ?? []), name).toBeLessThan(10);
        }
      }
    }
  }
});

test("chatPassedOver(), completionPassedOver(): name every informational field that a request has, and no other", () => {
  for (const [fields, passedOver] of [
    [{ ...chatFields(limits), ...innerChatFields }, chatPassedOver],
    [completionFields(limits), completionPassedOver],
  ] as [RequestFields, (body: object) => string[]][]) {
    for (const [path, { use }] of Object.entries(fields)) {
      const body = bodyWith(path.replaceAll("[]", ".[]").split("."), {});
      const warnings = passedOver(body);
      if (use !== "informational") expect(warnings, path).toEqual([]);
      else {
        expect(warnings, path).toHaveLength(1);
        expect(warnings[0]?.startsWith(`"${path}" is passed over: `), warnings[0]).toBe(true);
        expect(warnings[0]).toMatch(/: [a-z][a-z ].*[^.]$/);
      }
      expect(passedOver(bodyWith(path.replaceAll("[]", ".[]").split("."), null)), path).toEqual([]);
    }
  }
});

/** A body with a value at a path; in a list it is the second entry's. */
function bodyWith([key, ...rest]: readonly string[], value: unknown): object {
  const inner = rest.length === 0 ? value : bodyWith(rest, value);
  return key === "[]" ? ["text", inner] : { [key!]: inner };
}
