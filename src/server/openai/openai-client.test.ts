import { APIError } from "openai";
import { expect, test, vi } from "vitest";
import { FakeEngine } from "../fake-engine.suite.js";
import { serveOpenAi } from "./test-app.suite.js";

const messages = [{ role: "user" as const, content: "What is it?" }];

test("openai: plain, streamed and completions answers, models and errors", async () => {
  await using server = await serveOpenAi(new FakeEngine());
  const { client } = server;
  const plain = await client.chat.completions.create({ model: "any", messages, logprobs: true, top_logprobs: 1 });
  expect(plain.choices[0]?.message.content).toBe("The answer is 42.");
  expect(plain.choices[0]?.logprobs?.content?.[0]).toMatchObject({ token: "The", logprob: -0.25 });
  expect(plain.usage?.prompt_tokens_details?.cached_tokens).toBe(0);

  const stream = await client.chat.completions.create({
    model: "any",
    messages,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let total: number | undefined;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    total = chunk.usage?.total_tokens;
  }
  expect([text, total]).toEqual(["The answer is 42.", 7]);
  const runner = client.chat.completions.stream({ model: "any", messages, n: 2 });
  expect((await runner.finalChatCompletion()).choices.map(({ message }) => message.content)).toEqual(
    Array(2).fill("The answer is 42."),
  );

  const completion = await client.completions.create({ model: "any", prompt: "a b", echo: true, logprobs: 1 });
  expect(completion.choices[0]?.text).toBe("a bThe answer is 42.");
  expect(completion.choices[0]?.logprobs?.tokens).toHaveLength(6);

  expect((await client.models.list()).data.map(({ id }) => id)).toEqual(["fake-model"]);
  expect((await client.models.retrieve("fake-model")).created).toBe(1_700_000_000);

  const refused = client.chat.completions.create({ model: "any", messages, temperature: 9 });
  await expect(refused).rejects.toThrow('400 Cannot use "temperature": it is 9, wanted a number from 0 to 2');
  await expect(refused).rejects.toMatchObject({ param: "temperature", type: "invalid_request_error" });
  await expect(refused).rejects.toBeInstanceOf(APIError);
});

test("openai: the model is listed and found under its aliases, and answers have the first", async () => {
  await using server = await serveOpenAi(new FakeEngine(), { alias: ["gpt-4o-mini", "org/model:latest"] });
  const { client } = server;
  expect((await client.models.list()).data.map(({ id }) => id)).toEqual(["gpt-4o-mini", "org/model:latest"]);
  for (const id of ["gpt-4o-mini", "org/model:latest"]) expect((await client.models.retrieve(id)).id).toBe(id);
  await expect(client.models.retrieve("fake-model")).rejects.toThrow(
    '404 Cannot find the model "fake-model": "gpt-4o-mini" or "org/model:latest" is loaded',
  );
  const chat = await client.chat.completions.create({ model: "org/model:latest", messages });
  const completion = await client.completions.create({ model: "fake-model", prompt: "a" });
  const stream = await client.chat.completions.create({ model: "any", messages, stream: true });
  const names = [chat.model, completion.model];
  for await (const chunk of stream) names.push(chunk.model);
  expect(new Set(names)).toEqual(new Set(["gpt-4o-mini"]));
  // The fingerprint is the model's own, whatever it is called.
  await using plain = await serveOpenAi(new FakeEngine());
  const own = await plain.client.chat.completions.create({ model: "any", messages });
  expect(chat.system_fingerprint).toBe(own.system_fingerprint);
});

test("openai: an aborted stream, and an aborted call, free their places", async () => {
  const engine = new FakeEngine({ endless: true, tokenMs: 5 });
  await using server = await serveOpenAi(engine);
  const stream = await server.client.chat.completions.create({ model: "any", messages, stream: true, n: 2 });
  for await (const chunk of stream) if (chunk.choices[0]?.delta.content) break;
  await vi.waitFor(() => expect([engine.running, engine.cancelled]).toEqual([0, 2]), { interval: 5 });

  const controller = new AbortController();
  const call = server.client.completions.create(
    { model: "any", prompt: "a", max_tokens: 2000 },
    { signal: controller.signal },
  );
  const failed = expect(call).rejects.toThrow("aborted");
  await vi.waitFor(() => expect(engine.running).toBe(1));
  controller.abort();
  await failed;
  await vi.waitFor(() => expect([engine.running, engine.cancelled]).toEqual([0, 3]), { interval: 5 });
});

test("openai: a reader that pauses slows its own answer down", async () => {
  const engine = new FakeEngine({
    endless: true,
    answer: ` ${"long".repeat(5_000)}`,
    info: { contextLength: 100_000 },
  });
  await using server = await serveOpenAi(engine);
  const answer = await fetch(`${server.client.baseURL}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ messages, stream: true, max_tokens: 4000 }),
  });
  const reader = answer.body!.getReader();
  await reader.read();
  // 4,000 tokens of 20 kB: far more than sockets hold. Nobody reads, so the answer stands still.
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(engine.running).toBe(1);
  await reader.cancel();
  await vi.waitFor(() => expect([engine.running, engine.cancelled]).toEqual([0, 1]));
});
