import { ByteBudget } from "../../engine/byte-budget.js";
import type { PromptInput } from "../../engine/prompt.js";
import type { LoadProgress } from "../../model/weights.js";
import {
  type EngineHost,
  type HostBlock,
  type HostEncodeEvent,
  type HostEncodeRequest,
  HostError,
  type HostEvent,
  type HostGenerateRequest,
  type HostModel,
  type HostStats,
  type HostStatus,
  type HostTokenizeEvent,
  type HostTokenizeRequest,
} from "../engine-host.js";
import { childExecArgv } from "./child-exec-argv.js";
import { ChildLink } from "./child-link.js";
import { EventQueue } from "./event-queue.js";
import {
  type CallValues,
  type ChildEngineOptions,
  type FromChild,
  maxUnreadEvents,
  receivedError,
  type StreamCall,
  type StreamEvent,
  type ToChild,
  type ValueCall,
} from "./messages.js";
import { StatusSource } from "./status-source.js";

export interface SpawnEngineOptions extends ChildEngineOptions {
  /** Told what a user should know, for instance that the model was not trained for block mode; again after a restart. */
  readonly onWarning?: ((warning: string) => void) | undefined;
  /** Called before each loading. */
  readonly onEstimate?: ((estimate: { readonly weightBytes: number }) => void) | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
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

/** So many deaths before the model was loaded for the first time, and the engine has failed. */
const maxFirstLoadDeaths = 3;
/** Of large messages, all together, that may be on their way to the process. */
const channelBytes = 8 * 2 ** 20;
/** Smaller messages never wait: a request with 64 prompts is 64 of them. */
const smallBytes = 2 ** 12;
/** How long a process that was told to close may take. */
const closeMs = 5000;

/**
 * Starts an engine in a process of its own and watches it: a failed assertion or the end of memory there ends the
 * requests that run, with an error of code `died`, and the process is started again, later with each death.
 *
 * It returns at once; `status` tells when the model is there. Until then, and between a death and the next load, requests
 * are refused as `unavailable` at once: who asked can tell better than a queue whether waiting pays. A model that cannot
 * be loaded at first is `failed` for good, with the reason; one that could be is tried again until it can.
 *
 * It owns the process, which ends with this one at the latest. Ctrl-C and SIGTERM do not end it: dispose the host.
 *
 * @example
 * await using host = spawnEngine({ model: "models/tiny-rag", onLog: (line) => log.info(line) });
 * host.onStatus(({ state, lastError }) => log.info({ state, lastError }));
 */
export function spawnEngine(options: SpawnEngineOptions = {}): EngineHost {
  return new WatchedEngine(options);
}

type PendingCall =
  | { readonly kind: "stream"; readonly queue: EventQueue<StreamEvent> }
  | {
      readonly kind: "value";
      readonly resolve: (value: CallValues[keyof CallValues]) => void;
      readonly reject: (error: HostError) => void;
    };

/** A prompt that the process has, or will have once there is room. */
interface SentPrompt {
  readonly id: number;
  /** Calls that run and name it. */
  numCalls: number;
  readonly room: Promise<Disposable | undefined>;
}

class WatchedEngine implements EngineHost {
  readonly #options: SpawnEngineOptions;
  readonly #times: RestartTimes;
  readonly #unresponsiveMs: number;
  /** Where relative paths start, at a restart too. */
  readonly #cwd = process.cwd();
  readonly #status = new StatusSource({ state: "loading", restarts: 0 });
  readonly #calls = new Map<number, PendingCall>();
  readonly #channelRoom = new ByteBudget(channelBytes);
  /** By the very object. */
  #sentPrompts = new Map<PromptInput, SentPrompt>();
  #model: HostModel | undefined;
  #link: ChildLink | undefined;
  #loadError: string | undefined;
  #numCalls = 0;
  /** Since the engine was healthy. */
  #numDeaths = 0;
  #restartTimer: NodeJS.Timeout | undefined;
  #healthTimer: NodeJS.Timeout | undefined;
  #closed: Promise<void> | undefined;

  constructor(options: SpawnEngineOptions) {
    this.#options = options;
    this.#times = { firstDelayMs: 100, longestDelayMs: 30_000, healthyMs: 60_000, ...options.restart };
    this.#unresponsiveMs = options.unresponsiveMs ?? 30_000;
    this.#start();
  }

  get status(): HostStatus {
    return this.#status.current;
  }

  get model(): HostModel | undefined {
    return this.#model;
  }

  onStatus(listener: (status: HostStatus) => void): () => void {
    return this.#status.listen(listener);
  }

