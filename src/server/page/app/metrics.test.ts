import { expect, test } from "vitest";
import { parseMetrics, readMetrics, stepBetween } from "./metrics.js";

test("parseMetrics(): names, labels with escapes, values, timestamps", () => {
  const text = String.raw`# HELP a_total Things.
# TYPE a_total counter
a_total 5
a_total{b="c",d="say \"hi\"\n\\ }",} 1.5e3 1700000000000
h_bucket{le="+Inf"} +Inf
n NaN
broken{b="c 5
{b="c"} 5
`;
  expect(parseMetrics(text)).toEqual([
    { name: "a_total", labels: {}, value: 5 },
    { name: "a_total", labels: { b: "c", d: 'say "hi"\n\\ }' }, value: 1500 },
    { name: "h_bucket", labels: { le: "+Inf" }, value: Infinity },
  ]);
});

test("parseMetrics(): text that is something else gives nothing, soon", () => {
  expect(parseMetrics(`a{${'b="\\'.repeat(50_000)}`)).toEqual([]);
  expect(parseMetrics("<!doctype html>\n{}")).toEqual([]);
});

const metrics = (requests: number, computed: number, stored: number) => `
block_attention_request_duration_seconds_count{mode="block"} ${requests}
block_attention_request_duration_seconds_count{mode="full"} 1
block_attention_prompt_tokens_total{mode="block",source="computed"} ${computed}
block_attention_prompt_tokens_total{mode="block",source="blocks"} ${stored - 10}
block_attention_prompt_tokens_total{mode="block",source="prefix"} 4
block_attention_prompt_tokens_total{mode="full",source="conversation"} 6
block_attention_store_bytes{state="idle"} 100
block_attention_store_bytes{state="leased"} 20
block_attention_store_bytes{state="free"} 3000
`;

test("stepBetween(): amounts per second and the share that the store held", () => {
  const before = readMetrics(metrics(2, 100, 0), 1_000);
  const after = readMetrics(metrics(6, 150, 150), 3_000);
  expect(after).toMatchObject({ requests: 7, storeBytes: 120, numBlocks: undefined });
  expect(stepBetween(before, after)).toEqual({
    requestsPerSecond: 2,
    computedPerSecond: 25,
    storedPerSecond: 75,
    hitRate: 0.75,
    storeBytes: 120,
  });
});

test("stepBetween(): no rate across a restart, nor a share without a prompt", () => {
  const before = readMetrics(metrics(9, 100, 100), 0);
  expect(stepBetween(before, readMetrics(metrics(1, 10, 0), 1_000))).toMatchObject({
    requestsPerSecond: undefined,
    computedPerSecond: undefined,
    hitRate: undefined,
  });
  expect(stepBetween(before, readMetrics(metrics(9, 100, 100), 1_000))).toMatchObject({
    requestsPerSecond: 0,
    computedPerSecond: 0,
    hitRate: undefined,
  });
  expect(stepBetween(before, readMetrics("", 1_000)).requestsPerSecond).toBe(undefined);
});
