import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { FakeEngine } from "./fake-engine.suite.js";
import { Metrics } from "./metrics.js";

const document = readFileSync(new URL("../../docs/server.md", import.meta.url), "utf8").replaceAll("\r\n", "\n");

/** The rows of the document's table under a heading, without its head. */
function table(heading: string): string[] {
  const section = document.split(`\n## ${heading}\n`)[1]?.split("\n## ")[0] ?? "";
  return section
    .split("\n")
    .filter((line) => line.startsWith("|"))
    .slice(2);
}

const cell = (text: string): string => text.replaceAll("|", "\\|");

test("docs/server.md: lists every metric with its own help text", async () => {
  const metrics = new Metrics({ engine: new FakeEngine(), version: "0", processBytes: () => 0 });
  const rows = metrics.describe().map(({ name, type, help }) => `| \`${name}\` | ${type} | ${cell(help)} |`);
  expect(table("Metrics")).toEqual(rows);
});
