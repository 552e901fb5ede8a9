import { createOpenAI } from "@ai-sdk/openai";
import { OpenAIEmbeddings } from "@langchain/openai";
import { embedMany } from "ai";
import OpenAI from "openai";
import { expect, test } from "vitest";
import { createApp } from "../app.js";
import type { TextEmbedder } from "../embeddings/embedder.js";
import { FakeEngine } from "../fake-engine.suite.js";
import { loadConfig } from "../server-config.js";
import { post, testApp } from "./test-app.suite.js";

const url = "/v1/embeddings";
const embedder: TextEmbedder = {
  name: "fake-encoder",
  embed: async (texts) => ({
    vectors: texts.map((text) => Float32Array.of(text.length, 0.1)),
    numTokens: texts.length,
  }),
};

async function appWith(given?: TextEmbedder) {
  return await createApp({
    engine: new FakeEngine(),
    config: await loadConfig({ options: {}, env: {} }),
    embedder: given,
  });
}

test("openai: embeddings come as floats and, by default, as base64 that the client reads", async () => {
  const app = await appWith(embedder);
  const address = await app.listen({ host: "127.0.0.1", port: 0 });
  const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0 });
  try {
    const vectors = [
      [1, Math.fround(0.1)],
      [2, Math.fround(0.1)],
    ];
    for (const format of [{}, { encoding_format: "float" as const }]) {
      const made = await client.embeddings.create({ model: "any", input: ["a", "bc"], ...format });
      expect(made.data.map(({ embedding }) => embedding)).toEqual(vectors);
      expect([made.model, made.usage.prompt_tokens, made.data[1]?.index]).toEqual(["fake-encoder", 2, 1]);
    }
    const one = await client.embeddings.create({ model: "any", input: "abc" });
    expect(one.data.map(({ embedding }) => embedding[0])).toEqual([3]);
    const { baseURL } = client;
    const model = createOpenAI({ baseURL, apiKey: "none" }).embedding("any");
    expect((await embedMany({ model, values: ["a", "bc"] })).embeddings).toEqual(vectors);
    const langChain = new OpenAIEmbeddings({ model: "any", apiKey: "none", configuration: { baseURL } });
    expect(await langChain.embedDocuments(["a", "bc"])).toEqual(vectors);
  } finally {
    app.server.closeAllConnections();
    await app.close();
  }
});

test("POST /v1/embeddings: what does not fit is refused by name; without a model it says how to have one", async () => {
  const app = await appWith(embedder);
  const refused = async (body: object) => {
    const { status, json } = await post(app, url, { input: "a", ...body });
    return `${status} ${json().error?.param}: ${json().error?.message}`;
  };
  expect(await refused({ dimensions: 64 })).toBe(
    '400 dimensions: Cannot use "dimensions": it is 64, wanted none: vectors have the model\'s own size',
  );
  expect(await refused({ input: [1, 2] })).toContain('400 input[0]: Cannot use "input[0]": it is 1, wanted text');
  expect(await refused({ input: ["a", ""] })).toContain("400 input[1]: ");
  expect(await refused({ input: "" })).toContain("400 input: ");
  expect(await refused({ input: [] })).toContain("400 input: ");
  expect(await refused({ input: null })).toContain("400 input: ");
  expect(await refused({ input: Array(2049).fill("a") })).toContain("400 input: ");
  expect(await refused({ encoding_format: "int8" })).toContain("400 encoding_format: ");
  expect(await refused({ input_type: "query" })).toContain('there is no field "input_type"');
  expect((await post(app, url, { input: "a", user: "b" })).json().warnings).toEqual([
    '"user" is passed over: keys tell who asks',
  ]);
  const without = await post(await testApp(new FakeEngine()), url, { input: "a" });
  expect([without.status, without.json().error.code, without.json().error.message]).toEqual([
    400,
    "no_embedding_model",
    expect.stringContaining("wanted --embedding-model"),
  ]);
});
