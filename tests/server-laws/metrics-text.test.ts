import { expect, test } from "vitest";
import { Metrics } from "./metrics-text.js";

test("Metrics: reads names, labels and values, and adds them up", () => {
  const metrics = Metrics.parse(
    [
      "# HELP requests Requests",
      "# TYPE requests counter",
      'requests{route="/a",status="200"} 3',
      'requests{route="/a",status="400"} 2',
      'requests{route="/b \\"x\\"",status="200"} 1.5e3',
      'seconds_bucket{le="+Inf"} 4',
      "limit +Inf",
      "",
    ].join("\n"),
  );
  expect(metrics.sum("requests")).toBe(1505);
  expect(metrics.sum("requests", { route: "/a" })).toBe(5);
  expect(metrics.sum("requests", { route: '/b "x"' })).toBe(1500);
  expect(metrics.value("limit")).toBe(Number.POSITIVE_INFINITY);
  expect(metrics.sum("nothing")).toBe(0);
  expect(() => metrics.value("requests")).toThrow("3 samples have the labels, wanted 1");
  expect(() => Metrics.parse("not a metric")).toThrow("not Prometheus text");
});
