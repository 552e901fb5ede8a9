import { expect, test } from "vitest";
import { FakeEngine } from "../fake-engine.suite.js";
import { eventsOf, post, still, testApp } from "./test-app.suite.js";

const url = "/v1/completions";

test("completions: a whole answer in OpenAI's form", async () => {
  await using app = await testApp(new FakeEngine());
  const answer = (await post(app, url, { model: "x", prompt: "What is it?" })).json();
  expect(answer.id).toMatch(/^cmpl-/);
  expect(still(answer)).toEqual({
    object: "text_completion",
    model: "fake-model",
    system_fingerprint: expect.any(String),
    choices: [{ index: 0, text: "The answer is 42.", logprobs: null, finish_reason: "stop" }],
    usage: { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7, prompt_tokens_details: { cached_tokens: 0 } },
    block_attention: {
      ...{ mode: "block", blocks: [], warnings: [] },
      ...{ reused: { blocks: 0, prefix: 0, conversation: 0 }, computed: 3 },
    },
  });
});

test("completions: a streamed answer", async () => {
  await using app = await testApp(new FakeEngine());
  const body = { prompt: "What is it?", stream: true, stream_options: { include_usage: true } };
  const events = eventsOf((await post(app, url, body)).text);
  expect(events.pop()).toBe("[DONE]");
  const last = events.pop();
  expect(last).toMatchObject({ object: "text_completion", choices: [], usage: { total_tokens: 7 } });
  expect(last).toHaveProperty("block_attention.mode", "block");
  expect(events.map((event) => event.choices[0])).toEqual([
    ...["The", " answer", " is", " 42."].map((text) => ({ index: 0, text, logprobs: null, finish_reason: null })),
    { index: 0, text: "", logprobs: null, finish_reason: "stop" },
  ]);
});

test("completions: every form of prompt, and blocks in its place", async () => {
  const engine = new FakeEngine();
  await using app = await testApp(engine);
  const ask = async (body: object) => {
    engine.asked.length = 0;
    expect((await post(app, url, body)).status).toBe(200);
    return engine.asked.map(({ prompt }) => prompt);
  };
  expect(await ask({ prompt: "a b" })).toEqual([{ prompt: "a b" }]);
  expect(await ask({ prompt: ["a", "b"] })).toEqual([{ prompt: "a" }, { prompt: "b" }]);
  expect(await ask({ prompt: [1, 2] })).toEqual([{ blockTokenIds: [[1, 2]] }]);
  expect(await ask({ prompt: [[1, 2], [3]] })).toEqual([{ blockTokenIds: [[1, 2]] }, { blockTokenIds: [[3]] }]);
  for (const segment of ["auto", "parts", "rule", "none"]) {
    expect(await ask({ prompt: "a", block_attention: { segment } })).toEqual([{ prompt: "a", cut: segment }]);
  }
  const blocks = ["one ", "two"];
  expect(await ask({ block_attention: { blocks, num_local_attention_blocks: 0, mode: "full" } })).toEqual([
    { blocks, numLocalAttentionBlocks: 0 },
  ]);
  expect(engine.asked[0]).toMatchObject({ options: { mode: "full", maxTokens: 16, temperature: 1 } });
});

test("completions: a batch times n, in order of index", async () => {
  const engine = new FakeEngine();
  await using app = await testApp(engine);
  const answer = (await post(app, url, { prompt: ["a", "b c", "d"], n: 2, best_of: 2, seed: 1, echo: true })).json();
  expect(answer.choices.map(({ index, text }: { index: number; text: string }) => [index, text])).toEqual(
    ["a", "a", "b c", "b c", "d", "d"].map((text, index) => [index, `${text}The answer is 42.`]),
  );
  expect(engine.asked.map(({ options }) => [options.n, options.seed])).toEqual(Array(3).fill([2, 1]));
  // Each prompt counts once: 1 + 2 + 1 tokens.
  expect(answer.usage).toMatchObject({ prompt_tokens: 4, completion_tokens: 24 });
});

test("completions: echo with logprobs, whole and streamed", async () => {
  await using app = await testApp(new FakeEngine());
  const body = { prompt: "It is é so", echo: true, logprobs: 1, max_tokens: 2 };
  const [choice] = (await post(app, url, body)).json().choices;
  expect(choice).toEqual({
    index: 0,
    text: "It is é soThe answer",
    logprobs: {
      tokens: ["It", " is", " é", " so", "The", " answer"],
      token_logprobs: [null, -0.5, -0.5, -0.5, -0.25, -0.25],
      top_logprobs: [null, { " is": -0.5 }, { " é": -0.5 }, { " so": -0.5 }, { The: -0.25 }, { " answer": -0.25 }],
      text_offset: [0, 2, 5, 7, 10, 13],
    },
    finish_reason: "length",
  });
  const events = eventsOf((await post(app, url, { ...body, stream: true })).text).slice(0, -1);
  const choices = events.map((event) => event.choices[0]);
  expect(choices.map(({ text }) => text).join("")).toBe(choice.text);
  for (const name of ["tokens", "token_logprobs", "top_logprobs", "text_offset"]) {
    expect(choices.flatMap(({ logprobs }) => logprobs?.[name] ?? [])).toEqual(choice.logprobs[name]);
  }
});

