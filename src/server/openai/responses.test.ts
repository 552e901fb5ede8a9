import { expect, test } from "vitest";
import { z } from "zod";
import { EngineError } from "../../engine/engine-error.js";
import { FakeEngine } from "../fake-engine.suite.js";
import { post, serveOpenAi, testApp } from "./test-app.suite.js";

const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [
  { type: "function" as const, name: "get_weather", description: "The weather", parameters, strict: true },
];
const call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>';
const url = "/v1/responses";

test("openai: a response is what a chat completion of the same conversation is", async () => {
  const engine = new FakeEngine();
  await using server = await serveOpenAi(engine);
  const { client } = server;
  const made = await client.responses.create({ model: "any", input: "What is it?", instructions: "Be short." });
  expect([made.status, made.output_text, made.error]).toEqual(["completed", "The answer is 42.", null]);
  expect(made.id).toMatch(/^resp_[0-9a-f]{32}$/);
  expect(made.usage).toEqual({
    input_tokens: 5,
    input_tokens_details: { cached_tokens: 0 },
    output_tokens: 4,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: 9,
  });
  await client.chat.completions.create({
    model: "any",
    messages: [
      { role: "system", content: "Be short." },
      { role: "user", content: "What is it?" },
    ],
  });
  const [ofResponse, ofChat] = engine.asked.map(({ prompt, options: { signal: _, ...options } }) => [prompt, options]);
  expect(ofResponse).toEqual(ofChat);

  const cut = await client.responses.create({ model: "any", input: "What?", max_output_tokens: 2, temperature: 0 });
  expect([cut.status, cut.incomplete_details, cut.output_text]).toEqual([
    "incomplete",
    { reason: "max_output_tokens" },
    "The answer",
  ]);
  expect(cut.output[0]).toMatchObject({ status: "incomplete" });
  const none = await client.responses.create({ model: "any", input: "What?", max_output_tokens: 0 });
  expect(none.output).toMatchObject([{ type: "message", content: [{ text: "" }] }]);

  const told = await client.responses.create({
    model: "any",
    input: [{ role: "user", content: [{ type: "input_text", text: "What?" }] }],
    include: ["message.output_text.logprobs"],
    top_logprobs: 2,
  });
  const [item] = told.output;
  const part = item?.type === "message" ? item.content[0] : undefined;
  const logprobs = part?.type === "output_text" ? part.logprobs : undefined;
  expect(logprobs).toHaveLength(4);
  expect(logprobs?.[0]).toMatchObject({ token: "The", logprob: -0.25, bytes: [84, 104, 101] });
  expect(logprobs?.[0]?.top_logprobs).toHaveLength(2);
});

test("openai: a streamed response has OpenAI's events, in their order and numbered", async () => {
  await using server = await serveOpenAi(new FakeEngine({ answer: `I look. ${call}` }));
  const { client } = server;
  const request = { model: "any", input: "The weather in Rome?", tools };
  const stream = await client.responses.create({ ...request, stream: true });
  const events = [];
  for await (const event of stream) events.push(event);
  expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, i) => i));
  const types = events.map(({ type }) => type.replace("response.", ""));
  expect(types.filter((type, i) => type !== types[i - 1])).toEqual([
    ...["created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done"],
    ...["content_part.done", "output_item.done", "output_item.added", "function_call_arguments.delta"],
    ...["function_call_arguments.done", "output_item.done", "completed"],
  ]);
  const last = events.at(-1);
  if (last?.type !== "response.completed") throw new Error("the last event is another");
  expect(last.response.output).toMatchObject([
    { type: "message", status: "completed", role: "assistant", content: [{ type: "output_text", text: "I look." }] },
    { type: "function_call", status: "completed", name: "get_weather", arguments: '{"city": "Rome"}' },
  ]);
  expect(last.response).toMatchObject({ timings: {}, block_attention: { mode: "block" } });
  const deltas = events.flatMap((event) => (event.type === "response.output_text.delta" ? [event.delta] : []));
  expect([deltas.join(""), deltas.length > 1]).toEqual(["I look.", true]);
  for (const event of events) {
    if (event.type !== "response.output_item.added") continue;
    expect(event.item).toMatchObject({ status: "in_progress" });
    expect(last.response.output[event.output_index]?.id).toBe(event.item.id);
  }

  const runner = client.responses.stream(request);
  const final = await runner.finalResponse();
  expect(final.output.at(-1)).toMatchObject({ arguments: '{"city": "Rome"}' });
});

