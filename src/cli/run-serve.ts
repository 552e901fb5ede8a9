import { homedir } from "node:os";
import { basename } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { FastifyInstance } from "fastify";
import type { Logger } from "pino";
import type { Engine } from "../engine/engine.js";
import { engineSettingsOf } from "../engine/engine-options.js";
import { chosenModel } from "../engine/model.js";
import type { EngineStatus } from "../engine/status-source.js";
import { UsageError } from "../files/usage-error.js";
import { type ApiKeys, readApiKeys } from "../server/api-keys.js";
import { createApp, refusePublicWithoutKeys } from "../server/app.js";
import { Embedder } from "../server/embeddings/embedder.js";
import { spawnEngine } from "../server/engine-process/spawn-engine.js";
import { urlHost } from "../server/host-names.js";
import { loadConfig, type ServerConfig } from "../server/server-config.js";
import { serverLogger } from "../server/server-logger.js";
import { VllmEngine, type VllmEngineOptions } from "../server/vllm-engine/vllm-engine.js";
import { adaptersOnDisk, fetchDefaultModel, modelOnDisk } from "./pull-model.js";
import { note, type Terminal } from "./terminal.js";

/** Settings by their name, as text, and where the others are. */
export interface ServeFlags {
  readonly config?: string;
  readonly waitReady?: true;
  readonly verbose?: true;
  readonly [setting: string]: unknown;
}

/**
 * Serves until it is told to end. @returns the exit code: 0 after a signal, 1 if the model cannot be loaded.
 *
 * @throws UsageError for settings that cannot be used; Error if it cannot listen.
 */
export async function serve(flags: ServeFlags, terminal: Terminal): Promise<number> {
  terminal.endWell();
  const { config, keys } = await readSettings(flags, terminal);
  const names = new Map([
    [homedir(), "~"],
    [fileURLToPath(new URL("../..", import.meta.url)), "block-attention"],
    ...[config.model, (config.adapters ?? []).map(({ path }) => path)]
      .flat()
      .map((path) => [path, basename(path)] as const),
  ]);
  const logger = serverLogger(config.logLevel, { write: (line) => terminal.stderr.write(line) }, names);
  const stopping = new AbortController();
  const words = {
    system: config.ragSystem,
    preamble: config.ragPreamble,
    passage: config.ragPassage,
    final: config.ragFinal,
  };
  const onWarning = (warning: string) => logger.warn(warning);
  await using embedder = config.embeddingModel === undefined ? undefined : await Embedder.open(config.embeddingModel);
  await using engine =
    config.engine !== undefined
      ? await vllmEngine({ ...config, engine: config.engine, ragTexts: words, onWarning }, terminal)
      : spawnEngine({
          ...engineSettingsOf({ ...config, repair: config.repair ?? "auto" }),
          // Connections have a rule of their own, which must come first: what it allows, the engine waits for.
          readerTimeoutMs: Math.min(2 ** 31 - 1, (config.stallSeconds + config.transferSeconds) * 1000),
          ragTexts: words,
          onWarning,
          onLog: (line) => logger.warn({ engine: line }, "the engine's process says"),
        });
  using _reloads = keys && reloadKeys(keys, config, terminal, logger);
  const app = await createApp({ engine, config, keys, logger, embedder, stopping: stopping.signal });
  try {
    const address = await listen(app, config);
    const tellAddress = () => terminal.stdout.write(`Listening on ${address}\n`);
    if (!flags.waitReady) tellAddress();
    const failure = await untilEnd(engine, terminal, logger, flags.waitReady ? tellAddress : undefined);
    stopping.abort();
    if (failure !== undefined) {
      note(terminal, failure);
      return 1;
    }
    logger.info({ drainSeconds: config.drainSeconds }, "ending: running requests may finish");
    await Promise.race([app.whenIdle(), sleep(config.drainSeconds * 1000, undefined, { ref: false })]);
    return 0;
  } finally {
    stopping.abort();
    // Ends what still runs with an error that its client sees.
    await engine[Symbol.asyncDispose]();
    await Promise.race([app.whenIdle(), sleep(lastWordsMs, undefined, { ref: false })]);
    app.server.closeAllConnections();
    await app.close();
  }
}

/** @throws UsageError for settings that vLLM has itself; Error where the model cannot be read or a server not be reached. */
async function vllmEngine(
  config: Omit<VllmEngineOptions, "urls" | "key" | "signal"> &
    Pick<ServerConfig, "adapters" | "repair" | "store"> & { readonly engine: string },
  { env, signal }: Terminal,
): Promise<Engine> {
  const {
    adapters = [],
    repair = "none",
    store,
    engine,
    model,
    mode,
    kvType,
    ragTexts,
    maxPromptTokens,
    onWarning,
  } = config;
  if (adapters.length > 0 || store !== undefined || repair !== "none") {
    throw new UsageError(
      "Cannot serve with vLLM: there are adapters, a repair or a store, wanted none, vLLM has its own",
    );
  }
  const urls = engine.slice("vllm=".length).split(",");
  const key = env.VLLM_API_KEY;
  return await VllmEngine.load({ model, mode, kvType, ragTexts, maxPromptTokens, onWarning, urls, key, signal });
}

