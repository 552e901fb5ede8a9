import { mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Redis } from "iovalkey";
import { expect, onTestFinished, test } from "vitest";
import { bytesBelow, temporaryFolder } from "../src/files/test-files.suite.js";
import { writeRandomModel } from "./models/random-model.js";
import { runCli } from "./run-cli.js";
import { startRedis, whyNoRedis } from "./test-server.js";

/** The command that encodes a file of passages into a place. */
function encodeArgs(model: string, input: string, store: string): string[] {
  return ["encode", "--model", model, "--input", input, "--store", store];
}

function jsonLines(text: string) {
  const lines = text.trim() === "" ? [] : text.trim().split("\n");
  return lines.map((line) => JSON.parse(line));
}

/** A folder with a model, and where passages and their store are to be. */
async function placesToEncode() {
  const folder = await temporaryFolder();
  const model = join(folder, "model");
  writeRandomModel(model, { architecture: "llama" });
  return { folder, model, store: join(folder, "blocks"), input: join(folder, "passages.jsonl") };
}

test("encode, store: passages are encoded ahead and found there; folders are listed, checked and cleared", async () => {
  const { folder, model, store, input } = await placesToEncode();
  writeFileSync(input, ['{"title":"A","text":"One."}', '"Two."', '{"x":1}', '{"text":"Three."}'].join("\n"));
  const encode = [...encodeArgs(model, input, `${store}?cap=10MB`), "--json"];
  for (const hit of [false, true]) {
    const { code, stdout, stderr } = await runCli(encode);
    expect(code).toBe(1);
    expect(stderr).toContain("line 3 of");
    const told = jsonLines(stdout);
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

test("store export, import, gc: chosen blocks come into another folder, checked and within its cap; what is of no use goes", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  writeFileSync(at("passages.jsonl"), ['"One."', '"Two."', '"Three."'].join("\n"));
  for (const [seed, name] of ["first", "second"].entries()) {
    writeRandomModel(at(name), { architecture: "llama", seed });
    await runCli(encodeArgs(at(name), at("passages.jsonl"), `${at("blocks")}?cap=10MB`));
  }
  const told = async (...args: string[]) => {
    const { stdout, code } = await runCli(["store", ...args, "--json"]);
    return { ...JSON.parse(stdout), code };
  };
  const [{ model }] = (await told("stat", at("blocks"))).models;
  const copied = { copied: 3, there: 0, unsound: 0, no_key: 0, full: 0, code: 0 };
  expect(await told("export", at("blocks"), at("some"), "--model", model.slice(0, 8))).toMatchObject(copied);
  expect((await told("stat", at("some"))).models).toMatchObject([{ model, blocks: 3 }]);
  const files = (name: string) =>
    readdirSync(join(at(name), "blocks"), { recursive: true, withFileTypes: true })
      .filter((one) => one.isFile())
      .map(({ parentPath, name }) => join(parentPath, name));
  const [one = "", two = ""] = files("some");
  const bytes = readFileSync(one);
  bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1;
  writeFileSync(one, bytes);
  writeFileSync(two, "no block");
  expect(await told("import", at("new"), at("some"))).toMatchObject({ copied: 1, there: 0, unsound: 2, code: 1 });
  expect(await told("import", at("new"), at("blocks"))).toMatchObject({ copied: 5, there: 1, unsound: 0, code: 0 });
  expect(await told("verify", at("new"))).toEqual({ blocks: 6, unsound: 0, code: 0 });
  // Its head is sound, its keys and values are not.
  const [damaged = ""] = files("new");
  const sound = readFileSync(damaged);
  writeFileSync(damaged, Buffer.concat([sound.subarray(0, -1), Buffer.from([(sound.at(-1) as number) ^ 1])]));
  expect(await told("import", at("new"), at("blocks"))).toMatchObject({ copied: 1, there: 5, code: 0 });
  expect(readFileSync(damaged)).toEqual(sound);
  const small = await told("import", `${at("small")}?cap=30000`, at("blocks"));
  expect(small.full).toBeGreaterThan(0);
  expect(small.copied).toBeGreaterThan(0);
  expect(bytesBelow(at("small"))).toBeLessThanOrEqual(30000);

  const [other = ""] = files("some").filter((path) => path !== one && path !== two);
  const mine = ["quarantine", "claims"].map((name) => join(at("some"), name, "notes.txt"));
  for (const path of mine) {
    mkdirSync(dirname(path));
    writeFileSync(path, "mine");
  }
  writeFileSync(join(at("some"), "quarantine", `1-${"a".repeat(64)}.kv`), "damaged");
  writeFileSync(join(at("some"), "claims", "b".repeat(64)), "of a process that was killed");
  const all = { removed: 1, quarantined: 4096 };
  expect(await told("gc", at("some"), "--dry-run")).toMatchObject(all);
  expect(files("some")).toHaveLength(3);
  expect(await told("gc", at("some"))).toMatchObject(all);
  expect(await told("gc", at("some"), "--keep-model", model)).toMatchObject({ removed: 0, quarantined: 0 });
  expect(mine.map((path) => readdirSync(dirname(path)))).toEqual([["notes.txt"], ["notes.txt"]]);
  utimesSync(other, 1, 1);
  expect(await told("gc", at("some"), "--older-than", "30")).toMatchObject({ removed: 1 });
  expect(await told("gc", at("some"), "--keep-producer", "another")).toMatchObject({ removed: 1 });
  expect(await told("gc", at("blocks"), "--keep-model", model)).toMatchObject({ removed: 3 });
});

test("encode: several processes share the passages, each of which is encoded once", async () => {
  const { model, store, input } = await placesToEncode();
  const passages = Array.from({ length: 400 }, (_, n) => ({ id: Math.floor(n / 3), text: `Passage ${n}.` }));
  writeFileSync(input, passages.map((one) => JSON.stringify(one)).join("\n"));
  const encode = [...encodeArgs(model, input, `${store}?cap=100MB`), "--json"];
  const all = await Promise.all([runCli(encode), runCli(encode), runCli(encode)]);
  const told = all.map(({ stdout }) => jsonLines(stdout));
  expect(all.map(({ code }) => code)).toEqual([0, 0, 0]);
  for (const lines of told)
    expect(lines.map(({ index }) => index).sort((a, b) => a - b)).toEqual(passages.map((_, n) => n));
  const encoded = told.map((lines) => lines.filter(({ hit }) => !hit).length);
  expect(encoded.reduce((sum, one) => sum + one, 0)).toBe(400);
  expect(encoded.filter((one) => one > 0).length).toBeGreaterThan(1);
  expect(readdirSync(join(store, "claims"))).toEqual([]);
  const listed = (await runCli(["store", "ls", store, "--documents", "--json"])).stdout.trim().split("\n");
  expect(listed.map((line) => JSON.parse(line).blocks.length).sort()).toEqual([1, ...Array(133).fill(3)]);
}, 60_000);

test("encode: tells beforehand what all passages will take, files' heads and documents included", async () => {
  const { model, store, input } = await placesToEncode();
  const passages = Array.from({ length: 200 }, (_, n) => ({
    id: n,
    text: `Passage ${100 + n}.`,
  }));
  writeFileSync(input, passages.map((one) => JSON.stringify(one)).join("\n"));
  const { code, stderr } = await runCli(encodeArgs(model, input, `${store}?cap=100MB`));
  expect(code).toBe(0);
  const [, told = "", unit] = /200 passages, about \d+ tokens: ([\d.]+) (KiB|MiB)/.exec(stderr) ?? [];
  const taken = bytesBelow(join(store, "blocks")) + bytesBelow(join(store, "documents"));
  const share = (Number(told) * (unit === "KiB" ? 2 ** 10 : 2 ** 20)) / taken;
  expect(share, `${told} ${unit} of ${taken} bytes`).toBeGreaterThan(0.9);
  expect(share, `${told} ${unit} of ${taken} bytes`).toBeLessThan(1.1);
});

test("store ls, rm, export --document: a document's blocks, from the index of documents beside them", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  writeRandomModel(at("model"), { architecture: "llama" });
  const passages = [
    { id: "a", text: "One.", metadata: { page: 7 } },
    { id: "a", text: "Two." },
    { id: "b", text: "Two." },
    { text: "Three." },
  ];
  writeFileSync(at("passages.jsonl"), passages.map((one) => JSON.stringify(one)).join("\n"));
  await runCli(encodeArgs(at("model"), at("passages.jsonl"), `${at("blocks")}?cap=10MB`));
  const told = async (...args: string[]) => {
    const { stdout, code } = await runCli(["store", ...args, "--json"]);
    return { lines: jsonLines(stdout), code };
  };
  const documents = async (name: string) =>
    (await told("ls", at(name), "--documents")).lines
      .map(({ id, blocks, metadata }) => [id, blocks.length, metadata])
      .sort();
  const all = [
    ["a", 2, { page: 7 }],
    ["b", 1, undefined],
  ];
  expect(await documents("blocks")).toEqual(all);
  expect((await told("export", at("blocks"), at("some"), "--document", "a")).lines).toMatchObject([{ copied: 2 }]);
  expect(await documents("some")).toEqual(all);
  expect((await told("import", at("new"), at("some"))).lines).toMatchObject([{ copied: 2 }]);
  expect(await documents("new")).toEqual(all);
  expect((await told("rm", at("blocks"), "--document", "a")).lines).toMatchObject([{ removed: 1 }]);
  expect(await documents("blocks")).toEqual([all[1]]);
  expect((await told("ls", at("blocks"))).lines).toHaveLength(2);
  const none = await runCli(["store", "rm", at("blocks"), "--document", "a"]);
  expect(none.error?.message).toMatch(/^Cannot remove the document "a": there is none$/);
  expect((await told("rm", at("blocks"), "--document", "b")).lines).toMatchObject([{ removed: 1 }]);
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
      const encode = [...encodeArgs(model, input, store), "--json"];
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
    const refused = await runCli(encodeArgs(model, input, `${plain}&cap=1GB`));
    expect(refused.error?.message).toMatch(/it has a cap, wanted none: maxmemory and maxmemory-policy/);
    const wrong = await runCli(["store", "ls", `${plain}&what=1`]);
    const down = await runCli(["store", "ls", "redis://user:secret@127.0.0.1:1"]);
    for (const { error } of [refused, wrong, down]) {
      expect(error?.message).toMatch(/^Cannot /);
      expect(error?.message).not.toContain("secret");
    }
  },
);

test("store: with a key, documents are encrypted as blocks are; who has no key removes nothing, and copies stay encrypted", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  writeRandomModel(at("model"), { architecture: "llama" });
  writeFileSync(at("passages.jsonl"), JSON.stringify({ id: "secret paper", text: "One.", metadata: { page: 7 } }));
  writeFileSync(at("key"), `${"5a".repeat(32)}\n`);
  writeFileSync(at("other"), `${"6b".repeat(32)}\n`);
  const keyed = (name: string, key = "key") => `${at(name)}?key=${at(key)}`;
  const encode = encodeArgs(at("model"), at("passages.jsonl"), `${keyed("blocks")}&cap=10MB`);
  expect((await runCli(encode)).code).toBe(0);
  const told = async (...args: string[]) => {
    const { stdout, error } = await runCli(["store", ...args, "--json"]);
    expect(error).toBeUndefined();
    return jsonLines(stdout);
  };
  const inFiles = (name: string) =>
    readdirSync(at(name), { recursive: true, withFileTypes: true })
      .filter((one) => one.isFile())
      .map((one) => readFileSync(join(one.parentPath, one.name)).toString("latin1"))
      .join();
  expect(inFiles("blocks")).not.toMatch(/secret paper|block-kv/);
  expect(await told("ls", keyed("blocks"), "--documents")).toMatchObject([
    { id: "secret paper", metadata: { page: 7 } },
  ]);
  expect(await told("ls", at("blocks"), "--documents")).toEqual([]);
  expect(await told("gc", at("blocks"))).toMatchObject([{ removed: 0 }]);
  expect(await told("export", keyed("blocks"), at("copy"))).toMatchObject([{ copied: 1, unsound: 0 }]);
  expect(inFiles("copy")).not.toMatch(/secret paper|block-kv/);
  expect(await told("verify", keyed("copy"))).toEqual([{ blocks: 1, unsound: 0 }]);
  expect(await told("import", keyed("anew", "other"), keyed("copy"))).toMatchObject([{ copied: 1 }]);
  expect(await told("ls", keyed("anew", "other"), "--documents")).toMatchObject([{ id: "secret paper" }]);
  expect(await told("ls", keyed("anew"), "--documents")).toEqual([]);
  expect(await told("rm", keyed("blocks"), "--document", "secret paper")).toMatchObject([{ removed: 1 }]);
});
