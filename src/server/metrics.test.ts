import { expect, test } from "vitest";
import { EngineError } from "../engine/engine-error.js";
import type { EngineStats, GenerateEvent } from "../engine/results.js";
import { FakeEngine, type FakeEngineOptions } from "./fake-engine.suite.js";
import { MeteredEngine, RequestWork } from "./metered-engine.js";
import { Metrics, type MetricsSources } from "./metrics.js";

function setUp(fake: FakeEngineOptions = {}, sources: Partial<MetricsSources> = {}) {
  const engine = new FakeEngine(fake);
  const metrics = new Metrics({ engine, version: "1.2.3", processBytes: () => 4096, ...sources });
  let computed = 0;
  const work = new RequestWork((tokens) => {
    computed += tokens;
  });
  const metered = new MeteredEngine(engine, metrics, () => work);
  return { engine, metrics, metered, work, computed: () => computed };
}

const asked = { blocks: ["a b", " c"] };

async function all<T>(events: AsyncIterable<T>): Promise<T[]> {
  const taken: T[] = [];
  for await (const event of events) taken.push(event);
  return taken;
}

/** A series' value; undefined where there is none. */
async function value(metrics: Metrics, series: string): Promise<number | undefined> {
  const line = (await metrics.text()).split("\n").find((one) => one.startsWith(`block_attention_${series} `));
  return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(" ") + 1));
}

test("MeteredEngine.generate(): counts tokens, times and the work of the request that runs", async () => {
  const { metrics, metered, work, computed } = setUp({ tokenMs: 5 });
  await all(metered.generate(asked));
  await all(metered.generate(asked, { mode: "full" }));
  await all(metered.generate(asked));
  expect(await value(metrics, 'prompt_tokens_total{mode="block",source="computed"}')).toBe(4);
  expect(await value(metrics, 'prompt_tokens_total{mode="block",source="blocks"}')).toBe(2);
  expect(await value(metrics, 'prompt_tokens_total{mode="block",source="prefix"}')).toBe(0);
  expect(await value(metrics, 'prompt_tokens_total{mode="full",source="computed"}')).toBe(3);
  expect(await value(metrics, 'generated_tokens_total{mode="block"}')).toBe(8);
  expect(await value(metrics, 'time_to_first_token_seconds_count{mode="block"}')).toBe(2);
  expect(await value(metrics, 'time_per_output_token_seconds_count{mode="full"}')).toBe(1);
  expect(await value(metrics, 'queue_wait_seconds_count{mode="block"}')).toBe(2);
  expect(await value(metrics, 'request_duration_seconds_sum{mode="block"}')).toBeGreaterThan(0.02);
  expect(work).toMatchObject({ promptTokens: 9, cachedTokens: 2, completionTokens: 12 });
  // What came from the store was not computed.
  expect(computed()).toBe(9 - 2 + 12);
});

test("MeteredEngine.generate(): each of n answers counts, their prompt once", async () => {
  const { metrics, metered, work } = setUp();
  await all(metered.generate(asked, { n: 3 }));
  expect(await value(metrics, 'prompt_tokens_total{mode="block",source="computed"}')).toBe(3);
  expect(await value(metrics, 'generated_tokens_total{mode="block"}')).toBe(12);
  for (const name of ["time_to_first_token", "time_per_output_token", "queue_wait", "request_duration"]) {
    expect(await value(metrics, `${name}_seconds_count{mode="block"}`), name).toBe(3);
  }
  expect(work).toMatchObject({ promptTokens: 3, cachedTokens: 0, completionTokens: 12 });
  for await (const event of metered.generate(asked, { n: 3 })) if (event.kind === "done") break;
  expect(await value(metrics, "requests_cancelled_total")).toBe(2);
});

