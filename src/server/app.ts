import { AsyncLocalStorage } from "node:async_hooks";
import { randomUUID } from "node:crypto";
import type { Socket } from "node:net";
import { getHeapStatistics } from "node:v8";
import cors from "@fastify/cors";
import swagger from "@fastify/swagger";
import underPressure from "@fastify/under-pressure";
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from "fastify";
import { jsonSchemaTransform, jsonSchemaTransformObject } from "fastify-type-provider-zod";
import { type Logger, pino } from "pino";
import type { Engine } from "../engine/engine.js";
import { packageVersion } from "../files/package-version.js";
import { quote } from "../files/quote.js";
import { UsageError } from "../files/usage-error.js";
import { ApiError, errorBody, toApiError } from "./api-error.js";
import type { ApiKeys } from "./api-keys.js";
import { registerBlocks } from "./blocks-routes.js";
import { answerClientError } from "./client-error.js";
import { Connections } from "./connections.js";
import { registerDocuments } from "./documents-routes.js";
import type { TextEmbedder } from "./embeddings/embedder.js";
import { registerGenerate } from "./generate-route.js";
import { hostGuard, isLoopback } from "./host-names.js";
import { largeBodyBytes, readJsonBodies } from "./json-body.js";
import { MeteredEngine, RequestWork } from "./metered-engine.js";
import { Metrics } from "./metrics.js";
import { registerEmbeddings } from "./openai/embeddings-route.js";
import { maxValuesOf } from "./openai/fields.js";
import { registerOpenAi } from "./openai/register.js";
import { requestValidator } from "./openai/request-field.js";
import { registerResponses } from "./openai/responses-routes.js";
import { registerPage } from "./page/register.js";
import { Quotas, quotaHeaders } from "./quotas.js";
import { registerReference } from "./reference-page.js";
import type { RouteContext, Tenant } from "./route-context.js";
import { collectRoutes, type Routes } from "./routes.js";
import type { ServerConfig } from "./server-config.js";
import { registerStatus } from "./status-routes.js";
import { registerTokenize } from "./tokenize-route.js";

export interface AppOptions {
  readonly engine: Engine;
  readonly config: ServerConfig;
  /** Of `POST /v1/embeddings`; undefined: it answers that there is none. */
  readonly embedder?: TextEmbedder | undefined;
  /** Undefined: every request is served, and all are one tenant's. */
  readonly keys?: ApiKeys | undefined;
  /** Default: nothing is logged. */
  readonly logger?: Logger | undefined;
  /** Aborted once the server is told to end: new requests are refused from then on. */
  readonly stopping?: AbortSignal | undefined;
}

declare module "fastify" {
  interface FastifyInstance {
    /** Done once no request is being served, health, readiness and metrics left out. */
    whenIdle(): Promise<void>;
  }
}

/** Without keys everybody is this one. */
const onlyTenant: Tenant = { name: "default", salt: "", quota: {} };
/** Who asks for what needs no key, where others need one. */
const anybody: Tenant = { name: "anonymous", salt: "anonymous", quota: {} };
/** A client's name for its request, as it may stand in the log: an id as gateways make them, and no sentence. */
const requestId = /^[\w.:-]{8,64}$/;
/** Requests in work beyond those that run or wait in the engine: cutting, tokenizing. */
const spareRequests = 64;
/** Connections beyond those: idle, sending a request, or taking an answer. */
const spareConnections = 1024;

/**
 * The server's application: every route, with what holds for all of them. It does not listen yet, and it does not own
 * the engine.
 *
 * @throws UsageError if it would listen on a public address without keys.
 */