  async *generate({ prompt, ...request }: HostGenerateRequest, signal?: AbortSignal): AsyncGenerator<HostEvent, void> {
    using sent = this.#sendPrompt(prompt, signal);
    await sent.room;
    yield* this.#stream<HostEvent>({ kind: "generate", promptId: sent.id, request }, undefined, signal);
  }

  encode(request: HostEncodeRequest, signal?: AbortSignal): AsyncGenerator<HostEncodeEvent, void> {
    return this.#streamOrReason<HostEncodeEvent>({ kind: "encode", request }, signal);
  }

  tokenize(request: HostTokenizeRequest, signal?: AbortSignal): AsyncGenerator<HostTokenizeEvent, void> {
    return this.#streamOrReason<HostTokenizeEvent>({ kind: "tokenize", request }, signal);
  }

  block(id: string, salt: string): Promise<HostBlock | undefined> {
    return this.#ask({ kind: "block", blockId: id, salt });
  }

  deleteBlock(id: string, salt: string): Promise<boolean> {
    return this.#ask({ kind: "deleteBlock", blockId: id, salt });
  }

  stats(): Promise<HostStats> {
    return this.#ask({ kind: "stats" });
  }

  [Symbol.asyncDispose](): Promise<void> {
    // A listener that hears of the end may dispose as well: #closed must be there by then.
    this.#closed ??= Promise.resolve().then(() => this.#close());
    return this.#closed;
  }

  /** Sends a prompt, unless calls that run have it sent already; disposing tells that one call fewer needs it. */
  #sendPrompt(prompt: PromptInput, signal?: AbortSignal): Disposable & Pick<SentPrompt, "id" | "room"> {
    const link = this.#readyLink();
    const sent = this.#sentPrompts;
    const id = ++this.#numCalls;
    const send = async () => {
      const room = await this.#roomFor(prompt, link, signal);
      sendOver(link, { kind: "prompt", id, prompt }, room);
      return room;
    };
    const entry = sent.get(prompt) ?? { id, numCalls: 0, room: send() };
    sent.set(prompt, entry);
    entry.numCalls += 1;
    return {
      id: entry.id,
      room: entry.room,
      [Symbol.dispose]: () => {
        entry.numCalls -= 1;
        if (entry.numCalls > 0) return;
        sent.delete(prompt);
        link.send({ kind: "forget-prompt", id: entry.id });
        entry.room.then(
          (room) => room?.[Symbol.dispose](),
          () => undefined,
        );
      },
    };
  }

  /**
   * Room in the channel for what is large, so that small messages, pings among them, never wait behind a hundred megabytes.
   * It is had until the message was written, the calls that need it have ended, or the process has.
   */
  async #roomFor(message: unknown, link: ChildLink, signal?: AbortSignal): Promise<Disposable | undefined> {
    const bytes = approximateBytes(message);
    if (bytes < smallBytes) return undefined;
    const room = await this.#channelRoom.take(Math.min(bytes, channelBytes), signal);
    if (this.#link === link) return room;
    room[Symbol.dispose]();
    throw new HostError("died", "Cannot finish the request: the engine's process died before it was sent");
  }

