import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { Readable } from "node:stream";
import { ApiError } from "./api-error.js";
import { endWithError } from "./client-error.js";

/** What every connection is held to, whatever is asked over it. */
export interface ConnectionLimits {
  /** The rate at which a request must come and an answer be taken. */
  readonly minBytesPerSecond: number;
  /** How far a client may fall behind that rate. */
  readonly stallSeconds: number;
  /** How long one request may take to come, or wait for its client to take the answer. */
  readonly transferSeconds: number;
  /** Of bodies that are coming and answers that are being taken, over all connections. */
  readonly transferBytes: number;
  readonly maxConnections: number;
}

/** Why the server closed a connection. */
export const closeReasons = [
  "slow_request",
  "long_request",
  "slow_reader",
  "long_reader",
  "too_many_bytes",
  "too_many_connections",
] as const;

export type CloseReason = (typeof closeReasons)[number];

/** Much is written in pieces of so many bytes, each once there is room: only whole writes show as taken. */
export const pieceBytes = 16_384;
const largeBytes = 4 * pieceBytes;

/**
 * All connections of a server, under one rule of progress. While a request is coming, and while bytes of an answer,
 * plain or streamed, wait for the client to take them, it must keep up with `minBytesPerSecond`: one that falls
 * `stallSeconds` behind is closed, and so is one that makes the server wait for more than `transferSeconds` in all. Time
 * in which the engine computes, a stream has nothing to send, or nothing is asked, is not the client's. Where
 * connections or the bytes that they hold become too many, the slowest makes room.
 *
 * What the system's send buffer took counts as taken: it takes more once the client has read some of it.
 *
 * One timer looks at all of them. A look counts as the timer's interval however late it comes: time in which this
 * process did not run is nobody's fault.
 */
export class Connections {
  readonly #connections = new Map<Socket, Connection>();
  readonly #lookMs: number;

