import * as fc from "fast-check";
import { expect, test } from "vitest";
import { readEventStream } from "./event-stream.js";

const encoder = new TextEncoder();

function streamOf(chunks: readonly Uint8Array[], onCancel?: () => void): ReadableStream<Uint8Array> {
  const waiting = [...chunks];
  return new ReadableStream({
    pull(controller) {
      const chunk = waiting.shift();
      if (chunk === undefined) controller.close();
      else controller.enqueue(chunk);
    },
    cancel: () => onCancel?.(),
  });
}

async function collect(stream: ReadableStream<Uint8Array>): Promise<string[]> {
  const events: string[] = [];
  for await (const event of readEventStream(stream)) events.push(event);
  return events;
}

async function eventsOf(...texts: string[]): Promise<string[]> {
  return collect(streamOf(texts.map((text) => encoder.encode(text))));
}

test("readEventStream(): data lines are joined, comments and other fields passed over", async () => {
  expect(await eventsOf(": hello\nevent: x\nid: 1\ndata: a\ndata:b\ndata:  c\n\n\n\ndata\n\n")).toEqual([
    "a\nb\n c",
    "",
  ]);
});

test("readEventStream(): an event that the stream ends within is dropped", async () => {
  expect(await eventsOf("data: whole\n\ndata: half\n")).toEqual(["whole"]);
  expect(await eventsOf("data: whole\n\ndata: half")).toEqual(["whole"]);
});

test("readEventStream(): the same events wherever the bytes are cut, whatever ends the lines", async () => {
  const text = fc
    .array(fc.constantFrom("a", "é", "漢", "🙂", " ", ":", "data"), { maxLength: 6 })
    .map((c) => c.join(""));
  const lineEnd = fc.constantFrom("\n", "\r", "\r\n");
  await fc.assert(
    fc.asyncProperty(
      fc.array(text, { maxLength: 5 }),
      lineEnd,
      fc.infiniteStream(fc.nat({ max: 4 })),
      async (events, end, cuts) => {
        const bytes = encoder.encode(
          `\uFEFF${events.map((event) => `:ping${end}data: ${event}${end}${end}`).join("")}:the end\n`,
        );
        const chunks: Uint8Array[] = [];
        for (let from = 0; from < bytes.length; ) {
          const size = cuts.next().value + 1;
          chunks.push(bytes.slice(from, from + size));
          from += size;
        }
        expect(await collect(streamOf(chunks))).toEqual(events);
      },
    ),
    { numRuns: 200 },
  );
});

test("readEventStream(): leaving the loop cancels the stream", async () => {
  let isCancelled = false;
  const stream = streamOf([encoder.encode("data: 1\n\n"), encoder.encode("data: 2\n\n")], () => {
    isCancelled = true;
  });
  for await (const event of readEventStream(stream)) {
    expect(event).toBe("1");
    break;
  }
  expect(isCancelled).toBe(true);
});

test("readEventStream(): what reading throws is thrown on", async () => {
  const stream = new ReadableStream<Uint8Array>({ pull: (controller) => controller.error(new Error("broken")) });
  await expect(collect(stream)).rejects.toThrow("broken");
});

test("readEventStream(): an event without an end", async () => {
  const megabyte = encoder.encode("x".repeat(2 ** 20));
  await expect(collect(streamOf(Array(40).fill(megabyte)))).rejects.toThrow("buffer");
});
