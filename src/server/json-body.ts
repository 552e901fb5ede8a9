import type { FastifyInstance, FastifyRequest } from "fastify";
import { checkNesting } from "../files/bounded-json.js";
import { isInputError } from "../files/input-error.js";
import { clip, quote } from "../files/quote.js";
import { ApiError } from "./api-error.js";

/**
 * Makes JSON the only body that the server reads: UTF-8, within the limits, no key twice in an object (readers differ in
 * which one counts), and no key that would change an object's prototype. All else is a 400 or 415 that says so. Other
 * types than JSON are refused, forms and plain text too, which a web page could send anywhere without asking.
 *
 * A large body takes tens of milliseconds to read, so of those that have come only one is read in a turn of the event loop.
 *
 * @param onBody told of each body that has come, before it is read. @throws what its client is to be told.
 */
export function readJsonBodies(
  app: FastifyInstance,
  limits: { maxDepth: number; maxKeys: number },
  onBody: (request: FastifyRequest, numBytes: number) => void = () => undefined,
): void {
  let lastTurn = Promise.resolve();
  const turn = (): Promise<void> => {
    lastTurn = lastTurn.then(() => new Promise<void>((resolve) => setImmediate(resolve)));
    return lastTurn;
  };
  const parse = app.getDefaultJsonParser("error", "error");
  app.removeAllContentTypeParsers();
  const read = (request: FastifyRequest, body: Buffer, done: (error: Error | null, value?: unknown) => void): void => {
    const encoding = request.headers["content-encoding"];
    if (encoding !== undefined && encoding !== "identity") {
      const message = `Cannot read the body: its Content-Encoding is ${quote(encoding, 40)}, wanted none`;
      done(new ApiError(415, message, { code: "unsupported_content_encoding" }));
      return;
    }
    let text: string;
    try {
      text = new TextDecoder("utf-8", { fatal: true }).decode(body);
    } catch (error) {
      done(invalidJson("Cannot read the body: it is not UTF-8", error));
      return;
    }
    try {
      checkNesting(text, "the body", { ...limits, uniqueKeys: true });
    } catch (error) {
      done(isInputError(error) ? invalidJson(error.message, error) : (error as Error));
      return;
    }
    // Clients set the type of a body that they do not send.
    if (text === "" && request.method === "DELETE") {
      done(null);
      return;
    }
    if (text.trim() === "") {
      done(invalidJson("Cannot read the body: it is empty, wanted JSON", undefined));
      return;
    }
    // The parser calls back at once.
    parse(request, text, (error, value) => {
      if (error === null) done(null, value);
      else done(invalidJson(`Cannot read the body: ${whyRefused(text)}`, error));
    });
  };
  app.addContentTypeParser<Buffer>("application/json", { parseAs: "buffer" }, (request, body, done) => {
    try {
      onBody(request, body.length);
    } catch (error) {
      done(error as Error);
      return;
    }
    if (body.length < largeBodyBytes) read(request, body, done);
    else {
      void turn().then(() => {
        if (request.raw.socket.destroyed) done(new ApiError(408, "Cancelled: the client has gone"));
        else read(request, body, done);
      });
    }
  });
}

/** Less is read in a millisecond or two. */
export const largeBodyBytes = 2 ** 16;

function invalidJson(message: string, cause: unknown): ApiError {
  return new ApiError(400, message, { code: "invalid_json", cause });
}

/** The framework's parser tells no reason: what is JSON all the same was refused for its keys. */
function whyRefused(text: string): string {
  try {
    JSON.parse(text);
    return 'it has a key "__proto__" or "constructor" that would change an object\'s prototype';
  } catch (error) {
    // The message may quote the text, line ends and all.
    const line = String((error as Error).message)
      .replace(/\s+/g, " ")
      .trim();
    return `it is no JSON, ${clip(line, 160)}`;
  }
}
