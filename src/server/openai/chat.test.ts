import { expect, test, vi } from "vitest";
import { EngineError } from "../../engine/engine-error.js";
import { FakeEngine } from "../fake-engine.suite.js";
import { eventsOf, post, still, testApp } from "./test-app.suite.js";

const url = "/v1/chat/completions";
const messages = [{ role: "user", content: "What is it?" }];

test("chat completions: a whole answer in OpenAI's form", async () => {
  await using app = await testApp(new FakeEngine());
  const answer = (await post(app, url, { model: "gpt-4", messages })).json();
  expect(answer).toEqual({
    id: expect.stringMatching(/^chatcmpl-[0-9a-f]{32}$/),
    object: "chat.completion",
    created: expect.any(Number),
    model: "fake-model",
    system_fingerprint: expect.stringMatching(/^fp_[0-9a-f]{10}$/),
    choices: [
      {
        index: 0,
        message: { role: "assistant", content: "The answer is 42.", refusal: null },
        logprobs: null,
        finish_reason: "stop",
      },
    ],
    usage: {
      prompt_tokens: 3,
      completion_tokens: 4,
      total_tokens: 7,
      prompt_tokens_details: { cached_tokens: 0 },
    },
    timings: {
      tokenize_ms: 0,
      queue_ms: 0,
      encode_ms: 0,
      assemble_ms: 0,
      prefill_ms: 0,
      ttft_ms: expect.any(Number),
      decode_ms: expect.any(Number),
    },
    block_attention: {
      ...{ mode: "block", blocks: [], warnings: [] },
      ...{ reused: { blocks: 0, prefix: 0, conversation: 0 }, computed: 3 },
    },
  });
  expect(Math.abs(answer.created - Date.now() / 1000)).toBeLessThan(10);
});

test("chat completions: a streamed answer, byte for byte", async () => {
  await using app = await testApp(new FakeEngine());
  const response = await app.inject({ method: "POST", url, payload: { messages, stream: true } });
  expect(response.headers["content-type"]).toBe("text/event-stream");
  expect(response.headers["x-content-type-options"]).toBe("nosniff");
  const { id, created, system_fingerprint: fingerprint } = eventsOf(response.body)[0];
  const head = `data: {"id":"${id}","created":${created},"model":"fake-model","system_fingerprint":"${fingerprint}","object":"chat.completion.chunk","choices":[`;
  const piece = (delta: string) => `${head}{"index":0,"delta":${delta},"logprobs":null,"finish_reason":null}]}\n\n`;
  const last = `${head}{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"timings":`;
  const report =
    /"timings":\{[^}]*\},"block_attention":\{"mode":"block","blocks":\[\],"reused":\{"blocks":0,"prefix":0,"conversation":0\},"computed":3,"warnings":\[\]\}\}\n\n/;
  expect(response.body.replace(report, '"timings":')).toBe(
    [
      piece('{"role":"assistant","content":""}'),
      ...["The", " answer", " is", " 42."].map((word) => piece(`{"content":${JSON.stringify(word)}}`)),
      last,
      "data: [DONE]\n\n",
    ].join(""),
  );
});

test("chat completions: with include_usage the last chunk has the usage and what was done, the others null", async () => {
  await using app = await testApp(new FakeEngine());
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  const events = eventsOf((await post(app, url, body)).text);
  expect(events.pop()).toBe("[DONE]");
  const last = events.pop();
  expect(still(last)).toMatchObject({
    choices: [],
    usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7, prompt_tokens_details: { cached_tokens: 0 } },
    block_attention: { mode: "block", blocks: [], warnings: [] },
  });
  expect(last.timings.ttft_ms).toBeGreaterThanOrEqual(0);
  for (const event of events) {
    expect(event.usage).toBeNull();
    expect(event).not.toHaveProperty("timings");
  }
});

