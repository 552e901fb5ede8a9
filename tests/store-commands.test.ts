import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { temporaryFolder } from "../src/files/test-files.suite.js";
import { writeRandomModel } from "./models/random-model.js";
import { runCli } from "./run-cli.js";

test("encode, store: passages are encoded ahead and found there; folders are listed, checked and cleared", async () => {
  const folder = await temporaryFolder();
  const [model, store, input] = ["model", "blocks", "passages.jsonl"].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  writeRandomModel(model, { architecture: "llama" });
  writeFileSync(input, ['{"title":"A","text":"One."}', '"Two."', '{"x":1}', '{"text":"Three."}'].join("\n"));
  const encode = ["encode", "--model", model, "--input", input, "--store", `${store}?cap=10MB`, "--json"];
  for (const hit of [false, true]) {
    const { code, stdout, stderr } = await runCli(encode);
    expect(code).toBe(1);
    expect(stderr).toContain("line 3 of");
    const told = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(told.map(({ index, hit, durable }) => [index, hit, durable])).toEqual([0, 1, 3].map((i) => [i, hit, true]));
  }
  const stat = JSON.parse((await runCli(["store", "stat", store, "--json"])).stdout);
  expect(stat).toMatchObject({ unsound: 0, models: [{ owners: 1, blocks: 3, pages: 0 }] });
  expect((await runCli(["store", "ls", store])).stdout.trim().split("\n")).toHaveLength(3);
  expect(await runCli(["store", "verify", store])).toMatchObject({ code: 0, stdout: "3 read, 0 unsound\n" });
  const [file = ""] = readdirSync(join(store, "blocks"), { recursive: true, withFileTypes: true })
    .filter((one) => one.isFile())
    .map(({ parentPath, name }) => join(parentPath, name));
  const bytes = readFileSync(file);
  bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1;
  writeFileSync(file, bytes);
  const verified = await runCli(["store", "verify", store]);
  expect(verified).toMatchObject({ code: 1, stdout: "3 read, 1 unsound\n" });
  expect(verified.stderr).toContain("does not match its digest");
  expect((await runCli(["store", "rm", store])).error?.message).toContain("nothing says which");
  expect((await runCli(["store", "rm", store, "--unsound", "--json"])).stdout).toContain('"removed":1');
  const model12 = stat.models[0].model.slice(0, 12);
  expect((await runCli(["store", "rm", store, "--model", model12, "--json"])).stdout).toContain('"removed":2');
  expect((await runCli(["store", "ls", join(folder, "none")])).error?.message).toContain("no such file or folder");
});
