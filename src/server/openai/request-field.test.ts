import { expect, test } from "vitest";
import { FakeEngine } from "../fake-engine.suite.js";
import { post, testApp } from "./test-app.suite.js";

const many = (numValues: number, value: unknown) => Array(numValues).fill(value);
const fields = (numFields: number) => Object.fromEntries(many(numFields, 0).map((_, i) => [`x${i}`, 1]));

test("requestValidator(): a body of very many values is refused before the schema tells of each", async () => {
  await using app = await testApp(new FakeEngine());
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
  await using app = await testApp(new FakeEngine());
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

test("requestValidator(): a name that is none tells the one that was meant, in an object of the body too", async () => {
  await using app = await testApp(new FakeEngine());
  const chat = { messages: [{ role: "user", content: "x" }] };
  const cases: [url: string, body: object, param: string, wanted: string][] = [
    ["/v1/chat/completions", { ...chat, max_token: 1 }, "max_token", ', wanted "max_tokens"'],
    ["/v1/chat/completions", { ...chat, mode: "full" }, "mode", ', wanted "block_attention.mode"'],
    ["/v1/chat/completions", { ...chat, splitLong: true }, "splitLong", ', wanted "block_attention.split_long"'],
    [
      "/v1/chat/completions",
      { ...chat, block_attention: { mod: "full" } },
      "block_attention.mod",
      ', wanted "block_attention.mode"',
    ],
    ["/v1/chat/completions", { ...chat, nothing_like_it: 1 }, "nothing_like_it", ""],
    ["/v1/blocks", { passages: ["x"], split_lon: true }, "split_lon", ', wanted "split_long"'],
    ["/generate", { prompt: "x", steam: true }, "steam", ', wanted "stream"'],
  ];
  for (const [url, body, param, wanted] of cases) {
    const answer = await post(app, url, body);
    const message = `Cannot use the request: there is no field "${param}"${wanted}`;
    expect(answer.json().error).toMatchObject({ message, param, code: "unknown_field" });
  }
});

test("requestValidator(): every route tells what a value is against what was wanted", async () => {
  await using app = await testApp(new FakeEngine());
  const cases: [url: string, body: object, message: string][] = [
    ["/v1/tokenize", { text: 3 }, 'Cannot use "text": it is 3, wanted text'],
    ["/v1/tokenize", {}, 'Cannot use "text": there is none, wanted text'],
    ["/v1/blocks", { passages: "x" }, 'Cannot use "passages": it is "x", wanted a list'],
    ["/v1/blocks", { passages: [] }, 'Cannot use "passages": it is an empty list, wanted 1 or more entries'],
    [
      "/v1/blocks",
      { passages: many(1025, "x") },
      'Cannot use "passages": it is a list of 1025, wanted up to 1024 entries',
    ],
    ["/v1/blocks", { passages: ["x", { title: "t" }] }, 'Cannot use "passages[1].text": there is none, wanted text'],
    ["/v1/blocks", { passages: [3], stream: 1 }, 'Cannot use "passages[0]": it is 3, wanted text, or an object with'],
    ["/generate", { prompt: 1 }, 'Cannot use "prompt": it is 1, wanted text'],
    ["/generate", {}, 'Cannot use the body: it is an object, wanted an object with "blocks" or "prompt"'],
  ];
  for (const [url, body, message] of cases) {
    const answer = await post(app, url, body);
    expect(answer.json().error.message, JSON.stringify(body).slice(0, 80)).toContain(message);
  }
});