test("chat completions: a prediction reaches the engine, and the usage has what became of it, of all answers", async () => {
  const engine = new FakeEngine();
  await using app = await testApp(engine);
  const content = [
    { type: "text", text: "The an" },
    { type: "text", text: "swer" },
  ];
  const asked = { messages, n: 2, prediction: { type: "content", content } };
  const details = { accepted_prediction_tokens: 2, rejected_prediction_tokens: 4 };
  expect((await post(app, url, asked)).json().usage.completion_tokens_details).toEqual(details);
  expect(engine.asked).toMatchObject([{ options: { prediction: "The answer" } }]);
  const stream = { ...asked, prediction: { type: "content", content: "" }, stream: true };
  const events = eventsOf((await post(app, url, { ...stream, stream_options: { include_usage: true } })).text);
  expect(events.at(-2).usage.completion_tokens_details).toEqual(details);
  expect(engine.asked[1]).toMatchObject({ options: { prediction: "" } });
  expect((await post(app, url, { messages })).json().usage).not.toHaveProperty("completion_tokens_details");
});

test("chat completions: n answers, each with its own seed, the prompt counted once", async () => {
  const engine = new FakeEngine();
  await using app = await testApp(engine);
  const answer = (await post(app, url, { messages, n: 3, seed: 5 })).json();
  expect(answer.choices.map((choice: { index: number }) => choice.index)).toEqual([0, 1, 2]);
  expect(answer.usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 12, total_tokens: 15 });
  expect(engine.asked).toMatchObject([{ options: { n: 3, seed: 5 } }]);
});

test("chat completions: n streamed answers run together, each chunk under its index", async () => {
  await using app = await testApp(new FakeEngine({ tokenMs: 2 }));
  const events = eventsOf((await post(app, url, { messages, n: 3, stream: true })).text);
  expect(events.pop()).toBe("[DONE]");
  const texts = ["", "", ""];
  const ends = [0, 0, 0];
  const order: number[] = [];
  for (const { choices, ...chunk } of events) {
    expect(choices).toHaveLength(1);
    const { index, delta, finish_reason: reason } = choices[0];
    if (texts[index] === "" && delta.content === "") expect(delta.role).toBe("assistant");
    texts[index] += delta.content ?? "";
    ends[index]! += reason === null ? 0 : 1;
    order.push(index);
    expect("timings" in chunk).toBe(order.length === events.length);
  }
  expect(texts).toEqual(Array(3).fill("The answer is 42."));
  expect(ends).toEqual([1, 1, 1]);
  // Interleaved: not one answer after the other.
  expect(order.slice(3, 6).toSorted()).toEqual([0, 1, 2]);
});

test("chat completions: log-probabilities, whole and streamed alike", async () => {
  await using app = await testApp(new FakeEngine());
  const body = { messages, logprobs: true, top_logprobs: 2, max_tokens: 2 };
  const [choice] = (await post(app, url, body)).json().choices;
  expect(choice.logprobs.refusal).toBeNull();
  expect(choice.logprobs.content[1]).toEqual({
    token: " answer",
    logprob: -0.25,
    bytes: [...Buffer.from(" answer")],
    top_logprobs: [
      { token: " answer", logprob: -0.25, bytes: [...Buffer.from(" answer")] },
      { token: " a", logprob: -1.25, bytes: [...Buffer.from(" a")] },
    ],
  });
  expect(choice.finish_reason).toBe("length");
  const events = eventsOf((await post(app, url, { ...body, stream: true })).text).slice(0, -1);
  expect(events.flatMap((event) => event.choices[0].logprobs?.content ?? [])).toEqual(choice.logprobs.content);
});

