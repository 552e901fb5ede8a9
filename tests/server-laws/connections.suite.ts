import { once } from "node:events";
import { type AddressInfo, connect, type Socket } from "node:net";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { FastifyInstance } from "fastify";
import { afterEach, expect, test } from "vitest";
import { createApp } from "../../src/server/app.js";
import { FakeEngine, type FakeEngineOptions } from "../../src/server/fake-engine.suite.js";
import { loadConfig } from "../../src/server/server-config.js";
import { errorFault } from "./http-client.js";
import { Metrics } from "./metrics-text.js";
import { until } from "./server-under-test.js";

/** More than the system's buffers between a server and a client that does not read: about 4 MB. */
const largeAnswer = "x".repeat(5_000_000);
/** Nothing here takes more than seconds; a busy machine is slow. */
const limitMs = 60_000;
const smallBody = '{"prompt":"a"}';

/** A client of few manners. */
class Client {
  received = "";
  hasEnded = false;
  readonly socket: Socket;

  constructor(port: number, options: { readonly reads?: boolean } = {}) {
    this.socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    this.socket.on("error", () => undefined).on("close", () => this.#end());
    if (options.reads === false) {
      this.socket.pause();
      return;
    }
    this.socket.setEncoding("latin1").on("data", (text: string) => {
      this.received += text;
    });
    this.socket.on("end", () => this.#end());
  }

  /** The status of the last answer. */
  get status(): string | undefined {
    return [...this.received.matchAll(/HTTP\/1\.1 (\d+)/g)].at(-1)?.[1];
  }

  get body(): string {
    return this.received.slice(this.received.lastIndexOf("\r\n\r\n") + 4);
  }

  #end(): void {
    this.hasEnded = true;
  }
}

function post(body: string, length = body.length, version = "1.1", headers = ""): string {
  return (
    `POST /v1/completions HTTP/${version}\r\nHost: localhost\r\nContent-Type: application/json\r\n${headers}` +
    `Content-Length: ${length}\r\n\r\n${body}`
  );
}

interface Server {
  readonly app: FastifyInstance;
  readonly engine: FakeEngine;
  readonly port: number;
  /** Connections that the server closed for the reason. */
  closed(reason: string): Promise<number>;
}

/**
 * A server with places for 68 requests that lets a client fall a second behind, while a stranger asks over and over, on
 * a new connection each time: whatever the attack, each of its requests is answered.
 *
 * @param fake the attacked engine; the stranger's answers are its too.
 */
async function underAttack(
  settings: Record<string, string>,
  fake: FakeEngineOptions,
  attack: (server: Server, client: (reads?: boolean) => Client) => Promise<void>,
): Promise<void> {
  const engine = new FakeEngine(fake);
  const options = { stallSeconds: "1", maxRunning: "1", maxQueued: "3", ...settings };
  const app = await createApp({ engine, config: await loadConfig({ options, env: {} }) });
  await app.listen({ host: "127.0.0.1", port: 0 });
  const { port } = app.server.address() as AddressInfo;
  const metrics = async () => Metrics.parse((await app.inject("/metrics")).body);
  const closed = async (reason: string) =>
    (await metrics()).value("block_attention_connections_closed_total", { reason });
  const clients: Client[] = [];
  let isOver = false;
  const refused: string[] = [];
  let numAsked = 0;
  const stranger = (async () => {
    while (!isOver) {
      const answer = await fetch(`http://127.0.0.1:${port}/v1/tokenize`, {
        method: "POST",
        headers: { "content-type": "application/json", connection: "close" },
        body: '{"text":"a small request"}',
      });
      numAsked += 1;
      const text = await answer.text();
      if (answer.status !== 200) refused.push(text);
    }
  })();
  try {
    await attack({ app, engine, port, closed }, (reads) => {
      const client = new Client(port, { ...(reads !== undefined && { reads }) });
      clients.push(client);
      return client;
    });
    isOver = true;
    await stranger;
    expect(refused).toEqual([]);
    expect(numAsked).toBeGreaterThan(0);
    // Though no attacker has closed its end.
    await app.whenIdle();
    expect(engine.running).toBe(0);
    const connections = () => new Promise<number>((resolve) => app.server.getConnections((_, n) => resolve(n)));
    await until("all connections are closed", limitMs, async () => (await connections()) === 0);
  } finally {
    isOver = true;
    for (const { socket } of clients) socket.destroy();
    await stranger.catch(() => undefined);
    app.server.closeAllConnections();
    await app.close();
  }
}

export interface ConnectionsSize {
  /** Attackers of each kind. */
  readonly numClients: number;
  /** Connections on which nothing is asked any more. Default: that law is left out. */
  readonly numIdle?: number;
}

/** Clients that send, or read, too slowly or not at all: none keeps a stranger out, and none is kept for long. */
export function connectionsSuite({ numClients, numIdle }: ConnectionsSize): void {
  const times = <T>(make: () => T): T[] => Array.from({ length: numClients }, make);
  const timers: NodeJS.Timeout[] = [];
  const timeout = 2 * limitMs;
  afterEach(() => {
    for (const timer of timers.splice(0)) clearInterval(timer);
  });

  test(`createApp(): ${numClients} bodies that come a byte at a time are refused with the reason`, {
    timeout,
  }, async () => {
    await underAttack({}, {}, async ({ closed, engine }, client) => {
      const slow = times(() => client());
      for (const { socket } of slow) socket.write(post("{", 1_000_000));
      timers.push(
        setInterval(() => {
          for (const { socket } of slow) socket.write(" ");
        }, 50),
      );
      await until("all are refused", limitMs, () => slow.every(({ hasEnded }) => hasEnded));
      expect(await closed("slow_request")).toBe(numClients);
      for (const { status, body } of slow) {
        expect(status).toBe("408");
        expect(errorFault(body)).toBeUndefined();
        expect(body).toContain("it fell 1 seconds behind 512 bytes a second");
      }
      expect(engine.asked.length).toBe(0);
    });
  });

  test(`createApp(): ${numClients} connections without a whole head are closed, their clients never close`, {
    timeout,
  }, async () => {
    await underAttack({}, {}, async ({ closed }, client) => {
      const slow = times(() => client());
      for (const [i, { socket }] of slow.entries()) if (i % 2 === 0) socket.write("GET /health HTTP/1.1\r\nHost: l");
      timers.push(
        setInterval(() => {
          for (const [i, { socket }] of slow.entries()) if (i % 4 === 0) socket.write("x");
        }, 50),
      );
      await until("all are refused", limitMs, () => slow.every(({ hasEnded }) => hasEnded));
      expect(await closed("slow_request")).toBe(numClients);
      for (const { status, body } of slow) {
        expect(status).toBe("408");
        expect(errorFault(body)).toBeUndefined();
      }
    });
  });

  test(`createApp(): ${numClients} plain answers that nobody reads hold no place, and are let go`, {
    timeout,
  }, async () => {
    const fake: FakeEngineOptions = { answer: largeAnswer };
    await underAttack({ transferBytes: "64MiB" }, fake, async ({ closed, engine }, client) => {
      const before = heldBytes();
      for (const { socket } of times(() => client(false))) socket.write(post(smallBody));
      await until("all are let go", limitMs, async () => {
        return (await closed("slow_reader")) + (await closed("too_many_bytes")) === numClients;
      });
      expect(engine.asked.length).toBe(numClients);
      if (numClients * largeAnswer.length > 2 ** 27) expect(await closed("too_many_bytes")).toBeGreaterThan(0);
      await until("their memory is free", limitMs, () => heldBytes() - before < largeAnswer.length);
    });
  });

  test(`createApp(): ${numClients} streams that nobody reads are let go, and their work ends`, {
    timeout,
  }, async () => {
    const fake: FakeEngineOptions = { answer: "x".repeat(100_000), endless: true };
    const settings = { maxRunning: String(2 * numClients) };
    await underAttack(settings, fake, async ({ closed, engine }, client) => {
      const body = '{"prompt":"a","max_tokens":4000,"stream":true}';
      for (const { socket } of times(() => client(false))) socket.write(post(body));
      await until("all are let go", limitMs, async () => (await closed("slow_reader")) === numClients);
      await until("no work is left", limitMs, () => engine.running === 0);
      expect(engine.cancelled).toBe(numClients);
    });
  });

  test("createApp(): what goes wrong behind a pipelined request ends the connection, without a word before its answer", {
    timeout,
  }, async () => {
    let open = (): void => undefined;
    const opened = new Promise<void>((resolve) => {
      open = resolve;
    });
    await underAttack({}, { opened }, async ({ closed, engine }, client) => {
      const pipelined = [post("{", 1_000), "no HTTP\r\n\r\n"].map((behind) => {
        const one = client();
        one.socket.write(post(smallBody) + behind);
        return one;
      });
      await until("both are let go", limitMs, () => pipelined.every(({ hasEnded }) => hasEnded));
      expect(pipelined.map(({ received }) => received)).toEqual(["", ""]);
      expect(await closed("slow_request")).toBe(1);
      open();
      await until("no work is left", limitMs, () => engine.running === 0);
    });
  });

  test.skipIf(numIdle === undefined)(
    `createApp(): ${numIdle} idle connections make room for others`,
    { timeout },
    async () => {
      await underAttack({ stallSeconds: "3600" }, {}, async ({ closed, port }, client) => {
        const idle = Array.from({ length: numIdle ?? 0 }, () => client());
        for (const { socket } of idle) socket.write("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        await until("each has its answer or is closed", limitMs, () => {
          return idle.every(({ status, hasEnded }) => hasEnded || status === "200");
        });
        const numClosed = await closed("too_many_connections");
        expect(numClosed).toBeGreaterThan(0);
        expect(idle.filter(({ hasEnded }) => hasEnded).length).toBeLessThanOrEqual(numClosed);
        const late = new Client(port);
        late.socket.write(post(smallBody));
        await until("a newcomer has its answer", limitMs, () => late.status === "200");
        for (const { socket } of [late, ...idle]) socket.destroy();
      });
    },
  );