test("openai: responses.parse() gives an object of the schema", async () => {
  const engine = new FakeEngine({ answer: '{"city": "Rome"}' });
  await using server = await serveOpenAi(engine);
  const { zodTextFormat } = await import("openai/helpers/zod");
  const schema = z.object({ city: z.string() });
  const parsed = await server.client.responses.parse({
    model: "any",
    input: "Where?",
    text: { format: zodTextFormat(schema, "place") },
  });
  expect(parsed.output_parsed).toEqual({ city: "Rome" });
  expect(engine.asked[0]?.options.constraint).toMatchObject({ type: "jsonSchema", schema: { required: ["city"] } });
});

test("openai: a conversation goes on by its items, by references and by its id, always with the same prompt", async () => {
  const engine = new FakeEngine({ answer: `I look. ${call}` });
  await using server = await serveOpenAi(engine);
  const { client } = server;
  const question = { role: "user" as const, content: "The weather in Rome?" };
  const first = await client.responses.create({ model: "any", input: [question], tools });
  const made = first.output.find((item) => item.type === "function_call");
  const output = { type: "function_call_output" as const, call_id: made?.call_id ?? "", output: "sunny" };
  const promptOf = async (asked: { input: object[]; previous_response_id?: string }) => {
    await client.responses.create({ model: "any", tools, ...asked } as never);
    return engine.asked.at(-1)?.prompt;
  };
  const byItems = await promptOf({ input: [question, ...first.output, output] });
  expect(byItems).toMatchObject({
    messages: [
      { role: "user", content: "The weather in Rome?" },
      { role: "assistant", content: "I look.", toolCalls: [{ id: output.call_id, name: "get_weather" }] },
      { role: "tool", toolCallId: output.call_id, content: "sunny" },
    ],
    tools: [{ name: "get_weather", parameters }],
  });
  const references = first.output.map(({ id }) => ({ type: "item_reference" as const, id: id as string }));
  expect(await promptOf({ input: [question, ...references, output] })).toEqual(byItems);
  expect(await promptOf({ input: [output], previous_response_id: first.id })).toEqual(byItems);
});

test("openai: responses are kept, listed and forgotten; one that is not to be kept is not", async () => {
  await using server = await serveOpenAi(new FakeEngine());
  const { client } = server;
  const metadata = { topic: "numbers" };
  const input = [
    { role: "user" as const, content: "What is it?" },
    { role: "assistant" as const, content: "A number." },
    { role: "user" as const, content: "Which?" },
  ];
  const made = await client.responses.create({ model: "any", input, metadata });
  const { output_text: _, ...kept } = made;
  expect(await client.responses.retrieve(made.id)).toMatchObject({ ...kept, metadata });
  const contents = async (query: object) => {
    const items = [];
    for await (const item of client.responses.inputItems.list(made.id, query)) items.push(item);
    return items.map((item) => (item.type === "message" ? item.content : undefined));
  };
  expect(await contents({ order: "asc" })).toEqual(["What is it?", "A number.", "Which?"]);
  expect(await contents({ limit: 1 })).toEqual(["Which?", "A number.", "What is it?"]);
  await client.responses.delete(made.id);
  const gone = `404 Cannot find the response "${made.id}": none of this id is kept`;
  await expect(client.responses.retrieve(made.id)).rejects.toThrow(gone);
  await expect(client.responses.delete(made.id)).rejects.toThrow(gone);
  await expect(client.responses.inputItems.list(made.id)).rejects.toThrow(gone);
  const next = client.responses.create({ model: "any", input: "And?", previous_response_id: made.id });
  await expect(next).rejects.toThrow(gone);
  await expect(next).rejects.toMatchObject({ param: "previous_response_id", code: "response_not_found" });

  const passing = await client.responses.create({ model: "any", input: "What?", store: false });
  expect(passing).toMatchObject({ store: false });
  await expect(client.responses.retrieve(passing.id)).rejects.toThrow("404");
  const reference = [{ type: "item_reference" as const, id: passing.output[0]?.id as string }];
  await expect(client.responses.create({ model: "any", input: reference })).rejects.toThrow("404 Cannot find the item");
});

test("POST /v1/responses: one that is larger than the limit is answered, and says that it is not kept", async () => {
  const app = await testApp(new FakeEngine(), { responseBytes: 1000 });
  const answer = (await post(app, url, { input: "What?" })).json();
  expect([answer.store, answer.block_attention.warnings]).toEqual([
    false,
    ["The response is not kept: it is larger than --response-bytes"],
  ]);
  expect((await app.inject({ url: `${url}/${answer.id}` })).statusCode).toBe(404);
});

