import { EventEmitter } from "node:events";
import type { Server } from "node:http";
import { expect, test } from "vitest";
import type { ApiError } from "./api-error.js";
import { type CloseReason, type ConnectionLimits, Connections } from "./connections.js";

/** A connection whose counters are moved by hand. */
class FakeSocket extends EventEmitter {
  bytesRead = 0;
  bytesWritten = 0;
  writableLength = 0;
  writableFinished = false;
  text = "";
  ended: "reset" | "destroyed" | undefined;

  destroy(): void {
    this.ended ??= "destroyed";
    this.emit("close");
  }

  end(text: string): void {
    this.text += text;
    this.writableFinished = true;
  }

  resetAndDestroy(): void {
    this.ended = "reset";
    this.destroy();
  }
}

class FakeRequest extends EventEmitter {
  complete = false;
  told: ApiError | undefined;

  constructor(readonly socket: FakeSocket) {
    super();
  }

  /** As whoever reads the body does. */
  read(): void {
    this.on("error", (error) => {
      this.told = error;
    });
  }
}

class FakeResponse extends EventEmitter {
  /** As that of an answer whose turn has come. */
  socket: FakeSocket | null = null;
  headersSent = false;
  isDestroyed = false;

  constructor(readonly req: FakeRequest) {
    super();
  }

  destroy(): void {
    this.isDestroyed = true;
  }
}

/** A look counts 10 s, and no timer looks meanwhile. */
function setUp(limits: Partial<ConnectionLimits> = {}) {
  const server = new EventEmitter();
  const reasons: CloseReason[] = [];
  const some = {
    minBytesPerSecond: 100,
    stallSeconds: 30,
    transferSeconds: 200,
    transferBytes: 1e6,
    maxConnections: 9,
  };
  const connections = new Connections(
    server as Server,
    { ...some, ...limits },
    (reason) => reasons.push(reason),
    10_000,
  );
  const connect = (): FakeSocket => {
    const socket = new FakeSocket();
    server.emit("connection", socket);
    return socket;
  };
  const ask = (socket = connect()): { socket: FakeSocket; request: FakeRequest; response: FakeResponse } => {
    const request = new FakeRequest(socket);
    request.read();
    const response = new FakeResponse(request);
    server.emit("request", request, response);
    return { socket, request, response };
  };
  /** Looks as often, and moves a count before each look. */
  const looks = (num: number, move: () => void = () => undefined): void => {
    for (let i = 0; i < num; i += 1) {
      move();
      connections.look();
    }
  };
  return { connections, reasons, connect, ask, looks };
}

/** An answer of which `waiting` bytes are not taken. */
function answering(socket: FakeSocket, waiting: number): void {
  socket.bytesWritten += waiting;
  socket.writableLength += waiting;
}

test("Connections.look(): a body that stands still is refused once it is behind, with the reason", () => {
  const { reasons, ask, looks } = setUp();
  const { request, socket } = ask();
  looks(3);
  expect(reasons).toEqual([]);
  looks(1);
  expect(reasons).toEqual(["slow_request"]);
  expect(request.told).toMatchObject({
    statusCode: 408,
    code: "request_too_slow",
    message: "Cannot read the request: it fell 30 seconds behind 100 bytes a second",
    headers: { connection: "close" },
  });
  // Who reads the body answers; a client that stays all the same is cut off.
  expect(socket.ended).toBeUndefined();
  looks(1);
  expect([socket.ended, reasons.length]).toEqual(["destroyed", 1]);
});