  test("createApp(): who waits for 100 Continue is judged like others", { timeout }, async () => {
    await underAttack({}, {}, async ({ closed }, client) => {
      const waiting = [client(), client()];
      for (const { socket } of waiting) socket.write(post("", smallBody.length, "1.1", "Expect: 100-continue\r\n"));
      await until("the server wants the bodies", limitMs, () => waiting.every(({ status }) => status === "100"));
      waiting[0]?.socket.write(smallBody);
      await until("one is answered and one refused", limitMs, () => waiting.every(({ status }) => status !== "100"));
      expect(waiting.map(({ status }) => status)).toEqual(["200", "408"]);
      expect(await closed("slow_request")).toBe(1);
      waiting[0]?.socket.destroy();
    });
  });

  test("createApp(): an HTTP/1.0 client is answered and its connection closed; one that ends its side has gone", {
    timeout,
  }, async () => {
    const never = new Promise<void>(() => undefined);
    await underAttack({}, {}, async ({ closed }, client) => {
      const old = client();
      old.socket.write(post(smallBody, smallBody.length, "1.0"));
      await once(old.socket, "end");
      expect([old.status, JSON.parse(old.body).choices[0].text]).toEqual(["200", "The answer is 42."]);
      expect(await closed("slow_reader")).toBe(0);
    });
    await underAttack(
      {},
      { tokenMs: 100_000, opened: Promise.race([never, Promise.resolve()]) },
      async ({ engine }, client) => {
        const half = client();
        half.socket.write(post(smallBody));
        await until("it is worked on", limitMs, () => engine.running === 1);
        half.socket.end();
        await until("the work has ended", limitMs, () => engine.running === 0 && half.hasEnded);
        expect([half.received, engine.cancelled]).toEqual(["", 1]);
      },
    );
  });
}

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/** Bytes of buffers that are still in use. */
function heldBytes(): number {
  collect();
  return process.memoryUsage().arrayBuffers;
}
