import type { FastifyInstance } from "fastify";
import OpenAI from "openai";
import type { Engine } from "../../engine/engine.js";
import { createApp } from "../app.js";
import { loadConfig, type ServerConfig } from "../server-config.js";

/** A server's application over an engine, for tests. */
export async function testApp(engine: Engine, config: Partial<ServerConfig> = {}): Promise<FastifyInstance> {
  const defaults = await loadConfig({ options: {}, env: {} });
  return createApp({ engine, config: { ...defaults, ...config } });
}

/** The same behind a port of this machine, with OpenAI's own client of it. */
export async function serveOpenAi(
  engine: Engine,
  config: Parameters<typeof testApp>[1] = {},
): Promise<AsyncDisposable & { readonly client: OpenAI }> {
  const app = await testApp(engine, config);
  const address = await app.listen({ host: "127.0.0.1", port: 0 });
  const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0 });
  const close = async (): Promise<void> => {
    const closed = app.close();
    // Clients connect ahead of a next request, and closing waits for those connections.
    app.server.closeAllConnections();
    await closed;
  };
  return { client, [Symbol.asyncDispose]: close };
}

// biome-ignore lint/suspicious/noExplicitAny: tests look into answers
type Json = any;

export async function post(
  app: FastifyInstance,
  url: string,
  payload: object,
): Promise<{ readonly status: number; readonly text: string; readonly json: () => Json }> {
  const { statusCode, body } = await app.inject({ method: "POST", url, payload });
  return { status: statusCode, text: body, json: () => JSON.parse(body) };
}

/** The data of server-sent events, JSON parsed; "[DONE]" as it is. */
export function eventsOf(text: string): Json[] {
  const events = text.split("\n\n");
  if (events.pop() !== "") throw new Error("Cannot read the events: the last one has no end");
  return events.map((event) => {
    if (!event.startsWith("data: ")) throw new Error(`Cannot read the event: it is ${JSON.stringify(event)}`);
    const data = event.slice(6);
    return data === "[DONE]" ? data : JSON.parse(data);
  });
}

/** A chunk or answer without what differs from call to call. */
export function still<T extends { id?: unknown; created?: unknown; timings?: unknown }>(answer: T) {
  const { id: _, created: __, timings: ___, ...rest } = answer;
  return rest;
}
