import { expect, test } from "vitest";
import { hostGuard, isLoopback, urlHost } from "./host-names.js";

test("isLoopback(): this machine's own addresses, however they are written, and no other", () => {
  for (const own of ["127.0.0.1", "127.8.9.10", "localhost", "LOCALHOST", "::1", "0:0:0:0:0:0:0:1", "[::1]"]) {
    expect(isLoopback(own), own).toBe(true);
  }
  for (const other of ["0.0.0.0", "::", "192.168.0.1", "example.org", "127.example.org", "localhost.example.org", ""]) {
    expect(isLoopback(other), other).toBe(false);
  }
});

test("hostGuard(): answers to the loopback's names and those allowed, with or without port", () => {
  const isOurs = hostGuard("127.0.0.1", ["proxy.internal"]);
  for (const header of ["127.0.0.1:8080", "localhost", "LocalHost:1", "[::1]:80", "proxy.internal:443"]) {
    expect(isOurs(header), header).toBe(true);
  }
  for (const header of [
    undefined,
    "",
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "a@localhost",
    "localhost:x",
  ]) {
    expect(isOurs(header), header).toBe(false);
  }
});

test("urlHost(): IPv6 in brackets", () => {
  expect([urlHost("::1"), urlHost("127.0.0.1"), urlHost("localhost")]).toEqual(["[::1]", "127.0.0.1", "localhost"]);
});