export async function createApp(options: AppOptions): Promise<FastifyInstance> {
  const { engine, config, keys, stopping = new AbortController().signal } = options;
  refusePublicWithoutKeys(config, keys);
  const logger = options.logger ?? pino({ enabled: false });
  const version = packageVersion();
  const app: FastifyInstance = Fastify({
    loggerInstance: logger as FastifyBaseLogger,
    logController: new LogController({ disableRequestLogging: true }),
    genReqId: ({ headers: { "x-request-id": given } }) =>
      typeof given === "string" && requestId.test(given) ? given : `req_${randomUUID().replaceAll("-", "")}`,
    bodyLimit: config.maxBodyBytes,
    // Connections keeps the time, of heads too.
    requestTimeout: 0,
    http: {
      maxHeaderSize: config.maxHeaderBytes,
      // Node's own refusal has no body: admit() tells why.
      requireHostHeader: false,
      headersTimeout: 0,
    },
    // A path is bounded by the head already; the routes say what they take.
    routerOptions: { maxParamLength: config.maxHeaderBytes },
    clientErrorHandler: (error, socket) => {
      if (connections.canTell(socket as Socket)) answerClientError(error, socket as Socket);
      else socket.destroy();
    },
    frameworkErrors: (error, request, reply) => {
      const told = toApiError(error);
      void (reply as FastifyReply).header("x-request-id", request.id).code(told.statusCode).send(errorBody(told));
    },
  });
  app.setValidatorCompiler(requestValidator());
  // Answers are made here, and checked by the compiler: to check a large one again keeps everybody waiting.
  app.setSerializerCompiler(() => (answer) => JSON.stringify(answer));
  // Bytes are the limit: Node would drop what comes after the 2,000th header.
  app.server.maxHeadersCount = 0;
  const routes = collectRoutes(app);

  const work = new AsyncLocalStorage<RequestWork>();
  const metrics = new Metrics({ engine, version, processBytes: () => process.memoryUsage.rss() });
  const { keyTokensPerMinute: tokensPerMinute, keyRequests } = config;
  const quotas = new Quotas(
    { tokensPerMinute, requests: keyRequests },
    () => Math.floor(performance.now()),
    (reason) => metrics.refusedRequests.inc({ reason }),
  );
  const metered = new MeteredEngine(engine, metrics, () => work.getStore());

  const maxRequests = config.maxRunning + config.maxQueued + spareRequests;
  const limits = { ...config, maxConnections: maxRequests + spareConnections };
  const connections = new Connections(app.server, limits, (reason) => {
    metrics.closedConnections.inc({ reason });
    logger.info({ reason }, "closed a connection");
  });

  answerErrors(app, routes);
  observe(app, { metrics, work, keys, quotas });
  refuseRepeatedHeaders(app);
  await app.register(underPressure, {
    maxHeapUsedBytes: Math.floor(getHeapStatistics().heap_size_limit * 0.85),
    pressureHandler: (request) => {
      if (!isPublic(request)) throw busy("Cannot serve: the server is short of memory", "overloaded");
    },
  });
  if (config.corsOrigins !== undefined) {
    const origins = new Set(config.corsOrigins);
    const allowed = origins.has("*") ? "*" : true;
    await app.register(cors, {
      // No header of CORS goes to an origin that is not named, nor to a client that is no web page.
      origin: (origin, done) => done(null, origin !== undefined && (allowed === "*" || origins.has(origin)) && allowed),
      methods: ["GET", "POST", "DELETE"],
      // Whatever headers a page asks for: each library sends some of its own, and cookies mean nothing here.
      strictPreflight: false,
      exposedHeaders: ["x-request-id", "retry-after", "x-block-affinity", ...quotaHeaders],
      maxAge: 600,
    });
  }
  const takePlace = admit(app, { config, keys, quotas, stopping, maxRequests });
  readJsonBodies(app, { maxDepth: config.maxJsonDepth, maxKeys: maxValuesOf(config) }, takePlace);
  app.addHook("onSend", async (request, reply, payload) => {
    if (request.method === "HEAD" || !(typeof payload === "string" || Buffer.isBuffer(payload))) return payload;
    reply.header("content-length", Buffer.byteLength(payload));
    return connections.inPieces(request.raw, payload);
  });
  // Before the body is read: what nobody takes need not be good.
  app.addHook("onRequest", async (request) => {
    if (request.is404) throw noRoute(request, routes);
  });

  await app.register(swagger, {
    openapi: {
      openapi: "3.1.0",
      info: {
        title: "Block-Attention",
        version,
        description: "Passages are encoded once, kept, and reused at any place of any prompt.",
        license: { name: "Apache-2.0", identifier: "Apache-2.0" },
      },
      ...(keys !== undefined && {
        components: { securitySchemes: { key: { type: "http", scheme: "bearer" } } },
        security: [{ key: [] }],
      }),
    },
    transform: jsonSchemaTransform,
    transformObject: jsonSchemaTransformObject,
  });
  const context: RouteContext = { engine: metered, limits: config, aliases: config.alias ?? [] };
  registerGenerate(app, context);
  registerBlocks(app, context);
  registerDocuments(app, context);
  registerTokenize(app, context);
  registerStatus(app, { engine: metered, metrics, stopping });
  registerOpenAi(app, context);
  registerResponses(app, context);
  registerEmbeddings(app, options.embedder, (tokens) => work.getStore()?.countPrompt(tokens, 0));
  registerReference(app);
  await app.register(async (page) => {
    page.addHook("onRoute", (route) => {
      route.config = { ...route.config, isPublic: true };
    });
    registerPage(page);
  });
  return app;
}

