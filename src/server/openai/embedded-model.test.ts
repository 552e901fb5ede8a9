import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { expectSameLogprobs } from "../../../tests/oracles/compare-engine.js";
import { Engine } from "../../engine/engine.js";
import type { LocalEngine } from "../../engine/local-engine.js";
import type { Token } from "../../engine/results.js";
import { post, testApp } from "./test-app.suite.js";

const demo = JSON.parse(
  (await readFile(new URL("../../../models/tiny-rag/demo.jsonl", import.meta.url), "utf8")).split("\n")[0]!,
) as {
  documents: { title: string; text: string }[];
  questions: { question: string; answers: string[] }[];
};
const { question, answers } = demo.questions[0]!;
const greedy = { temperature: 0, max_tokens: 60 };

let engine: LocalEngine;
/** The one behind the server. */
let served: LocalEngine;
let app: Awaited<ReturnType<typeof testApp>>;

beforeAll(async () => {
  engine = await Engine.load({ threads: 1 });
  served = await Engine.load({ threads: 1 });
  app = await testApp(served);
});

afterAll(async () => {
  await app.close();
  await served[Symbol.asyncDispose]();
  await engine[Symbol.asyncDispose]();
});

interface Served {
  readonly id: string;
  readonly tokens: number;
  readonly hit: boolean;
}

test("chat completions: documents make the RAG prompt, found again in another order", async () => {
  const ask = async (documents: object[]) => {
    const body = { messages: [{ role: "user", content: question }], documents, ...greedy };
    return (await post(app, "/v1/chat/completions", body)).json();
  };
  const first = await ask(demo.documents);
  expect(first.choices[0].message.content).toContain(answers[0]);
  expect(first.choices[0].finish_reason).toBe("stop");
  expect(first.model).toBe("tiny-rag");
  const expected = await engine.complete({ question, documents: demo.documents }, { maxTokens: 60 });
  expect(first.choices[0].message.content).toBe(expected.text);
  expect(first.usage.prompt_tokens).toBe(expected.usage.promptTokens);
  const again = await ask(demo.documents.toReversed());
  expect(again.block_attention.blocks.map(({ hit }: Served) => hit)).not.toContain(false);
  // Preamble and passages; the final block is what is left.
  const inBlocks = again.block_attention.blocks.reduce((sum: number, { tokens }: Served) => sum + tokens, 0);
  expect(again.usage.prompt_tokens_details.cached_tokens).toBe(inBlocks);
  expect(inBlocks).toBeGreaterThan(again.usage.prompt_tokens / 2);
});

test("chat completions: tools' results are hits in any order, whatever was called before them", async () => {
  const results = demo.documents.slice(0, 3).map(({ text }) => text);
  const ask = async (order: readonly number[]) => {
    const calls = order.map((i) => ({
      id: `call_${i}_${order[0]}`,
      type: "function",
      function: { name: "read", arguments: "" },
    }));
    const messages = [
      { role: "user", content: question },
      { role: "assistant", content: null, tool_calls: calls },
      ...order.map((i, at) => ({ role: "tool", tool_call_id: calls[at]!.id, content: results[i] })),
    ];
    const body = { messages, max_tokens: 4, temperature: 0, block_attention: { mode: "block" } };
    return (await post(app, "/v1/chat/completions", body)).json().block_attention.blocks as Served[];
  };
  const first = await ask([0, 1, 2]);
  const again = await ask([2, 0, 1]);
  expect(first.length).toBeGreaterThanOrEqual(3);
  expect(again.map(({ hit }) => hit)).toEqual(again.map(() => true));
  expect(again.map(({ id }) => id).toSorted()).toEqual(first.map(({ id }) => id).toSorted());
});

test("chat completions: the answer's warnings name what was passed over: a field, and a name that no template reads", async () => {
  const body = { messages: [{ role: "user", content: "Who?", name: "Ada" }], cache_prompt: true, max_tokens: 1 };
  const answer = (await post(app, "/v1/chat/completions", body)).json();
  expect(answer.block_attention.warnings).toEqual([
    '"cache_prompt" is passed over: blocks are found by what they hold',
    'The chat template reads no names: the "name" of messages is passed over',
  ]);
});

