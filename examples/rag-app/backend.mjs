// The server behind the application, through OpenAI's client: answers over passages, embeddings, and blocks kept by document.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import OpenAI from "openai";

/**
 * Starts `block-attention serve` on a free port of this machine.
 * @param args its options beside the port.
 * @returns {Promise<{ url: string, exited: Promise<void>, stop: () => Promise<void> }>} once the model is loaded.
 */
export async function startServer(args) {
  const manifest = createRequire(import.meta.url).resolve("block-attention/package.json");
  const cli = join(dirname(manifest), "dist", "cli", "main.js");
  // Of a group of its own: Ctrl-C reaches this process alone, which ends the server once its own work is let go of.
  const child = spawn(process.execPath, [cli, "serve", "--port", "0", "--wait-ready", "--log-level", "warn", ...args], {
    stdio: ["ignore", "pipe", "inherit"],
    detached: process.platform !== "win32",
    windowsHide: true,
  });
  const end = () => child.kill();
  process.once("exit", end);
  const exited = once(child, "exit").then(() => process.removeListener("exit", end));
  const stop = async () => {
    child.kill();
    await exited;
  };
  const line = await Promise.race([once(createInterface(child.stdout), "line").then(([text]) => text), exited]);
  const url = /^Listening on (\S+)$/.exec(line)?.[1];
  if (url === undefined) {
    throw new Error(`Cannot start the server: it ended with code ${child.exitCode ?? child.signalCode}`);
  }
  return { url, exited, stop };
}

/** A signal for one call: OpenAI's client leaves its listeners behind. */
function ownOf(signal) {
  return signal && AbortSignal.any([signal]);
}

export class Backend {
  #client;
  #url;
  /** The encoder's name; "" where the server has none. */
  encoder = "";
  model = "";

  /** @param url the server's, without /v1. */
  constructor(url, apiKey = "none") {
    this.#url = url;
    // A server that is busy or starts again is asked again; a document's blocks may take long.
    this.#client = new OpenAI({ baseURL: new URL("v1", `${url}/`).href, apiKey, maxRetries: 3, timeout: 3_600_000 });
  }

  /** Asks for the model, and whether there is an encoder. */
  async connect() {
    const { data } = await this.#client.models.list().catch((error) => {
      let reason = error;
      while (reason.cause instanceof Error) reason = reason.cause;
      throw new Error(`Cannot use the server at "${this.#url}": ${reason.message || reason.code}`);
    });
    this.model = data[0]?.id ?? "";
    try {
      const { model } = await this.#embed(["a"]);
      this.encoder = model;
    } catch (error) {
      // 400 and 404: it has none.
      if (error.status !== 400 && error.status !== 404) throw error;
    }
  }

  #embed(input, signal) {
    return this.#client.embeddings.create({ model: "any", input, encoding_format: "float" }, { signal: ownOf(signal) });
  }

  /** A vector for each text; of a text that is too long for the encoder, of as much of its beginning as fits. */
  async embed(texts, signal) {
    const vectors = [];
    for (let i = 0; i < texts.length; i += 64) {
      const input = texts.slice(i, i + 64);
      for (;;) {
        try {
          vectors.push(...(await this.#embed(input, signal)).data.map(({ embedding }) => embedding));
          break;
        } catch (error) {
          const [, place] = /^input\[(\d+)\]$/.exec(error.param ?? (input.length === 1 ? "input[0]" : "")) ?? [];
          const long = input[place];
          if (error.status !== 400 || long === undefined || long.length < 32) throw error;
          input[place] = long.slice(0, Math.ceil(long.length / 2)).toWellFormed();
        }
      }
    }
    return vectors;
  }

  /** The documents whose ids begin so, each with the digest that it was kept with. */
  async kept(prefix) {
    const kept = new Map();
    for (let after; ; ) {
      const { documents, has_more } = await this.#client.get("/documents", { query: { limit: 1000, after } });
      for (const { id, metadata } of documents)
        if (String(id).startsWith(prefix)) kept.set(String(id), metadata?.digest);
      if (!has_more) return kept;
      after = String(documents.at(-1).id);
    }
  }

  /**
   * Encodes a document's passages, in place of those that were kept under its id.
   * @param onPassage called with each one's place.
   * @returns why passages were not encoded, where some were not.
   */
  async keep(id, digest, passages, onPassage, signal) {
    const body = { passages: passages.map((passage) => ({ ...passage, id, metadata: { digest } })), stream: true };
    const response = await this.#client.post("/blocks", { body, signal: ownOf(signal) }).asResponse();
    let problem;
    for await (const line of createInterface({ input: Readable.fromWeb(response.body) })) {
      const { error, done } = JSON.parse(line);
      if (done) return problem;
      // The stream's own end, or what became of a passage.
      if (error !== undefined) problem = error.message;
      else onPassage();
    }
    throw new Error(problem ?? "Cannot encode: the server broke off");
  }

  async forget(id) {
    await this.#client.delete(`/documents/${encodeURIComponent(id)}`).catch((error) => {
      if (error.status !== 404) throw error;
    });
  }

  /**
   * Streams an answer over passages; where they are too many for the model, over fewer and with less of what was said before.
   * @param passages with `title` and `text`, the best first.
   * @param turns earlier questions and answers, the oldest first.
   * @returns an async iterator of `{ kind: "text", text }`, and last `{ kind: "done", … }`.
   */
  async *answer(question, passages, turns, signal) {
    const startMs = performance.now();
    const documents = passages.map(({ title, text }) => ({ title, text }));
    let firstTokenMs;
    const stream = await this.#stream(question, documents, [...turns], signal);
    const told = {};
    for await (const chunk of stream) {
      const text = chunk.choices[0]?.delta.content;
      if (text) {
        firstTokenMs ??= performance.now() - startMs;
        yield { kind: "text", text };
      }
      if (chunk.usage) Object.assign(told, { usage: chunk.usage, blocks: chunk.block_attention });
    }
    yield {
      kind: "done",
      firstTokenMs: firstTokenMs ?? performance.now() - startMs,
      promptTokens: told.usage?.prompt_tokens ?? 0,
      cachedTokens: told.usage?.prompt_tokens_details?.cached_tokens ?? 0,
      mode: told.blocks?.mode,
      numPassages: documents.length,
      /** By passage: whether its block was in the store. Undefined in full mode, which has no blocks. */
      hits: documents.map((_, i) => told.blocks?.blocks?.find(({ passage }) => passage?.index === i)?.hit),
    };
  }

  async #stream(question, documents, turns, signal) {
    for (;;) {
      const messages = turns.flatMap((turn) => [
        { role: "user", content: turn.question },
        { role: "assistant", content: turn.answer },
      ]);
      try {
        return await this.#client.chat.completions.create(
          {
            model: "any",
            messages: [...messages, { role: "user", content: question }],
            ...(documents.length > 0 && { documents }),
            temperature: 0,
            max_tokens: 200,
            stream: true,
            stream_options: { include_usage: true },
          },
          { signal: ownOf(signal) },
        );
      } catch (error) {
        if (error.code !== "context_length_exceeded" || turns.length + documents.length === 0) throw error;
        if (turns.length > 0) turns.shift();
        else documents.pop();
      }
    }
  }
}
