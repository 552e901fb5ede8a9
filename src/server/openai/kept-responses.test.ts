import { expect, test } from "vitest";
import { KeptResponses } from "./kept-responses.js";
import type { ResponseAnswer } from "./responses-answer.js";

/** A response about as large as `text`. */
function response(id: string, previous?: string, text = ""): ResponseAnswer {
  const message = { type: "message", id: `msg_${id}`, status: "completed", role: "assistant" };
  const output = [{ ...message, content: [{ type: "output_text", text, annotations: [], logprobs: [] }] }];
  return { id, previous_response_id: previous ?? null, output } as unknown as ResponseAnswer;
}

const input = (text: string) => [{ type: "message" as const, id: `in_${text}`, role: "user" as const, content: text }];

test("KeptResponses: a conversation is all items up to a response, and no other owner's", () => {
  const kept = new KeptResponses({ maxBytes: 1e6, maxMs: 1000, now: () => 0 });
  kept.put("a", response("one"), input("first"));
  kept.put("a", response("two", "one"), input("second"));
  const ids = kept.conversation("a", "two").map(({ id }) => id);
  expect(ids).toEqual(["in_first", "msg_one", "in_second", "msg_two"]);
  const reference = [{ type: "item_reference" as const, id: "msg_one" }];
  expect(kept.resolve("a", reference)).toMatchObject([{ id: "msg_one", role: "assistant" }]);
  for (const ask of [
    () => kept.conversation("b", "two"),
    () => kept.get("b", "two"),
    () => kept.delete("b", "two"),
    () => kept.resolve("b", reference),
  ])
    expect(ask).toThrow(/^Cannot find the (response|item) "/);
  kept.delete("a", "one");
  expect(() => kept.conversation("a", "two")).toThrow('Cannot find the response "one"');
  expect(() => kept.resolve("a", reference)).toThrow('Cannot find the item "msg_one"');
  kept.delete("a", "two");
  expect(kept.numBytes).toBe(0);
});

test("KeptResponses: bytes stay within the limit; the owner with the most loses, ends of conversations first", () => {
  const kept = new KeptResponses({ maxBytes: 20_000, maxMs: 1000, now: () => 0 });
  kept.put("small", response("s"), input("x"));
  kept.put("large", response("root"), input("x"));
  // All go on from the root, which is used by each of them.
  for (let i = 0; i < 50; i++) {
    expect(kept.put("large", response(`r${i}`, "root", "y".repeat(1000)), input("x"))).toBe(true);
    expect(kept.numBytes).toBeLessThanOrEqual(20_000);
  }
  expect(kept.conversation("large", "r49").length).toBe(4);
  expect(kept.conversation("small", "s").length).toBe(2);
  expect(() => kept.get("large", "r0")).toThrow("Cannot find the response");
  expect(kept.put("large", response("huge", undefined, "y".repeat(20_000)), input("x"))).toBe(false);
});

test("KeptResponses: what nobody uses for the time to live is gone, and what is used stays with what it stands on", () => {
  let now = 0;
  const kept = new KeptResponses({ maxBytes: 1e6, maxMs: 1000, now: () => now });
  kept.put("a", response("one"), input("first"));
  kept.put("a", response("other"), input("third"));
  now = 600;
  kept.put("a", response("two", "one"), input("second"));
  now = 1500;
  expect(kept.conversation("a", "two")).toHaveLength(4);
  expect(() => kept.get("a", "other")).toThrow("Cannot find the response");
  now = 2501;
  expect(() => kept.get("a", "two")).toThrow("Cannot find the response");
  expect(kept.numBytes).toBe(0);
  expect(() => new KeptResponses({ maxBytes: -1, maxMs: 1, now: () => 0 })).toThrow("Cannot keep responses");
});
