import { expect, test } from "vitest";
import { type AnswerEvent, type Api, ask, forgetBlock, loadedModel, type Question } from "./api.js";

const question: Question = {
  question: "Who?",
  documents: [{ title: "A", text: "a" }],
  mode: "block",
  model: "tiny",
  maxTokens: 9,
};
const forever = new AbortController().signal;
const usage =
  '{"choices":[],"usage":{"prompt_tokens":50,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":40}},"timings":{"ttft_ms":7.5},"block_attention":{"mode":"block","blocks":[{"id":"x","tokens":38,"hit":true}],"reused":{"blocks":38,"prefix":0,"conversation":2},"misses":[{"kind":"block","asked":"a","stored":"b","reason":"c"}],"warnings":["careful"]}}';
const delta = (text: string, finish: string | null = null) =>
  JSON.stringify({ choices: [{ index: 0, delta: { content: text }, finish_reason: finish }] });

/** Answers every request with a body, and keeps what was asked. */
function apiOf(body: string, status = 200, key?: string): Api & { asked: Request[] } {
  const asked: Request[] = [];
  const answer = (path: RequestInfo | URL, init?: RequestInit) => {
    asked.push(new Request(new URL(String(path), "http://127.0.0.1"), init));
    return Promise.resolve(new Response(body, { status }));
  };
  return { asked, key, fetch: answer };
}

async function answerTo(api: Api): Promise<AnswerEvent[]> {
  const events: AnswerEvent[] = [];
  for await (const event of ask(api, question, forever)) events.push(event);
  return events;
}

test("ask(): text as it comes, then what was done", async () => {
  const api = apiOf(
    `${[delta(""), delta("An"), delta("na", "stop"), usage, "[DONE]"].map((d) => `data: ${d}\n\n`).join("")}`,
  );
  expect(await answerTo(api)).toEqual([
    { kind: "text", text: "An" },
    { kind: "text", text: "na" },
    {
      kind: "done",
      answer: {
        finishReason: "stop",
        mode: "block",
        promptTokens: 50,
        cachedTokens: 40,
        completionTokens: 2,
        ttftMs: 7.5,
        reused: { blocks: 38, prefix: 0, conversation: 2 },
        misses: [{ kind: "block", asked: "a", stored: "b", reason: "c" }],
        blocks: [{ id: "x", tokens: 38, hit: true }],
        warnings: ["careful"],
      },
    },
  ]);
  expect(api.asked[0]?.headers.get("authorization")).toBe(null);
  expect(await api.asked[0]?.json()).toEqual({
    model: "tiny",
    messages: [{ role: "user", content: "Who?" }],
    documents: [{ title: "A", text: "a" }],
    block_attention: { mode: "block", explain: true },
    temperature: 0,
    max_tokens: 9,
    stream: true,
    stream_options: { include_usage: true },
  });
});

test("ask(): a mode that nobody chose is left to the server; a measured question is not kept", async () => {
  const api = apiOf(`data: ${usage}\n\ndata: [DONE]\n\n`);
  for await (const _ of ask(api, { ...question, mode: undefined, isMeasured: true }, forever));
  expect(await api.asked[0]?.json()).toMatchObject({ block_attention: { keep_prefixes: false } });
});

test("ask(): an error in the middle is the server's own words", async () => {
  const body = `data: ${delta("An")}\n\ndata: {"error":{"message":"The engine died","type":"server_error"}}\n\n`;
  await expect(answerTo(apiOf(body))).rejects.toThrow("The engine died");
});

test("ask(): an answer that ends early, or is no answer, is an error", async () => {
  await expect(answerTo(apiOf(`data: ${delta("An")}\n\n`))).rejects.toThrow("before it was complete");
  await expect(answerTo(apiOf(`data: ${delta("An")}\n\ndata: [DONE]\n\n`))).rejects.toThrow("without its usage");
  await expect(answerTo(apiOf("data: {\n\n"))).rejects.toThrow("no JSON object");
  const broken = new ReadableStream({ pull: (controller) => controller.error(new TypeError("network error")) });
  const api: Api = { key: undefined, fetch: () => Promise.resolve(new Response(broken)) };
  await expect(answerTo(api)).rejects.toThrow("The answer was cut off: the connection to the server broke");
});

test("ask(): a refusal has the server's message and status; a page of a proxy has the status", async () => {
  const refused = apiOf('{"error":{"message":"Cannot use \\"key\\": it is unknown"}}', 401, "secret");
  await expect(answerTo(refused)).rejects.toMatchObject({ status: 401, message: 'Cannot use "key": it is unknown' });
  expect(refused.asked[0]?.headers.get("authorization")).toBe("Bearer secret");
  await expect(answerTo(apiOf("<html>", 502))).rejects.toThrow("The server answered with status 502");
});

test("ask(): a key that no header takes is refused as a wrong key", async () => {
  const api = apiOf("", 200, "schlüssel 漢");
  await expect(answerTo(api)).rejects.toMatchObject({
    status: 401,
    message: expect.stringContaining("Cannot use the key"),
  });
  expect(api.asked).toEqual([]);
});

test("ask(): an abort is thrown as its reason", async () => {
  const controller = new AbortController();
  controller.abort(new Error("stopped"));
  const api: Api = { key: undefined, fetch: (_, init) => Promise.reject(init?.signal?.reason) };
  await expect(ask(api, question, controller.signal).next()).rejects.toThrow("stopped");
});

test("loadedModel(), forgetBlock(): what the server says, a block that is gone is no error", async () => {
  const served = '"block_attention":{"default_mode":"full","note":"careful"}';
  expect(await loadedModel(apiOf(`{"data":[{"id":"tiny-rag",${served}}]}`), forever)).toEqual({
    id: "tiny-rag",
    defaultMode: "full",
    note: "careful",
  });
  const unsaid = { id: "other", defaultMode: undefined, note: undefined };
  expect(await loadedModel(apiOf('{"data":[{"id":"other"}]}'), forever)).toEqual(unsaid);
  await expect(loadedModel(apiOf('{"data":[]}'), forever)).rejects.toThrow("it names none");
  const gone = apiOf('{"error":{"message":"There is no such block"}}', 404);
  await forgetBlock(gone, "a/b", forever);
  expect(gone.asked[0]?.url).toBe("http://127.0.0.1/v1/blocks/a%2Fb");
  await expect(forgetBlock(apiOf("", 500), "a", forever)).rejects.toThrow("status 500");
});
