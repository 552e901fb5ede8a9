import { Random } from "../models/random.js";
import { errorFault, eventData, type Outcome, type Question } from "./http-client.js";

/** A request, and what its client must see. */
export interface TrafficRequest {
  readonly name: string;
  readonly question: Question;
  readonly wanted: "ok" | "refused";
  /** How an answer with status 200 is framed. */
  readonly form: "json" | "events" | "lines" | "text";
}

const words = "amber birch cedar delta ember fjord grove heron inlet jetty kelp lotus maple north otter pearl".split(
  " ",
);

/** Passages that all clients share, so that blocks are hit, waited for and evicted. */
const passages = Array.from({ length: 60 }, (_, i) => {
  const random = new Random(i, "passages");
  const text = Array.from({ length: 8 + random.below(40) }, () => words[random.below(words.length)]).join(" ");
  return `Passage ${i}: ${text}.`;
});

const endTokenBan = { "1": -100 };

/** Mixed traffic of one client, the same for the same seed: a tenth of it is broken, a sixth leaves early. */
export function drawRequest(random: Random): TrafficRequest {
  const request = random.below(10) === 0 ? broken(random) : valid(random);
  const { question } = request;
  if (question.method === "GET" || question.body === undefined) return request;
  const fate = random.below(12);
  if (fate === 0) return { ...request, question: { ...question, leaveAfterMs: random.below(300) } };
  if (fate === 1) return { ...request, question: { ...question, leaveAfterCharacters: random.below(2000) } };
  if (fate === 2) return { ...request, question: { ...question, readPauseMs: 10 + random.below(30) } };
  return request;
}

/** What is wrong with how a request ended, whatever it was; undefined where its client saw an answer or an error. */
export function fault({ name, question, wanted, form }: TrafficRequest, outcome: Outcome): string | undefined {
  switch (outcome.kind) {
    case "left":
      return undefined;
    case "late":
      return `${name}: neither an answer nor an error came`;
    case "broken":
      return `${name}: the connection broke: ${outcome.message}`;
    case "answer":
      break;
    default:
      return outcome satisfies never;
  }
  const { status, text } = outcome;
  const says = (what: string) => `${name}: ${what}: status ${status}, ${JSON.stringify(question.body)?.slice(0, 300)}`;
  if (status !== 200) {
    const isBusy = status === 503 && outcome.headers["retry-after"] !== undefined;
    if (!isBusy && (wanted === "ok" || status < 400 || status > 499)) return says(`refused: ${text.slice(0, 300)}`);
    const wrong = errorFault(text);
    return wrong === undefined ? undefined : says(wrong);
  }
  if (wanted === "refused") return says("a broken request was answered");
  try {
    const wrong = frameFault(form, text);
    return wrong === undefined ? undefined : says(wrong);
  } catch (error) {
    return says((error as Error).message);
  }
}

function frameFault(form: TrafficRequest["form"], text: string): string | undefined {
  switch (form) {
    case "text":
      return text === "" ? "the answer is empty" : undefined;
    case "json":
      JSON.parse(text);
      return undefined;
    case "lines": {
      const lines = text.split("\n").filter((line) => line !== "");
      for (const line of lines) JSON.parse(line);
      return lines.length === 0 ? "the answer is empty" : undefined;
    }
    case "events": {
      const data = eventData(text);
      if (data.at(-1) !== "[DONE]") return `the stream ended with ${data.at(-1)}`;
      const chunks = data.slice(0, -1).map((json) => JSON.parse(json) as { choices: { finish_reason: unknown }[] });
      const ends = chunks.flatMap(({ choices }) => choices.filter((choice) => choice.finish_reason !== null));
      return ends.length === 0 ? "no choice came to its end" : undefined;
    }
    default:
      return form satisfies never;
  }
}

function valid(random: Random): TrafficRequest {
  const draws = [chat, chat, chat, completion, completion, echo, batch, generate, generate, encode, small];
  return (draws[random.below(draws.length)] as (random: Random) => TrafficRequest)(random);
}

function draw<T>(random: Random, list: readonly T[]): T {
  return list[random.below(list.length)] as T;
}

function drawPassages(random: Random, most: number): string[] {
  return Array.from({ length: 1 + random.below(most) }, () => draw(random, passages));
}

function sampling(random: Random) {
  return {
    max_tokens: 1 + random.below(40),
    temperature: random.below(2),
    seed: random.below(1000),
    ...(random.below(4) === 0 ? { stop: ["amber", "\n\n"] } : {}),
    ...(random.below(3) === 0 ? { logit_bias: endTokenBan } : {}),
  };
}

function streaming(random: Random) {
  if (random.below(2) === 0) return {};
  return random.below(2) === 0 ? { stream: true } : { stream: true, stream_options: { include_usage: true } };
}

function formOf(body: { readonly stream?: boolean }): TrafficRequest["form"] {
  return body.stream === true ? "events" : "json";
}

