import type { PassageInput } from "../blocks/passage.js";
import type { Engine } from "../engine/engine.js";
import type {
  DocumentsOptions,
  EncodeOptions,
  GenerateOptions,
  RequestOptions,
  ScoreOptions,
  TokenizeOptions,
} from "../engine/engine-options.js";
import type { ModelInfo } from "../engine/model.js";
import type { PromptInput } from "../engine/prompt.js";
import type { EncodedPassage, EncodeResult, GenerateEvent } from "../engine/results.js";
import type { EngineStatus } from "../engine/status-source.js";
import type { Metrics } from "./metrics.js";

/** What one HTTP request had the engine do, for its line in the log. */
export class RequestWork {
  promptTokens = 0;
  cachedTokens = 0;
  completionTokens = 0;
  readonly #onComputed: (tokens: number) => void;

  /** @param onComputed called with tokens as they are computed. */
  constructor(onComputed: (tokens: number) => void) {
    this.#onComputed = onComputed;
  }

  countPrompt(tokens: number, cachedTokens: number): void {
    this.promptTokens += tokens;
    this.cachedTokens += cachedTokens;
    this.#onComputed(tokens - cachedTokens);
  }

  countToken(): void {
    this.completionTokens += 1;
    this.#onComputed(1);
  }
}

/** An engine whose work is counted, whatever route asks for it. */
export class MeteredEngine implements Engine {
  readonly #engine: Engine;
  readonly #metrics: Metrics;
  readonly #currentWork: () => RequestWork | undefined;

  /** @param currentWork the work of the HTTP request that runs. */
  constructor(engine: Engine, metrics: Metrics, currentWork: () => RequestWork | undefined = () => undefined) {
    this.#engine = engine;
    this.#metrics = metrics;
    this.#currentWork = currentWork;
  }

  get status(): EngineStatus {
    return this.#engine.status;
  }

  get info(): ModelInfo | undefined {
    return this.#engine.info;
  }

  onStatus(listener: (status: EngineStatus) => void): () => void {
    return this.#engine.onStatus(listener);
  }

  async *generate(
    input: PromptInput,
    options: GenerateOptions & RequestOptions = {},
  ): AsyncGenerator<GenerateEvent, void> {
    const metrics = this.#metrics;
    const work = this.#currentWork();
    // Until the engine tells the mode, the one that was asked for or goes without saying.
    let mode = options.mode ?? this.info?.defaultMode ?? "block";
    const startedAt = performance.now();
    const answers = Array.from({ length: options.n ?? 1 }, () => ({
      firstTokenAt: startedAt,
      lastTokenAt: startedAt,
      numTokens: 0,
      hasEnded: false,
    }));
    const end = (answer: (typeof answers)[number], isCancelled: boolean): void => {
      answer.hasEnded = true;
      const { firstTokenAt, lastTokenAt, numTokens } = answer;
      if (numTokens > 1) {
        metrics.timePerOutputToken.observe({ mode }, (lastTokenAt - firstTokenAt) / (numTokens - 1) / 1000);
      }
      metrics.requestDuration.observe({ mode }, (performance.now() - startedAt) / 1000);
      if (isCancelled) metrics.cancelledRequests.inc();
    };
    let hasFailed = false;
    try {
      for await (const event of this.#engine.generate(input, options)) {
        switch (event.kind) {
          case "prompt": {
            mode = event.mode;
            const computed = event.promptTokens - event.cachedTokens;
            for (const [source, tokens] of Object.entries({ computed, ...event.reused })) {
              metrics.promptTokens.inc({ mode, source }, tokens);
            }
            work?.countPrompt(event.promptTokens, event.cachedTokens);
            break;
          }
          case "token": {
            const answer = answers[event.index]!;
            answer.lastTokenAt = performance.now();
            if (answer.numTokens === 0) {
              answer.firstTokenAt = answer.lastTokenAt;
              metrics.timeToFirstToken.observe({ mode }, (answer.firstTokenAt - startedAt) / 1000);
            }
            answer.numTokens += 1;
            metrics.generatedTokens.inc({ mode });
            work?.countToken();
            break;
          }
          case "done": {
            const { finishReason, timings } = event.result;
            metrics.queueWait.observe({ mode }, (timings.queueMs + timings.waitMs) / 1000);
            end(answers[event.index]!, finishReason === "cancelled");
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
      hasFailed = options.signal?.aborted !== true;
      throw error;
    } finally {
      for (const answer of answers) if (!answer.hasEnded) end(answer, !hasFailed);
    }
  }

  scoreEach(input: PromptInput, continuations: readonly (string | readonly number[])[], options?: ScoreOptions) {
    return this.#engine.scoreEach(input, continuations, options);
  }

  async encode(passages: readonly PassageInput[], options: EncodeOptions = {}): Promise<EncodeResult> {
    const work = this.#currentWork();
    const count = (block: EncodedPassage): void => {
      if (block.error !== undefined) return;
      const { tokens, hit } = block;
      this.#metrics.promptTokens.inc({ mode: "index", source: hit ? "blocks" : "computed" }, tokens);
      work?.countPrompt(tokens, hit ? tokens : 0);
    };
    try {
      return await this.#engine.encode(passages, {
        ...options,
        onBlock(block) {
          count(block);
          return options.onBlock?.(block);
        },
      });
    } catch (error) {
      if (options.signal?.aborted) this.#metrics.cancelledRequests.inc();
      throw error;
    }
  }

  tokenize(text: string, options?: TokenizeOptions): Promise<readonly number[]> {
    return this.#engine.tokenize(text, options);
  }

  block(id: string, options?: Pick<RequestOptions, "salt">) {
    return this.#engine.block(id, options);
  }

  deleteBlock(id: string, options?: Pick<RequestOptions, "salt">) {
    return this.#engine.deleteBlock(id, options);
  }

  documents(options?: DocumentsOptions) {
    return this.#engine.documents(options);
  }

  deleteDocument(id: string, options?: Pick<RequestOptions, "salt">) {
    return this.#engine.deleteDocument(id, options);
  }

  stats() {
    return this.#engine.stats();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#engine[Symbol.asyncDispose]();
  }
}
