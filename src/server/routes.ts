import type { FastifyInstance } from "fastify";

/** The paths that are served. */
export interface Routes {
  /** The methods that a path has, sorted; empty where there is no such path. */
  methodsOf(path: string): string[];
  /**
   * The path that a wrong one was meant to be: clients end a path with a slash, say "/v1" twice or not at all, or put the
   * API under a path of their own.
   *
   * @example "/v1/v1/chat/completions/" and "/chat/completions" are "/v1/chat/completions"
   */
  nearest(path: string): string | undefined;
}

/** Longer than any route that there is. */
const maxParts = 4;

/** Collects the routes that are registered from now on. */
export function collectRoutes(app: FastifyInstance): Routes {
  const routes: { readonly pattern: RegExp; readonly methods: readonly string[] }[] = [];
  app.addHook("onRoute", ({ url, method }) => {
    // A wildcard is a catch-all of a plugin's: no path is there because of it.
    if (url.includes("*")) return;
    const pattern = new RegExp(`^${url.replace(/[.+?^${}()|[\]\\]/g, "\\$&").replace(/:[A-Za-z]+/g, "[^/]+")}$`);
    routes.push({ pattern, methods: [method].flat() });
  });
  const methodsOf = (path: string): string[] => {
    const methods = routes.filter(({ pattern }) => pattern.test(path)).flatMap((route) => route.methods);
    return [...new Set(methods)].sort();
  };
  return {
    methodsOf,
    nearest(path) {
      const parts = path.split("/").filter((part) => part !== "");
      const ends = parts.slice(-maxParts).map((_, i, last) => `/${last.slice(i).join("/")}`);
      return ends.flatMap((end) => [end, `/v1${end}`]).find((candidate) => methodsOf(candidate).length > 0);
    },
  };
}
