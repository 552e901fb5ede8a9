import { existsSync } from "node:fs";
import { expect, onTestFinished, test } from "vitest";
import { LocalEngine } from "../../engine/local-engine.js";
import { eventsOf, post, testApp } from "./test-app.suite.js";

/** SPM with a dummy space: token 267 is "▁the". */
const model = "../shared/cases/t10-llama2";

async function appOf() {
  const engine = await LocalEngine.load({ model, threads: 1 });
  const app = await testApp(engine);
  onTestFinished(async () => {
    await app.close();
    await engine[Symbol.asyncDispose]();
  });
  return app;
}

test.skipIf(!existsSync(model))(`completions: a text goes on with its space (skipped without ${model})`, async () => {
  const app = await appOf();
  const body = { prompt: "the a", max_tokens: 1, echo: true, logprobs: 0, logit_bias: { 267: 100 } };
  const { text, logprobs } = (await post(app, "/v1/completions", body)).json().choices[0];
  expect(text).toBe("the a the");
  const spelled = logprobs.tokens.map((token: string, i: number) =>
    text.startsWith(token.trimStart(), Math.max(0, text.indexOf(token.trimStart(), logprobs.text_offset[i]))),
  );
  expect(spelled.every(Boolean)).toBe(true);
  expect(logprobs.tokens.at(-1)).toBe(" the");
  expect(logprobs.text_offset.at(-1)).toBe(5);

  const streamed = eventsOf((await post(app, "/v1/completions", { ...body, stream: true })).text).slice(0, -1);
  const choices = streamed.map((event) => event.choices[0]);
  expect(choices.map((choice) => choice?.text ?? "").join("")).toBe(text);
  expect(choices.flatMap((choice) => choice?.logprobs?.text_offset ?? [])).toEqual(logprobs.text_offset);

  const stopped = { ...body, echo: false, max_tokens: 3, stop: " the" };
  expect((await post(app, "/v1/completions", stopped)).json().choices[0]).toMatchObject({
    text: "",
    finish_reason: "stop",
  });
  const ofIds = { prompt: [267, 265], max_tokens: 2, logit_bias: { 267: 100 } };
  expect((await post(app, "/v1/completions", ofIds)).json().choices[0].text).toBe(" the the");
});

test.skipIf(!existsSync(model))(`chat: an answer starts without a dummy space (skipped without ${model})`, async () => {
  const app = await appOf();
  const messages = [{ role: "user", content: "a" }];
  const body = { messages, max_tokens: 2, logit_bias: { 267: 100 } };
  expect((await post(app, "/v1/chat/completions", body)).json().choices[0].message.content).toBe("the the");
});
