import type { PassageInput } from "../../blocks/passage.js";
import { ByteBudget } from "../../engine/byte-budget.js";
import type { Engine } from "../../engine/engine.js";
import { EngineError } from "../../engine/engine-error.js";
import type {
  DocumentsOptions,
  EncodeOptions,
  EngineOptions,
  GenerateOptions,
  RequestOptions,
  ScoreOptions,
  TokenizeOptions,
} from "../../engine/engine-options.js";
import type { ModelInfo } from "../../engine/model.js";
import { Outbox } from "../../engine/outbox.js";
import type { PromptInput } from "../../engine/prompt.js";
import type { EncodedPassage, EncodeResult, EngineStats, GenerateEvent, ScoreResult } from "../../engine/results.js";
import { type EngineStatus, StatusSource } from "../../engine/status-source.js";
import { quote } from "../../files/quote.js";
import type { BlockInfo } from "../../kv/block-store.js";
import type { DocumentInfo } from "../../kv/documents.js";
import { ChildLink, childExecArgv } from "./child-link.js";
import {
  type Call,
  type CallEvent,
  type CallEvents,
  type ChildEngineOptions,
  type FromChild,
  maxUnreadEvents,
  type ToChild,
} from "./messages.js";

export interface SpawnEngineOptions
  extends ChildEngineOptions,
    Pick<EngineOptions, "onWarning" | "onEstimate" | "onProgress"> {
  /** What the engine's process writes to standard output and error, line by line. Default: nobody reads it. */
  readonly onLog?: ((line: string) => void) | undefined;
  readonly restart?: Partial<RestartTimes> | undefined;
  /** The process is killed after so many ms in which its event loop did not answer; while loading, four times that. Default 30 s. */
  readonly unresponsiveMs?: number | undefined;
}

/** In milliseconds. */
export interface RestartTimes {
  /** From a death to the next start; doubled with each further death. Default 100. */
  readonly firstDelayMs: number;
  /** Default 30 s. */
  readonly longestDelayMs: number;
  /** After so long without a death, the next delay is the first again. Default 60 s. */
  readonly healthyMs: number;
}

/** The engine has failed after so many deaths before the model was first loaded. */
const maxFirstLoadDeaths = 3;
/** The bytes of large messages that may be on their way to the process, all together. */
const channelBytes = 8 * 2 ** 20;
/** Smaller messages never wait: a request with 64 prompts is 64 of them. */
const smallBytes = 2 ** 12;
/** How long a process that was told to close may take. */
const closeMs = 5000;

/**
 * Starts an engine in a process of its own and watches it: a failed assertion or the end of memory there ends the
 * requests that run, with an error of code `died`, and the process is started again, later with each death.
 *
 * It returns at once; `status` says when the model is loaded. Until then, and between a death and the next load, requests
 * are refused as `unavailable` at once: the caller knows better than a queue whether waiting pays. Where the first load fails,
 * the engine stays `failed`, with the reason; a later load is retried until it succeeds.
 *
 * It owns the process, which ends with this one at the latest. Ctrl-C and SIGTERM do not end it: dispose the engine.
 *
 * @example
 * await using engine = spawnEngine({ model: "models/tiny-rag", onLog: (line) => log.info(line) });
 * engine.onStatus(({ state, lastError }) => log.info({ state, lastError }));
 */
export function spawnEngine(options: SpawnEngineOptions = {}): Engine {
  return new WatchedEngine(options);
}

class WatchedEngine implements Engine {
  readonly #times: RestartTimes;
  readonly #unresponsiveMs: number;
  /** The folder of relative paths, for restarts too. */
  readonly #cwd = process.cwd();
  readonly #status = new StatusSource({ state: "loading", restarts: 0 });
  readonly #calls = new Map<number, Outbox<CallEvent>>();
  readonly #channelRoom = new ByteBudget(channelBytes);
  #info: ModelInfo | undefined;
  #link: ChildLink | undefined;
  #loadError: string | undefined;
  #numCalls = 0;
  /** Since the engine was healthy. */
  #numDeaths = 0;
  #restartTimer: NodeJS.Timeout | undefined;
  #healthTimer: NodeJS.Timeout | undefined;
  #closed: Promise<void> | undefined;

