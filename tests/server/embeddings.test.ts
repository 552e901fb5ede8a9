import { pathToFileURL } from "node:url";
import { beforeAll, expect, test } from "vitest";
import { encoderFolder } from "../../src/server/embeddings/encoder-folder.suite.js";
import { buildDist } from "../build-dist.js";
import { HttpClient } from "../server-laws/http-client.js";
import { ServerUnderTest } from "../server-laws/server-under-test.js";

const fakeRuntime = { NODE_OPTIONS: `--import ${pathToFileURL("tests/server/fake-onnxruntime.mjs").href}` };

beforeAll(buildDist, 120_000);

interface Answer {
  readonly data: readonly { readonly embedding: readonly number[] }[];
  readonly usage: { readonly prompt_tokens: number };
}

test("serve --embedding-model: the encoder's thread answers several clients, refuses by place, and is told of once it broke", async () => {
  const folder = await encoderFolder();
  await using server = await ServerUnderTest.start({ args: ["--embedding-model", folder], env: fakeRuntime });
  using client = new HttpClient(server);
  const embed = (input: unknown) => ({ path: "/v1/embeddings", body: { input } });
  const texts = Array.from({ length: 100 }, (_, i) => "a ".repeat(1 + (i % 14)));
  const [many, one] = await Promise.all([client.json<Answer>(embed(texts)), client.json<Answer>(embed("b"))]);
  expect(many.data).toHaveLength(100);
  const mean = (n: number) => (2 + 4 * n + 3) / (n + 2);
  for (const [i, { embedding }] of many.data.entries())
    expect(embedding[0]! / embedding[1]!).toBeCloseTo(mean(1 + (i % 14)), 4);
  expect(one.data[0]!.embedding[0]! / one.data[0]!.embedding[1]!).toBeCloseTo((2 + 5 + 3) / 3, 4);
  expect(one.usage.prompt_tokens).toBe(3);
  const long = await client.ask(embed([...texts, "a ".repeat(20)]));
  expect([long.status, JSON.parse(long.text).error]).toEqual([
    400,
    expect.objectContaining({ param: "input[100]", message: expect.stringContaining("it has 22 tokens") }),
  ]);
  for (const text of ["c", "a"]) {
    const broken = await client.ask(embed(text));
    expect([broken.status, broken.text]).toEqual([503, expect.stringContaining("Cannot embed: the model broke")]);
  }
  expect((await client.ask({ path: "/v1/models" })).status).toBe(200);
});

test("serve --embedding-model: a folder or a package that is not there ends it with the reason", async () => {
  const folder = await encoderFolder({ "tokenizer.json": undefined });
  const started = (env = {}) => ServerUnderTest.start({ args: ["--embedding-model", folder], env });
  await expect(started(fakeRuntime)).rejects.toThrow("it has no tokenizer.json, wanted a folder of an ONNX encoder");
  // Where the package is installed the folder is what is wrong.
  await expect(started()).rejects.toThrow(
    /the package "onnxruntime-node" is missing, wanted "npm install|no tokenizer.json/,
  );
});
