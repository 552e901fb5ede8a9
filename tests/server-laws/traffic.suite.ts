import { expect, test } from "vitest";
import { Random } from "../models/random.js";
import { HttpClient, type Outcome } from "./http-client.js";
import { expectCleanLog, expectSettled, numEnded } from "./server-laws.js";
import { ServerUnderTest, sleep, until } from "./server-under-test.js";
import { drawRequest, fault } from "./traffic-requests.js";

export interface TrafficSize {
  readonly numClients: number;
  readonly durationMs: number;
  /** What the mean resident memory of the last quarter may exceed that of the third by, each process, in bytes. */
  readonly growthBytes: number;
}

/** A request that has not ended by then hangs: a busy machine takes a minute for 200 tokens of 32 requests at once. */
const requestLimitMs = 180_000;

/** I7 and I6 under mixed traffic: every request ends in what its client sees, and nothing stays. */
export function trafficSuite(size: TrafficSize): void {
  test("serve: mixed traffic of many clients", { timeout: size.durationMs + requestLimitMs + 60_000 }, async () => {
    // A small store evicts; a queue that is shorter than the clients are many refuses.
    await using server = await ServerUnderTest.start({ args: ["--store-bytes", "8MiB"] });
    const metricsBefore = await server.metrics();
    const filesBefore = server.openFiles();
    const faults: string[] = [];
    const statuses = new Map<number, number>();
    let numSent = 0;
    let numLeft = 0;
    const count = (outcome: Outcome) => {
      if (outcome.kind === "left") numLeft++;
      if (outcome.kind === "answer") statuses.set(outcome.status, (statuses.get(outcome.status) ?? 0) + 1);
    };

    const startedAt = performance.now();
    const runs = () => performance.now() - startedAt < size.durationMs;
    const runClient = async (index: number) => {
      using client = new HttpClient(server, undefined, requestLimitMs);
      const random = new Random(index, "traffic");
      while (runs() && faults.length < 5) {
        const request = drawRequest(random);
        numSent++;
        const outcome = await client.send(request.question);
        count(outcome);
        const wrong = fault(request, outcome);
        if (wrong !== undefined) faults.push(wrong);
        if (outcome.kind === "answer" && outcome.status === 503) await sleep(50);
      }
    };
    const rss: { server: number; engine: number }[] = [];
    const sample = async () => {
      while (runs() && faults.length < 5) {
        rss.push({ server: server.rssBytes(), engine: server.engineProcess()?.rssBytes ?? 0 });
        await sleep(size.durationMs / 100);
      }
    };
    await Promise.all([sample(), ...Array.from({ length: size.numClients }, (_, i) => runClient(i))]);

    expect(faults).toEqual([]);
    expect(statuses.get(200) ?? 0).toBeGreaterThan(size.numClients);
    expect(numLeft).toBeGreaterThan(0);
    await expectSettled(server);
    // The connections are closed with their clients.
    await until("no more files are open than before", 10_000, () => server.openFiles() === filesBefore);
    expectCleanLog(server.stderr);

    const metrics = await server.metrics();
    for (const [status, seen] of statuses) {
      // One more request asked for the metrics themselves; those that left may have been answered all the same.
      const counted = numEnded(metrics, status) - numEnded(metricsBefore, status);
      expect(counted, `status ${status}`).toBeGreaterThanOrEqual(seen);
      expect(counted, `status ${status}`).toBeLessThanOrEqual(seen + numLeft + 100);
    }
    console.log(summary(size, numSent, numLeft, statuses, rss));
    for (const name of ["server", "engine"] as const) {
      const quarter = Math.floor(rss.length / 4);
      const mean = (from: number) => rss.slice(from, from + quarter).reduce((sum, s) => sum + s[name], 0) / quarter;
      expect(mean(3 * quarter) - mean(2 * quarter), `growth of the ${name}`).toBeLessThan(size.growthBytes);
    }
  });
}

function summary(
  size: TrafficSize,
  numSent: number,
  numLeft: number,
  statuses: ReadonlyMap<number, number>,
  rss: readonly { readonly server: number; readonly engine: number }[],
): string {
  const byStatus = [...statuses].sort(([a], [b]) => a - b).map(([status, seen]) => `${status}: ${seen}`);
  const mib = (bytes: number | undefined) => ((bytes ?? 0) / 1024 / 1024).toFixed(0);
  const memory = (name: "server" | "engine") =>
    [0.25, 0.5, 0.75, 0.99].map((part) => mib(rss[Math.floor(rss.length * part)]?.[name])).join(" ");
  return (
    `${size.numClients} clients, ${size.durationMs / 1000} s: ${numSent} requests, ${numLeft} left, ` +
    `${byStatus.join(", ")}; MiB at each quarter: server ${memory("server")}, engine ${memory("engine")}`
  );
}
