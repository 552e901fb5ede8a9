import { expect } from "vitest";
import type { Metrics } from "./metrics-text.js";
import { type ServerUnderTest, until } from "./server-under-test.js";

/** What the laws read in GET /metrics. */
export interface Accounts {
  readonly running: number;
  readonly queued: number;
  readonly leasedBytes: number;
  readonly idleBytes: number;
  readonly freeBytes: number;
  readonly capBytes: number;
  readonly contextBytes: number;
  /** HTTP requests without an end. */
  readonly inFlight: number;
  readonly restarts: number;
  readonly hits: number;
}

export function readAccounts(metrics: Metrics): Accounts {
  return {
    running: metrics.value("block_attention_requests_running"),
    queued: metrics.value("block_attention_requests_queued"),
    leasedBytes: metrics.value("block_attention_store_bytes", { state: "leased" }),
    idleBytes: metrics.value("block_attention_store_bytes", { state: "idle" }),
    freeBytes: metrics.value("block_attention_store_bytes", { state: "free" }),
    capBytes: metrics.value("block_attention_store_capacity_bytes"),
    contextBytes: metrics.value("block_attention_context_bytes", { state: "used" }),
    // The request that asks for the metrics is one.
    inFlight: metrics.value("block_attention_http_requests_in_flight") - 1,
    restarts: metrics.value("block_attention_engine_restarts_total"),
    hits: metrics.value("block_attention_store_hits_total"),
  };
}

/** HTTP requests that ended with a status, whatever the route. */
export function numEnded(metrics: Metrics, status: number): number {
  return metrics.sum("block_attention_http_requests_total", { status: String(status) });
}

/** Whether nobody's request holds anything. */
export function isAtRest({ running, queued, leasedBytes, contextBytes, inFlight }: Accounts): boolean {
  return running + queued + leasedBytes + contextBytes + inFlight === 0;
}

/** Once clients are gone all comes to rest, and the accounts are exact: I6. */
export async function expectSettled(server: ServerUnderTest, key?: string, limitMs = 10_000): Promise<Accounts> {
  let accounts = readAccounts(await server.metrics(key));
  await until("nothing runs", limitMs, async () => {
    accounts = readAccounts(await server.metrics(key));
    return isAtRest(accounts);
  }).catch(() => undefined);
  expect(accounts).toMatchObject({ running: 0, queued: 0, leasedBytes: 0, contextBytes: 0, inFlight: 0 });
  expect(accounts.leasedBytes + accounts.idleBytes + accounts.freeBytes).toBe(accounts.capBytes);
  return accounts;
}

/** No rejection that nobody handled, no warning of Node's; and where nothing was to fail, no failure of the server's own. */
export function expectCleanLog(stderr: string, { mayFail = false } = {}): void {
  const isWrong = (line: string) =>
    /unhandled|uncaught|Warning:|^\s+at \S+ \(/i.test(line) || (!mayFail && /"level":"(error|fatal)"/.test(line));
  expect(stderr.split("\n").filter(isWrong)).toEqual([]);
}
