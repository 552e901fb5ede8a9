import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import Fastify, { type FastifyInstance } from "fastify";
import { reuseNote } from "../../src/engine/model.js";

const miss = { kind: "block", token: 9, before: "a", asked: "b", stored: "c", reason: "The text has changed" };

/** How the next answers go. */
export interface FakeBehaviour {
  /** Refuses requests without this key. */
  key?: string;
  /** Refuses the next question. */
  refusal?: { status: number; message: string };
  /** In the middle of the next answer: breaks the connection, ends without [DONE], or says an error. */
  breakOff?: "connection" | "end" | "error";
  /** Default: trained for both modes. */
  trainedModes?: readonly ("block" | "full")[];
  /** Of every answer. */
  warnings?: readonly string[];
  /** Time before each word, in milliseconds. */
  wordMs?: number;
}

/**
 * A server that answers as ours does, without an engine, and can be told to fail: what the page asks for and nothing
 * else. It cuts its streams within characters.
 */
export function fakeApi(behaviour: FakeBehaviour): { app: FastifyInstance; deleted: string[]; questions: unknown[] } {
  const app = Fastify({ forceCloseConnections: true });
  const store = new Set<string>();
  const counts = { requests: 0, computed: 0, stored: 0 };
  const deleted: string[] = [];
  const questions: unknown[] = [];
  const refuse = (message: string) => ({ error: { message, type: "invalid_request_error", param: null, code: null } });

  app.addHook("onRequest", async (request, reply) => {
    const isOpen = request.url === "/" || request.url.startsWith("/assets/");
    if (isOpen || behaviour.key === undefined || request.headers.authorization === `Bearer ${behaviour.key}`) return;
    await reply.code(401).send(refuse("Cannot use the key: there is none, or it is not known"));
  });
  const defaultMode = () => (behaviour.trainedModes?.includes("block") === false ? "full" : "block");
  app.get("/v1/models", () => {
    const said = { default_mode: defaultMode(), note: reuseNote(behaviour.trainedModes ?? ["block"]) };
    return { object: "list", data: [{ id: "fake-model", object: "model", block_attention: said }] };
  });
  app.delete<{ Params: { id: string } }>("/v1/blocks/:id", (request, reply) => {
    deleted.push(request.params.id);
    if (!store.delete(request.params.id)) return reply.code(404).send(refuse("There is no such block"));
    return { id: request.params.id, deleted: true };
  });
  app.get("/metrics", (_request, reply) =>
    reply.type("text/plain").send(`block_attention_request_duration_seconds_count ${counts.requests}
block_attention_prompt_tokens_total{source="computed"} ${counts.computed}
block_attention_prompt_tokens_total{source="blocks"} ${counts.stored}
block_attention_store_bytes{state="idle"} ${store.size * 4096}
block_attention_store_bytes{state="free"} 1000000
block_attention_store_blocks ${store.size}
`),
  );
  app.post<{
    Body: { documents?: { title: string; text: string }[]; block_attention?: { mode?: string; explain?: boolean } };
  }>("/v1/chat/completions", async (request, reply) => {
    questions.push(request.body);
    const { refusal, breakOff } = behaviour;
    if (refusal !== undefined) {
      delete behaviour.refusal;
      return reply.code(refusal.status).send(refuse(refusal.message));
    }
    delete behaviour.breakOff;
    const mode = request.body.block_attention?.mode ?? defaultMode();
    const texts = ["preamble", ...(request.body.documents ?? []).map(({ title, text }) => `${title}\n${text}`)];
    const blocks = texts.map((text) => {
      const id = createHash("sha256").update(text).digest("hex");
      const hit = mode === "block" && store.has(id);
      if (mode === "block") store.add(id);
      return { id, tokens: text.split(/\s+/).length + 4, hit };
    });
    const sum = (hit: boolean) => blocks.reduce((total, block) => total + (block.hit === hit ? block.tokens : 0), 0);
    const computed = sum(false) + 12;
    counts.requests += 1;
    counts.computed += computed;
    counts.stored += sum(true);
    reply.hijack();
    reply.raw.writeHead(200, { "content-type": "text/event-stream" });
    const send = async (data: unknown) => {
      const bytes = Buffer.from(`data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`);
      for (let from = 0; from < bytes.length; from += 7) reply.raw.write(bytes.subarray(from, from + 7));
    };
    await send({ choices: [{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: null }] });
    for (const [i, word] of ["Värmland", ", ", "漢字", " 🙂", "."].entries()) {
      await sleep(behaviour.wordMs ?? 0);
      if (reply.raw.destroyed) return reply;
      if (i === 3 && breakOff === "connection") {
        // What was written goes out before the connection breaks.
        await sleep(50);
        reply.raw.destroy();
        return reply;
      }
      if (i === 3 && breakOff !== undefined) {
        if (breakOff === "error") await send(refuse("The engine died with the request"));
        reply.raw.end();
        return reply;
      }
      await send({ choices: [{ index: 0, delta: { content: word }, finish_reason: null }] });
    }
    await send({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
    await send({
      choices: [],
      usage: {
        prompt_tokens: computed + sum(true),
        completion_tokens: 5,
        prompt_tokens_details: { cached_tokens: sum(true) },
      },
      timings: { ttft_ms: computed / 2 },
      block_attention: {
        ...{ mode, blocks: mode === "block" ? blocks : [], warnings: behaviour.warnings ?? [] },
        ...{ reused: { blocks: sum(true), prefix: 0, conversation: 0 }, computed },
        misses: request.body.block_attention?.explain && behaviour.trainedModes !== undefined ? [miss] : undefined,
      },
    });
    await send("[DONE]");
    reply.raw.end();
    return reply;
  });
  return { app, deleted, questions };
}