test("POST /v1/responses: documents and block_attention are a chat's", async () => {
  const engine = new FakeEngine();
  const app = await testApp(engine);
  const documents = [{ id: "a", title: "One", text: "First." }, "Second."];
  const answer = (await post(app, url, { input: "Which?", documents, block_attention: { explain: true } })).json();
  expect(answer.block_attention.misses.map(({ passage }: { passage: object }) => passage)).toEqual([
    { index: 0, id: "a" },
    { index: 1 },
  ]);
  const again = (await post(app, url, { input: "Which?", documents: documents.toReversed() })).json();
  expect(again.usage.input_tokens_details.cached_tokens).toBeGreaterThan(0);
  expect(engine.asked[0]?.prompt).toMatchObject({ documents: [{ title: "One" }, "Second."] });
});

test("POST /v1/responses: a failure in mid-stream is told, and the client throws it", async () => {
  const engine = new FakeEngine({
    failAfter: { tokens: 2, error: new EngineError("died", "Cannot go on: the process died") },
  });
  await using server = await serveOpenAi(engine);
  const stream = await server.client.responses.create({ model: "any", input: "What?", stream: true });
  const types: string[] = [];
  const read = async () => {
    for await (const { type } of stream) types.push(type);
  };
  await expect(read()).rejects.toThrow("Cannot go on: the process died");
  expect(types.at(-1)).toBe("response.failed");
});

test("POST /v1/responses: what does not fit is refused by name, and what does nothing is named", async () => {
  const app = await testApp(new FakeEngine());
  const refused = async (body: object) => {
    const { status, json } = await post(app, url, { input: "What?", ...body });
    return `${status} ${json().error?.param}: ${json().error?.message}`;
  };
  expect(await refused({ tools: [{ type: "web_search" }] })).toContain(
    '400 tools[0].type: Cannot use "tools[0].type": it is "web_search", wanted "function"',
  );
  expect(await refused({ tools: [{ type: "file_search", vector_store_ids: ["a"] }] })).toContain('it is "file_search"');
  expect(await refused({ tools: [tools[0], tools[0]] })).toContain("different names");
  expect(await refused({ tool_choice: { type: "web_search" } })).toContain("400 tool_choice");
  expect(await refused({ tool_choice: { type: "function", name: "no" }, tools })).toContain('there is no tool "no"');
  for (const field of ["background", "conversation", "prompt", "truncation", "reasoning", "max_tool_calls"])
    expect(await refused({ [field]: "auto" })).toContain(`400 ${field}: `);
  for (const field of ["messages", "n", "response_format", "guided_json", "max_tokens"])
    expect(await refused({ [field]: 1 })).toContain(`there is no field "${field}"`);
  expect(await refused({ input: null })).toContain("400 input: ");
  expect(await refused({ top_logprobs: 1 })).toContain("400 top_logprobs: ");
  const item = (one: object) => refused({ input: [one] });
  expect(await item({ type: "web_search_call" })).toContain(
    '400 input[0].type: Cannot use "input[0].type": it is "web_',
  );
  expect(await item({ role: "user" })).toContain('400 input[0].content: Cannot use "input[0].content": there is none');
  expect(await item({ role: "tool", content: "a" })).toContain("400 input[0].role: ");
  expect(await item({ type: "function_call", call_id: "a", name: "b" })).toContain("400 input[0].arguments: ");
  expect(await item({ type: "function_call_output", call_id: "a", output: "b", role: "user" })).toContain(
    "400 input[0].role: ",
  );
  const image = [{ type: "input_image", image_url: "data:" }];
  expect(await item({ role: "user", content: image })).toContain('400 input[0].content[0].type: Cannot use "input[0]');
  const thought = [{ type: "reasoning_text", text: "a" }];
  expect(await item({ role: "user", content: thought })).toContain("400 input[0].content[0].type: ");
  const many = Array.from({ length: 700 }, () => ({ role: "user", content: "a" }));
  const first = (await post(app, url, { input: many })).json();
  expect(await refused({ input: many, previous_response_id: first.id })).toContain("400 input: ");

  const body = { input: "What?", user: "a", prompt_cache_key: "b", include: ["reasoning.encrypted_content"] };
  expect((await post(app, url, body)).json().block_attention.warnings).toEqual([
    '"user" is passed over: keys tell who asks',
    '"prompt_cache_key" is passed over: blocks are found by what they hold',
    '"reasoning.encrypted_content" is passed over: nothing is encrypted',
  ]);
});
