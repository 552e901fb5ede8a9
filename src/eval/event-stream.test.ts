import fc from "fast-check";
import { expect, test } from "vitest";
import { eventData } from "./event-stream.js";

async function read(...chunks: readonly (string | Uint8Array)[]): Promise<string[]> {
  async function* stream() {
    for (const chunk of chunks) yield typeof chunk === "string" ? Buffer.from(chunk) : chunk;
  }
  const data: string[] = [];
  for await (const one of eventData(stream())) data.push(one);
  return data;
}

test.each([
  ["events", "data: a\n\ndata:b\n\n", ["a", "b"]],
  ["line ends of all kinds", "data: a\r\n\r\ndata: b\r\rdata: c\n\n", ["a", "b", "c"]],
  ["several lines of one event", "data: a\ndata: b\n\n", ["a\nb"]],
  ["comments and other fields", ": still here\n\nevent: x\nid: 1\ndata: a\n\n", ["a"]],
  ["an event that is cut off", "data: a\n\ndata: b\n", ["a"]],
])("eventData(): %s", async (_, text, wanted) => {
  expect(await read(text)).toEqual(wanted);
});

test("eventData(): the same wherever the bytes are cut, inside characters and line ends too", async () => {
  const bytes = Buffer.from('data: {"text":\r\ndata: "Żuławski 東京"}\r\n\r\ndata: [DONE]\r\n\r\n');
  const cuts = fc.uniqueArray(fc.integer({ min: 0, max: bytes.length }), { maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(cuts, async (places) => {
      const edges = [0, ...places.sort((a, b) => a - b), bytes.length];
      const chunks = edges.slice(1).map((end, i) => bytes.subarray(edges[i], end));
      expect(await read(...chunks)).toEqual(['{"text":\n"Żuławski 東京"}', "[DONE]"]);
    }),
  );
});

test("eventData(): a line without an end", async () => {
  const megabyte = Buffer.alloc(2 ** 20, "x");
  async function* endless() {
    for (let i = 0; i < 40; i++) yield megabyte;
  }
  const reading = eventData(endless()).next();
  await expect(reading).rejects.toThrow("a line has more than 16777216 characters");
});