test("chat completions: every field reaches the engine", async () => {
  const engine = new FakeEngine();
  await using app = await testApp(engine, { maxTokens: 500 });
  await post(app, url, { messages });
  expect(engine.asked[0]).toEqual({
    prompt: { messages },
    options: {
      temperature: 1,
      topP: 1,
      topK: 0,
      minP: 0,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      seed: undefined,
      logitBias: {},
      maxTokens: 500,
      stop: [],
      topLogprobs: 0,
      mode: undefined,
      keepPrefixes: undefined,
      repair: undefined,
      explain: undefined,
      salt: "",
      logprobs: false,
      spell: false,
      maxLogprobs: 131_072,
      n: 1,
    },
  });
  await post(app, url, {
    messages: [
      { role: "developer", content: "Be brief." },
      {
        role: "user",
        content: [
          { type: "text", text: "A passage." },
          { type: "text", text: "Why?" },
        ],
      },
      { role: "assistant", content: null, tool_calls: [], refusal: null, annotations: [], audio: null },
      { role: "user", content: "Well?", name: null },
      { role: "user", content: "Well?", name: "" },
      { role: "user", content: "Well?", name: "Ada" },
    ],
    documents: ["a", { title: "t", text: "x" }],
    temperature: 0.5,
    top_p: 0,
    top_k: -1,
    min_p: 0.1,
    repetition_penalty: 1.1,
    presence_penalty: -2,
    frequency_penalty: 2,
    seed: Number.MAX_SAFE_INTEGER,
    logit_bias: { "7": -100 },
    max_completion_tokens: 9,
    stop: "END",
    logprobs: true,
    top_logprobs: 20,
    block_attention: {
      ...{ mode: "full", num_local_attention_blocks: 2, segment: "rule" },
      ...{ keep_prefixes: false, repair: "lead,first=8", explain: true },
    },
  });
  expect(engine.asked[1]).toEqual({
    prompt: {
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: ["A passage.", "Why?"] },
        { role: "assistant", content: "" },
        { role: "user", content: "Well?" },
        { role: "user", content: "Well?" },
        { role: "user", content: "Well?", name: "Ada" },
      ],
      documents: ["a", { title: "t", text: "x" }],
      cut: "rule",
      numLocalAttentionBlocks: 2,
    },
    options: {
      temperature: 0.5,
      topP: Number.MIN_VALUE,
      topK: 0,
      minP: 0.1,
      repetitionPenalty: 1.1,
      presencePenalty: -2,
      frequencyPenalty: 2,
      seed: Number.MAX_SAFE_INTEGER,
      logitBias: { "7": -100 },
      maxTokens: 9,
      stop: ["END"],
      topLogprobs: 20,
      mode: "full",
      keepPrefixes: false,
      repair: "lead,first=8",
      explain: true,
      salt: "",
      logprobs: true,
      spell: true,
      maxLogprobs: 131_072,
      n: 1,
    },
  });
  await post(app, url, { messages, n: 2, seed: Number.MAX_SAFE_INTEGER });
  expect(engine.asked.splice(2)).toMatchObject([{ options: { n: 2, seed: Number.MAX_SAFE_INTEGER } }]);
  await post(app, url, { messages, max_tokens: 3, top_p: 0.5, top_k: 4, stop: ["a", "b"] });
  expect(engine.asked[2]?.options).toMatchObject({ maxTokens: 3, topP: 0.5, topK: 4, stop: ["a", "b"] });
});

test("chat completions: neutral values and informational fields are accepted", async () => {
  await using app = await testApp(new FakeEngine());
  const all = {
    n: 1,
    tools: [],
    tool_choice: "auto",
    functions: [],
    function_call: "none",
    response_format: { type: "text" },
    modalities: ["text"],
    audio: null,
    prediction: null,
    reasoning_effort: "none",
    verbosity: "medium",
    web_search_options: null,
    moderation: null,
    service_tier: "auto",
    parallel_tool_calls: true,
    metadata: { any: { thing: ["at", "all"] } },
    store: true,
    user: "somebody",
    safety_identifier: "x",
    prompt_cache_key: "x",
    prompt_cache_retention: "24h",
    prompt_cache_options: { mode: "implicit" },
    presence_penalty: 0,
    logit_bias: {},
    stop: null,
    stream: false,
    stream_options: null,
  };
  const answer = await post(app, url, { messages, ...all });
  expect(answer.status).toBe(200);
  const named = (answer.json().block_attention.warnings as string[]).map((warning) => warning.split('"')[1]);
  expect(named.toSorted()).toEqual([
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "store",
    "user",
  ]);
  const nulls = Object.fromEntries(Object.keys(all).map((name) => [name, null]));
  expect((await post(app, url, { messages, ...nulls })).status).toBe(200);
});

