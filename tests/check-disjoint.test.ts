import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { projectRoot } from "./build-dist.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-disjoint-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);
const write = (name: string, rows: readonly object[]) =>
  writeFileSync(at(name), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
const check = (train: string, ...more: readonly string[]) => {
  const args = ["--train", at(train), "--test", at("squad"), "--test", at("rag"), "--test", at("nq"), ...more];
  return spawnSync(process.execPath, [join(projectRoot, "scripts", "check-disjoint.mjs"), ...args], {
    encoding: "utf8",
  });
};

write("squad", [
  { title: "Oslo", text: "Oslo is old.", questions: [{ id: "s1", question: "How old?", answers: ["old"] }] },
]);
write("rag", [
  {
    id: "r1",
    question: "Who?",
    documents: [
      { title: "Rome", text: "Rome is older.", gold: true },
      { title: "Bonn", text: "Bonn is young." },
    ],
  },
]);
write("nq", [{ question: "Where is Graz?", answers: ["Styria"], title: "Graz", text: "Graz lies in Styria." }]);

const own = {
  id: "a",
  question: "What?",
  supports: [1],
  documents: [
    { title: "Bonn", text: "Bonn is young." },
    { title: "Kiel", text: "Kiel lies by the sea." },
  ],
};
const first = { title: "Bonn", text: "Bonn is young." };
test.each([
  ["id", { ...own, id: "r1" }],
  ["question", { ...own, question: "where is GRAZ" }],
  ["article", { ...own, documents: [first, { title: "oslo ", text: "Another paragraph." }] }],
  ["gold passage", { ...own, documents: [first, { title: "Kiel", text: "Rome  is older" }] }],
  ["shown passage", { ...own, documents: [{ title: "?", text: "Graz lies in Styria." }, own.documents[1]] }],
])("check-disjoint: a shared %s is found, and its row left out", (kind, row) => {
  write("train", [own, row]);
  const { status, stdout } = check("train");
  expect(stdout).toMatch(new RegExp(`[:,] ${kind} 1[,\n]`));
  expect(stdout).toContain("1 rows share something");
  expect(status).toBe(1);
  expect(check("train", "--output-dir", at("clean")).status).toBe(0);
  expect(readFileSync(join(at("clean"), "train"), "utf8")).toBe(`${JSON.stringify(own)}\n`);
});

test("check-disjoint: a passage that a test only shows is no answer's", () => {
  write("train", [own, { title: "Bonn", text: "Bonn is young.", questions: [] }]);
  expect(check("train")).toMatchObject({ status: 0, stdout: expect.stringContaining("Nothing is shared") });
  write("none", [{ name: 3 }]);
  expect(check("none").stderr).toContain('line 1 of "');
});
