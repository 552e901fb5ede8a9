// What does a turn of a conversation cost over HTTP, here and in llama.cpp's llama-server? Streamed chat completions, 24
// greedy tokens an answer, with the same model file, threads, texts and client; each side keeps its own answers in the
// history. Servers start cold, wait side by side, and take turns: `clients` conversations at once on one of them, then the
// same ones on the next. The traffic is described in shared/conversation-traffic.ts. The cases:
//   turns    six turns over five passages; full mode
//   agent    eight steps with eight tools and results of about 200 tokens; full and block mode
//   chat     questions with five passages and follow-ups, several users with overlapping passages; block mode
//   keeping  the conversations of `turns` with and without keeping what was computed; full mode, no peer
// `npm run bench -- serve-conversation [case,…] [conversations] [clients] [threads] [model]`; 0 is a case's own count.
// The client shares the cores with the server that it asks. The peer: `node bench/build-llama-server.mjs`. The model is
// SmolLM2-135M-Instruct (see shared/models.ts): random weights draw tokens without text.
import { basename } from "node:path";
import { type Conversation, makeConversations, readTexts } from "./shared/conversation-traffic.js";
import { smolLm2 } from "./shared/models.js";
import { countArgument, describeRun, percentile, printTable } from "./shared/report.js";
import {
  describeLlamaServer,
  findLlamaServer,
  type ServingProcess,
  startBlockAttention,
  startLlamaServer,
} from "./shared/serving-process.js";
import { fetchText, postStream, runClients, type StreamedAnswer } from "./shared/stream-client.js";

interface Side {
  readonly name: string;
  start(): Promise<ServingProcess>;
  /** The content of a user message. */
  content(parts: readonly string[]): unknown;
  /** Fields of its requests that are its own. */
  fields(server: ServingProcess): Promise<object>;
}

/** One answer, as its client saw it. */
interface Sample {
  /** From 1 on. */
  readonly turn: number;
  readonly promptTokens: number;
  /** Prompt tokens that were not cached. */
  readonly computedTokens: number;
  readonly ttftMs: number;
  readonly totalMs: number;
}

/** What one side did. */
class Run {
  readonly samples: Sample[] = [];
  seconds = 0;

  constructor(
    readonly side: Side,
    readonly server: ServingProcess,
    readonly fields: object,
  ) {}

  get requestsPerSecond(): number {
    return this.samples.length / this.seconds;
  }

  ofTurn(turn: number): readonly Sample[] {
    return this.samples.filter((sample) => sample.turn === turn);
  }
}

const [casesText = "turns,agent,chat", conversationsText = "0", clientsText = "0", threadsText = "2", modelPath] =
  process.argv.slice(2);
const threads = countArgument("threads", threadsText);
const model = modelPath ?? smolLm2();
const answerTokens = 24;
const storeBytes = 2 ** 31;
const peerSlots = { numSlots: 8, slotTokens: 8192 };
/** Texts of tokens that end an answer, of the models that this runs with; banned, so that all answers are of one length. */
const endTexts = ["<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>"];

const here = (name: string, blockAttention: object): Side => ({
  name,
  start: () => startBlockAttention({ model, threads, storeBytes }),
  content: (parts) => (parts.length === 1 ? parts[0] : parts.map((text) => ({ type: "text", text }))),
  fields: async ({ url }) => {
    const spelled = await Promise.all(
      endTexts.map(async (text) => {
        const answer = await fetchText(`${url}/v1/tokenize`, { text, special: true });
        return (JSON.parse(answer) as { tokens: { id: number }[] }).tokens;
      }),
    );
    const ends = spelled.flatMap((tokens) => (tokens.length === 1 ? tokens : []));
    return { block_attention: blockAttention, logit_bias: Object.fromEntries(ends.map(({ id }) => [id, -100])) };
  },
});
const full = here("here, full", { mode: "full" });
const block = here("here, block", { mode: "block" });
const program = findLlamaServer();
/** It would put a newline between text parts: joined ones give it the text that a prompt has here. */
const peers: readonly Side[] =
  program === undefined
    ? []
    : [
        {
          name: "llama-server",
          start: () => startLlamaServer(program, { model, threads, ...peerSlots }),
          content: (parts) => parts.join(""),
          fields: async () => ({ ignore_eos: true }),
        },
      ];