test("chat completions: what clients of other servers send is passed over and named, streamed or not", async () => {
  const engine = new FakeEngine();
  await using app = await testApp(engine);
  const cacheControl = { type: "ephemeral", ttl: "5m" };
  const parts = ["A passage.", "Why?"].map((text) => ({ type: "text", text, cache_control: cacheControl }));
  const chat = {
    messages: [
      { role: "system", content: "Be brief.", cache_control: cacheControl },
      { role: "user", content: parts },
    ],
    cache_prompt: true,
    keep_alive: "5m",
    session_id: "s",
    litellm_metadata: { a: [1] },
    provider: { order: ["x"] },
  };
  const expected = [
    '"session_id" is passed over: nothing is stored',
    '"litellm_metadata" is passed over: nothing is stored',
    '"cache_prompt" is passed over: blocks are found by what they hold',
    '"keep_alive" is passed over: the model stays loaded',
    '"provider" is passed over: there is one provider',
    '"messages[].cache_control" is passed over: blocks are found by what they hold',
    '"messages[].content[].cache_control" is passed over: blocks are found by what they hold',
  ];
  const plain = await post(app, url, chat);
  expect(plain.json().block_attention.warnings).toEqual(expected);
  const streamed = eventsOf((await post(app, url, { ...chat, stream: true, n: 2 })).text);
  expect(streamed.at(-2).block_attention.warnings).toEqual(expected);
  const { messages: _, ...fields } = chat;
  const completion = { prompt: "a", ...fields };
  expect((await post(app, "/v1/completions", completion)).json().block_attention.warnings).toEqual(
    expected.slice(0, 5),
  );
  const chunks = eventsOf((await post(app, "/v1/completions", { ...completion, stream: true })).text);
  expect(chunks.at(-2).block_attention.warnings).toEqual(expected.slice(0, 5));
  // Nothing of it reaches the engine.
  const { messages: asked } = engine.asked[0]!.prompt as { messages: unknown };
  expect(asked).toEqual([
    { role: "system", content: "Be brief." },
    { role: "user", content: ["A passage.", "Why?"] },
  ]);
  expect(JSON.stringify(engine.asked)).not.toMatch(/ephemeral|5m|order/);
});

test("chat completions: with continuous_usage_stats each chunk has its choice's usage so far", async () => {
  await using app = await testApp(new FakeEngine());
  for (const includeUsage of [true, false]) {
    const options = { include_usage: includeUsage, continuous_usage_stats: true };
    const body = { messages, n: 2, stream: true, stream_options: options };
    const events = eventsOf((await post(app, url, body)).text).slice(0, -1);
    const last = includeUsage ? events.pop() : undefined;
    for (const index of [0, 1]) {
      const usages = events.filter(({ choices }) => choices[0].index === index).map(({ usage }) => usage);
      expect(usages.map(({ completion_tokens: tokens }) => tokens)).toEqual([0, 1, 2, 3, 4, 4]);
      expect(usages.every((usage) => usage.prompt_tokens === 3)).toBe(true);
      expect(usages.every((usage) => usage.total_tokens === 3 + usage.completion_tokens)).toBe(true);
    }
    if (includeUsage) expect(last.usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 8, total_tokens: 11 });
    else expect(events.at(-1)).toHaveProperty("timings");
  }
});

