import type { FastifyInstance } from "fastify";

/** `GET /openapi.json`, and at `/docs` the same for people: one page and its stylesheet, nothing from elsewhere. */
export function registerReference(app: FastifyInstance): void {
  app.get("/openapi.json", { schema: { hide: true } }, () => app.swagger());
}
