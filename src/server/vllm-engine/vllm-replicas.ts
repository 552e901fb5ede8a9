import { EngineError } from "../../engine/engine-error.js";
import type { LocalBlock } from "../../engine/local-blocks.js";
import type { EngineStatus } from "../../engine/status-source.js";
import { hashFields } from "../../kv/hash-fields.js";
import { keyOf, VllmServer } from "./vllm-server.js";

/** Passages with fewer tokens say little of where others are: labels, separators. */
const minPassageTokens = 16;
/** How much more than the mean a server may have, so that one passage that all ask about does not load one server alone. */
const loadFactor = 1.25;

/** A request's place at a server. */
export interface Place extends Disposable {
  readonly server: VllmServer;
}

/**
 * Several vLLM servers, and which of them a request goes to.
 *
 * Requests over the same passages go to the same server, as its memory has them: the passage with the least hash names it, by rendezvous hashing.
 * Two requests have that passage in common with the probability with which they share passages, as with `x-block-affinity`. No server has more
 * than 1.25 times the mean of requests, rounded up: beyond that the next in the passage's order takes it (consistent hashing with bounded
 * loads, arXiv:1608.01350). Requests without passages go to the server that has the fewest.
 */
export class VllmReplicas implements Disposable {
  /** Called when a server goes down, and when it is back. */
  onChange: () => void = () => undefined;
  readonly #timer: NodeJS.Timeout;

  private constructor(
    private readonly servers: readonly VllmServer[],
    /** The longest prompt plus answer that each takes, in tokens. */
    readonly contextLength: number,
    checkMs: number,
    private readonly closing: AbortController,
  ) {
    for (const server of servers) server.onChange = () => this.onChange();
    this.#timer = setInterval(() => void this.check(), checkMs).unref();
  }

  /** @param maxContext the model's own limit, in tokens. @throws EngineError where none of them answers; the signal's reason. */
  static async open(
    urls: readonly string[],
    key: string | undefined,
    checkMs: number,
    maxContext: number,
    signal?: AbortSignal,
  ): Promise<VllmReplicas> {
    const closing = new AbortController();
    const servers = urls.map((url) => new VllmServer(url, key, closing.signal));
    if (new Set(servers.map(({ url }) => url)).size < servers.length)
      throw new EngineError("invalid", `Cannot use vLLM: ${urls.join(", ")} names a server twice`);
    const opened = await Promise.allSettled(servers.map((server) => server.open(signal ?? closing.signal)));
    signal?.throwIfAborted();
    const lengths = opened.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
    const failure = opened.find((one) => one.status === "rejected");
    if (lengths.length === 0)
      throw failure?.reason ?? new EngineError("invalid", "Cannot use vLLM: no server is named");
    return new VllmReplicas(servers, Math.min(maxContext, ...lengths), checkMs, closing);
  }

  get status(): EngineStatus {
    const replicas = this.servers.map(({ url, running, downReason }) => ({ url, running, downReason }));
    const isUp = replicas.some(({ downReason }) => downReason === undefined);
    const lastError = replicas.find(({ downReason }) => downReason !== undefined)?.downReason;
    return { state: isUp ? "ready" : "restarting", restarts: 0, lastError, replicas };
  }

  /** Whether a server that was not tried is up. */
  hasOthers(tried: ReadonlySet<VllmServer>): boolean {
    return this.#up(tried).length > 0;
  }

  /**
   * Takes a place for a request; where no server is up, all are asked once more.
   *
   * @throws EngineError where none is up.
   */
  async take(blocks: readonly LocalBlock[], salt: string, tried: ReadonlySet<VllmServer> = new Set()): Promise<Place> {
    if (!this.hasOthers(tried)) await this.check();
    const up = this.#up(tried);
    const passage = leastPassage(blocks, salt);
    const rank = (server: VllmServer) => hashFields("vllm replica", [server.url, passage ?? ""]);
    const order =
      passage === undefined
        ? up.sort((a, b) => a.running - b.running)
        : up
            .map((server) => ({ server, rank: rank(server) }))
            .sort((a, b) => (a.rank < b.rank ? -1 : 1))
            .map(({ server }) => server);
    const numRequests = up.reduce((sum, { running }) => sum + running, 1);
    const most = Math.ceil((loadFactor * numRequests) / up.length);
    const server = order.find(({ running }) => running < most);
    if (server === undefined) {
      const reason = this.status.lastError ?? "all were tried";
      throw new EngineError(
        "unavailable",
        `Cannot answer: none of ${this.servers.length} vLLM servers is up: ${reason}`,
      );
    }
    server.running += 1;
    return {
      server,
      [Symbol.dispose]: () => {
        server.running -= 1;
      },
    };
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.closing.abort(new EngineError("unavailable", "Cannot go on: the engine was closed"));
  }

  #up(tried: ReadonlySet<VllmServer>): VllmServer[] {
    return this.servers.filter((server) => server.downReason === undefined && !tried.has(server));
  }

  /** Asks all servers whether they live. Never fails. */
  async check(): Promise<void> {
    await Promise.all(this.servers.map((server) => server.check(this.contextLength)));
  }
}

/** Where no passage is named, any block may be one but the first, which is mostly the system text; of one alone, that. */
function leastPassage(blocks: readonly LocalBlock[], salt: string): string | undefined {
  const named = blocks.filter(({ passage }) => passage !== undefined);
  const others = blocks.length === 1 ? blocks : blocks.slice(1);
  const passages = named.length > 0 ? named : others;
  const [least] = passages
    .filter(({ tokenIds }) => tokenIds.length >= minPassageTokens)
    .map(({ tokenIds }) => keyOf(tokenIds, salt))
    .sort();
  return least;
}