  constructor(private readonly options: SpawnEngineOptions) {
    this.#times = { firstDelayMs: 100, longestDelayMs: 30_000, healthyMs: 60_000, ...options.restart };
    this.#unresponsiveMs = options.unresponsiveMs ?? 30_000;
    this.#start();
  }

  get status(): EngineStatus {
    return this.#status.current;
  }

  get info(): ModelInfo | undefined {
    return this.#info;
  }

  onStatus(listener: (status: EngineStatus) => void): () => void {
    return this.#status.listen(listener);
  }

  async *generate(
    input: PromptInput,
    { signal, ...options }: GenerateOptions & RequestOptions = {},
  ): AsyncGenerator<GenerateEvent, void> {
    yield* this.#events({ kind: "generate", input, options }, signal);
  }

  scoreEach(
    input: PromptInput,
    continuations: readonly (string | readonly number[])[],
    { signal, ...options }: ScoreOptions = {},
  ): Promise<readonly ScoreResult[]> {
    return this.#ask({ kind: "scoreEach", input, continuations, options }, signal);
  }

  async encode(
    passages: readonly PassageInput[],
    { signal, onBlock, ...options }: EncodeOptions = {},
  ): Promise<EncodeResult> {
    const blocks: EncodedPassage[] = [];
    const take = async (block: EncodedPassage): Promise<void> => {
      blocks.push(block);
      await onBlock?.(block);
    };
    await this.#each({ kind: "encode", passages, options }, take, signal);
    return { blocks, failed: blocks.filter(({ error }) => error !== undefined).length };
  }

  async tokenize(text: string, { signal, onTokens, ...options }: TokenizeOptions = {}): Promise<readonly number[]> {
    const ids: number[] = [];
    const take = async ({ tokens, numTokens }: CallEvents["tokenize"]): Promise<void> => {
      for (const { id } of tokens) ids.push(id);
      await onTokens?.(tokens, numTokens);
    };
    await this.#each({ kind: "tokenize", text, options }, take, signal);
    return ids;
  }

  block(blockId: string, options: Pick<RequestOptions, "salt"> = {}): Promise<BlockInfo | undefined> {
    return this.#ask({ kind: "block", blockId, options });
  }

  deleteBlock(blockId: string, options: Pick<RequestOptions, "salt"> = {}): Promise<boolean> {
    return this.#ask({ kind: "deleteBlock", blockId, options });
  }

  documents(options: DocumentsOptions = {}): Promise<readonly DocumentInfo[]> {
    return this.#ask({ kind: "documents", options });
  }

  deleteDocument(documentId: string, options: Pick<RequestOptions, "salt"> = {}): Promise<boolean> {
    return this.#ask({ kind: "deleteDocument", documentId, options });
  }

  stats(): Promise<EngineStats> {
    return this.#ask({ kind: "stats" });
  }

  [Symbol.asyncDispose](): Promise<void> {
    // A listener that is called at the end may dispose as well: #closed must be set by then.
    this.#closed ??= Promise.resolve().then(() => this.#close());
    return this.#closed;
  }

  /**
   * Takes room in the channel for a large message, so that small ones, pings among them, never wait behind a hundred megabytes.
   * The room is held until the message was written, or its call has ended.
   */
  async #roomFor(message: unknown, link: ChildLink, signal?: AbortSignal): Promise<Disposable | undefined> {
    const bytes = approximateBytes(message);
    if (bytes < smallBytes) return undefined;
    const room = await this.#channelRoom.take(Math.min(bytes, channelBytes), signal);
    if (this.#link === link) return room;
    room[Symbol.dispose]();
    throw new EngineError("died", "Cannot finish the request: the engine's process died before it was sent");
  }

