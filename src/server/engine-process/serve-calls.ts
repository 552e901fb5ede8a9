import { asEngineError } from "../../engine/engine-error.js";
import { LocalEngine } from "../../engine/local-engine.js";
import type { EngineStatus } from "../../engine/status-source.js";
import {
  type Call,
  type CallEvent,
  type CallEvents,
  type ChildEngineOptions,
  type FromChild,
  maxUnreadEvents,
  type ToChild,
} from "./messages.js";

/** A call under way. */
interface RunningCall {
  readonly cancelling: AbortController;
  readonly credits: Credits;
}

/** Answers the server's messages with an engine of this process, until the server closes it. */
export function serveCalls(): void {
  const calls = new CallServer();
  process.on("message", (message: ToChild) => calls.take(message));
}

class CallServer {
  readonly #running = new Map<number, RunningCall>();
  #engine: LocalEngine | undefined;
  #events: (readonly [id: number, event: CallEvent])[] = [];
  #ended: number[] = [];

  take(message: ToChild): void {
    switch (message.kind) {
      case "load":
        void this.#load(message.options);
        break;
      case "call":
        void this.#serve(message.id, message.call);
        break;
      case "credit":
        this.#running.get(message.id)?.credits.add(message.count);
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
      this.#engine = await LocalEngine.load({
        ...options,
        onWarning: (warning) => send({ kind: "warning", warning }),
        onEstimate: ({ weightBytes }) => send({ kind: "estimate", weightBytes }),
        onProgress: (progress) => send({ kind: "progress", progress }),
      });
      send({ kind: "loaded", info: this.#engine.info });
      const tell = ({ state, lastError }: EngineStatus) => {
        if (state === "failed") send({ kind: "failed", message: lastError ?? "it failed" });
      };
      this.#engine.onStatus(tell);
      tell(this.#engine.status);
    } catch (error) {
      send({ kind: "load-failed", message: asEngineError(error).message });
    }
  }

  async #serve(id: number, call: Call): Promise<void> {
    const running = { cancelling: new AbortController(), credits: new Credits(maxUnreadEvents(call)) };
    this.#running.set(id, running);
    try {
      if (this.#engine === undefined) throw new Error("Cannot use the engine: it is not loaded");
      const tell = async (event: CallEvent): Promise<void> => {
        // The engine's own outbox fills meanwhile, and pauses the sequence.
        await running.credits.take();
        this.#scheduleFlush();
        this.#events.push([id, event]);
      };
      await answer(this.#engine, call, running.cancelling.signal, tell);
      this.#scheduleFlush();
      this.#ended.push(id);
    } catch (error) {
      // Events that came before the error are sent before it.
      this.#flush();
      const { code, message } = asEngineError(error);
      send({ kind: "error", id, code, message });
    } finally {
      this.#running.delete(id);
    }
  }

  #cancel(id: number): void {
    const running = this.#running.get(id);
    running?.cancelling.abort();
    // The call's end must not wait for a reader who may have left.
    running?.credits.release();
  }

  async #close(): Promise<void> {
    await this.#engine?.[Symbol.asyncDispose]();
    process.exit(0);
  }

  /** Sends all calls' events at the end of this turn, so that the tokens of one graph go in one message. */
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

/** Calls the engine and emits the events that `CallEvents` names. */
async function answer(
  engine: LocalEngine,
  call: Call,
  signal: AbortSignal,
  tell: <K extends Call["kind"]>(event: CallEvents[K]) => Promise<void>,
): Promise<void> {
  switch (call.kind) {
    case "generate":
      for await (const event of engine.generate(call.input, { ...call.options, signal })) await tell(event);
      break;
    case "scoreEach":
      await tell(await engine.scoreEach(call.input, call.continuations, { ...call.options, signal }));
      break;
    case "encode":
      await engine.encode(call.passages, { ...call.options, signal, onBlock: tell<"encode"> });
      break;
    case "tokenize": {
      const onTokens = (tokens: CallEvents["tokenize"]["tokens"], numTokens: number) => tell({ tokens, numTokens });
      await engine.tokenize(call.text, { ...call.options, signal, onTokens });
      break;
    }
    case "block":
    case "deleteBlock":
      await tell(await engine[call.kind](call.blockId, call.options));
      break;
    case "documents":
      await tell(await engine.documents(call.options));
      break;
    case "deleteDocument":
      await tell(await engine.deleteDocument(call.documentId, call.options));
      break;
    case "stats":
      await tell(engine.stats());
      break;
    default:
      call satisfies never;
  }
}

/** To the server. If it is gone, the `disconnect` that follows ends this process. */
function send(message: FromChild): void {
  process.send?.(message, undefined, undefined, () => undefined);
}

/** How many more events a reader has room for. The sender takes one for each event, and waits while there is none. */
export class Credits {
  #left: number;
  #isUnbounded = false;
  #wake: () => void = () => undefined;

  constructor(count: number) {
    this.#left = count;
  }

  /** For one taker at a time. */
  async take(): Promise<void> {
    while (this.#left === 0 && !this.#isUnbounded) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (!this.#isUnbounded) this.#left -= 1;
  }

  add(count: number): void {
    this.#left += count;
    this.#wake();
  }

  /** From now on `take()` does not wait: the call is about to end. */
  release(): void {
    this.#isUnbounded = true;
    this.#wake();
  }
}
