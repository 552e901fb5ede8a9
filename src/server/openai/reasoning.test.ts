import fc from "fast-check";
import type OpenAI from "openai";
import { expect, test } from "vitest";
import { FakeEngine } from "../fake-engine.suite.js";
import { AnswerReader, type AnswerReaderOptions } from "./answer-reader.js";
import { eventsOf, post, serveOpenAi, testApp } from "./test-app.suite.js";

const url = "/v1/chat/completions";
const messages = [{ role: "user" as const, content: "What is it?" }];
const tagged = { info: { reasoning: { switches: ["enable_thinking" as const], isTagged: true } } };
const answer = "<think>\nIs it 42?\nIt is.\n</think>\n\nThe answer is 42.";

function read(text: string, cuts: readonly number[], how: AnswerReaderOptions, opens = false) {
  const reader = new AnswerReader(how);
  if (opens) reader.openReasoning();
  const places = [...new Set([0, ...cuts.map((cut) => cut % (text.length + 1)), text.length])].sort((a, b) => a - b);
  const pieces = places.flatMap((at, i) => reader.push(text.slice(at, places[i + 1])));
  const said = { reasoning: "", text: "", call: "" };
  for (const piece of [...pieces, ...reader.end()])
    said[piece.kind === "arguments" ? "call" : piece.kind] += piece.kind === "call" ? piece.name : piece.text;
  return said;
}

test("AnswerReader: reasoning, text and calls are the same however the answer is cut", () => {
  const call = '<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>';
  const cases: [text: string, opens: boolean, reasoning: string, rest: string][] = [
    [answer, false, "Is it 42?\nIt is.", "The answer is 42."],
    ["It is </b> so.\n</think>\n\nYes < no", true, "It is </b> so.", "Yes < no"],
    ["  <think></think>\nYes", false, "", "Yes"],
    ["<think>cut off </thi", false, "cut off </thi", ""],
    ["<thin", false, "", "<thin"],
    [" <b>a</think>", false, "", " <b>a</think>"],
    ["A <think>b</think>", false, "", "A <think>b</think>"],
    ["<think>a</think><think>b</think>", false, "a", "<think>b</think>"],
    ["", false, "", ""],
  ];
  const cuts = fc.array(fc.nat({ max: 100 }), { maxLength: 12 });
  fc.assert(
    fc.property(fc.constantFrom(...cases), cuts, ([text, opens, reasoning, rest], at) => {
      expect(read(text, at, { readsReasoning: true }, opens)).toEqual({ reasoning, text: rest, call: "" });
      expect(read(text, at, {}, opens)).toEqual({ reasoning: "", text, call: "" });
      const how = { readsReasoning: true, toolNames: new Set(["a"]) };
      expect(read(`<think>${call}</think>${call}`, at, how)).toEqual({ reasoning: call, text: "", call: "a{}" });
    }),
  );
});

test("POST /v1/chat/completions: reasoning is apart from the answer, whole and streamed", async () => {
  const app = await testApp(new FakeEngine({ ...tagged, answer }));
  const whole = (await post(app, url, { messages })).json().choices[0];
  expect(whole.message).toEqual({
    role: "assistant",
    reasoning_content: "Is it 42?\nIt is.",
    content: "The answer is 42.",
    refusal: null,
  });
  const deltas = eventsOf((await post(app, url, { messages, stream: true })).text).slice(0, -1);
  const joined = (key: string) => deltas.map((event) => event.choices[0].delta[key] ?? "").join("");
  expect([joined("reasoning_content"), joined("content")]).toEqual(["Is it 42?\nIt is.", "The answer is 42."]);

  const opened = await testApp(new FakeEngine({ ...tagged, answer: answer.slice(8), opensReasoning: true }));
  expect((await post(opened, url, { messages })).json().choices[0].message).toEqual(whole.message);
  // JSON that was asked for is the answer, whatever the prompt ends with.
  const held = { messages, response_format: { type: "json_object" } };
  expect((await post(opened, url, held)).json().choices[0].message.content).toBe(answer.slice(8));
  const plain = await testApp(new FakeEngine({ answer }));
  expect((await post(plain, url, { messages })).json().choices[0].message.content).toBe(answer);
});