  /** The events with which the process answers. @throws EngineError; the signal's reason where it aborts before the call is sent. */
  async *#events<K extends Call["kind"]>(
    call: Call & { readonly kind: K },
    signal?: AbortSignal,
  ): AsyncGenerator<CallEvents[K], void> {
    const link = this.#readyLink();
    using room = await this.#roomFor(call, link, signal);
    const id = ++this.#numCalls;
    const events = new Outbox<CallEvent>();
    const cancel = () => link.send({ kind: "cancel", id });
    this.#calls.set(id, events);
    try {
      sendOver(link, { kind: "call", id, call }, room);
      if (signal?.aborted) cancel();
      else signal?.addEventListener("abort", cancel, { once: true });
      const maxUnread = maxUnreadEvents(call);
      let numRead = 0;
      const onRead = () => {
        numRead += 1;
        if (numRead < maxUnread / 2) return;
        link.send({ kind: "credit", id, count: numRead });
        numRead = 0;
      };
      // The process answers each kind of call with its own kind of events.
      yield* (events as unknown as Outbox<CallEvents[K]>).read(onRead);
    } finally {
      signal?.removeEventListener("abort", cancel);
      // Still listed: the reader left before the end.
      if (this.#calls.delete(id)) cancel();
    }
  }

  /** Hands each event to `take`, and waits for it. @throws EngineError; the signal's reason; what `take` throws. */
  async #each<K extends Call["kind"]>(
    call: Call & { readonly kind: K },
    take: (event: CallEvents[K]) => Promise<void> | void,
    signal?: AbortSignal,
  ): Promise<void> {
    try {
      signal?.throwIfAborted();
      for await (const event of this.#events<K>(call, signal)) await take(event);
    } catch (error) {
      // The reason itself is not sent.
      throw signal?.aborted ? signal.reason : error;
    }
  }

  /** The one event of a call that has one. */
  async #ask<K extends Call["kind"]>(call: Call & { readonly kind: K }, signal?: AbortSignal): Promise<CallEvents[K]> {
    let answer: CallEvents[K] | undefined;
    const take = (event: CallEvents[K]): void => {
      answer = event;
    };
    await this.#each(call, take, signal);
    return answer as CallEvents[K];
  }

  #readyLink(): ChildLink {
    const { state } = this.#status.current;
    if (state === "ready" && this.#link !== undefined) return this.#link;
    const reason = {
      loading: "it is still loading",
      ready: "it is restarting",
      restarting: "it is restarting",
      failed: "it could not be loaded",
      closed: "it was closed",
    };
    throw new EngineError("unavailable", `Cannot use the engine: ${reason[state]}`);
  }

  #start(): void {
    this.#loadError = undefined;
    const { onWarning, onEstimate, onProgress, onLog, restart, unresponsiveMs, ...options } = this.options;
    const lives = {
      cwd: this.#cwd,
      execArgv: childExecArgv(process.execArgv),
      onMessage: (message: FromChild) => this.#take(message),
      onLog: (line: string) => onLog?.(line),
      onEnd: (reason: string) => this.#onDeath(reason),
    };
    try {
      this.#link = new ChildLink(lives, 4 * this.#unresponsiveMs);
    } catch (error) {
      this.#onDeath(errorText(error));
      return;
    }
    try {
      this.#link.send({ kind: "load", options });
    } catch (error) {
      this.#failLoad(`Cannot send the engine's options: ${errorText(error)}`);
    }
  }

  #take(message: FromChild): void {
    if (this.#closed !== undefined) return;
    const { onWarning, onEstimate, onProgress } = this.options;
    switch (message.kind) {
      case "loaded":
        this.#onLoaded(message.info);
        break;
      case "load-failed":
        this.#failLoad(message.message);
        break;
      case "failed":
        // Before the errors that the process itself tells its requests.
        this.#failAll(() => diedWith(message.message));
        this.#link?.kill(message.message);
        break;
      case "estimate":
        onEstimate?.({ weightBytes: message.weightBytes });
        break;
      case "progress":
        onProgress?.(message.progress);
        break;
      case "warning":
        onWarning?.(message.warning);
        break;
      case "events":
        for (const [id, event] of message.events) {
          // Events of a call whose reader has left may still arrive.
          this.#calls.get(id)?.push(event);
        }
        for (const id of message.ended) this.#ended(id)?.end();
        break;
      case "error":
        this.#ended(message.id)?.fail(new EngineError(message.code, message.message));
        break;
      case "pong":
        break;
      default:
        message satisfies never;
    }
  }

  #ended(id: number): Outbox<CallEvent> | undefined {
    const events = this.#calls.get(id);
    this.#calls.delete(id);
    return events;
  }

  #failAll(error: () => EngineError): void {
    for (const id of [...this.#calls.keys()]) this.#ended(id)?.fail(error());
  }

  #onLoaded(info: ModelInfo): void {
    this.#info = info;
    if (this.#link !== undefined) this.#link.patienceMs = this.#unresponsiveMs;
    this.#healthTimer = setTimeout(() => {
      this.#numDeaths = 0;
    }, this.#times.healthyMs);
    this.#healthTimer.unref();
    this.#status.change({ state: "ready" });
  }

  /** The process could not load the model. The first time that is final, later it is retried. */
  #failLoad(message: string): void {
    this.#loadError = message;
    if (this.#info === undefined) this.#status.change({ state: "failed", lastError: message });
    this.#link?.kill();
  }

  #onDeath(ending: string): void {
    clearTimeout(this.#healthTimer);
    // What a page is read with that its file has no more.
    const of = this.options.model === undefined ? "the default model" : quote(this.options.model);
    const cut = `: a file of ${of} was cut while it was mapped, or its disk failed; replace files by renaming`;
    const reason = ending === "signal SIGBUS" ? ending + cut : ending;
    this.#link = undefined;
    const lastError = this.#loadError ?? `the engine's process died: ${reason}`;
    this.#failAll(() => diedWith(reason));
    if (this.#closed !== undefined || this.#status.current.state === "failed") return;
    const delayMs = Math.min(this.#times.firstDelayMs * 2 ** this.#numDeaths, this.#times.longestDelayMs);
    this.#numDeaths += 1;
    if (this.#info === undefined && this.#numDeaths >= maxFirstLoadDeaths) {
      this.#status.change({ state: "failed", lastError });
      return;
    }
    // Before the listeners are called: one of them may close the engine.
    this.#restartTimer = setTimeout(() => {
      this.#status.change({ restarts: this.#status.current.restarts + 1 });
      if (this.#closed === undefined) this.#start();
    }, delayMs);
    this.#status.change({ state: this.#info === undefined ? "loading" : "restarting", lastError });
  }

  async #close(): Promise<void> {
    const isReady = this.#status.current.state === "ready";
    const link = this.#link;
    clearTimeout(this.#restartTimer);
    clearTimeout(this.#healthTimer);
    this.#failAll(() => new EngineError("unavailable", "Cannot finish the request: the engine was closed"));
    this.#status.change({ state: "closed" });
    if (link === undefined) return;
    if (isReady) link.send({ kind: "close" });
    else link.kill();
    const overdue = setTimeout(() => link.kill(), closeMs);
    await link.ended;
    clearTimeout(overdue);
  }
}

function diedWith(reason: string): EngineError {
  return new EngineError("died", `Cannot finish the request: the engine's process died (${reason})`);
}

/**
 * @param room given back once the message is written.
 * @throws EngineError of code `invalid` for what cannot be sent.
 */
function sendOver(link: ChildLink, message: ToChild, room?: Disposable): void {
  try {
    link.send(message, () => room?.[Symbol.dispose]());
  } catch (error) {
    throw new EngineError("invalid", `Cannot send the request: ${errorText(error)}`, { cause: error });
  }
}

/** Roughly how many bytes a message takes in the channel. */
function approximateBytes(message: unknown): number {
  if (typeof message === "string") return message.length;
  if (typeof message !== "object" || message === null) return 8;
  // An array of numbers, for instance token ids, is not walked through.
  if (Array.isArray(message) && typeof message[0] === "number") return 8 * message.length;
  return Object.values(message).reduce((sum: number, part) => sum + approximateBytes(part), 8);
}

function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