function chat(random: Random): TrafficRequest {
  const question = `What is said of ${draw(random, words)}?`;
  const mode = draw(random, ["block", "full"]);
  const prompts = [
    () => ({
      messages: [
        { role: "user", content: [...drawPassages(random, 5), question].map((text) => ({ type: "text", text })) },
      ],
    }),
    () => ({
      messages: [{ role: "user", content: question }],
      documents: drawPassages(random, 5).map((text, i) => ({ title: `T${i}`, text })),
    }),
    () => ({
      messages: [
        { role: "developer", content: "Be short." },
        { role: "user", content: drawPassages(random, 3).join("\n\n") },
        { role: "assistant", content: "Yes." },
        { role: "user", content: question },
      ],
    }),
  ];
  const body = {
    model: "any",
    ...draw(random, prompts)(),
    ...sampling(random),
    ...streaming(random),
    ...(random.below(4) === 0 ? { n: 2 } : {}),
    ...(random.below(4) === 0 ? { logprobs: true, top_logprobs: random.below(6) } : {}),
    block_attention: { mode },
  };
  return { name: `chat ${mode}`, question: { path: "/v1/chat/completions", body }, wanted: "ok", form: formOf(body) };
}

function completion(random: Random): TrafficRequest {
  const blocks = [...drawPassages(random, 4), "And then"];
  const body = {
    model: "any",
    ...(random.below(2) === 0 ? { block_attention: { blocks } } : { prompt: blocks.join("\n\n") }),
    ...sampling(random),
    ...streaming(random),
  };
  return { name: "completion", question: { path: "/v1/completions", body }, wanted: "ok", form: formOf(body) };
}

/** What lm-evaluation-harness asks. */
function echo(random: Random): TrafficRequest {
  const body = {
    model: "any",
    prompt: drawPassages(random, 2).join("\n\n"),
    max_tokens: random.below(2),
    temperature: 0,
    logprobs: 1,
    echo: true,
    seed: 1234,
  };
  return { name: "echo", question: { path: "/v1/completions", body }, wanted: "ok", form: "json" };
}

function batch(random: Random): TrafficRequest {
  const ids = () => Array.from({ length: 1 + random.below(20) }, () => 10 + random.below(1000));
  const prompt = random.below(2) === 0 ? drawPassages(random, 3) : [ids(), ids()];
  const body = { model: "any", prompt, ...sampling(random) };
  return { name: "batch", question: { path: "/v1/completions", body }, wanted: "ok", form: "json" };
}

function generate(random: Random): TrafficRequest {
  const blocks = [...drawPassages(random, 4), "Question: what?"];
  if (random.below(3) > 0) {
    const numLocal = random.below(3) === 0 ? { num_local_attention_blocks: random.below(3) } : {};
    const body = { blocks, ...numLocal };
    return { name: "generate blocks", question: { path: "/generate", body }, wanted: "ok", form: "json" };
  }
  const body = { prompt: blocks.join("\n"), ...(random.below(2) === 0 ? { stream: true } : {}) };
  const form = "stream" in body ? "lines" : "json";
  return { name: "generate prompt", question: { path: "/generate", body }, wanted: "ok", form };
}

function encode(random: Random): TrafficRequest {
  const body = { passages: drawPassages(random, 6) };
  return { name: "encode", question: { path: "/v1/blocks", body }, wanted: "ok", form: "json" };
}

function small(random: Random): TrafficRequest {
  const path = draw(random, ["/v1/models", "/metrics", "/health", "/ready", "/openapi.json", "/v1/tokenize"]);
  const form = path === "/metrics" ? "text" : "json";
  if (path !== "/v1/tokenize") return { name: path, question: { path }, wanted: "ok", form };
  return { name: path, question: { path, body: { text: draw(random, passages) } }, wanted: "ok", form };
}

function broken(random: Random): TrafficRequest {
  const paths = ["/v1/chat/completions", "/v1/completions", "/generate", "/v1/blocks", "/v1/tokenize"];
  const path = draw(random, paths);
  const bodies: unknown[] = [
    "{",
    "null",
    "[]",
    '{"__proto__":{"a":1}}',
    { messages: 7, prompt: { a: 1 }, blocks: "x", passages: 1, text: [] },
    { messages: [], prompt: [], blocks: [], passages: [], text: null },
    {
      messages: [{ role: "king", content: "x" }],
      max_tokens: -1,
      prompt: "x",
      blocks: ["x"],
      passages: ["x"],
      text: "x",
    },
    Buffer.from([0x7b, 0xff, 0xfe, 0x7d]),
  ];
  const question = draw<Question>(random, [
    ...bodies.map((body) => ({ path, body })),
    { path: "/v1/nothing", body: {} },
    { path, method: "PUT", body: {} },
    { path, body: "text", headers: { "content-type": "text/plain" } },
    { path, body: { prompt: "x".repeat(1000) }, cutBodyAt: 500 },
    { path: "/v1/blocks/none" },
  ]);
  return { name: "broken", question, wanted: "refused", form: "json" };
}