/** For clients to be told that their request was ended. */
const lastWordsMs = 1_000;

async function readSettings(
  { config: file, verbose: _verbose, waitReady: _waitReady, ...options }: ServeFlags,
  terminal: Terminal,
): Promise<{ readonly config: ServerConfig & { readonly model: string }; readonly keys: ApiKeys | undefined }> {
  const named = await loadConfig({ options, env: terminal.env, file });
  const warn = (warning: string): void => note(terminal, `${terminal.errorColors.yellow("Warning")}: ${warning}`);
  const keys = named.keys === undefined ? undefined : await readApiKeys(named.keys, warn);
  refusePublicWithoutKeys(named, keys);
  // Adapters that no model is named for are refused before anything is fetched.
  chosenModel(named);
  const config = {
    ...named,
    model: await (named.model === undefined ? fetchDefaultModel(terminal) : modelOnDisk(named.model, terminal)),
    adapters: named.adapters && [...(await adaptersOnDisk(named.adapters, terminal))],
  };
  return { config, keys };
}

/** Reads the file of keys anew at each SIGHUP, one after the other; from one that cannot be used nothing is taken. */
function reloadKeys(keys: ApiKeys, { keys: path = "" }: ServerConfig, terminal: Terminal, logger: Logger): Disposable {
  let last: Promise<void> = Promise.resolve();
  const reload = async (): Promise<void> => {
    try {
      const gone = keys.replaceWith(await readApiKeys(path, (warning) => logger.warn(warning)));
      logger.info({ keys: keys.size, gone }, "the keys were read anew");
    } catch (error) {
      logger.error({ reason: error instanceof Error ? error.message : String(error) }, "the keys stay as they were");
    }
  };
  return terminal.onHangup(() => {
    last = last.then(reload);
  });
}

/** @returns the address, as clients say it. */
async function listen(app: FastifyInstance, { host, port }: ServerConfig): Promise<string> {
  try {
    // Fastify would make a second server for the other address of "localhost", one that is held to no limits.
    await app.listen({ host: host === "localhost" ? "127.0.0.1" : host, port });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    const reason = listenErrors[code] ?? (error instanceof Error ? error.message : String(error));
    throw new Error(`Cannot listen on ${urlHost(host)}:${port}: ${reason}`, { cause: error });
  }
  const address = app.server.address();
  const usedPort = typeof address === "object" && address !== null ? address.port : port;
  return `http://${urlHost(host)}:${usedPort}`;
}

const listenErrors: Readonly<Record<string, string>> = {
  EADDRINUSE: "the port is in use, wanted a free one (0 takes any)",
  EACCES: "this user may not use the port, wanted one from 1024 on",
  EADDRNOTAVAIL: "this machine has no such address",
  ENOTFOUND: "there is no such host",
};

/**
 * Waits for the signal to end, and tells the log of the engine's ups and downs.
 *
 * @param onLoaded called once the model is loaded.
 * @returns why the model could not be loaded.
 */
function untilEnd(
  engine: Engine,
  { signal }: Terminal,
  logger: Logger,
  onLoaded: (() => void) | undefined,
): Promise<string | undefined> {
  let tell = onLoaded;
  return new Promise((resolve) => {
    const watch = (status: EngineStatus): void => {
      const { state, restarts, lastError, replicas } = status;
      const line = { state, restarts, ...(lastError !== undefined && { lastError }), ...(replicas && { replicas }) };
      if (state === "restarting" || state === "failed") logger.error(line, "the engine is not there");
      else if (replicas?.some(({ downReason }) => downReason !== undefined)) logger.warn(line, "a vLLM server is down");
      else logger.info({ ...line, ...(state === "ready" && { model: engine.info?.name }) }, `the engine is ${state}`);
      if (state === "ready") {
        tell?.();
        tell = undefined;
      }
      if (state === "failed") end(lastError ?? "Cannot load the model: the engine says no more");
    };
    const end = (failure: string | undefined): void => {
      stopWatching();
      signal.removeEventListener("abort", onSignal);
      resolve(failure);
    };
    const onSignal = (): void => end(undefined);
    const stopWatching = engine.onStatus(watch);
    signal.addEventListener("abort", onSignal);
    if (signal.aborted) end(undefined);
    else if (engine.status.state !== "loading") watch(engine.status);
  });
}