test("completions: echo without an answer, of text and of token ids", async () => {
  const engine = new FakeEngine();
  await using app = await testApp(engine);
  const body = { echo: true, max_tokens: 0 };
  const [ofText] = (await post(app, url, { ...body, prompt: "a b" })).json().choices;
  expect(ofText).toEqual({ index: 0, text: "a b", logprobs: null, finish_reason: "length" });
  expect(engine.asked[0]?.options.echo).toBe(false);
  const answer = (await post(app, url, { ...body, prompt: [[5, 6], [7]], logprobs: 0 })).json();
  expect(answer.choices.map(({ text }: { text: string }) => text)).toEqual([" <5> <6>", " <7>"]);
  expect(answer.choices[0].logprobs).toEqual({
    tokens: [" <5>", " <6>"],
    token_logprobs: [null, -0.5],
    top_logprobs: null,
    text_offset: [0, 4],
  });
  expect(answer.usage.completion_tokens).toBe(0);
});

test("completions: what cannot be used is refused by its name", async () => {
  const engine = new FakeEngine();
  await using app = await testApp(engine, { maxBlocks: 4, maxChoices: 8 });
  const prompt = "a";
  const cases: [body: object, param: string, message: RegExp][] = [
    [{}, "prompt", /^Cannot use "prompt": there is none$/],
    [{ prompt: null }, "prompt", /there is none/],
    [{ prompt: 7 }, "prompt", /it is 7, wanted text, token ids, or a list/],
    [{ prompt: [] }, "prompt", /it is an empty list/],
    [{ prompt: [[]] }, "prompt[0]", /it is an empty list, wanted 1 or more entries$/],
    [{ prompt: [1, -1] }, "prompt[1]", /it is -1, wanted a whole number from 0 on$/],
    [{ prompt: [1, "a"] }, "prompt", /it is a list of 2/],
    [{ prompt: Array(9).fill("x") }, "prompt", /it is a list of 9/],
    [{ prompt: Array(3).fill("x"), n: 3 }, "n", /3 answers to each of 3 prompts are over the limit of 8$/],
    [{ prompt, best_of: 2 }, "best_of", /^Cannot use "best_of": it is 2, wanted n, which is 1$/],
    [{ prompt, suffix: "x" }, "suffix", /it is "x", wanted none: nothing is inserted/],
    [{ prompt, logprobs: 21 }, "logprobs", /from 0 to 20/],
    [{ prompt, logprobs: true }, "logprobs", /it is true/],
    [{ prompt, echo: 1 }, "echo", /it is 1, wanted true or false/],
    [{ prompt, max_tokens: -2 }, "max_tokens", /from 0 on, or -1/],
    [{ prompt, tools: [] }, "tools", /there is no field/],
    [{ prompt, messages: [] }, "messages", /there is no field/],
    [{ prompt, block_attention: { blocks: ["x"] } }, "prompt", /there is also block_attention.blocks$/],
    [{ block_attention: { blocks: [] } }, "block_attention.blocks", /it is an empty list, wanted 1 or more entries$/],
    [
      { block_attention: { blocks: Array(5).fill("x") } },
      "block_attention.blocks",
      /it is a list of 5, wanted up to 4 entries$/,
    ],
    [{ block_attention: { blocks: ["x"], segment: "rule" } }, "block_attention.segment", /cut already$/],
    [
      { prompt, block_attention: { segment: "lines" } },
      "block_attention.segment",
      /it is "lines", wanted "auto" or "parts" or "rule" or "none"$/,
    ],
  ];
  for (const [body, param, message] of cases) {
    const answer = await post(app, url, body);
    const told = JSON.stringify(body);
    expect(answer.status, `${told} ${answer.text}`).toBe(400);
    const { error } = answer.json();
    expect(error.param, `${told} ${answer.text}`).toBe(param);
    expect(error.message, told).toMatch(message);
    expect(error.message, told).toMatch(/^Cannot [^\n]*[^.\n]$/);
  }
  expect(engine.asked).toEqual([]);
});

test("models: the one that is loaded, by list and by name", async () => {
  await using app = await testApp(new FakeEngine());
  const list = (await app.inject("/v1/models")).json();
  expect(list).toEqual({
    object: "list",
    data: [
      {
        id: "fake-model",
        object: "model",
        created: 1_700_000_000,
        owned_by: "block-attention",
        max_model_len: 2048,
        block_attention: { default_mode: "block", trained_modes: ["block", "full"] },
      },
    ],
  });
  expect((await app.inject("/v1/models/fake-model")).json()).toEqual(list.data[0]);
  const missing = await app.inject("/v1/models/gpt-4");
  expect([missing.statusCode, missing.json().error.code]).toEqual([404, "model_not_found"]);
  await using loading = await testApp(new FakeEngine({ state: "loading" }));
  expect((await loading.inject("/v1/models")).statusCode).toBe(503);
});
