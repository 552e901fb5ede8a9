import { expect, test } from "vitest";
import { FakeHost } from "../fake-host.suite.js";
import { post, testApp } from "./test-app.suite.js";

const many = (numValues: number, value: unknown) => Array(numValues).fill(value);
const fields = (numFields: number) => Object.fromEntries(many(numFields, 0).map((_, i) => [`x${i}`, 1]));

test("requestValidator(): a body of very many values is refused before the schema tells of each", async () => {
  await using app = await testApp(new FakeHost());
  const messages = [{ role: "user", content: "x" }];
  const texts: [url: string, body: object][] = [
    ["/v1/completions", { prompt: many(40_000, "") }],
    ["/v1/completions", { prompt: [...many(40_000, 1), "x"] }],
  ];
  for (const [url, body] of texts) {
    const answer = await post(app, url, body);
    expect(answer.json().error, JSON.stringify(body).slice(0, 80)).toEqual({
      message: "Cannot use the body: it holds over 37864 values, wanted fewer",
      type: "invalid_request_error",
      param: null,
      code: "invalid_value",
    });
  }
  // These are seen before the body is parsed.
  const objects: [url: string, body: object][] = [
    ["/v1/completions", { prompt: many(40_000, []) }],
    ["/v1/completions", { prompt: "a", logit_bias: fields(40_000) }],
    ["/v1/chat/completions", { messages: [{ role: "user", content: many(40_000, {}) }] }],
    ["/v1/chat/completions", { messages, ...fields(40_000) }],
    ["/v1/chat/completions", { messages: [many(19_000, {}), many(19_000, {})] }],
  ];
  for (const [url, body] of objects) {
    const answer = await post(app, url, body);
    expect(answer.json().error, JSON.stringify(body).slice(0, 80)).toMatchObject({
      message: "Cannot read the body: it holds over 37864 keys, lists and objects, wanted fewer",
      code: "invalid_json",
    });
  }
  // What fits is no matter: token ids do not count.
  const ids = await post(app, "/v1/completions", { prompt: many(40_000, 1) });
  expect(ids.json().error.code).toBe("context_length_exceeded");
  const full = { messages: many(1024, { role: "user", content: "x" }), logit_bias: fieldsOfIds(4096) };
  expect((await post(app, "/v1/chat/completions", full)).status).toBe(200);
});

function fieldsOfIds(numFields: number) {
  return Object.fromEntries(many(numFields, 0).map((_, i) => [String(i), 1]));
}

test("requestValidator(): a body that is no object is told as such", async () => {
  await using app = await testApp(new FakeHost());
  for (const body of ["[]", "null", "7", '"x"']) {
    const answer = await app.inject({
      method: "POST",
      url: "/v1/completions",
      headers: { "content-type": "application/json" },
      payload: body,
    });
    expect(answer.statusCode).toBe(400);
    expect(answer.json().error.message).toMatch(/^Cannot use the body: .*, wanted an object$/);
  }
});