test("MeteredEngine.generate(): an abort and a loop that is left count as cancelled, a failure does not", async () => {
  const { metrics, metered } = setUp({ endless: true });
  const aborting = new AbortController();
  const seen: GenerateEvent[] = [];
  for await (const event of metered.generate(asked, { signal: aborting.signal })) {
    seen.push(event);
    if (event.kind === "token") aborting.abort();
  }
  expect(seen.at(-1)?.kind).toBe("done");
  for await (const event of metered.generate(asked)) if (event.kind === "token") break;
  expect(await value(metrics, "requests_cancelled_total")).toBe(2);
  const error = new EngineError("failed", "Cannot go on: the device failed");
  const failing = setUp({ failAfter: { tokens: 1, error } });
  await expect(all(failing.metered.generate(asked))).rejects.toBe(error);
  expect(await value(failing.metrics, "requests_cancelled_total")).toBe(0);
  expect(await value(failing.metrics, 'request_duration_seconds_count{mode="block"}')).toBe(1);
});

test("MeteredEngine.encode(): counts passages by where they came from, and one that was given up", async () => {
  const { metrics, metered } = setUp();
  await metered.encode(["a b", "c"]);
  await metered.encode(["a b"]);
  expect(await value(metrics, 'prompt_tokens_total{mode="index",source="computed"}')).toBe(3);
  expect(await value(metrics, 'prompt_tokens_total{mode="index",source="blocks"}')).toBe(2);
  const aborting = new AbortController();
  aborting.abort(new Error("enough"));
  await expect(metered.encode(["d"], { signal: aborting.signal })).rejects.toThrow("enough");
  expect(await value(metrics, "requests_cancelled_total")).toBe(1);
});

test("Metrics.text(): the engine's counters go on where a new engine starts anew", async () => {
  const { engine, metrics } = setUp();
  const stats = await engine.stats();
  const withHits = (hits: number): Promise<EngineStats> =>
    Promise.resolve({ ...stats, store: { ...stats.store, hits } });
  engine.stats = () => withHits(5);
  expect(await value(metrics, "store_hits_total")).toBe(5);
  expect(await value(metrics, "store_hits_total")).toBe(5);
  engine.stats = () => withHits(2);
  engine.setStatus({ state: "ready", restarts: 1 });
  expect(await value(metrics, "store_hits_total")).toBe(7);
  expect(await value(metrics, "engine_restarts_total")).toBe(1);
});

test("Metrics.text(): which of the engine's servers get requests", async () => {
  const { engine, metrics } = setUp();
  const replicas = [
    { url: "http://a", running: 2 },
    { url: "http://b", running: 0, downReason: "Cannot reach it" },
  ];
  engine.setStatus({ state: "ready", restarts: 0, replicas });
  expect(await value(metrics, 'replica_up{replica="http://a"}')).toBe(1);
  expect(await value(metrics, 'replica_up{replica="http://b"}')).toBe(0);
  expect(await value(metrics, 'replica_requests_running{replica="http://a"}')).toBe(2);
});

test("Metrics.text(): an engine that is down, fails or is silent leaves what it holds out, and never the rest", async () => {
  const { engine, metrics } = setUp({}, { statsMs: 50 });
  expect(await value(metrics, 'store_bytes{state="free"}')).toBe(2 ** 30);
  for (const stats of [() => Promise.reject(new Error("died")), () => new Promise<EngineStats>(() => undefined)]) {
    engine.stats = stats;
    expect(await value(metrics, 'store_bytes{state="free"}')).toBeUndefined();
    expect(await value(metrics, 'process_resident_bytes{process="server"}')).toBe(4096);
  }
  engine.setStatus({ state: "restarting", restarts: 1 });
  expect(await value(metrics, "engine_up")).toBe(0);
  expect(await value(metrics, 'build_info{version="1.2.3"}')).toBe(1);
});

test("Metrics.describe(): every name has our prefix and a base unit, every metric a help text", () => {
  for (const { name, help } of setUp().metrics.describe()) {
    expect(name).toMatch(/^block_attention_[a-z_]+$/);
    expect(name).not.toMatch(/_(ms|milliseconds|kb|mb|mib)(_|$)/);
    expect(help).toMatch(/^[A-Z0-9].*\.$/);
  }
});
