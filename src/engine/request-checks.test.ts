import { expect, test } from "vitest";
import { LiveRequests } from "./request-checks.js";

test("LiveRequests: closing aborts what is under way and what comes after, not what has ended; a caller aborts its own", () => {
  const live = new LiveRequests();
  const caller = new AbortController();
  const [running, ended] = [new AbortController(), new AbortController()];
  const ofRunning = live.begin(running, caller.signal);
  const ofEnded = live.begin(ended, undefined);
  const other = live.begin(new AbortController(), undefined);
  ofEnded.end();
  ofEnded.end();
  live.throwIfClosed();
  caller.abort(new Error("enough"));
  expect([ofRunning.signal.reason, other.signal.aborted]).toEqual([new Error("enough"), false]);
  live.close(new Error("closed"));
  live.close(new Error("again"));
  expect([other.signal.reason, running.signal.reason, ended.signal.aborted]).toEqual([
    new Error("closed"),
    new Error("closed"),
    false,
  ]);
  expect(() => live.throwIfClosed()).toThrow("closed");
  expect(live.begin(new AbortController(), undefined).signal.reason).toEqual(new Error("closed"));
});