test("chat completions: what would change the answer, or cannot be used, is refused by its name", async () => {
  const engine = new FakeEngine();
  await using app = await testApp(engine, { maxBlocks: 4, maxChoices: 8 });
  const user = (content: unknown) => ({ messages: [{ role: "user", content }] });
  const cases: [body: object, param: string, message: RegExp][] = [
    [{ tools: [{ type: "function" }] }, "tools[0].function", /there is none/],
    [{ tool_choice: "required" }, "tool_choice", /it wants "tools"/],
    [{ tool_choice: { type: "function" } }, "tool_choice.function", /there is none/],
    [{ functions: [{}] }, "functions", /wanted none/],
    [{ function_call: { name: "f" } }, "function_call", /wanted "none" or "auto"/],
    [{ response_format: { type: "yaml" } }, "response_format.type", /wanted/],
    [{ guided_json: "{", max_tokens: 3 }, "guided_json", /it is no JSON object, wanted a JSON Schema, or its text$/],
    [
      { guided_choice: ["a"], response_format: { type: "json_object" } },
      "guided_choice",
      /response_format holds the answer to something else already$/,
    ],
    [{ modalities: ["text", "audio"] }, "modalities", /answers are text/],
    [{ audio: {} }, "audio", /wanted none/],
    [{ prediction: { type: "tokens", content: "" } }, "prediction.type", /"content"/],
    [{ prediction: { type: "content" } }, "prediction.content", /content/],
    [
      { reasoning_effort: "high" },
      "reasoning_effort",
      /it is "high", wanted "none": the model's template knows no reasoning$/,
    ],
    [{ verbosity: "low" }, "verbosity", /it is "low"/],
    [{ web_search_options: {} }, "web_search_options", /no web search/],
    [{ moderation: { model: "x" } }, "moderation", /not moderated/],
    [{ service_tier: "flex" }, "service_tier", /it is "flex"/],
    [{ best_of: 1 }, "best_of", /there is no field "best_of"/],
    [{ temperature: 2.5 }, "temperature", /^Cannot use "temperature": it is 2.5, wanted a number from 0 to 2$/],
    [{ temperature: "1" }, "temperature", /it is "1", wanted/],
    [{ top_p: -1 }, "top_p", /it is -1/],
    [{ top_k: 1.5 }, "top_k", /it is 1.5/],
    [{ min_p: 2 }, "min_p", /it is 2/],
    [{ repetition_penalty: 0 }, "repetition_penalty", /from 0.01 to 100/],
    [{ presence_penalty: 3 }, "presence_penalty", /from -2 to 2/],
    [{ frequency_penalty: -3 }, "frequency_penalty", /from -2 to 2/],
    [{ seed: -1 }, "seed", /it is -1, wanted a whole number from 0/],
    [{ seed: 2 ** 53 }, "seed", /wanted a whole number/],
    [{ stop: "" }, "stop", /none empty/],
    [{ stop: Array(65).fill("x") }, "stop", /it is a list of 65, wanted text, or a list of up to 64/],
    [{ stop: "\ud800" }, "stop", /wanted/],
    [{ n: 0 }, "n", /from 1 to 8/],
    [{ n: 9 }, "n", /it is 9, wanted a whole number from 1 to 8/],
    [{ max_tokens: -2 }, "max_tokens", /it is -2, wanted a whole number from 0 on, or -1$/],
    [{ max_completion_tokens: 0.5 }, "max_completion_tokens", /it is 0.5, wanted a whole number/],
    [{ chat_template_kwargs: { a: "<|im_end|>" } }, "chat_template_kwargs.a", /wanted letters, digits and plain/],
    [{ chat_template_kwargs: { a: {} } }, "chat_template_kwargs.a", /wanted true, false, a number or plain text/],
    [{ chat_template_kwargs: { "a b": 1 } }, "chat_template_kwargs", /wanted/],
    [{ add_generation_prompt: false }, "add_generation_prompt", /beside continue_final_message$/],
    [
      { continue_final_message: true, add_generation_prompt: true },
      "add_generation_prompt",
      /wanted false beside continue_final_message$/,
    ],
    [{ max_tokens: 1, max_completion_tokens: 2 }, "max_tokens", /it is 1, and max_completion_tokens is 2$/],
    [{ logprobs: 1 }, "logprobs", /true or false/],
    [{ top_logprobs: 2 }, "top_logprobs", /it wants "logprobs"/],
    [{ logprobs: true, top_logprobs: 21 }, "top_logprobs", /from 0 to 20/],
    [{ logit_bias: { x: 1 } }, "logit_bias", /it is an object, wanted an object of up to 4096 token ids/],
    [{ logit_bias: { "1": 101 } }, "logit_bias[1]", /it is 101, wanted up to 100$/],
    [{ stream_options: { include_usage: true } }, "stream_options", /it wants "stream"/],
    [{ stream: true, stream_options: { include_obfuscation: true } }, "stream_options.include_obfuscation", /false/],
    [{ stream: "yes" }, "stream", /it is "yes"/],
    [{ metadata: "a" }, "metadata", /it is "a", wanted an object$/],
    [{ user: 7 }, "user", /it is 7, wanted text/],
    [{ keep_alive: true }, "keep_alive", /it is true, wanted text or a number$/],
    [{ cache_control: "ephemeral" }, "cache_control", /it is "ephemeral", wanted an object$/],
    [{ extra_body: {} }, "extra_body", /there is no field "extra_body"$/],
    [{ n_predict: 5 }, "n_predict", /there is no field "n_predict"$/],
    [{ nonsense: 1 }, "nonsense", /^Cannot use the request: there is no field "nonsense"$/],
    [{ messages: undefined }, "messages", /there is none, wanted a list of 1 to 4 messages/],
    [{ messages: [] }, "messages", /it is an empty list/],
    [{ messages: Array(5).fill(messages[0]) }, "messages", /it is a list of 5, wanted a list of 1 to 4 messages/],
    [{ messages: "hi" }, "messages", /it is "hi"/],
    [user(null), "messages[0].content", /there is none/],
    [user(3), "messages[0].content", /^Cannot use "messages.0..content": it is 3, wanted text or a list$/],
    [user([]), "messages[0].content", /it is an empty list, wanted 1 or more entries$/],
    [
      user([{ type: "image_url", image_url: { url: "x" } }]),
      "messages[0].content[0].type",
      /it is "image_url", wanted "text": other parts are not supported$/,
    ],
    [user([{ type: "text" }]), "messages[0].content[0].text", /there is none, wanted text$/],
    [
      user(Array(5).fill({ type: "text", text: "x" })),
      "messages[0].content",
      /it is a list of 5, wanted up to 4 entries$/,
    ],
    [{ messages: [{ role: "tool", content: "x" }] }, "messages[0].tool_call_id", /wanted the call's id/],
    [{ messages: [{ role: "function", content: "x", name: "f" }] }, "messages[0].role", /assistant or tool/],
    [
      { messages: [{ role: "user", content: "x", name: "Bob B" }] },
      "messages[0].name",
      /it is "Bob B", wanted up to 64 l/,
    ],
    [
      { messages: [{ role: "user", content: "x", cache_control: 1 }] },
      "messages[0].cache_control",
      /wanted an object$/,
    ],
    [user([{ type: "text", text: "x", cache: {} }]), "messages[0].content[0].cache", /there is no field/],
    [
      { messages: [{ role: "assistant", content: null, tool_calls: [{ id: "1" }] }, messages[0]] },
      "messages[0].tool_calls[0].function",
      /there is none/,
    ],
    [{ messages: [{ role: "assistant", refusal: "no" }, messages[0]] }, "messages[0].refusal", /wanted none/],
    [{ messages: [{ role: "user", content: "x", extra: 1 }] }, "messages[0].extra", /there is no field/],
    [
      { messages: [{ role: "user", content: Array(3).fill({ type: "text", text: "x" }) }], documents: ["a", "b"] },
      "messages",
      /there are 5 content parts and documents in all, wanted up to 4$/,
    ],
    [{ documents: [{ title: "x" }] }, "documents[0].text", /there is none, wanted text$/],
    [{ block_attention: { split_long: true } }, "block_attention.split_long", /it wants "documents"$/],
    [{ block_attention: { rag: {} } }, "block_attention.rag", /it wants "documents"$/],
    [
      { documents: ["a"], block_attention: { rag: { final: "no place" } } },
      "block_attention.rag.final",
      /it is "no place", wanted up to 20000 characters with "\{question\}" once$/,
    ],
    [
      { documents: ["a"], block_attention: { rag: { passage: "{text}{text}" } } },
      "block_attention.rag.passage",
      /wanted up to 20000 characters with "\{text\}" once, and "\{title\}" where the title goes$/,
    ],
    [{ documents: ["a"], block_attention: { split_long: 15 } }, "block_attention.split_long", /it is 15, wanted/],
    [
      { documents: [7] },
      "documents[0]",
      /it is 7, wanted text, or an object with "text", "pageContent" or "page_content"$/,
    ],
    [{ documents: Array(5).fill("x") }, "documents", /up to 4/],
    [{ block_attention: { mode: "half" } }, "block_attention.mode", /it is "half", wanted "block" or "full"$/],
    [
      { block_attention: { num_local_attention_blocks: -1 } },
      "block_attention.num_local_attention_blocks",
      /it is -1, wanted 0 or more$/,
    ],
    [
      { block_attention: { keep_prefixes: "no" } },
      "block_attention.keep_prefixes",
      /it is "no", wanted true or false$/,
    ],
    [
      { block_attention: { segment: "lines" } },
      "block_attention.segment",
      /it is "lines", wanted "auto" or "parts" or "rule" or "none"$/,
    ],
    [{ block_attention: { blocks: ["x"] } }, "block_attention.blocks", /there is no field/],
    [{ block_attention: [] }, "block_attention", /it is an empty list/],
  ];
  for (const [body, param, message] of cases) {
    const answer = await post(app, url, { messages, ...body });
    const told = JSON.stringify(body);
    expect(answer.status, `${told} ${answer.text}`).toBe(400);
    const { error } = answer.json();
    expect({ param: error.param, type: error.type }, told).toEqual({ param, type: "invalid_request_error" });
    expect(error.message, told).toMatch(message);
    expect(error.message, told).toMatch(/^Cannot [^\n]*[^.\n]$/);
  }
  expect(engine.asked).toEqual([]);
});

test("chat completions: a failure before the first event is a plain HTTP error, streamed or not", async () => {
  await using app = await testApp(new FakeEngine({ info: { contextLength: 2 } }));
  for (const stream of [false, true]) {
    const answer = await post(app, url, { messages, stream });
    expect(answer.status).toBe(400);
    expect(answer.json().error.code).toBe("context_length_exceeded");
  }
  await using loading = await testApp(new FakeEngine({ state: "loading" }));
  const answer = await loading.inject({ method: "POST", url, payload: { messages, stream: true } });
  expect(answer.statusCode).toBe(503);
  expect(answer.headers["retry-after"]).toBeDefined();
});

test("chat completions: a failure in mid-stream is an event, no [DONE] follows, and the other answers are cancelled", async () => {
  const error = new EngineError("died", "Cannot go on: the engine died");
  const engine = new FakeEngine({ failAfter: { tokens: 2, error } });
  await using app = await testApp(engine);
  const answer = await post(app, url, { messages, stream: true, n: 2 });
  expect(answer.status).toBe(200);
  const events = eventsOf(answer.text);
  expect(events.at(-1)).toEqual({
    error: { message: "Cannot go on: the engine died", type: "server_error", param: null, code: "engine_died" },
  });
  expect(answer.text).not.toContain("[DONE]");
  expect(events.filter((event) => event.error)).toHaveLength(1);
  await vi.waitFor(() => expect(engine.running).toBe(0));
  const whole = await post(app, url, { messages, n: 2 });
  expect([whole.status, whole.json().error.code]).toEqual([500, "engine_died"]);
});

test("chat completions: what was reused, by what it was part of; misses where they are asked for", async () => {
  await using app = await testApp(new FakeEngine());
  const documents = [{ id: "a", text: "one passage" }];
  const ask = async (more: object, steering: object = {}) => {
    const body = { messages, documents, block_attention: steering, ...more };
    const { usage, block_attention: done } = (await post(app, url, body)).json();
    const { reused, computed, misses } = done;
    const { cached_tokens: cached } = usage.prompt_tokens_details;
    expect(cached).toBe(reused.blocks + reused.prefix + reused.conversation);
    expect(computed).toBe(usage.prompt_tokens - cached);
    return { reused, misses };
  };
  const miss = { kind: "block", passage: { index: 0, id: "a" }, asked: "one passage\n", reason: expect.any(String) };
  expect((await ask({}, { explain: true, keep_prefixes: false })).misses).toEqual([expect.objectContaining(miss)]);
  expect(await ask({}, {})).toEqual({ reused: { blocks: 3, prefix: 0, conversation: 0 } });
  expect(await ask({}, { explain: true })).toEqual({ reused: { blocks: 3, prefix: 2, conversation: 0 }, misses: [] });
  const turns = [...messages, { role: "assistant", content: "The answer is 42." }, { role: "user", content: "Why?" }];
  const full = { documents: undefined, messages: turns };
  expect((await ask(full, { mode: "full" })).reused.conversation).toBe(0);
  expect((await ask(full, { mode: "full" })).reused).toEqual({ blocks: 0, prefix: 0, conversation: 5 });
  // A stream has them in its last chunk.
  const events = eventsOf((await post(app, url, { messages, documents, stream: true })).text);
  expect(events.at(-2).block_attention.reused).toEqual({ blocks: 3, prefix: 2, conversation: 0 });
});

test("chat completions: a model without block training says so where passages came and nobody chose full mode", async () => {
  const reuseNote = "Not trained";
  await using app = await testApp(new FakeEngine({ info: { defaultMode: "full", trainedModes: [], reuseNote } }));
  const warnings = async (body: object) =>
    (await post(app, url, { messages, ...body })).json().block_attention.warnings as string[];
  expect(await warnings({ documents: ["a", "b"] })).toEqual([reuseNote]);
  expect(await warnings({ documents: ["a", "b"], block_attention: { mode: "full" } })).toEqual([]);
  expect(await warnings({})).toEqual([]);
  const models = (await app.inject({ url: "/v1/models" })).json();
  expect(models.data[0].block_attention).toEqual({ default_mode: "full", trained_modes: [], note: reuseNote });
});

test("chat completions: comment lines while the engine lets one wait", async () => {
  const engine = new FakeEngine();
  const generate = engine.generate.bind(engine);
  let go: (() => void) | undefined;
  engine.generate = async function* (...asked) {
    await new Promise<void>((resolve) => {
      go = resolve;
    });
    yield* generate(...asked);
  };
  await using app = await testApp(engine);
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
  try {
    const answer = post(app, url, { messages, stream: true });
    await vi.waitFor(() => expect(go).toBeDefined());
    vi.advanceTimersByTime(31_000);
    go!();
    const { status, text } = await answer;
    expect(status).toBe(200);
    expect(text.startsWith(": waiting\n\n: waiting\n\ndata: {")).toBe(true);
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
  } finally {
    vi.useRealTimers();
  }
});

test("chat completions: x-block-affinity is the same for the same passages, whole or streamed, or what the request names", async () => {
  await using app = await testApp(new FakeEngine());
  const affinity = async (passages: readonly string[], headers: Record<string, string> = {}, stream = false) => {
    const content = ["The system text of everybody.\n", ...passages, "Why?"].map((text) => ({ type: "text", text }));
    const payload = { messages: [{ role: "user", content }], stream };
    const response = await app.inject({ method: "POST", url, headers, payload });
    expect(response.statusCode).toBe(200);
    return response.headers["x-block-affinity"];
  };
  const [a, b, c] = ["a", "b", "c"].map((word) => `${`${word} `.repeat(30)}\n`) as [string, string, string];
  const first = await affinity([a, b]);
  expect(first).toMatch(/^[0-9a-f]{16}$/);
  expect(await affinity([b, a])).toBe(first);
  expect(await affinity([a, b], {}, true)).toBe(first);
  expect([await affinity([a]), await affinity([b])]).toContain(first);
  expect(await affinity([c])).not.toBe(first);
  expect(await affinity([c], { "x-block-affinity": "from-before" })).toBe("from-before");
  expect(await affinity([c], { "x-block-affinity": "no header;" })).toBe(await affinity([c]));
  // Too short to be a passage, or the text that all prompts begin with.
  expect(await affinity(["[1] "])).toBeUndefined();
  expect(await affinity([])).toBeUndefined();
});