/** The last side is what the others are compared with. */
const cases = {
  turns: { traffic: makeConversations.turns, numConversations: 6, numClients: 1, sides: [full, ...peers] },
  agent: { traffic: makeConversations.agent, numConversations: 8, numClients: 4, sides: [full, block, ...peers] },
  chat: { traffic: makeConversations.chat, numConversations: 24, numClients: 4, sides: [block, ...peers] },
  keeping: {
    traffic: makeConversations.turns,
    numConversations: 6,
    numClients: 1,
    sides: [full, here("here, nothing kept", { mode: "full", keep_prefixes: false })],
  },
};

const isCase = (name: string): name is keyof typeof cases => Object.hasOwn(cases, name);
const names = casesText.split(",").map((name) => {
  if (isCase(name)) return name;
  throw new RangeError(
    `Cannot run the benchmark: the case is "${name}", wanted one of ${Object.keys(cases).join(", ")}`,
  );
});
const texts = readTexts();
console.log(
  `${basename(model)}, ${threads} threads, ${answerTokens} tokens an answer, ${texts.origin}, ${describeRun()}`,
);
console.log(describeLlamaServer(program));
for (const name of names) {
  const { traffic, sides, ...counts } = cases[name];
  const numConversations =
    conversationsText === "0" ? counts.numConversations : countArgument("conversations", conversationsText);
  const numClients = clientsText === "0" ? counts.numClients : countArgument("clients", clientsText);
  console.log(`\n### ${name}: ${numConversations} conversations, ${numClients} at once\n`);
  await runCase(sides, traffic(texts, numConversations), numClients);
}

async function runCase(
  sides: readonly Side[],
  conversations: readonly Conversation[],
  numClients: number,
): Promise<void> {
  const servers: ServingProcess[] = [];
  try {
    const runs: Run[] = [];
    for (const side of sides) {
      const server = await side.start();
      servers.push(server);
      runs.push(new Run(side, server, await side.fields(server)));
      console.log(`${side.name}: ${server.command}`);
    }
    // Buffers and threads are there before the clock runs; nothing of the traffic is.
    for (const { side, server, fields } of runs) {
      await converse(new Run(side, server, fields), { system: "Warm-up.", turns: [["A text.\n", "A question?"]] });
    }
    const storedBefore = await Promise.all(runs.map(storedBytes));
    for (let from = 0; from < conversations.length; from += numClients) {
      for (const run of (from / numClients) % 2 === 0 ? runs : runs.toReversed()) {
        const startedMs = performance.now();
        const together = conversations.slice(from, from + numClients);
        await runClients(together, numClients, (conversation) => converse(run, conversation));
        run.seconds += (performance.now() - startedMs) / 1000;
      }
      console.error(runs.map(({ side, seconds }) => `${side.name} ${seconds.toFixed(1)} s`).join(", "));
    }
    const storedAfter = await Promise.all(runs.map(storedBytes));
    const kept = storedAfter.map((bytes, i) => (bytes - (storedBefore[i] as number)) / (runs[i] as Run).samples.length);
    report(runs, kept);
  } finally {
    for (const server of servers) await server[Symbol.asyncDispose]();
  }
}

