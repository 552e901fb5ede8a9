import type { FastifyInstance } from "fastify";
import { referenceHtml } from "./reference-html.js";
import { referenceStyle } from "./reference-style.js";

const contentSecurityPolicy =
  "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** `GET /openapi.json`, and at `/docs` the same for people: one page and its stylesheet, no script, nothing from elsewhere. */
export function registerReference(app: FastifyInstance): void {
  app.get("/openapi.json", { schema: { hide: true } }, () => app.swagger());
  const options = { config: { isPublic: true }, schema: { hide: true } };
  app.get("/docs", options, (_request, reply) => {
    reply.header("content-security-policy", contentSecurityPolicy);
    return reply.type("text/html; charset=utf-8").send(referenceHtml(app.swagger()));
  });
  app.get("/docs/style.css", options, (_request, reply) =>
    reply.type("text/css; charset=utf-8").header("cache-control", "public, max-age=3600").send(referenceStyle),
  );
}