/** @throws UsageError where others could reach the server and no key is asked for. */
export function refusePublicWithoutKeys({ host }: ServerConfig, keys: ApiKeys | undefined): void {
  if (keys !== undefined || isLoopback(host)) return;
  throw new UsageError(
    `Cannot serve on "${host}": others can reach it and there are no keys, wanted --keys or --host 127.0.0.1`,
  );
}

/** Errors of whatever kind in OpenAI's form; what is our fault goes to the log, with its stack. */
function answerErrors(app: FastifyInstance, routes: Routes): void {
  app.setErrorHandler((error, request, reply) => {
    const told = toApiError(error);
    if (told.statusCode === 500) request.log.error({ err: error }, "a request failed");
    return reply.code(told.statusCode).headers(told.headers).send(errorBody(told));
  });
  app.setNotFoundHandler((request) => {
    throw noRoute(request, routes);
  });
}

function noRoute(request: FastifyRequest, routes: Routes): ApiError {
  const path = request.url.split("?", 1)[0] ?? "";
  const methods = routes.methodsOf(path);
  if (methods.length === 0 || methods.includes(request.method)) {
    const meant = routes.nearest(path);
    const wanted = meant === undefined ? "one that GET /docs lists" : quote(meant, 120);
    return new ApiError(404, `Cannot find the route: there is none at ${quote(path, 120)}, wanted ${wanted}`, {
      code: "route_not_found",
    });
  }
  return new ApiError(405, `Cannot use ${request.method} here: this path takes ${methods.join(", ")}`, {
    code: "method_not_allowed",
    headers: { allow: methods.join(", ") },
  });
}

/** Headers that have one value. Node keeps the first of several, a proxy before it may have read the last. */
const singleHeaders: ReadonlySet<string> = new Set(["host", "authorization", "content-type"]);

function refuseRepeatedHeaders(app: FastifyInstance): void {
  app.addHook("onRequest", async ({ raw: { rawHeaders } }) => {
    const names = rawHeaders.filter((_, i) => i % 2 === 0).map((name) => name.toLowerCase());
    const repeated = names.find((name, i) => singleHeaders.has(name) && names.indexOf(name) < i);
    if (repeated === undefined) return;
    throw new ApiError(400, `Cannot serve the request: it has several headers "${repeated}", wanted one`, {
      code: "repeated_header",
    });
  });
}

interface Observation {
  readonly metrics: Metrics;
  readonly work: AsyncLocalStorage<RequestWork>;
  readonly keys: ApiKeys | undefined;
  readonly quotas: Quotas;
}

/** What every answer carries, and what is counted and logged of every request. */
function observe(app: FastifyInstance, { metrics, work, keys, quotas }: Observation): void {
  const works = new WeakMap<FastifyRequest, RequestWork>();
  app.decorateRequest("tenant", undefined as unknown as Tenant);
  app.addHook("onRequest", (request, reply, done) => {
    request.tenant = keys === undefined ? onlyTenant : anybody;
    reply.headers({
      "x-request-id": request.id,
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
      "cache-control": "no-store",
    });
    reply.raw.once("close", metrics.httpRequestBegan());
    done();
  });
  // The last hook before the handler: reading the body would lose the context.
  app.addHook("preHandler", (request, _reply, done) => {
    const ours = new RequestWork((tokens) => quotas.book(request.tenant, tokens));
    works.set(request, ours);
    work.run(ours, done);
  });
  app.addHook("onResponse", (request, reply, next) => {
    const { method } = request;
    const route = request.routeOptions.url ?? "unknown";
    const status = reply.raw.statusCode;
    metrics.httpRequests.inc({ method, route, status: String(status) });
    const done = works.get(request);
    const line = {
      method,
      route,
      status,
      ms: Math.round(reply.elapsedTime),
      tenant: request.tenant.name,
      ...(done !== undefined && done.promptTokens > 0 && done),
      ...(!reply.raw.writableFinished && { clientGone: true }),
    };
    request.log[isPublic(request) || route === "/metrics" ? "debug" : "info"](line, "answered");
    next();
  });
}