/** All turns of a conversation, one after another. @throws Error where an answer has not the tokens that it should. */
async function converse({ side, server, fields, samples }: Run, { system, turns }: Conversation): Promise<void> {
  const messages: { role: string; content: unknown }[] = [{ role: "system", content: system }];
  for (const [i, parts] of turns.entries()) {
    messages.push({ role: "user", content: side.content(parts) });
    const answer = await postStream(`${server.url}/v1/chat/completions`, {
      messages,
      max_tokens: answerTokens,
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
      ...fields,
    });
    messages.push({ role: "assistant", content: textOf(answer) });
    const usage = answer.events.at(-1)?.usage as {
      prompt_tokens: number;
      completion_tokens: number;
      prompt_tokens_details: { cached_tokens: number };
    };
    if (usage.completion_tokens !== answerTokens) {
      throw new Error(
        `Cannot compare "${side.name}": an answer has ${usage.completion_tokens} tokens, wanted ${answerTokens}`,
      );
    }
    const { prompt_tokens: promptTokens, prompt_tokens_details: details } = usage;
    const { ttftMs, totalMs } = answer;
    const computedTokens = promptTokens - details.cached_tokens;
    samples.push({ turn: i + 1, promptTokens, computedTokens, ttftMs, totalMs });
  }
}

function textOf({ events }: StreamedAnswer): string {
  const choices = events.flatMap((event) => event.choices as { delta: { content?: string | null } }[]);
  return choices.map(({ delta }) => delta.content ?? "").join("");
}

/** Bytes of the block store in use; NaN for a server that tells none. */
async function storedBytes({ server }: Run): Promise<number> {
  const metrics = await fetchText(`${server.url}/metrics`).catch(() => "");
  const values = [...metrics.matchAll(/^block_attention_store_bytes\{state="(?:leased|idle)"\} (\S+)/gm)];
  return values.length === 0 ? Number.NaN : values.reduce((sum, [, value]) => sum + Number(value), 0);
}

/** @param kept bytes that each run's store took for a turn. */
function report(runs: readonly Run[], kept: readonly number[]): void {
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const computed = (samples: readonly Sample[]) => mean(samples.map(({ computedTokens }) => computedTokens));
  const ttft = (samples: readonly Sample[], share: number) =>
    percentile(
      samples.map(({ ttftMs }) => ttftMs),
      share,
    );
  const cells = (samples: readonly Sample[]) => [
    mean(samples.map(({ promptTokens }) => promptTokens)).toFixed(0),
    computed(samples).toFixed(0),
    ttft(samples, 0.5).toFixed(0),
    ttft(samples, 0.95).toFixed(0),
    percentile(
      samples.map(({ totalMs }) => totalMs),
      0.5,
    ).toFixed(0),
  ];
  const measures = ["prompt tokens", "computed", "TTFT p50 ms", "TTFT p95 ms", "answer p50 ms"];
  const base = runs.at(-1) as Run;
  const turns = [...new Set(base.samples.map(({ turn }) => turn))].sort((a, b) => a - b);
  console.log();
  printTable(
    ["turn", "", ...measures],
    turns.flatMap((turn) => runs.map((run) => [turn, run.side.name, ...cells(run.ofTurn(turn))])),
  );
  console.log();
  printTable(
    ["all turns", ...measures, "requests/s", "kept KiB a turn"],
    runs.map((run, i) => [
      run.side.name,
      ...cells(run.samples),
      run.requestsPerSecond.toFixed(3),
      Number.isNaN(kept[i]) ? "" : ((kept[i] as number) / 1024).toFixed(0),
    ]),
  );
  if (runs.length === 1) return;
  const toBase = (run: Run, of: (one: Run) => number) => `${(of(run) / of(base)).toFixed(2)} x`;
  console.log();
  printTable(
    [`to ${base.side.name}`, "requests/s", "computed", ...turns.map((turn) => `TTFT p50, turn ${turn}`)],
    runs
      .slice(0, -1)
      .map((run) => [
        run.side.name,
        toBase(run, (one) => one.requestsPerSecond),
        toBase(run, ({ samples }) => computed(samples)),
        ...turns.map((turn) => toBase(run, (one) => ttft(one.ofTurn(turn), 0.5))),
      ]),
  );
}