test("chat completions: three passages as content parts in reverse order compute only what is no passage", async () => {
  const passages = ["The lamp is red.\n", "Emma lives in Oslo.\n", "The tower was built in 1871.\n"];
  const ask = async (parts: string[]) => {
    const content = [...parts, "Where does Emma live?"].map((text) => ({ type: "text", text }));
    const body = { messages: [{ role: "user", content }], ...greedy, max_tokens: 4 };
    return (await post(app, "/v1/chat/completions", body)).json();
  };
  const first = await ask(passages);
  const again = await ask(passages.toReversed());
  const idsOf = (answer: typeof first): string[] => answer.block_attention.blocks.map(({ id }: Served) => id);
  expect(idsOf(again).slice(-3)).toEqual(idsOf(first).slice(-3).toReversed());
  expect(again.block_attention.blocks.map(({ hit }: Served) => hit)).not.toContain(false);
  const tokens = again.block_attention.blocks.reduce((sum: number, block: Served) => sum + block.tokens, 0);
  expect(again.usage.prompt_tokens_details.cached_tokens).toBe(tokens);
  // A string as document, and at the index, is the same block as the part.
  const { blocks } = await served.encode(passages);
  expect(blocks.map((event) => event.error === undefined && [event.id, event.hit])).toEqual(
    idsOf(first)
      .slice(-3)
      .map((id) => [id, true]),
  );
  const asDocuments = await post(app, "/v1/chat/completions", {
    messages: [{ role: "user", content: "Where does Emma live?" }],
    documents: passages,
    max_tokens: 1,
  });
  expect(idsOf(asDocuments.json()).slice(-3)).toEqual(idsOf(first).slice(-3));
  // What a document is given with comes back with its block, and changes nothing in it.
  const named = passages.map((text, i) => ({ id: `doc-${i}`, text, metadata: { page: [i] }, score: 1 - i / 4 }));
  const body = { messages: [{ role: "user", content: "Where does Emma live?" }], max_tokens: 1 };
  const plain = (
    await post(app, "/v1/chat/completions", { ...body, documents: passages.map((text) => ({ text })) })
  ).json();
  const told = (await post(app, "/v1/chat/completions", { ...body, documents: named })).json();
  expect(idsOf(told)).toEqual(idsOf(plain));
  expect(told.block_attention.blocks.slice(-3)).toEqual(
    named.map(({ text, ...label }, index) => expect.objectContaining({ hit: true, passage: { index, ...label } })),
  );
});

