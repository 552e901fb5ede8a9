import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { projectRoot } from "./build-dist.js";
import { runCli } from "./run-cli.js";

interface Recipe {
  readonly folder: string;
  readonly inputs: Readonly<Record<string, readonly string[]>>;
  readonly variables?: Readonly<Record<string, string>>;
  readonly steps: readonly {
    readonly makes: readonly string[];
    readonly run: readonly string[];
    readonly server?: readonly string[];
  }[];
}

const folder = join(projectRoot, "recipes");
const script = join(projectRoot, "scripts", "recipe.mjs");
const recipes = readdirSync(folder, { recursive: true, encoding: "utf8" }).flatMap((path): [string, Recipe][] => {
  const file = path.replaceAll("\\", "/");
  if (!file.endsWith(".json")) return [];
  const value = JSON.parse(readFileSync(join(folder, file), "utf8"));
  return "steps" in value ? [[file, value]] : [];
});

test("there are the small recipe, the paper's, a small real model's, and the game's", () => {
  expect(recipes.map(([file]) => file).sort()).toEqual([
    "game/holdem.json",
    "rag/paper.json",
    "rag/small.json",
    "rag/smollm2.json",
  ]);
});

test.each(recipes)("recipes/%s: its commands exist and have the options that it uses", async (_, { steps }) => {
  const flagsOf = new Map<string, Set<string>>();
  for (const args of steps.flatMap(({ run, server }) => (server ? [run, server] : [run]))) {
    const command = args.slice(0, args[0] === "data" || args[0] === "eval" ? 2 : 1);
    const name = command.join(" ");
    if (!flagsOf.has(name)) {
      const { stdout, error } = await runCli([...command, "--help"]);
      expect(error).toMatchObject({ code: "commander.helpDisplayed" });
      expect(stdout).toContain(`Usage: block-attention ${name} `);
      flagsOf.set(name, new Set(stdout.match(/--[a-z][a-z-]*/g)));
    }
    const unknown = args.filter((arg) => arg.startsWith("--") && !flagsOf.get(name)?.has(arg));
    expect(unknown, name).toEqual([]);
  }
});

test.each(recipes)("recipes/%s: a step reads what is an input or what an earlier step makes", (_, recipe) => {
  const known = [...Object.keys(recipe.inputs), ...Object.keys(recipe.variables ?? {}), "folder", "server"];
  const made: string[] = [];
  for (const { run, makes } of recipe.steps) {
    const outputs = run.filter((_arg, i) => /^--(scores-)?output(-dir)?$/.test(run[i - 1] ?? ""));
    for (const arg of run) {
      for (const [, name] of arg.matchAll(/\{([\w]+)\}/g)) expect(known).toContain(name);
      for (const [, file] of arg.matchAll(/\{folder\}\/([^"\]]+)/g)) {
        if (!outputs.includes(arg)) expect(made.some((one) => one === file || one.startsWith(`${file}/`))).toBe(true);
      }
    }
    made.push(...makes);
  }
});

test("scripts/recipe.mjs: --dry-run prints every command, filled in", () => {
  const options = ["--set", "teacher=http://127.0.0.1:9/v1", "--input", "model=somewhere", "--dry-run"];
  const path = join("recipes", "rag", "paper.json");
  const text = execFileSync(process.execPath, [script, "--file", path, ...options], { encoding: "utf8" });
  const commands = text.split("\n").filter((line) => line.startsWith("$ "));
  expect(commands).toHaveLength(recipes.find(([file]) => file === "rag/paper.json")?.[1].steps.length ?? 0);
  expect(text).toContain("--base-url http://127.0.0.1:9/v1");
  expect(text).toContain("--model somewhere");
  expect(text).not.toMatch(/\{\w+\}/);
});

test.each([
  [["--small", "--set", "x=1"], 'Cannot use --set "x=1"'],
  [["--small", "--input", "x"], 'Cannot use --input "x": wanted NAME=VALUE'],
  [["--small", "--from", "nothing"], 'Cannot begin from "nothing": no step makes that'],
  [["--file", "package.json"], 'Cannot read the recipe "package.json": wanted "folder"'],
  [[], "Cannot run a recipe: wanted either --small or --file RECIPE"],
])("scripts/recipe.mjs %j: says what is wrong", (args, message) => {
  const { status, stderr } = spawnSync(process.execPath, [script, ...args], { encoding: "utf8" });
  expect(stderr).toContain(message);
  expect(status).toBe(2);
});