interface Admission {
  readonly config: ServerConfig;
  readonly keys: ApiKeys | undefined;
  readonly quotas: Quotas;
  readonly stopping: AbortSignal;
  /** That are worked on at the same time. */
  readonly maxRequests: number;
}

/**
 * Who is let in: known before a body is read. A place is taken once the body is there, and given back once the answer
 * is: clients that send or read slowly hold none. Large bodies that have places have no more than `transferBytes` in all.
 *
 * @returns takes a request's place once its body, of so many bytes, has come. @throws ApiError where there is none.
 */
function admit(
  app: FastifyInstance,
  { config, keys, quotas, stopping, maxRequests }: Admission,
): (request: FastifyRequest, numBytes: number) => void {
  const isOurName = isLoopback(config.host) ? hostGuard(config.host, config.allowedHosts) : undefined;
  const inFlight = new Set<FastifyRequest>();
  /** With the bytes of their bodies, where these are large. */
  const places = new Map<FastifyRequest, number>();
  let placedBytes = 0;
  const checkPlaces = (numBytes = 0): void => {
    const isFull = numBytes >= largeBodyBytes && placedBytes > 0 && placedBytes + numBytes > config.transferBytes;
    if (places.size < maxRequests && !isFull) return;
    const size = isFull ? ` of ${placedBytes} bytes` : "";
    throw busy(`Cannot serve: ${places.size} requests${size} are being served already`, "queue_full");
  };
  const takePlace = (request: FastifyRequest, numBytes: number): void => {
    // A client that has gone gave its place back already.
    if (places.has(request) || !inFlight.has(request)) return;
    checkPlaces(numBytes);
    const largeBytes = numBytes < largeBodyBytes ? 0 : numBytes;
    places.set(request, largeBytes);
    placedBytes += largeBytes;
  };
  const leavePlace = (request: FastifyRequest): void => {
    placedBytes -= places.get(request) ?? 0;
    places.delete(request);
  };
  const idle = new Set<() => void>();
  app.decorate("whenIdle", () =>
    inFlight.size === 0 ? Promise.resolve() : new Promise<void>((resolve) => idle.add(resolve)),
  );
  app.addHook("onRequest", async (request, reply) => {
    if (request.headers.host === undefined && request.raw.httpVersion === "1.1") {
      throw new ApiError(400, "Cannot serve the request: it has no Host header", { code: "missing_host" });
    }
    if (isOurName?.(request.headers.host) === false) {
      throw new ApiError(403, "Cannot serve the request: its Host header names no host of this server", {
        code: "unknown_host",
      });
    }
    if (isPublic(request)) return;
    if (keys !== undefined) {
      const tenant = keys.tenantOf(request.headers.authorization);
      if (tenant === undefined) {
        const has = request.headers.authorization !== undefined;
        throw new ApiError(401, `Cannot serve the request: its key is ${has ? "none of this server's" : "missing"}`, {
          code: has ? "invalid_api_key" : "missing_api_key",
          headers: { "www-authenticate": 'Bearer realm="block-attention"' },
        });
      }
      request.tenant = tenant;
    }
    if (request.routeOptions.url === "/metrics") return;
    if (stopping.aborted) {
      reply.header("connection", "close");
      throw busy("Cannot serve: the server is ending", "draining");
    }
    checkPlaces();
    // Whoever has used a quota up may still look at what is kept, and delete it.
    if (request.method === "POST") {
      const { headers, end } = quotas.begin(request.tenant);
      reply.headers(headers);
      reply.raw.once("close", end);
    }
    inFlight.add(request);
    reply.raw.once("close", () => {
      leavePlace(request);
      inFlight.delete(request);
      if (inFlight.size > 0) return;
      for (const resolve of idle) resolve();
      idle.clear();
    });
  });
  app.addHook("preValidation", async (request) => {
    if (isPublic(request) || request.routeOptions.url === "/metrics") return;
    takePlace(request, 0);
  });
  app.addHook("onSend", async (request) => leavePlace(request));
  return takePlace;
}

function busy(message: string, code: string): ApiError {
  return new ApiError(503, message, { code, headers: { "retry-after": "1" } });
}

function isPublic(request: FastifyRequest): boolean {
  return request.routeOptions.config?.isPublic === true;
}