test("completions: echoed log-probabilities are the engine's scores, of ids and of blocks, in both modes", async () => {
  const tokens = await tokensOf("The lamp is red. Emma lives in Oslo.");
  const ids = tokens.map(({ id }) => id);
  const body = { prompt: [ids, ids.slice(3)], echo: true, logprobs: 5, max_tokens: 1, temperature: 0, seed: 1234 };
  const answer = (await post(app, "/v1/completions", body)).json();
  expect(answer.choices.map(({ index }: { index: number }) => index)).toEqual([0, 1]);
  for (const [choice, prompt] of [
    [answer.choices[0], ids],
    [answer.choices[1], ids.slice(3)],
  ]) {
    const ask = (how: object = {}) =>
      engine.score({ blockTokenIds: [prompt.slice(0, 2), prompt.slice(2, 4), prompt.slice(4, 5)] }, prompt.slice(5), {
        mode: "full",
        ...how,
      });
    const expected = await ask();
    const { token_logprobs: logprobs, tokens: spelled, top_logprobs: top, text_offset: offsets } = choice.logprobs;
    // One more than the prompt: harnesses leave the last out.
    expect([logprobs.length, spelled.length, top.length, offsets.length]).toEqual(Array(4).fill(prompt.length + 1));
    expect(logprobs[0]).toBeNull();
    const askLogprobs = async (how: object) => (await ask(how)).logprobs;
    const wrong = { "the mask is block mode's": { mode: "block" } } as const;
    await expectSameLogprobs(5e-4, logprobs.slice(5, -1), askLogprobs, wrong);
    expect(Math.max(...(Object.values(top[5]) as number[]))).toBeCloseTo(expected.top[0]![0]!.logprob, 3);
    expect(spelled.slice(0, -1).join("")).toBe(choice.text.slice(0, spelled.slice(0, -1).join("").length));
  }

  const blocks = ["The lamp is red.\n", "Emma lives in Oslo.\n", "Question: Where does Emma live?"];
  const ofBlocks = { block_attention: { blocks, mode: "block" }, echo: true, logprobs: 1, max_tokens: 0 };
  const [choice] = (await post(app, "/v1/completions", ofBlocks)).json().choices;
  expect(choice.text).toBe(blocks.join(""));
  const last = await tokensOf(blocks[2]!);
  // The final block as a continuation of its first token, after the local blocks.
  const local = await Promise.all(blocks.slice(0, 2).map(tokensOf));
  const blockTokenIds = [...withOpening(choice.logprobs, local), [last[0]!.id]];
  const next = last.slice(1).map(({ id }) => id);
  await expectSameLogprobs(5e-4, choice.logprobs.token_logprobs.slice(-next.length), async (how) => {
    return (await engine.score({ blockTokenIds }, next, { mode: "block", ...how })).logprobs;
  });

  /** The local blocks' ids, with what the server puts before the first. */
  function withOpening(lists: { tokens: string[] }, all: (readonly { id: number }[])[]): number[][] {
    const numOpening = lists.tokens.length - last.length - all.flat().length;
    const opening = numOpening === 0 ? [] : [engine.model.tokenizer.bosTokenId ?? -1];
    expect(numOpening).toBe(opening.length);
    return all.map((tokens, i) => [...(i === 0 ? opening : []), ...tokens.map(({ id }) => id)]);
  }
});

test("completions: the token that ended an answer is the last of the lists", async () => {
  const { blockTokenIds } = await engine.score({ question, documents: demo.documents }, [0]);
  const body = { prompt: blockTokenIds.flat(), temperature: 0, logprobs: 1, max_tokens: 200 };
  const answer = (await post(app, "/v1/completions", body)).json();
  const { finish_reason: reason, logprobs, text } = answer.choices[0];
  expect(reason).toBe("stop");
  expect(logprobs.tokens).toHaveLength(answer.usage.completion_tokens + 1);
  expect(logprobs.tokens.slice(0, -1).join("").trimStart()).toBe(text.trimStart());
  expect(logprobs.token_logprobs.at(-1)).toBeLessThanOrEqual(0);
});

test("completions and chat: the same seed gives the same answer, n answers differ, and penalties and bias are heard", async () => {
  const prompt = "The director of the film";
  const ask = async (body: object) => (await post(app, "/v1/completions", { prompt, max_tokens: 12, ...body })).json();
  const texts = (answer: { choices: { text: string }[] }) => answer.choices.map(({ text }) => text);
  const drawn = texts(await ask({ seed: 7, n: 3 }));
  expect(texts(await ask({ seed: 7, n: 3 }))).toEqual(drawn);
  expect(texts(await ask({ seed: 8 }))).toEqual([drawn[1]]);
  expect(new Set(drawn).size).toBeGreaterThan(1);
  const greedyText = texts(await ask({ temperature: 0 }))[0]!;
  expect(texts(await ask({ top_k: 1, seed: 3 }))).toEqual([greedyText]);
  expect(texts(await ask({ top_p: 0, seed: 3 }))).toEqual([greedyText]);
  const [first] = await tokensOf(greedyText);
  const biased = await ask({ temperature: 0, logit_bias: { [first!.id]: -100 } });
  expect(texts(biased)[0]!.startsWith(first!.text)).toBe(false);
  const stop = greedyText.slice(3, 6);
  expect(texts(await ask({ temperature: 0, stop }))).toEqual([greedyText.slice(0, greedyText.indexOf(stop))]);
  const refused = await post(app, "/v1/completions", { prompt, logit_bias: { "99999999": 1 } });
  expect([refused.status, refused.json().error.code]).toEqual([400, "invalid_value"]);
});

