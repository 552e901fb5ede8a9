import type { FastifyReply, FastifyRequest } from "fastify";
import { ApiError } from "./api-error.js";
import { pieceBytes } from "./connections.js";

/**
 * A signal that is aborted when the client goes away before its answer is complete, in whatever state the request is.
 * Its reason is an error that is nobody's failure: a route that throws it on leaves no line of one in the log.
 *
 * @example for await (const event of engine.generate(asked, clientGone(request, reply))) …
 */
export function clientGone(request: FastifyRequest, reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  const gone = (): void => {
    if (!reply.raw.writableFinished) controller.abort(new ApiError(408, "Cancelled: the client has gone"));
  };
  if (reply.raw.closed || request.raw.socket.destroyed) gone();
  else reply.raw.once("close", gone);
  return controller.signal;
}

export interface ResponseStreamOptions {
  /** For instance "text/event-stream". */
  readonly contentType: string;
}

/**
 * An answer that is written piece by piece. The head goes out with the first piece, so that until then a failure can
 * still be a plain HTTP error: throw it. From then on the reply is this stream's alone, and a failure is told in the
 * answer's own protocol.
 *
 * Writing waits for the reader: one that reads slowly slows its own answer down and fills no memory, and `Connections`
 * lets go of it where it is too slow. Writing to a client that has gone does nothing; `clientGone` tells of it.
 *
 * @example
 * using stream = new ResponseStream(reply, { contentType: "text/event-stream" });
 * stream.heartbeat(15_000, ": waiting\n\n");
 * for await (const event of events) await stream.write(`data: ${JSON.stringify(event)}\n\n`);
 * await stream.end();
 */
export class ResponseStream implements Disposable {
  readonly #reply: FastifyReply;
  readonly #contentType: string;
  #heartbeat: NodeJS.Timeout | undefined;
  #room: Promise<void> | undefined;
  #isOpen = false;
  #isEnded = false;

  constructor(reply: FastifyReply, { contentType }: ResponseStreamOptions) {
    this.#reply = reply;
    this.#contentType = contentType;
  }

  /** Whether the head has gone out: a failure can be no plain HTTP error any more. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Writes a piece; done when the reader has room for more, or has gone. */
  async write(text: string): Promise<void> {
    const { raw } = this.#reply;
    if (this.#isEnded || raw.destroyed) return;
    this.#open();
    this.#heartbeat?.refresh();
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length && !raw.writableEnded && !raw.destroyed; at += pieceBytes) {
      const hasRoom = raw.write(bytes.subarray(at, at + pieceBytes));
      if (!hasRoom && !raw.destroyed) await this.#roomAgain();
    }
  }

  /** From now on writes `text` whenever nothing was written for `ms` milliseconds, until the stream ends. */
  heartbeat(ms: number, text: string): void {
    clearInterval(this.#heartbeat);
    this.#heartbeat = setInterval(() => {
      // A reader that has not taken the last piece knows that we live.
      if (!this.#reply.raw.writableNeedDrain) void this.write(text);
    }, ms);
    this.#heartbeat.unref();
  }

  /** Ends the answer; done when it has been handed to the network, or the client has gone. */
  async end(): Promise<void> {
    const { raw } = this.#reply;
    if (!this.#isEnded && !raw.destroyed) {
      this.#open();
      raw.end();
    }
    this[Symbol.dispose]();
    if (!raw.writableFinished && !raw.destroyed) await this.#roomAgain();
  }

  /** Stops the heartbeat, and ends the answer if it was begun. */
  [Symbol.dispose](): void {
    clearInterval(this.#heartbeat);
    if (this.#isOpen && !this.#isEnded && !this.#reply.raw.writableEnded) this.#reply.raw.end();
    this.#isEnded = true;
  }

  #open(): void {
    if (this.#isOpen) return;
    this.#isOpen = true;
    const reply = this.#reply;
    reply.hijack();
    reply.raw.writeHead(reply.statusCode, {
      ...definedHeaders(reply.getHeaders()),
      "content-type": this.#contentType,
      "cache-control": "no-cache, no-transform",
      // nginx would hold pieces back.
      "x-accel-buffering": "no",
    });
  }

  /** Waits until the reader has taken what is there, all is sent, or the connection is closed. Writers share one wait. */
  #roomAgain(): Promise<void> {
    const { raw } = this.#reply;
    this.#room ??= new Promise((resolve) => {
      const events = ["drain", "finish", "close"];
      const done = (): void => {
        for (const event of events) raw.off(event, done);
        this.#room = undefined;
        resolve();
      };
      for (const event of events) raw.on(event, done);
    });
    return this.#room;
  }
}

type Headers = ReturnType<FastifyReply["getHeaders"]>;

function definedHeaders(headers: Headers): Record<string, string | number | string[]> {
  return Object.fromEntries(
    Object.entries(headers).filter((entry): entry is [string, string | number | string[]] => entry[1] !== undefined),
  );
}
