import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { Metrics } from "../../src/server/metrics.js";
import { serverSettings } from "../../src/server/server-config.js";
import { projectRoot } from "../build-dist.js";

interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets?: readonly { readonly expr: string; readonly legendFormat?: string }[];
}

interface Dashboard {
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly { readonly name: string; readonly query: unknown }[] };
}

const readText = (name: string): string => readFileSync(join(projectRoot, "deploy", name), "utf8");
const dashboard = JSON.parse(readText("grafana-dashboard.json")) as Dashboard;
const expressions = dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
const metrics = new Metrics({
  engine: { status: { state: "loading", restarts: 0 }, stats: () => Promise.reject(new Error("not loaded")) },
  version: "0",
  processBytes: () => 0,
});
/** Prometheus adds the endings of a histogram's series by itself. */
const series = new Set(
  metrics
    .describe()
    .flatMap(({ name, type }) => (type === "histogram" ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name])),
);

test("grafana-dashboard.json: every metric it asks for exists", () => {
  const asked = [...expressions.join("\n").matchAll(/block_attention_\w+/g)].map(([name]) => name);
  expect(asked.length).toBeGreaterThan(20);
  expect(asked.filter((name) => !series.has(name))).toEqual([]);
});

test("grafana-dashboard.json: every metric of the server is on it", () => {
  const shown = (name: string) => expressions.some((expr) => expr.includes(name));
  expect(metrics.describe().filter(({ name }) => !shown(name))).toEqual([]);
});

test("grafana-dashboard.json: panels for what an operator asks first", () => {
  const titles = dashboard.panels.filter(({ targets }) => targets !== undefined).map(({ title }) => title);
  for (const wanted of [/TTFT/, /time per output token/i, /hit rate/i, /store bytes/i, /queue/i, /restarts/i]) {
    expect(titles.some((title) => wanted.test(title))).toBe(true);
  }
});

test("grafana-dashboard.json: every rate is of a counter, every counter under a rate", () => {
  const counters = metrics.describe().flatMap(({ name, type }) => (type === "counter" ? [name] : []));
  for (const expr of expressions) {
    for (const [, applied, name] of expr.matchAll(/(\w+)?\(?(block_attention_\w+)\{/g)) {
      const grows = counters.includes(name as string) || name?.endsWith("_bucket") === true;
      expect([name, ["rate", "increase"].includes(applied ?? "")]).toEqual([name, grows]);
    }
  }
});

test("grafana-dashboard.json: panels have ids of their own and do not lie on each other", () => {
  const { panels } = dashboard;
  expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
  const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
    Array.from({ length: w * h }, (_, i) => `${x + (i % w)},${y + Math.floor(i / w)}`),
  );
  expect(new Set(cells).size).toBe(cells.length);
  for (const { gridPos } of panels) expect(gridPos.x + gridPos.w).toBeLessThanOrEqual(24);
});

test("deploy/: every BLOCK_ATTENTION_ variable is a setting", () => {
  const variables = new Set(serverSettings.map(({ variable }) => variable));
  for (const name of ["Dockerfile", "block-attention.service", "README.md"]) {
    const named = readText(name).match(/BLOCK_ATTENTION_\w+/g) ?? [];
    expect(named.length).toBeGreaterThan(0);
    expect([name, named.filter((variable) => !variables.has(variable))]).toEqual([name, []]);
  }
});

test("deploy/: whoever ends the server waits longer than it drains", () => {
  const drain = serverSettings.find(({ name }) => name === "drainSeconds");
  const [, systemd] = /^TimeoutStopSec=(\d+)$/m.exec(readText("block-attention.service")) ?? [];
  const [, docker] = /--stop-timeout (\d+)/.exec(readText("README.md")) ?? [];
  for (const wait of [systemd, docker]) expect(Number(wait)).toBeGreaterThan(Number(drain?.setting.fallback));
});

test("deploy/: the metrics that README.md names exist", () => {
  const named = readText("README.md").match(/block_attention_[a-z_]+/g) ?? [];
  const known = new Set(metrics.describe().map(({ name }) => name));
  expect(named.length).toBeGreaterThan(2);
  expect(named.filter((name) => !known.has(name))).toEqual([]);
});
