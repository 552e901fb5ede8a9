import type { Engine } from "../engine/engine.js";
import type { Quota } from "./quotas.js";
import type { ServerLimits } from "./server-config.js";

/** Who asks: one key's holder. Without keys there is one tenant, whose salt is "". */
export interface Tenant {
  /** For logs and metrics: never the key, nor anything that it could be guessed from. */
  readonly name: string;
  /** Made from the key on the server's side: no two tenants share a block. */
  readonly salt: string;
  /** What the file of keys says; where it says nothing, the server's defaults hold. */
  readonly quota: Quota;
}

/** What every route works with. */
export interface RouteContext {
  /** Counts what it does in the metrics by itself. */
  readonly engine: Engine;
  readonly limits: ServerLimits;
  /** Under which the model is listed, the first in answers; empty: its own name. */
  readonly aliases: readonly string[];
}

declare module "fastify" {
  interface FastifyContextConfig {
    /** Set on routes that need no key, such as the page's files: `app.get("/", { config: { isPublic: true } }, …)`. */
    isPublic?: boolean;
  }
  interface FastifyRequest {
    /** Set before any route that needs a key runs. */
    tenant: Tenant;
  }
}
