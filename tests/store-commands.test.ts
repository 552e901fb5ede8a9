import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Redis } from "iovalkey";
import { expect, onTestFinished, test } from "vitest";
import { temporaryFolder } from "../src/files/test-files.suite.js";
import { writeRandomModel } from "./models/random-model.js";
import { runCli } from "./run-cli.js";
import { startRedis, whyNoRedis } from "./test-server.js";

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

test.skipIf(whyNoRedis !== undefined)(
  "encode, store: a server is filled, listed, checked and cleared as a folder is",
  async () => {
    const folder = await temporaryFolder();
    const [model, input, key] = ["model", "passages.jsonl", "key"].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    writeRandomModel(model, { architecture: "llama" });
    writeFileSync(input, ['"One."', '"Two."', '"Three."'].join("\n"));
    const { port } = await startRedis("--requirepass", "secret");
    const plain = `redis://:secret@127.0.0.1:${port}?prefix=a*b`;
    writeFileSync(key, `${"5a".repeat(32)}\n`);
    const client = new Redis(port, "127.0.0.1", { password: "secret" });
    onTestFinished(() => client.disconnect());
    for (const store of [plain, `redis://:secret@127.0.0.1:${port}?prefix=sealed&key=${key}`]) {
      const encode = ["encode", "--model", model, "--input", input, "--store", store, "--json"];
      for (const _ of [1, 2]) expect((await runCli(encode)).code).toBe(0);
      await client.set("other", "no block");
      await client.set("a*b:other", "no block");
      const stat = JSON.parse((await runCli(["store", "stat", store, "--json"])).stdout);
      expect(stat).toMatchObject({ unsound: 0, models: [{ owners: 1, blocks: 3, pages: 0 }] });
      const listed = (await runCli(["store", "ls", store, "--json"])).stdout.trim().split("\n");
      expect(listed).toHaveLength(3);
      expect(await runCli(["store", "verify", store])).toMatchObject({ code: 0, stdout: "3 read, 0 unsound\n" });
      const [at = ""] = (await client.keys("*")).filter((name) => name.includes(JSON.parse(listed[0] ?? "").id));
      await client.setrange(at, 3000, "damage");
      expect(await runCli(["store", "verify", store])).toMatchObject({ code: 1, stdout: "3 read, 1 unsound\n" });
      expect((await runCli(["store", "rm", store, "--unsound", "--json"])).stdout).toContain('"removed":1');
      const model12 = stat.models[0].model.slice(0, 12);
      expect((await runCli(["store", "rm", store, "--model", model12, "--json"])).stdout).toContain('"removed":2');
    }
    expect((await client.keys("*")).sort()).toEqual(["a*b:other", "other"]);
    const refused = await runCli(["encode", "--model", model, "--input", input, "--store", `${plain}&cap=1GB`]);
    expect(refused.error?.message).toMatch(/it has a cap, wanted none: maxmemory and maxmemory-policy/);
    const wrong = await runCli(["store", "ls", `${plain}&what=1`]);
    const down = await runCli(["store", "ls", "redis://user:secret@127.0.0.1:1"]);
    for (const { error } of [refused, wrong, down]) {
      expect(error?.message).toMatch(/^Cannot /);
      expect(error?.message).not.toContain("secret");
    }
  },
);
