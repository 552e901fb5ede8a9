// What the examples with a page have in common: an HTTP server for this machine alone that sends a page, reads JSON, and answers with JSON or lines
// of it.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const pageFiles = [
  ["/", "page.html", "text/html; charset=utf-8"],
  ["/page.js", "page.js", "text/javascript; charset=utf-8"],
  ["/page.css", "page.css", "text/css; charset=utf-8"],
];
const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** What a request is refused with. */
export class HttpError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * A server that sends page.html, page.js and page.css, which stand beside a module, and leaves other requests to `answer`.
 *
 * @param module its `import.meta.url`.
 * @param answer called with the request, the response, and the path. What it throws is told; of an answer that has begun as its last line.
 * @param options.failedStatus of errors other than an HttpError.
 * @param options.pathOf reads a request's path. @throws HttpError for a request that is refused.
 */
export function createPageServer(module, answer, { failedStatus, pathOf }) {
  const files = Object.fromEntries(
    pageFiles.map(([path, name, type]) => [path, { type, body: readFileSync(new URL(name, module)) }]),
  );
  const respond = async (request, response) => {
    const pathname = pathOf(request);
    const file = files[pathname];
    if (request.method !== "GET" || file === undefined) return await answer(request, response, pathname);
    response.writeHead(200, {
      "content-type": file.type,
      "content-security-policy": policy,
      "x-content-type-options": "nosniff",
      "cache-control": "no-cache",
    });
    response.end(file.body);
  };
  return createServer((request, response) => {
    respond(request, response).catch((error) => {
      const message = error instanceof Error ? error.message : String(error);
      if (response.headersSent) response.end(`${JSON.stringify({ kind: "failed", message })}\n`);
      else sendJson(response, error instanceof HttpError ? error.status : failedStatus, { error: message });
    });
  });
}

/** The error for a request that no route takes. */
export function noRoute({ method }, pathname) {
  return new HttpError(404, `Cannot answer: there is no ${method} ${pathname.slice(0, 80)}`);
}

export function sendJson(response, status, value) {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" });
  response.end(JSON.stringify(value));
}

/** An answer of lines of JSON: what sends one, and a signal for when nobody reads any more. */
export function startLines(response) {
  const left = new AbortController();
  response.once("close", () => left.abort(new Error("Cannot go on: nobody reads")));
  const send = (event) => {
    if (!response.headersSent)
      response.writeHead(200, { "content-type": "application/x-ndjson", "cache-control": "no-store" });
    if (!response.destroyed) response.write(`${JSON.stringify(event)}\n`);
  };
  return { send, signal: left.signal };
}

/** A request's body, an object. @throws HttpError for any other, and for one of more characters. */
export async function readBody(request, maxBody) {
  // A page of another origin can send forms, and no JSON.
  if (!/^application\/json\b/.test(request.headers["content-type"] ?? ""))
    throw new HttpError(415, "Cannot read the request: wanted JSON");
  let text = "";
  for await (const part of request.setEncoding("utf8")) {
    text += part;
    if (text.length > maxBody)
      throw new HttpError(413, `Cannot read the request: at most ${maxBody} characters are wanted`);
  }
  try {
    const body = JSON.parse(text);
    if (typeof body === "object" && body !== null) return body;
  } catch {
    // Refused below.
  }
  throw new HttpError(400, "Cannot read the request: it is no JSON object");
}
