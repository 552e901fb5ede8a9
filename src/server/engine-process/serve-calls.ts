import type { PromptInput } from "../../engine/prompt.js";
import { Credits } from "./credits.js";
import { LocalEngineHost } from "./local-engine-host.js";
import {
  type ChildEngineOptions,
  type FromChild,
  maxUnreadEvents,
  type StreamCall,
  type StreamEvent,
  sentError,
  type ToChild,
  type ValueCall,
} from "./messages.js";

/** A stream call under way. */
interface Stream {
  readonly cancelling: AbortController;
  readonly credits: Credits;
}

/** Answers the server's messages with an engine of this process, until the server closes it. */
export function serveCalls(): void {
  const calls = new CallServer();
  process.on("message", (message: ToChild) => calls.take(message));
}

class CallServer {
  readonly #streams = new Map<number, Stream>();
  /** The very objects that calls share. */
  readonly #prompts = new Map<number, PromptInput>();
  #host: LocalEngineHost | undefined;
  #events: (readonly [id: number, event: StreamEvent])[] = [];
  #ended: number[] = [];

  take(message: ToChild): void {
    switch (message.kind) {
      case "load":
        void this.#load(message.options);
        break;
      case "call":
        if (isStreamCall(message.call)) void this.#stream(message.id, message.call);
        else void this.#answer(message.id, message.call);
        break;
      case "prompt":
        this.#prompts.set(message.id, message.prompt);
        break;
      case "forget-prompt":
        this.#prompts.delete(message.id);
        break;
      case "credit":
        this.#streams.get(message.id)?.credits.add(message.count);
        break;
      case "cancel":
        this.#cancel(message.id);
        break;
      case "ping":
        send({ kind: "pong" });
        break;
      case "close":
        void this.#close();
        break;
      default:
        message satisfies never;
    }
  }

  async #load(options: ChildEngineOptions): Promise<void> {
    try {
      this.#host = await LocalEngineHost.load({
        ...options,
        onWarning: (warning) => send({ kind: "warning", warning }),
        onEstimate: ({ weightBytes }) => send({ kind: "estimate", weightBytes }),
        onProgress: (progress) => send({ kind: "progress", progress }),
      });
      send({ kind: "loaded", model: this.#host.model });
    } catch (error) {
      send({ kind: "load-failed", message: sentError(error).message });
    }
  }

  async #stream(id: number, call: StreamCall): Promise<void> {
    const stream = { cancelling: new AbortController(), credits: new Credits(maxUnreadEvents) };
    this.#streams.set(id, stream);
    try {
      const host = this.#loadedHost();
      const { signal } = stream.cancelling;
      for await (const event of this.#eventsOf(host, call, signal)) {
        // The engine waits as well meanwhile: it computes what its readers take.
        await stream.credits.take();
        this.#scheduleFlush();
        this.#events.push([id, event]);
      }
      this.#scheduleFlush();
      this.#ended.push(id);
    } catch (error) {
      // What came before the error is told before it.
      this.#flush();
      send({ kind: "error", id, error: sentError(error) });
    } finally {
      this.#streams.delete(id);
    }
  }

  #eventsOf(host: LocalEngineHost, call: StreamCall, signal: AbortSignal): AsyncIterable<StreamEvent> {
    switch (call.kind) {
      case "generate":
        return host.generate({ ...call.request, prompt: this.#prompts.get(call.promptId) as PromptInput }, signal);
      case "encode":
        return host.encode(call.request, signal);
      case "tokenize":
        return host.tokenize(call.request, signal);
      default:
        return call satisfies never;
    }
  }

  async #answer(id: number, call: ValueCall): Promise<void> {
    try {
      send({ kind: "value", id, value: await this.#value(call) });
    } catch (error) {
      send({ kind: "error", id, error: sentError(error) });
    }
  }

  #value(call: ValueCall) {
    const host = this.#loadedHost();
    switch (call.kind) {
      case "block":
        return host.block(call.blockId, call.salt);
      case "deleteBlock":
        return host.deleteBlock(call.blockId, call.salt);
      case "stats":
        return host.stats();
      default:
        return call satisfies never;
    }
  }

  #cancel(id: number): void {
    const stream = this.#streams.get(id);
    stream?.cancelling.abort();
    // Its end must not wait for a reader who may have left.
    stream?.credits.release();
  }

  async #close(): Promise<void> {
    await this.#host?.[Symbol.asyncDispose]();
    process.exit(0);
  }

  #loadedHost(): LocalEngineHost {
    if (this.#host === undefined) throw new Error("Cannot use the engine: it is not loaded");
    return this.#host;
  }

  /** Sends what all requests have to tell once all that can go on now has gone on: a graph's tokens come at once. */
  #scheduleFlush(): void {
    if (this.#events.length > 0 || this.#ended.length > 0) return;
    process.nextTick(() => this.#flush());
  }

  #flush(): void {
    if (this.#events.length === 0 && this.#ended.length === 0) return;
    const [events, ended] = [this.#events, this.#ended];
    this.#events = [];
    this.#ended = [];
    send({ kind: "events", events, ended });
  }
}

function isStreamCall(call: StreamCall | ValueCall): call is StreamCall {
  return call.kind === "generate" || call.kind === "encode" || call.kind === "tokenize";
}

/** To the server. If it is gone, the `disconnect` that follows ends this process. */
function send(message: FromChild): void {
  process.send?.(message, undefined, undefined, () => undefined);
}
