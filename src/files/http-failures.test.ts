import { expect, test } from "vitest";
import { retryAfterMs } from "./http-failures.js";

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