test("completions: what the engine refuses is a 400 that says why", async () => {
  const cases: [object, RegExp, string][] = [
    [{ prompt: "" }, /^Cannot /, "invalid_value"],
    [{ prompt: [99_999_999] }, /^Cannot use token ids/, "invalid_value"],
    [{ prompt: "\ud800" }, /^Cannot /, "invalid_value"],
    [{ block_attention: { blocks: ["a", ""] } }, /final block is empty/, "invalid_value"],
    [{ prompt: Array(100_000).fill(5) }, /^Cannot /, "context_length_exceeded"],
  ];
  for (const [body, message, code] of cases) {
    const answer = await post(app, "/v1/completions", body);
    expect(answer.status, answer.text).toBe(400);
    expect(answer.json().error.message).toMatch(message);
    expect(answer.json().error.code).toBe(code);
  }
  const noUser = await post(app, "/v1/chat/completions", { messages: [{ role: "system", content: "x" }] });
  expect([noUser.status, noUser.json().error.message]).toEqual([
    400,
    expect.stringMatching(/none has the role "user"/),
  ]);
});

test("responses: a question over documents, and one that goes on with it from kept keys and values", async () => {
  const ask = async (body: object) => (await post(app, "/v1/responses", { ...body, temperature: 0 })).json();
  const asked = { input: question, documents: demo.documents, max_output_tokens: 60 };
  const first = await ask(asked);
  const chat = { messages: [{ role: "user", content: question }], documents: demo.documents, ...greedy };
  const answer = (await post(app, "/v1/chat/completions", chat)).json();
  expect(first.output[0].content[0].text).toBe(answer.choices[0].message.content);
  expect(first.usage.input_tokens).toBe(answer.usage.prompt_tokens);

  const begun = await ask({ input: "Say a word.", max_output_tokens: 8 });
  const next = await ask({ input: "And another.", previous_response_id: begun.id, max_output_tokens: 8 });
  expect(next.block_attention.reused.conversation).toBeGreaterThan(begun.usage.input_tokens);
  expect(next.usage.input_tokens_details.cached_tokens).toBe(
    next.block_attention.reused.conversation + next.block_attention.reused.prefix + next.block_attention.reused.blocks,
  );
});

async function tokensOf(text: string): Promise<Token[]> {
  const tokens: Token[] = [];
  await served.tokenize(text, { onTokens: (some) => tokens.push(...some) });
  return tokens;
}

test("chat completions: what was split at the index is found by a prompt that splits it, and words can be set", async () => {
  const text = demo.documents.map((document) => document.text).join(" ");
  const documents = [{ id: 1, title: "All of them", text }];
  const rag = { passage: "{title}: {text}\n", final: "{question}" };
  const steering = { split_long: 60, rag: { ...rag, preamble: null } };
  const index = { passages: documents, split_long: 60, rag: { passage: rag.passage } };
  const { blocks, failed } = (await post(app, "/v1/blocks", index)).json();
  expect(failed).toBe(0);
  expect(blocks.length).toBeGreaterThan(1);
  expect(blocks.map(({ index, passage }: Encoded) => [index, passage.id, passage.part])).toEqual(
    blocks.map((_: Encoded, i: number) => [0, 1, i]),
  );
  expect(blocks.map(({ passage }: Encoded) => passage.text).join("")).toBe(text);
  const body = { messages: [{ role: "user", content: question }], documents, max_tokens: 1 };
  const ask = async (block_attention: object) =>
    (await post(app, "/v1/chat/completions", { ...body, block_attention })).json().block_attention.blocks.slice(1);
  expect(await ask(steering)).toEqual(
    blocks.map(({ id, tokens }: Served, part: number) => {
      return { id, tokens, hit: true, passage: { index: 0, id: 1, part } };
    }),
  );
  expect((await ask({})).map(({ hit }: Served) => hit)).toEqual([false]);
});

interface Encoded {
  readonly index: number;
  readonly passage: { readonly id: number; readonly part: number; readonly text: string };
}
