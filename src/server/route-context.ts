import { z } from "zod";
import type { Engine } from "../engine/engine.js";
import { hashFields } from "../kv/hash-fields.js";
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

/** An end user of the key's holder, as requests name one. */
export const endUserSalt = z
  .string()
  .min(1)
  .max(256)
  .nullish()
  .describe(
    "Keeps end users of one key apart: what is kept with one salt is found with it alone, and neither ids nor times tell of it. The key's quota and share are one.",
  );

/** Whose blocks a request may use, and whose share of the machine it takes. @param endUser `endUserSalt` of the request. */
export function ownerOf(tenantSalt: string, endUser: string | null | undefined): { salt: string; payer?: string } {
  if (endUser == null) return { salt: tenantSalt };
  return { salt: hashFields("end user of a tenant", [tenantSalt, endUser]), payer: tenantSalt };
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
