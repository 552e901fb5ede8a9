import { once } from "node:events";
import { type AddressInfo, connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import Fastify, { type FastifyReply, type FastifyRequest } from "fastify";
import { expect, test } from "vitest";
import { clientGone, ResponseStream } from "./response-stream.js";

type Handler = (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>;

/** Runs a handler behind a real socket that has asked for it. */
async function withSocket(handler: Handler, use: (socket: Socket) => Promise<void>): Promise<void> {
  const app = Fastify({ forceCloseConnections: true });
  app.get("/", async (request, reply) => {
    await handler(request, reply);
    return reply;
  });
  await app.listen({ host: "127.0.0.1", port: 0 });
  const socket = connect((app.server.address() as AddressInfo).port, "127.0.0.1");
  try {
    await once(socket, "connect");
    socket.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    await use(socket);
  } finally {
    socket.destroy();
    await app.close();
  }
}

function withResolvers<T>(): { readonly promise: Promise<T>; readonly resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => undefined;
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

async function readAll(socket: Socket, until: RegExp): Promise<string> {
  let text = "";
  for await (const chunk of socket) {
    text += String(chunk);
    if (until.test(text)) return text;
  }
  return text;
}

test("ResponseStream: pieces arrive as they are written, the head with the first", async () => {
  const handler: Handler = async (_request, reply) => {
    reply.header("x-kept", "yes");
    using stream = new ResponseStream(reply, { contentType: "text/event-stream" });
    expect(stream.isOpen).toBe(false);
    await stream.write("one\n");
    expect(stream.isOpen).toBe(true);
    await stream.write("two\n");
    await stream.end();
    await stream.write("after the end\n");
  };
  await withSocket(handler, async (socket) => {
    const text = await readAll(socket, /\r\n0\r\n\r\n$/);
    expect(text).toMatch(/^HTTP\/1.1 200 OK\r\nx-kept: yes\r\n/);
    expect(text).toMatch(/content-type: text\/event-stream\r\n/);
    expect(text).toMatch(/one\n\r\n4\r\ntwo\n\r\n0\r\n\r\n$/);
  });
});

test("ResponseStream: a reader that takes nothing holds the writer back, and little is kept for it", async () => {
  let written = 0;
  const gone = withResolvers<void>();
  const handler: Handler = async (request, reply) => {
    const signal = clientGone(request, reply);
    using stream = new ResponseStream(reply, { contentType: "text/plain" });
    const piece = "x".repeat(65_536);
    while (!signal.aborted) {
      await stream.write(piece);
      written += piece.length;
    }
    gone.resolve();
  };
  await withSocket(handler, async (socket) => {
    socket.pause();
    await sleep(300);
    const early = written;
    await sleep(300);
    // What the system's buffers take, and no more.
    expect(written).toBe(early);
    expect(written).toBeLessThan(64 * 2 ** 20);
    socket.resume();
    socket.on("data", () => undefined);
    while (written < early + 2 ** 20) await sleep(10);
    socket.destroy();
    await gone.promise;
  });
});

test("ResponseStream: of a large piece, too, little is kept for a reader that takes nothing", async () => {
  const text = "é".repeat(8_000_000);
  const kept = withResolvers<number>();
  const handler: Handler = async (_request, reply) => {
    using stream = new ResponseStream(reply, { contentType: "text/plain" });
    const written = stream.write(text);
    const { socket } = reply.raw;
    // Longer than the system's buffers take.
    while (socket?.writableNeedDrain !== true) await sleep(5);
    await sleep(50);
    kept.resolve(socket.writableLength);
    await written;
    await stream.end();
  };
  await withSocket(handler, async (socket) => {
    socket.pause();
    expect(await kept.promise).toBeLessThan(100_000);
    let numReceived = 0;
    socket.setEncoding("utf8");
    for await (const piece of socket as AsyncIterable<string>) {
      numReceived += piece.match(/é/g)?.length ?? 0;
      if (piece.endsWith("0\r\n\r\n")) break;
    }
    expect(numReceived).toBe(text.length);
  });
});

test("ResponseStream: heartbeats fill the silence and end with the stream", async () => {
  const handler: Handler = async (_request, reply) => {
    using stream = new ResponseStream(reply, { contentType: "text/event-stream" });
    stream.heartbeat(30, ": waiting\n\n");
    await sleep(200);
    await stream.write("data: 1\n\n");
    await stream.end();
    await sleep(100);
  };
  await withSocket(handler, async (socket) => {
    const text = await readAll(socket, /\r\n0\r\n\r\n$/);
    expect(text.match(/: waiting/g)?.length).toBeGreaterThanOrEqual(2);
    expect(text).toMatch(/data: 1\n\n\r\n0\r\n\r\n$/);
  });
});

test("ResponseStream: a failure before the first piece is a plain HTTP error", async () => {
  const handler: Handler = async (_request, reply) => {
    using stream = new ResponseStream(reply, { contentType: "text/event-stream" });
    stream.heartbeat(10_000, ": waiting\n\n");
    throw new Error("too early");
  };
  await withSocket(handler, async (socket) => {
    expect(await readAll(socket, /too early/)).toMatch(/^HTTP\/1.1 500/);
  });
});

test("clientGone(): aborted when the client leaves, not when it has its answer", async () => {
  const left = withResolvers<AbortSignal>();
  const leaving: Handler = async (request, reply) => {
    const signal = clientGone(request, reply);
    signal.addEventListener("abort", () => left.resolve(signal));
    await left.promise;
    expect(clientGone(request, reply).aborted).toBe(true);
  };
  await withSocket(leaving, async (socket) => {
    await sleep(20);
    socket.destroy();
    expect((await left.promise).aborted).toBe(true);
  });
  let signal: AbortSignal | undefined;
  const answering: Handler = async (request, reply) => {
    signal = clientGone(request, reply);
    await reply.send("done");
  };
  await withSocket(answering, async (socket) => {
    await readAll(socket, /done$/);
    socket.destroy();
    await sleep(20);
    expect(signal?.aborted).toBe(false);
  });
});