  /** @param lookMs between looks, in milliseconds. Default: a second, or a quarter of `stallSeconds`. */
  constructor(
    server: Server,
    private readonly limits: ConnectionLimits,
    private readonly onClose: (reason: CloseReason) => void,
    lookMs?: number,
  ) {
    this.#lookMs = lookMs ?? Math.min(1_000, limits.stallSeconds * 250);
    server.on("connection", (socket: Socket) => this.#add(socket));
    server.on("request", (request: IncomingMessage, response: ServerResponse) => {
      this.#connections.get(request.socket)?.begin(request, response);
    });
    const timer = setInterval(() => this.look(), this.#lookMs).unref();
    server.once("close", () => clearInterval(timer));
  }

  get size(): number {
    return this.#connections.size;
  }

  /** Whether an error that is written now answers what comes, and does not stand before or in another answer. */
  canTell(socket: Socket): boolean {
    return this.#connections.get(socket)?.canTell ?? true;
  }

  /** What to send for an answer that is whole: itself, or a stream of pieces where it is large. */
  inPieces(request: IncomingMessage, answer: string | Buffer): string | Buffer | Readable {
    if (answer.length < largeBytes) return answer;
    return Readable.from(piecesOf(Buffer.from(answer), this.#connections.get(request.socket)), { objectMode: false });
  }

  /** Charges every connection with the time since the last look, and closes those that fell behind. */
  look(): void {
    for (const connection of this.#connections.values()) {
      const reason = connection.look(this.#lookMs);
      if (reason !== undefined) this.#close(connection, reason);
    }
    const open = [...this.#connections.values()].filter(({ isClosing }) => !isClosing);
    let bytes = open.reduce((sum, { heldBytes }) => sum + heldBytes, 0);
    while (bytes > this.limits.transferBytes) {
      const worst = most(open, (connection) => connection.slowness * connection.heldBytes);
      if (worst === undefined) return;
      open.splice(open.indexOf(worst), 1);
      bytes -= worst.heldBytes;
      this.#close(worst, "too_many_bytes");
    }
  }

  #add(socket: Socket): void {
    const connection = new Connection(socket, this.limits);
    const { size } = this.#connections;
    this.#connections.set(socket, connection);
    socket.once("close", () => {
      this.#connections.delete(socket);
      connection.end();
    });
    if (size < this.limits.maxConnections) return;
    const open = [...this.#connections.values()].filter(({ isClosing }) => !isClosing);
    this.#close(most(open, ({ slowness }) => slowness) ?? connection, "too_many_connections");
  }

  #close(connection: Connection, reason: CloseReason): void {
    this.onClose(reason);
    connection.close(this.#errorOf(reason));
  }

  /** What a client is told whose request has not come whole. */
  #errorOf(reason: CloseReason): ApiError {
    const { stallSeconds, minBytesPerSecond, transferSeconds } = this.limits;
    const headers = { connection: "close" };
    switch (reason) {
      case "too_many_bytes":
      case "too_many_connections": {
        const message = "Cannot read the request: it came slowest of all, and the server has no room for more";
        return new ApiError(503, message, { code: "overloaded", headers: { ...headers, "retry-after": "1" } });
      }
      case "long_request": {
        const message = `Cannot read the request: it did not come whole within ${transferSeconds} seconds`;
        return new ApiError(408, message, { code: "request_timeout", headers });
      }
      default: {
        const message = `Cannot read the request: it fell ${stallSeconds} seconds behind ${minBytesPerSecond} bytes a second`;
        return new ApiError(408, message, { code: "request_too_slow", headers });
      }
    }
  }
}

/** One connection: a request comes over it, or an answer goes, or both where the client does not wait. */
class Connection {
  /** Bytes of large answers. */
  answerBytes = 0;
  isClosing = false;
  /** The last one, whole or not. */
  #request: IncomingMessage | undefined;
  /** Of those that have not ended. */
  readonly #responses = new Set<ServerResponse>();
  #upload: Transfer;
  #answer: Transfer;
  /** How long nothing has been asked. */
  #idleMs = 0;
  #hasEnded = false;

  constructor(
    private readonly socket: Socket,
    private readonly limits: ConnectionLimits,
  ) {
    this.#upload = new Transfer(limits, this.#read);
    this.#answer = new Transfer(limits, this.#taken);
  }

  begin(request: IncomingMessage, response: ServerResponse): void {
    this.#request = request;
    this.#idleMs = 0;
    this.#upload = new Transfer(this.limits, this.#read);
    if (this.#responses.size === 0) this.#answer = new Transfer(this.limits, this.#taken);
    this.#responses.add(response);
    // Either may be through before the other: an error does not wait for the body.
    const rest = (): void => {
      if (this.#responses.size === 0 && !this.#isComing) this.#upload = new Transfer(this.limits, this.#read);
    };
    request.once("close", rest);
    response.once("close", () => {
      this.#responses.delete(response);
      this.#answer = new Transfer(this.limits, this.#taken);
      rest();
    });
  }

  /** Whether no other answer is to go out than that to the request that comes, which has not begun. */
  get canTell(): boolean {
    return [...this.#responses].every(
      (response) => this.#isComing && response.req === this.#request && !response.headersSent,
    );
  }

  /** What the server keeps of a body that is coming, and of answers that are being taken. */
  get heldBytes(): number {
    return this.answerBytes + this.socket.writableLength + (this.#isComing ? this.#upload.bytes : 0);
  }

  /** Milliseconds that the server has waited for each byte; 0 where it does not wait for the client. */
  get slowness(): number {
    return this.#idleMs || (this.#clientsTurn()?.slowness ?? 0);
  }

  /** Charges the client with the time of a look, if it is its turn. @returns why to close, if so. */
  look(ms: number): CloseReason | undefined {
    const socket = this.socket;
    // Whoever has been told why has had the time to read it.
    if (this.isClosing || this.#hasEnded) {
      socket.destroy();
      return undefined;
    }
    this.#hasEnded = socket.writableFinished;
    const transfer = this.#clientsTurn();
    this.#idleMs = this.#isIdle ? this.#idleMs + ms : 0;
    const readerFault = this.#answer.look(this.#taken, transfer === this.#answer ? ms : 0);
    const requestFault = this.#upload.look(this.#read, transfer === this.#upload ? ms : 0);
    if (readerFault !== undefined) return `${readerFault}_reader`;
    return requestFault && `${requestFault}_request`;
  }

  /** Ends the connection, with the error where its client can still be told. */
  close(error: ApiError): void {
    this.isClosing = true;
    const request = this.#request;
    const hasReader = request !== undefined && this.#isComing && request.listenerCount("error") > 0;
    const isHead = this.#responses.size === 0 && !this.#isComing && !this.#isIdle;
    // Who reads the body sends the error.
    if (hasReader && this.canTell) request.emit("error", error);
    else if (isHead) endWithError(this.socket, error);
    // Not the ordinary end: the system would keep what it has of the answer, for a client that does not take it.
    else if (this.socket.writableLength > 0) this.socket.resetAndDestroy();
    else this.socket.destroy();
  }

  /** Once the socket is closed. Node tells the answer whose turn it was; who waits behind it must know too. */
  end(): void {
    for (const response of this.#responses) {
      if (response.socket !== null) continue;
      response.destroy();
      response.emit("close");
    }
  }

  get #isComing(): boolean {
    return this.#request?.complete === false;
  }

  get #read(): number {
    return this.socket.bytesRead;
  }

  /** Node counts what it keeps as written. */
  get #taken(): number {
    return this.socket.bytesWritten - this.socket.writableLength;
  }

  /** All that was asked is answered, and no byte of another request has come: Node closes it after a while. */
  get #isIdle(): boolean {
    return this.#responses.size === 0 && this.#request?.complete === true && this.#read === this.#upload.start;
  }

  /** The transfer whose next bytes are the client's to move; none while the server works, or nothing is asked. */
  #clientsTurn(): Transfer | undefined {
    if (this.socket.writableLength > 0) return this.#answer;
    return this.#isComing || (this.#responses.size === 0 && !this.#isIdle) ? this.#upload : undefined;
  }
}

/** What a connection moves in one direction for one request. */
class Transfer {
  bytes = 0;
  #waitedMs = 0;
  /** Bytes that were moved since the server first waited. */
  #pacedBytes = 0;
  /** How long the client may still do nothing. */
  #creditMs: number;

  /** @param start the connection's count of bytes in this direction. */
  constructor(
    private readonly limits: ConnectionLimits,
    readonly start: number,
  ) {
    this.#creditMs = limits.stallSeconds * 1000;
  }

  get slowness(): number {
    return this.#waitedMs / (this.#pacedBytes + 1);
  }

  /** @param waitedMs what the server waited for the client since the last look. */
  look(count: number, waitedMs: number): "slow" | "long" | undefined {
    const { minBytesPerSecond, stallSeconds, transferSeconds } = this.limits;
    const moved = count - this.start - this.bytes;
    this.bytes += moved;
    if (this.#waitedMs > 0) this.#pacedBytes += moved;
    this.#waitedMs += waitedMs;
    // Being fast earns no more than one may fall behind.
    const gainedMs = (moved * 1000) / minBytesPerSecond - waitedMs;
    this.#creditMs = Math.min(stallSeconds * 1000, this.#creditMs + gainedMs);
    if (waitedMs === 0) return undefined;
    if (this.#creditMs < 0) return "slow";
    return this.#waitedMs > transferSeconds * 1000 ? "long" : undefined;
  }
}

/** The bytes count as held until the last of them is written, or nobody wants them any more. */
function* piecesOf(answer: Buffer, connection: Connection | undefined): Generator<Buffer> {
  if (connection !== undefined) connection.answerBytes += answer.length;
  try {
    for (let at = 0; at < answer.length; at += pieceBytes) yield answer.subarray(at, at + pieceBytes);
  } finally {
    if (connection !== undefined) connection.answerBytes -= answer.length;
  }
}

/** The item whose measure is the largest, and above 0. */
function most<T>(items: readonly T[], measure: (item: T) => number): T | undefined {
  let found: T | undefined;
  let largest = 0;
  for (const item of items) {
    const size = measure(item);
    if (size > largest) [found, largest] = [item, size];
  }
  return found;
}