test("Connections.look(): at the least rate a body may come as long as a transfer may last, and what was fast earns nothing", () => {
  const { reasons, ask, looks } = setUp();
  const steady = ask();
  looks(20, () => {
    steady.socket.bytesRead += 1_000;
  });
  expect(reasons).toEqual([]);
  looks(1, () => {
    steady.socket.bytesRead += 1_000;
  });
  expect(reasons).toEqual(["long_request"]);
  expect(steady.request.told).toMatchObject({
    code: "request_timeout",
    message: "Cannot read the request: it did not come whole within 200 seconds",
  });
  const slow = ask();
  // Half the rate: behind by 5 s a look.
  looks(6, () => {
    slow.socket.bytesRead += 500;
  });
  expect(reasons.length).toBe(1);
  looks(1, () => {
    slow.socket.bytesRead += 500;
  });
  expect(reasons.at(-1)).toBe("slow_request");
  const burst = ask();
  burst.socket.bytesRead += 900_000;
  looks(4);
  expect(reasons.at(-1)).toBe("slow_request");
  expect(reasons.length).toBe(2);
  looks(1);
  expect(reasons.length).toBe(3);
});

test("Connections.look(): an answer that nobody takes ends with a reset", () => {
  const { reasons, ask, looks } = setUp();
  const { socket, request } = ask();
  request.complete = true;
  answering(socket, 5_000_000);
  // What the system's buffer took before is nothing that the client moved.
  socket.writableLength -= 4_000_000;
  looks(3);
  expect(reasons).toEqual([]);
  looks(2);
  expect([reasons, socket.ended]).toEqual([["slow_reader"], "reset"]);
});

test("Connections.look(): a reader's waits add up over its answer, and begin anew with the next", () => {
  const { reasons, ask, looks } = setUp();
  const { socket, request, response } = ask();
  request.complete = true;
  const takeAll = () => {
    socket.writableLength = 0;
  };
  // 100 bytes in 20 s, again and again, is one second's worth.
  answering(socket, 100);
  looks(2);
  takeAll();
  looks(5);
  answering(socket, 100);
  looks(1);
  expect(reasons).toEqual([]);
  takeAll();
  response.emit("close");
  const next = ask(socket);
  next.request.complete = true;
  answering(socket, 100);
  looks(3);
  expect(reasons).toEqual([]);
  looks(1);
  expect(reasons).toEqual(["slow_reader"]);
  const steady = ask();
  steady.request.complete = true;
  answering(steady.socket, 1_000_000);
  looks(20, () => {
    steady.socket.writableLength -= 1_000;
  });
  expect(reasons.length).toBe(1);
  looks(1, () => {
    steady.socket.writableLength -= 1_000;
  });
  expect(reasons.at(-1)).toBe("long_reader");
});

test("Connections.look(): the time of the engine, of a stream without a piece and between requests is not the client's", () => {
  const { connections, reasons, ask, looks } = setUp();
  const { socket, request, response } = ask();
  request.complete = true;
  looks(1_000);
  response.emit("close");
  looks(1_000);
  // Refused before the body has come.
  const refused = ask(socket);
  refused.response.emit("close");
  socket.bytesRead += 1_000;
  looks(2);
  refused.request.complete = true;
  refused.request.emit("close");
  looks(1_000);
  expect(reasons).toEqual([]);
  expect(connections.size).toBe(1);
});

test("Connections.look(): a connection that the server ended is closed, whether the client closes or not", () => {
  const { connections, reasons, connect, looks } = setUp();
  const socket = connect();
  looks(1);
  socket.writableFinished = true;
  looks(1);
  expect(socket.ended).toBeUndefined();
  looks(1);
  expect([socket.ended, connections.size, reasons]).toEqual(["destroyed", 0, []]);
});

test("Connections.look(): a slow body behind an answer that is not through, or that nobody reads, gets no text of ours", () => {
  const { reasons, ask, looks } = setUp();
  const first = ask();
  first.request.complete = true;
  const second = ask(first.socket);
  expect(first.socket.ended).toBeUndefined();
  const unread = ask();
  unread.request.removeAllListeners();
  unread.response.emit("close");
  looks(4);
  expect(reasons).toEqual(["slow_request", "slow_request"]);
  expect([first.socket.ended, second.request.told, unread.socket.ended]).toEqual(["destroyed", undefined, "destroyed"]);
});