test("openai: a response's reasoning is an item before the answer's, and goes back to the model's template", async () => {
  const engine = new FakeEngine({ ...tagged, answer });
  await using server = await serveOpenAi(engine);
  const { client } = server;
  const stream = client.responses.stream({ model: "any", input: "What is it?" });
  const types: string[] = [];
  for await (const { type } of stream) types.push(type.replace("response.", ""));
  expect(types.filter((type, i) => type !== types[i - 1]).slice(2, 9)).toEqual([
    ...["output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done"],
    ...["output_item.done", "output_item.added"],
  ]);
  const final = await stream.finalResponse();
  expect(final.output).toMatchObject([
    { type: "reasoning", summary: [], content: [{ type: "reasoning_text", text: "Is it 42?\nIt is." }] },
    { type: "message", content: [{ text: "The answer is 42." }] },
  ]);
  // "<think>\nIs", " it", " 42?\nIt", " is.\n</think>\n\nThe": the last one ends it.
  expect(final.usage?.output_tokens_details.reasoning_tokens).toBeGreaterThan(2);
  const whole = await client.responses.create({ model: "any", input: "And?", previous_response_id: final.id });
  expect(whole.output[0]).toMatchObject({ type: "reasoning" });
  expect(engine.asked.at(-1)?.prompt).toMatchObject({
    messages: [{}, { role: "assistant", content: "The answer is 42.", reasoning: "Is it 42?\nIt is." }, {}],
  });
});

test("POST: an effort, and variables, are what the model's template reads", async () => {
  const asked = async (info: object, body: object, route = url) => {
    const engine = new FakeEngine({ info });
    const { status, json } = await post(await testApp(engine), route, body);
    return status === 200
      ? (engine.asked[0]?.prompt as { variables?: object } | undefined)?.variables
      : json().error.message;
  };
  const reads = (...switches: string[]) => ({ reasoning: { switches, isTagged: true } });
  const qwen = reads("enable_thinking");
  expect(await asked(qwen, { messages, reasoning_effort: "none" })).toEqual({ enable_thinking: false });
  expect(await asked(qwen, { messages, reasoning_effort: "low" })).toEqual({ enable_thinking: true });
  expect(await asked(reads("reasoning_effort"), { messages, reasoning_effort: "low" })).toEqual({
    reasoning_effort: "low",
  });
  const kwargs = { enable_thinking: true, date_string: "26 Jul 2024", none: null };
  expect(await asked(qwen, { messages, reasoning_effort: "none", chat_template_kwargs: kwargs })).toEqual({
    enable_thinking: true,
    date_string: "26 Jul 2024",
  });
  expect(await asked(qwen, { input: "a", reasoning: { effort: "none" } }, "/v1/responses")).toEqual({
    enable_thinking: false,
  });
  expect(await asked({}, { messages, reasoning_effort: "none" })).toBeUndefined();
  expect(await asked(reads(), { messages, reasoning_effort: "none" })).toContain("does not steer reasoning");
  expect(await asked({}, { input: "a", reasoning: { effort: "high" } }, "/v1/responses")).toContain(
    '"reasoning.effort"',
  );
});

test("POST: an answer's length of -1, or over the limit, is what the limit leaves, and the answer says so", async () => {
  const engine = new FakeEngine();
  const app = await testApp(engine, { maxTokens: 50 });
  const cases: [route: string, body: object, field: string][] = [
    [url, { messages, max_tokens: -1 }, "max_tokens"],
    [url, { messages, max_completion_tokens: 51 }, "max_completion_tokens"],
    ["/v1/completions", { prompt: "a", max_tokens: 1_000_000 }, "max_tokens"],
    ["/v1/responses", { input: "a", max_output_tokens: 51 }, "max_output_tokens"],
  ];
  for (const [route, body, field] of cases) {
    const { warnings } = (await post(app, route, body)).json().block_attention;
    expect(warnings).toEqual([expect.stringContaining(`"${field}" is `)]);
    expect(engine.asked.at(-1)?.options.maxTokens).toBe(50);
  }
  expect((await post(app, url, { messages, max_tokens: 50 })).json().block_attention.warnings).toEqual([]);
});

test("POST /v1/chat/completions: the last message is gone on with, and reasoning goes back to the template", async () => {
  const engine = new FakeEngine();
  const app = await testApp(engine);
  const history: OpenAI.ChatCompletionMessageParam[] = [...messages, { role: "assistant", content: "It is" }];
  const body = { messages: history, continue_final_message: true, add_generation_prompt: false };
  expect((await post(app, url, body)).status).toBe(200);
  expect(engine.asked.at(-1)?.prompt).toMatchObject({ continuesLast: true });
  await post(app, url, { messages: [{ role: "assistant", content: "a", reasoning_content: "b" }, ...messages] });
  expect(engine.asked.at(-1)?.prompt).toMatchObject({ messages: [{ content: "a", reasoning: "b" }, {}] });
  const wrong = await post(app, url, { messages: [{ role: "user", content: "a", reasoning_content: "b" }] });
  expect(wrong.json().error.param).toBe("messages[0].reasoning_content");
});
