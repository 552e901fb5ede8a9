import OpenAI from "openai";
import { expect, test } from "vitest";
import { FakeEngine } from "../fake-engine.suite.js";
import { eventsOf, post, testApp } from "./test-app.suite.js";

const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [
  { type: "function" as const, function: { name: "get_weather", description: "The weather", parameters } },
];
const call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>';
const messages = [{ role: "user" as const, content: "The weather in Rome?" }];
const url = "/v1/chat/completions";

test("openai: an unchanged client calls a tool and goes on with its result, plain, streamed and by its tool runner", async () => {
  const engine = new FakeEngine({ answer: `I look. ${call}` });
  const app = await testApp(engine);
  const address = await app.listen({ host: "127.0.0.1", port: 0 });
  const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0 });
  try {
    const first = await client.chat.completions.create({ model: "any", messages, tools });
    const [choice] = first.choices;
    expect([choice?.finish_reason, choice?.message.content]).toEqual(["tool_calls", "I look."]);
    expect(choice?.message.tool_calls).toEqual([
      {
        id: expect.stringMatching(/^[0-9a-f]{9}$/),
        type: "function",
        function: { name: "get_weather", arguments: '{"city": "Rome"}' },
      },
    ]);
    const [answered] = choice!.message.tool_calls!;
    const result = { role: "tool" as const, tool_call_id: answered!.id, content: "sunny" };
    const history = [...messages, choice!.message, result];
    await client.chat.completions.create({ model: "any", messages: history, tools });
    expect(engine.asked.at(-1)?.prompt).toMatchObject({
      tools: [{ name: "get_weather", parameters }],
      messages: [
        {},
        { role: "assistant", toolCalls: [{ id: answered!.id, name: "get_weather", arguments: '{"city": "Rome"}' }] },
        { role: "tool", toolCallId: answered!.id, content: "sunny" },
      ],
    });

    const runner = client.chat.completions.stream({ model: "any", messages, tools, n: 2 });
    const streamed = await runner.finalChatCompletion();
    for (const { message, finish_reason: reason } of streamed.choices) {
      expect([reason, message.content, message.tool_calls?.[0]]).toMatchObject([
        "tool_calls",
        "I look.",
        { type: "function", function: { name: "get_weather", arguments: '{"city": "Rome"}' } },
      ]);
    }
    expect(new Set(streamed.choices.map(({ message }) => message.tool_calls?.[0]?.id)).size).toBe(2);

    const given: unknown[] = [];
    const run = (city: string) => given.push(city);
    const running = client.chat.completions.runTools(
      { model: "any", messages, tools: [{ type: "function", function: { ...tools[0]!.function, function: run } }] },
      { maxChatCompletions: 2 },
    );
    await running.done().catch(() => undefined);
    expect(given[0]).toBe('{"city": "Rome"}');
  } finally {
    const closed = app.close();
    app.server.closeAllConnections();
    await closed;
  }
});

test("POST /v1/chat/completions: a streamed call is its name, then its arguments in pieces", async () => {
  const app = await testApp(new FakeEngine({ answer: call }));
  const answer = await post(app, url, { messages, tools, stream: true });
  const deltas = eventsOf(answer.text).flatMap(({ choices }) => choices ?? []);
  const calls = deltas.flatMap(({ delta }) => delta.tool_calls ?? []);
  expect(calls[0]).toMatchObject({ index: 0, type: "function", function: { name: "get_weather", arguments: "" } });
  expect(calls.slice(1).map(({ id, index, function: { name, arguments: text } }) => [id, index, name, text])).toEqual([
    [undefined, 0, undefined, '{"city":'],
    [undefined, 0, undefined, ' "Rome"}'],
  ]);
  expect(deltas.at(-1)).toMatchObject({ delta: {}, finish_reason: "tool_calls" });
  expect(deltas.some(({ delta }) => delta.content)).toBe(false);
});

test("POST /v1/chat/completions: what the choice makes of tools", async () => {
  const engine = new FakeEngine({ answer: call });
  const app = await testApp(engine);
  const asked = async (more: object) => {
    const { message, finish_reason: reason } = (await post(app, url, { messages, tools, ...more })).json().choices[0];
    const { prompt, options } = engine.asked.at(-1)!;
    return { message, reason, prompt, constraint: options.constraint };
  };
  const plain = [{ name: "get_weather", description: "The weather", parameters }];
  const held = { type: "toolCalls", tools: plain, choice: "auto", parallel: true };
  expect((await asked({})).constraint).toEqual(held);
  expect((await asked({ parallel_tool_calls: false })).constraint).toEqual({ ...held, parallel: false });
  expect((await asked({ tool_choice: "required" })).constraint).toEqual({ ...held, choice: "required" });
  const named = { type: "function", function: { name: "get_weather" } };
  expect((await asked({ tool_choice: named })).constraint).toEqual({ ...held, choice: { name: "get_weather" } });
  const none = await asked({ tool_choice: "none", response_format: { type: "json_object" } });
  expect([none.reason, none.message.content, none.message.tool_calls]).toEqual(["stop", call, undefined]);
  expect([none.prompt, none.constraint]).toEqual([expect.not.objectContaining({ tools: plain }), { type: "json" }]);
  expect((await asked({ max_tokens: 3 })).reason).toBe("length");
  expect((await asked({})).message).toMatchObject({
    content: null,
    tool_calls: [{ function: { name: "get_weather" } }],
  });
});

test("POST /v1/chat/completions: tools, choices and messages that do not fit are refused by name", async () => {
  const app = await testApp(new FakeEngine());
  const refused = async (body: object) => {
    const { status, json } = await post(app, url, { messages, ...body });
    return `${status} ${json().error?.param}: ${json().error?.message}`;
  };
  const named = (name: string, more: object = {}) => ({ type: "function", function: { name, ...more } });
  const many = Array.from({ length: 129 }, (_, i) => named(`t${i}`));
  expect(await refused({ tools: many })).toContain("400 tools: ");
  expect(await refused({ tools: [named("a"), named("a")] })).toContain("different names");
  expect(await refused({ tools: [named("a b")] })).toContain("400 tools[0].function.name: ");
  expect(await refused({ tools: [named("a", { description: "x".repeat(2 ** 18) })] })).toContain("400 tools: ");
  expect(await refused({ tools: [{ type: "web_search" }] })).toContain("400 tools[0]");
  expect(await refused({ tool_choice: "required" })).toContain(
    '400 tool_choice: Cannot use "tool_choice": it wants "tools"',
  );
  expect(await refused({ tools, tool_choice: named("no") })).toContain('there is no tool "no"');
  expect(await refused({ tools, response_format: { type: "json_object" } })).toContain("400 tools: ");
  const history = (message: object) => refused({ messages: [...messages, message] });
  expect(await history({ role: "tool", content: "a" })).toContain("400 messages[1].tool_call_id: ");
  expect(await history({ role: "user", content: "a", tool_call_id: "a" })).toContain("400 messages[1].tool_call_id: ");
  const calls = [{ id: "a", type: "function", function: { name: "b", arguments: "{}" } }];
  expect(await history({ role: "user", content: "a", tool_calls: calls })).toContain("400 messages[1].tool_calls: ");
  expect(await history({ role: "tool", tool_call_id: "a" })).toContain("400 messages[1].content: ");
});
