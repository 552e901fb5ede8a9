import type {
  EngineHost,
  HostBlock,
  HostEncodeEvent,
  HostEncodeRequest,
  HostEvent,
  HostGenerateRequest,
  HostModel,
  HostStats,
  HostStatus,
  HostTokenizeEvent,
  HostTokenizeRequest,
} from "./engine-host.js";
import type { Metrics } from "./metrics.js";

/** What one HTTP request had the engine do, for its line in the log. */
export interface RequestWork {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
}

/** An engine whose work is counted, whatever route asks for it. */
export class MeteredHost implements EngineHost {
  readonly #host: EngineHost;
  readonly #metrics: Metrics;
  readonly #currentWork: () => RequestWork | undefined;

  /** @param currentWork the work of the HTTP request that runs. */
  constructor(
    host: EngineHost,
    metrics: Metrics,
    options: {
      readonly currentWork?: () => RequestWork | undefined;
    } = {},
  ) {
    this.#host = host;
    this.#metrics = metrics;
    this.#currentWork = options.currentWork ?? (() => undefined);
  }

  get status(): HostStatus {
    return this.#host.status;
  }

  get model(): HostModel | undefined {
    return this.#host.model;
  }

  onStatus(listener: (status: HostStatus) => void): () => void {
    return this.#host.onStatus(listener);
  }

  async *generate(request: HostGenerateRequest, signal?: AbortSignal): AsyncGenerator<HostEvent, void> {
    const metrics = this.#metrics;
    const work = this.#currentWork();
    const startedAt = performance.now();
    // Until the engine tells the mode, the one that was asked for or goes without saying.
    let mode = request.mode ?? this.model?.defaultMode ?? "block";
    let firstTokenAt: number | undefined;
    let lastTokenAt = startedAt;
    let numTokens = 0;
    let outcome: "finished" | "cancelled" | "failed" = "cancelled";
    try {
      for await (const event of this.#host.generate(request, signal)) {
        switch (event.kind) {
          case "prompt": {
            mode = event.mode;
            metrics.promptTokens.inc({ mode, source: "store" }, event.cachedTokens);
            metrics.promptTokens.inc({ mode, source: "computed" }, event.promptTokens - event.cachedTokens);
            if (work !== undefined) {
              work.promptTokens += event.promptTokens;
              work.cachedTokens += event.cachedTokens;
            }
            break;
          }
          case "token":
            lastTokenAt = performance.now();
            if (firstTokenAt === undefined) {
              firstTokenAt = lastTokenAt;
              metrics.timeToFirstToken.observe({ mode }, (firstTokenAt - startedAt) / 1000);
            }
            numTokens += 1;
            metrics.generatedTokens.inc({ mode });
            if (work !== undefined) work.completionTokens += 1;
            break;
          case "done": {
            const { finishReason, timings } = event.result;
            outcome = finishReason === "cancelled" ? "cancelled" : "finished";
            metrics.queueWait.observe({ mode }, (timings.queueMs + timings.waitMs) / 1000);
            break;
          }
          case "echo":
            break;
          default:
            event satisfies never;
        }
        yield event;
      }
    } catch (error) {
      if (signal?.aborted !== true) outcome = "failed";
      throw error;
    } finally {
      if (firstTokenAt !== undefined && numTokens > 1) {
        metrics.timePerOutputToken.observe({ mode }, (lastTokenAt - firstTokenAt) / (numTokens - 1) / 1000);
      }
      metrics.requestDuration.observe({ mode }, (performance.now() - startedAt) / 1000);
      if (outcome === "cancelled") metrics.cancelledRequests.inc();
    }
  }

  async *encode(request: HostEncodeRequest, signal?: AbortSignal): AsyncGenerator<HostEncodeEvent, void> {
    const work = this.#currentWork();
    let isEnded = false;
    try {
      for await (const event of this.#host.encode(request, signal)) {
        if (event.error === undefined) {
          const { tokens, hit } = event;
          this.#metrics.promptTokens.inc({ mode: "index", source: hit ? "store" : "computed" }, tokens);
          if (work !== undefined) {
            work.promptTokens += tokens;
            if (hit) work.cachedTokens += tokens;
          }
        }
        yield event;
      }
      isEnded = true;
    } catch (error) {
      isEnded = signal?.aborted !== true;
      throw error;
    } finally {
      if (!isEnded) this.#metrics.cancelledRequests.inc();
    }
  }

  tokenize(request: HostTokenizeRequest, signal?: AbortSignal): AsyncIterable<HostTokenizeEvent> {
    return this.#host.tokenize(request, signal);
  }

  block(id: string, salt: string): Promise<HostBlock | undefined> {
    return this.#host.block(id, salt);
  }

  deleteBlock(id: string, salt: string): Promise<boolean> {
    return this.#host.deleteBlock(id, salt);
  }

  stats(): Promise<HostStats> {
    return this.#host.stats();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#host[Symbol.asyncDispose]();
  }
}
