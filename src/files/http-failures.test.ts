import { expect, test } from "vitest";
import { networkFailure, retryAfterMs } from "./http-failures.js";

test("retryAfterMs(): seconds, dates, and what is neither", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  expect(retryAfterMs(null, now)).toBeUndefined();
  expect(retryAfterMs("1.5", now)).toBe(1500);
  expect(retryAfterMs("0", now)).toBe(0);
  expect(retryAfterMs("Thu, 01 Jan 2026 00:00:10 GMT", now)).toBe(10_000);
  expect(retryAfterMs("Thu, 01 Jan 2020 00:00:10 GMT", now)).toBe(0);
  expect(retryAfterMs("99999999", now)).toBe(600_000);
  expect(retryAfterMs("soon", now)).toBeUndefined();
});

test("networkFailure(): the deepest cause, of several the first", () => {
  const refused = Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" });
  const cause = new Error("Request was cancelled.", { cause: new AggregateError([refused, new Error("other")]) });
  const failure = networkFailure(new TypeError("fetch failed", { cause }));
  expect(failure).toEqual({ reason: "connect ECONNREFUSED", code: "ECONNREFUSED" });
  expect(networkFailure("x")).toEqual({ reason: "x", code: undefined });
});
