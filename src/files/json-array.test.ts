import { Readable } from "node:stream";
import fc from "fast-check";
import { expect, test } from "vitest";
import { parsePart } from "./bounded-part.js";
import { readArrayBytes } from "./json-array.js";

const signal = new AbortController().signal;

async function read(text: string | Uint8Array, chunkSize = 7, maxBytes = 1000) {
  const bytes = Buffer.from(text as string);
  const chunks = Array.from({ length: Math.ceil(bytes.length / chunkSize) }, (_, i) =>
    bytes.subarray(i * chunkSize, (i + 1) * chunkSize),
  );
  const elements = [];
  for await (const element of readArrayBytes(Readable.from(chunks), "the test", signal, maxBytes))
    elements.push(parsePart(element));
  return elements;
}
const valuesOf = async (text: string, chunkSize?: number) =>
  (await read(text, chunkSize)).map((element) => (element.kind === "value" ? element.value : element.error));

test("readArrayBytes(): gives the elements that JSON.parse gives, wherever chunks end", async () => {
  const json = fc.json({ maxDepth: 4 });
  await fc.assert(
    fc.asyncProperty(fc.array(json, { maxLength: 6 }), fc.integer({ min: 1, max: 30 }), async (elements, chunkSize) => {
      const text = `\ufeff [${elements.join(" ,\n")}] \n`;
      // Objects that name a key twice are refused; the generator makes none.
      expect(await valuesOf(text, chunkSize)).toEqual(JSON.parse(text.trim()));
    }),
    { numRuns: 200 },
  );
});

test("readArrayBytes(): brackets, commas and escapes inside strings end nothing", async () => {
  const elements = ['a],[{"\\', "\\\\", '\\\\"\\', '""', { 'k\\"]': "}\\\\" }, "\u2028😀", [[], {}]];
  const sizes = [1, 2, 3, 4, 5, 100];
  for (const size of sizes) expect(await valuesOf(JSON.stringify(elements), size)).toEqual(elements);
});

test("readArrayBytes(): an element that is no JSON, or too large, is told by its number, and the others go on", async () => {
  expect(await read("[1, {x}, 2,]")).toMatchObject([
    { kind: "value", number: 1, value: 1 },
    { kind: "bad", number: 2, error: expect.stringMatching(/^Cannot read element 2: it is no JSON/) },
    { kind: "value", number: 3 },
    { kind: "bad", number: 4, error: expect.stringMatching(/^Cannot read element 4: it is no JSON/) },
  ]);
  expect(await read(`["${"x".repeat(50)}",1]`, 7, 20)).toEqual([
    { kind: "bad", number: 1, error: "Cannot read element 1: it has 52 bytes, at most 20 are read" },
    { kind: "value", number: 2, value: 1 },
  ]);
  expect((await read(Buffer.from([0x5b, 0x22, 0xff, 0x22, 0x5d])))[0]).toMatchObject({
    error: "Cannot read element 1: it is not UTF-8",
  });
  expect(await read("[ \n ]")).toEqual([]);
});

test.each([
  ["", "Cannot read the test: it is no JSON array"],
  ['{"a":[]}', "Cannot read the test: it is no JSON array"],
  ["[1,2] 3", "Cannot read the test: something follows its array"],
  ["[1,2", "Cannot read the test: it ends inside its array, in element 2"],
  ['[1,"]', "Cannot read the test: it ends inside its array, in element 2"],
])("readArrayBytes(): %j is an error as a whole", async (text, message) => {
  await expect(read(text)).rejects.toThrow(message);
});

test("readArrayBytes(): ends with the signal's reason", async () => {
  const ending = new AbortController();
  const elements = readArrayBytes(Readable.from(["[1,", "2,", "3]"]), "the test", ending.signal, 100);
  await elements.next();
  ending.abort(new Error("Cancelled"));
  await expect(elements.next()).rejects.toThrow("Cancelled");
});

test("readArrayBytes(): an array's only element is told when it is too long", async () => {
  const found = [];
  const stream = Readable.from([Buffer.from(`["${"a".repeat(50)}"]`)]);
  for await (const element of readArrayBytes(stream, "x", new AbortController().signal, 20))
    found.push(parsePart(element));
  expect(found).toEqual([
    { kind: "bad", number: 1, error: "Cannot read element 1: it has 52 bytes, at most 20 are read" },
  ]);
});
