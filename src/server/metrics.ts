import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Engine } from "../engine/engine.js";
import { type EngineStats, nothingReused } from "../engine/results.js";
import { attentionModes } from "../model/block-attention-config.js";
import { closeReasons } from "./connections.js";
import { quotaReasons } from "./quotas.js";

/** What the metrics ask for at each scrape. */
export interface MetricsSources {
  readonly engine: Pick<Engine, "status" | "stats">;
  readonly version: string;
  /** Resident memory of this process, in bytes. */
  readonly processBytes: () => number;
  /** How long the engine may take to tell its counts, in milliseconds; then the scrape goes without. Default 1,000. */
  readonly statsMs?: number;
}

const seconds = {
  first: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
  token: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1],
  wait: [0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300],
  request: [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600],
};

const tierEvents = ["saves", "loads", "drops", "losses", "evictions", "computed", "late"] as const;

/**
 * The server's metrics in a registry of their own, for Prometheus. Names start with `block_attention_` and are in base
 * units: seconds and bytes. What the engine counts by itself is asked for at each scrape; where the engine is down, the
 * last counts stand and the gauges of what it holds are left out.
 */
export class Metrics {
  readonly #registry = new Registry();
  readonly timeToFirstToken = this.#histogram(
    "time_to_first_token_seconds",
    "From a request's start in the server to its answer's first token.",
    seconds.first,
  );
  readonly timePerOutputToken = this.#histogram(
    "time_per_output_token_seconds",
    "Mean time between an answer's tokens, the first left out; one observation an answer.",
    seconds.token,
  );
  readonly queueWait = this.#histogram(
    "queue_wait_seconds",
    "Time that a request waited for its turn and for room in memory.",
    seconds.wait,
  );
  readonly requestDuration = this.#histogram(
    "request_duration_seconds",
    "From a generating request's start in the server to its end, whatever end.",
    seconds.request,
  );
  readonly promptTokens = this.#counter(
    "prompt_tokens_total",
    'Prompt tokens by source: "computed", or from the store as part of "blocks", of a "prefix" or of a "conversation". Mode "index" is /v1/blocks.',
    ["mode", "source"],
  );
  readonly generatedTokens = this.#counter("generated_tokens_total", "Tokens of answers.", ["mode"]);
  readonly cancelledRequests = this.#counter(
    "requests_cancelled_total",
    "Generating and indexing requests that their client gave up.",
  );
  readonly httpRequests = this.#counter("http_requests_total", "Answers by route and status.", [
    "method",
    "route",
    "status",
  ]);
  readonly closedConnections = this.#counter(
    "connections_closed_total",
    "Connections that the server closed, by reason: the client was too slow, or the slowest where room was short.",
    ["reason"],
  );
  readonly refusedRequests = this.#counter(
    "quota_refusals_total",
    'Requests of keys whose quota was used up, by reason: "tokens" of the last minute, or "requests" at once.',
    ["reason"],
  );
  readonly #inFlight = this.#gauge("http_requests_in_flight", "HTTP requests that have not ended.");
  readonly #engineUp = this.#gauge("engine_up", "1 where the engine is ready, else 0.");
  readonly #engineRestarts = this.#counter("engine_restarts_total", "How often the engine was started again.");
  readonly #processBytes = this.#gauge("process_resident_bytes", "Resident memory.", ["process"]);
  readonly #storeBytes = this.#gauge("store_bytes", "Bytes of the block store: leased + idle + free = capacity.", [
    "state",
  ]);
  readonly #storeCapacity = this.#gauge("store_capacity_bytes", "The block store's limit.");
  readonly #storeUnkept = this.#gauge("store_unkept_bytes", "Bytes of blocks in use that found no room in the store.");
  readonly #storeBlocks = this.#gauge("store_blocks", "Blocks that are kept.");
  readonly #storeHits = this.#counter("store_hits_total", "Blocks that a request found in the store.");
  readonly #storeMisses = this.#counter("store_misses_total", "Blocks that a request had to encode.");
  readonly #storeWaits = this.#counter("store_waits_total", "Blocks that another request was encoding already.");
  readonly #storeEvictions = this.#counter("store_evictions_total", "Blocks that left the store, by reason.", [
    "reason",
  ]);
  readonly #tierBytes = this.#gauge(
    "store_tier_bytes",
    'Bytes of blocks that rest beside a device ("host") or in files ("disk"), or are being copied to a server ("redis", "s3").',
    ["tier"],
  );
  readonly #tierEvents = this.#counter(
    "store_tier_events_total",
    "Blocks copied there (saves) and back (loads), not copied (drops), gone or damaged when asked for (losses), forgotten for room (evictions), computed since that was faster (computed), or since they took too long (late).",
    ["tier", "event"],
  );
  readonly #contextBytes = this.#gauge("context_bytes", "Bytes of assembled contexts.", ["state"]);
  readonly #memoryBytes = this.#gauge(
    "engine_memory_bytes",
    "Bytes of weights, apart those that are mapped from files, and of intermediate results.",
    ["use"],
  );
  readonly #threads = this.#gauge(
    "engine_threads",
    'CPU threads of a graph: "most", and "now", which is fewer while other programs use the cores.',
    ["count"],
  );
  readonly #graphs = this.#counter(
    "engine_graphs_total",
    'Graphs that were computed: "rows" of prompts and blocks, "decode" of tokens of answers.',
    ["kind"],
  );
  readonly #queued = this.#gauge("requests_queued", "Requests that wait for their turn.");
  readonly #running = this.#gauge("requests_running", "Requests that the engine works on.");
  readonly #replicaUp = this.#gauge("replica_up", "With --engine vllm: 1 where that server gets requests, else 0.", [
    "replica",
  ]);
  readonly #replicaRunning = this.#gauge(
    "replica_requests_running",
    "With --engine vllm: requests that this server has at that one.",
    ["replica"],
  );
  /** What each counter of the engine said last: a smaller number is a new engine's. */
  readonly #lastCounts = new Map<string, number>();

  constructor(private readonly sources: MetricsSources) {
    this.#gauge("build_info", "Always 1: the version stands in the label.", ["version"]).set(
      { version: sources.version },
      1,
    );
    for (const reason of quotaReasons) this.refusedRequests.inc({ reason }, 0);
    for (const reason of closeReasons) this.closedConnections.inc({ reason }, 0);
    for (const mode of attentionModes) {
      // A rate over a series needs its zero.
      for (const source of ["computed", ...Object.keys(nothingReused)]) this.promptTokens.inc({ mode, source }, 0);
      this.generatedTokens.inc({ mode }, 0);
      for (const histogram of [this.timeToFirstToken, this.timePerOutputToken, this.queueWait, this.requestDuration]) {
        histogram.zero({ mode });
      }
    }
  }

  /** Counts an HTTP request that began; the function returned ends that. */
  httpRequestBegan(): () => void {
    this.#inFlight.inc();
    return () => this.#inFlight.dec();
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** The names of all metrics, for docs and dashboards. */
  describe(): { readonly name: string; readonly type: string; readonly help: string }[] {
    return this.#registry
      .getMetricsAsArray()
      .map(({ name, type, help }) => ({ name, type: String(type), help }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Prometheus' text format. Never waits long for the engine. */
  async text(): Promise<string> {
    const { engine, processBytes } = this.sources;
    const { state, restarts, replicas = [] } = engine.status;
    for (const { url: replica, downReason, running } of replicas) {
      this.#replicaUp.set({ replica }, downReason === undefined ? 1 : 0);
      this.#replicaRunning.set({ replica }, running);
    }
    this.#engineUp.set(state === "ready" ? 1 : 0);
    this.#count(this.#engineRestarts, {}, restarts);
    this.#processBytes.reset();
    this.#processBytes.set({ process: "server" }, processBytes());
    const stats = state === "ready" ? await this.#askForStats() : undefined;
    for (const gauge of [this.#storeBytes, this.#tierBytes, this.#contextBytes, this.#memoryBytes, this.#threads]) {
      gauge.reset();
    }
    if (stats !== undefined) this.#takeStats(stats);
    return await this.#registry.metrics();
  }

  #takeStats({ store, contexts, requests, batching, ...memory }: EngineStats): void {
    this.#processBytes.set({ process: "engine" }, memory.processBytes);
    this.#storeBytes.set({ state: "leased" }, store.leasedBytes);
    this.#storeBytes.set({ state: "idle" }, store.idleBytes);
    this.#storeBytes.set({ state: "free" }, store.freeBytes);
    this.#storeCapacity.set(store.capBytes);
    this.#storeUnkept.set(store.unkeptBytes);
    this.#storeBlocks.set(store.numBlocks);
    this.#count(this.#storeHits, {}, store.hits);
    this.#count(this.#storeMisses, {}, store.misses);
    this.#count(this.#storeWaits, {}, store.waits);
    for (const [reason, blocks] of Object.entries(store.evictionsByReason))
      this.#count(this.#storeEvictions, { reason }, blocks);
    this.#contextBytes.set({ state: "used" }, contexts.usedBytes);
    this.#contextBytes.set({ state: "free" }, contexts.capBytes - contexts.usedBytes);
    this.#memoryBytes.set({ use: "weights" }, memory.weightBytes - memory.mappedBytes);
    this.#memoryBytes.set({ use: "mapped_weights" }, memory.mappedBytes);
    this.#memoryBytes.set({ use: "compute" }, memory.computeBytes);
    for (const { name, ...tier } of store.tiers) {
      this.#tierBytes.set({ tier: name }, tier.usedBytes);
      for (const event of tierEvents) this.#count(this.#tierEvents, { tier: name, event }, tier[event]);
    }
    this.#threads.set({ count: "most" }, memory.threads.most);
    this.#threads.set({ count: "now" }, memory.threads.now);
    this.#count(this.#graphs, { kind: "rows" }, batching.rowGraphs);
    this.#count(this.#graphs, { kind: "decode" }, batching.decodeGraphs);
    this.#queued.set(requests.queued);
    this.#running.set(requests.running);
  }

  /** Adds what the engine has counted since the last time. */
  #count(counter: Counter, labels: Record<string, string>, value: number): void {
    const key = JSON.stringify([(counter as unknown as { name: string }).name, labels]);
    const last = this.#lastCounts.get(key) ?? 0;
    this.#lastCounts.set(key, value);
    counter.inc(labels, value >= last ? value - last : value);
  }

  async #askForStats(): Promise<EngineStats | undefined> {
    const { engine, statsMs = 1_000 } = this.sources;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(resolve, statsMs, undefined);
    });
    // An engine that has just died is no reason to fail: the scrape says that it is down.
    const stats = (async () => engine.stats())().catch(() => undefined);
    try {
      return await Promise.race([stats, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #histogram(name: string, help: string, buckets: number[]): Histogram<"mode"> {
    const labelNames = ["mode"] as const;
    return new Histogram({ name: `block_attention_${name}`, help, labelNames, buckets, registers: [this.#registry] });
  }

  #counter<L extends string>(name: string, help: string, labelNames: L[] = []): Counter<L> {
    return new Counter({ name: `block_attention_${name}`, help, labelNames, registers: [this.#registry] });
  }

  #gauge<L extends string>(name: string, help: string, labelNames: L[] = []): Gauge<L> {
    return new Gauge({ name: `block_attention_${name}`, help, labelNames, registers: [this.#registry] });
  }
}
