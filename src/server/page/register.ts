import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
// For `hide`: the page is no part of the API's description.
import type {} from "@fastify/swagger";
import type { FastifyInstance, FastifyReply } from "fastify";
// For `isPublic`.
import type {} from "../route-context.js";

/** A file as it is sent. */
interface PageFile {
  readonly content: Buffer;
  readonly type: string;
  readonly etag: string;
}

const types: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

/** No key is needed, and the page is no part of the API's description. */
const open = { config: { isPublic: true }, schema: { hide: true } };

/** The page loads its own files and asks its own server, and nothing else; no script or style stands in its text. */
const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/**
 * Serves the page at `/` and its files under `/assets/`, read once, now. None of them needs a key. Where the page has
 * not been built, `/` says so with status 503 and the API works on.
 *
 * @param folder what scripts/build-page.mjs wrote; default: where it writes beside this file, compiled.
 */
export function registerPage(
  app: FastifyInstance,
  folder: string = fileURLToPath(new URL("assets", import.meta.url)),
): void {
  const files = readPage(folder);
  const index = files.get("index.html");
  if (index === undefined) {
    const message = 'Cannot show the page: its files are not built, wanted them from "npm run build"';
    app.get("/", open, (_request, reply) =>
      reply.code(503).send({ error: { message, type: "server_error", param: null, code: null } }),
    );
    return;
  }
  app.get("/", open, (request, reply) => {
    // The names within change with what they name: this one file is asked for each time.
    reply.header("cache-control", "no-cache");
    return send(reply, index, request.headers["if-none-match"]);
  });
  for (const [name, file] of files) {
    if (name === "index.html") continue;
    app.get(`/assets/${name}`, open, (request, reply) => {
      reply.header("cache-control", "public, max-age=31536000, immutable");
      return send(reply, file, request.headers["if-none-match"]);
    });
  }
}

function readPage(folder: string): ReadonlyMap<string, PageFile> {
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return new Map();
    throw error;
  }
  const files = new Map<string, PageFile>();
  for (const name of names) {
    const type = types[extname(name)];
    if (type === undefined) continue;
    const content = readFileSync(join(folder, name));
    const etag = `"${createHash("sha256").update(content).digest("base64url").slice(0, 22)}"`;
    files.set(name, { content, type, etag });
  }
  return files;
}

function send(reply: FastifyReply, { content, type, etag }: PageFile, known: string | undefined): FastifyReply {
  reply.headers({
    etag,
    "content-security-policy": contentSecurityPolicy,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
  });
  const isKnown = known?.split(",").some((tag) => tag.trim().replace(/^W\//, "") === etag) ?? false;
  return isKnown ? reply.code(304).send() : reply.type(type).send(content);
}