test("Connections.look(): a head that does not come is told so, at first and after other requests", () => {
  const { reasons, connect, ask, looks } = setUp();
  const silent = connect();
  looks(4);
  expect(reasons).toEqual(["slow_request"]);
  expect(silent.text).toMatch(
    /^HTTP\/1.1 408 Request Timeout\r\n(.*\r\n)*connection: close\r\n(.*\r\n)*\r\n\{"error":/,
  );
  looks(1);
  expect([silent.ended, reasons.length]).toEqual(["destroyed", 1]);
  const later = ask();
  later.request.complete = true;
  later.response.emit("close");
  looks(50);
  later.socket.bytesRead += 1;
  looks(3);
  expect(reasons.length).toBe(1);
  looks(1);
  expect(later.socket.text).toMatch(/^HTTP\/1.1 408/);
  expect(reasons).toEqual(["slow_request", "slow_request"]);
});

test("Connections: when a connection ends, answers that wait behind another end too", () => {
  const { ask } = setUp();
  const first = ask();
  first.response.socket = first.socket;
  const behind = [ask(first.socket), ask(first.socket)];
  const closed: FakeResponse[] = [];
  for (const { response } of [first, ...behind]) response.on("close", () => closed.push(response));
  first.socket.destroy();
  // Node tells the first.
  expect(closed).toEqual(behind.map(({ response }) => response));
  expect(closed.every(({ isDestroyed }) => isDestroyed)).toBe(true);
});

test("Connections.look(): where too many bytes are held, those that hold much for long make room, and no others", () => {
  const { connections, reasons, ask, looks } = setUp({ transferBytes: 1_100_000 });
  const small = ask();
  small.socket.bytesRead = 200;
  const quick = ask();
  const unread = [ask(), ask(), ask()];
  const pieces = unread.map(({ socket, request }) => {
    request.complete = true;
    answering(socket, 100);
    return connections.inPieces(request as never, "x".repeat(400_000));
  });
  for (const piece of pieces) if (typeof piece === "object" && "read" in piece) piece.read();
  looks(1, () => {
    quick.socket.bytesRead += 300_000;
  });
  looks(1, () => {
    quick.socket.bytesRead += 300_000;
  });
  // 600,000 bytes of the quick one and 1,200,000 of the others: two go.
  expect(reasons).toEqual(["too_many_bytes", "too_many_bytes"]);
  expect(unread.filter(({ socket }) => socket.ended === "reset").length).toBe(2);
  expect([small.socket.ended, quick.socket.ended]).toEqual([undefined, undefined]);
});

test("Connections: where there are too many, the slowest makes room for a stranger", () => {
  const { connections, reasons, connect, ask, looks } = setUp({ maxConnections: 4 });
  const working = ask();
  working.request.complete = true;
  const quick = ask();
  const slow = ask();
  const idle = ask();
  idle.request.complete = true;
  idle.response.emit("close");
  // Nobody has been waited for yet: the newcomer goes.
  expect(connect().text).toMatch(/^HTTP\/1.1 503 /);
  looks(2, () => {
    quick.socket.bytesRead += 50_000;
    slow.socket.bytesRead += 1_000;
  });
  const newcomer = ask();
  newcomer.request.complete = true;
  expect(newcomer.socket.ended).toBeUndefined();
  expect(idle.socket.ended).toBe("destroyed");
  const stranger = connect();
  expect(slow.request.told).toMatchObject({ statusCode: 503, code: "overloaded" });
  slow.socket.destroy();
  expect([stranger.ended, working.socket.ended, quick.socket.ended]).toEqual([undefined, undefined, undefined]);
  expect(reasons).toEqual(["too_many_connections", "too_many_connections", "too_many_connections"]);
  expect(connections.size).toBe(4);
});