  async *#streamOrReason<E extends StreamEvent>(call: StreamCall, signal?: AbortSignal): AsyncGenerator<E, void> {
    try {
      using room = await this.#roomFor(call.request, this.#readyLink(), signal);
      yield* this.#stream<E>(call, room, signal);
    } catch (error) {
      // The reason itself is not sent.
      throw signal?.aborted ? signal.reason : error;
    }
  }

  async *#stream<E extends StreamEvent>(
    call: StreamCall,
    room: Disposable | undefined,
    signal?: AbortSignal,
  ): AsyncGenerator<E, void> {
    const link = this.#readyLink();
    const id = ++this.#numCalls;
    const queue = new EventQueue<StreamEvent>();
    const cancel = () => link.send({ kind: "cancel", id });
    this.#calls.set(id, { kind: "stream", queue });
    try {
      sendOver(link, { kind: "call", id, call }, room);
      if (signal?.aborted) cancel();
      else signal?.addEventListener("abort", cancel, { once: true });
      let numRead = 0;
      const onRead = () => {
        numRead += 1;
        if (numRead < maxUnreadEvents / 2) return;
        link.send({ kind: "credit", id, count: numRead });
        numRead = 0;
      };
      // The child answers each kind of call with its own kind of events.
      yield* (queue as EventQueue<E>).read(onRead);
    } finally {
      signal?.removeEventListener("abort", cancel);
      // Still listed: the reader left before the end.
      if (this.#calls.delete(id)) cancel();
    }
  }

  async #ask<K extends ValueCall["kind"]>(call: ValueCall & { readonly kind: K }): Promise<CallValues[K]> {
    const link = this.#readyLink();
    const id = ++this.#numCalls;
    const answer = new Promise<CallValues[keyof CallValues]>((resolve, reject) => {
      this.#calls.set(id, { kind: "value", resolve, reject });
    });
    try {
      sendOver(link, { kind: "call", id, call });
    } catch (error) {
      this.#calls.delete(id);
      throw error;
    }
    return (await answer) as CallValues[K];
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
    throw new HostError("unavailable", `Cannot use the engine: ${reason[state]}`);
  }

  #start(): void {
    this.#loadError = undefined;
    this.#sentPrompts = new Map();
    const { onWarning, onEstimate, onProgress, onLog, restart, unresponsiveMs, ...options } = this.#options;
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
    const { onWarning, onEstimate, onProgress } = this.#options;
    switch (message.kind) {
      case "loaded":
        this.#onLoaded(message.model);
        break;
      case "load-failed":
        this.#failLoad(message.message);
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
          const call = this.#calls.get(id);
          // Of a call whose reader has left there may still be some.
          if (call?.kind !== "stream") continue;
          call.queue.push([event]);
        }
        for (const id of message.ended) {
          const call = this.#ended(id);
          if (call?.kind === "stream") call.queue.end();
        }
        break;
      case "value": {
        const call = this.#ended(message.id);
        if (call?.kind === "value") call.resolve(message.value);
        break;
      }
      case "error":
        this.#failCall(message.id, receivedError(message.error));
        break;
      case "pong":
        break;
      default:
        message satisfies never;
    }
  }

  #ended(id: number): PendingCall | undefined {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    return call;
  }

  #failCall(id: number, error: HostError): void {
    const call = this.#ended(id);
    if (call?.kind === "stream") call.queue.fail(error);
    else call?.reject(error);
  }

  #failAll(error: () => HostError): void {
    for (const id of [...this.#calls.keys()]) this.#failCall(id, error());
  }

  #onLoaded(model: HostModel): void {
    this.#model = model;
    if (this.#link !== undefined) this.#link.patienceMs = this.#unresponsiveMs;
    this.#healthTimer = setTimeout(() => {
      this.#numDeaths = 0;
    }, this.#times.healthyMs);
    this.#healthTimer.unref();
    this.#status.change({ state: "ready" });
  }

  /** The process could not load the model: at first that is the end, later it is tried again. */
  #failLoad(message: string): void {
    this.#loadError = message;
    if (this.#model === undefined) this.#status.change({ state: "failed", lastError: message });
    this.#link?.kill();
  }

  #onDeath(reason: string): void {
    clearTimeout(this.#healthTimer);
    this.#link = undefined;
    const lastError = this.#loadError ?? `the engine's process died: ${reason}`;
    this.#failAll(() => new HostError("died", `Cannot finish the request: the engine's process died (${reason})`));
    if (this.#closed !== undefined || this.#status.current.state === "failed") return;
    const delayMs = Math.min(this.#times.firstDelayMs * 2 ** this.#numDeaths, this.#times.longestDelayMs);
    this.#numDeaths += 1;
    if (this.#model === undefined && this.#numDeaths >= maxFirstLoadDeaths) {
      this.#status.change({ state: "failed", lastError });
      return;
    }
    // Before the listeners hear of it: one of them may close the engine.
    this.#restartTimer = setTimeout(() => {
      this.#status.change({ restarts: this.#status.current.restarts + 1 });
      if (this.#closed === undefined) this.#start();
    }, delayMs);
    this.#status.change({ state: this.#model === undefined ? "loading" : "restarting", lastError });
  }

  async #close(): Promise<void> {
    const isReady = this.#status.current.state === "ready";
    const link = this.#link;
    clearTimeout(this.#restartTimer);
    clearTimeout(this.#healthTimer);
    this.#failAll(() => new HostError("unavailable", "Cannot finish the request: the engine was closed"));
    this.#status.change({ state: "closed" });
    if (link === undefined) return;
    if (isReady) link.send({ kind: "close" });
    else link.kill();
    const overdue = setTimeout(() => link.kill(), closeMs);
    await link.ended;
    clearTimeout(overdue);
  }
}

/**
 * @param room given back once the message is written.
 * @throws HostError of code `invalid` for what cannot be sent.
 */
function sendOver(link: ChildLink, message: ToChild, room?: Disposable): void {
  try {
    link.send(message, () => room?.[Symbol.dispose]());
  } catch (error) {
    throw new HostError("invalid", `Cannot send the request: ${errorText(error)}`, { cause: error });
  }
}

/** About what a message takes in the channel. */
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
