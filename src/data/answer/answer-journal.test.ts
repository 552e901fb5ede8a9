import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { AnswerJournal, type JournalEntry } from "./answer-journal.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-journal-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

const settings = { model: "m", input: ["d"] };
const entries: JournalEntry[] = [
  { kind: "answered", index: 3, generated: `Drei – née\n${"x".repeat(60)}`, finishReason: "stop" },
  { kind: "failed", index: 0, status: 400, error: "too long" },
  { kind: "answered", index: 1, generated: "", finishReason: undefined },
];

async function write(name: string): Promise<void> {
  await using journal = await AnswerJournal.open(at(name), settings);
  await Promise.all(entries.map((entry) => journal.append(entry)));
}

test("AnswerJournal: holds what was written, in any order, also when it is opened again", async () => {
  await write("whole");
  await using journal = await AnswerJournal.open(at("whole"), settings);
  expect([journal.numAnswered, journal.numFailed]).toEqual([2, 1]);
  for (const entry of entries) expect(await journal.read(entry.index)).toEqual(entry);
  expect([journal.has(0), journal.has(2), journal.has(4)]).toEqual([true, false, false]);
  expect(await journal.read(2)).toBeUndefined();
  expect(readFileSync(at("whole"), "utf8").split("\n").length).toBe(5);
});

test("AnswerJournal: cut off at any byte it keeps the whole lines, and what is written after stands whole", async () => {
  await write("whole2");
  const bytes = readFileSync(at("whole2"));
  const last: JournalEntry = { kind: "answered", index: 9, generated: "l", finishReason: undefined };
  for (let length = 0; length <= bytes.length; length++) {
    // Of the long answer a few places are enough.
    if (bytes[length] === 0x78 && length % 9 > 0) continue;
    writeFileSync(at("cut"), bytes.subarray(0, length));
    const numLines = bytes.subarray(0, length).toString("utf8").split("\n").length - 1;
    {
      await using journal = await AnswerJournal.open(at("cut"), settings);
      const kept = entries.slice(0, Math.max(0, numLines - 1));
      expect(journal.numAnswered + journal.numFailed).toBe(kept.length);
      for (const entry of kept) expect(await journal.read(entry.index)).toEqual(entry);
      await journal.append(last);
    }
    await using again = await AnswerJournal.open(at("cut"), settings);
    expect(await again.read(9)).toEqual(last);
    expect(readFileSync(at("cut"), "utf8").split("\n").slice(-2)).toEqual([
      '{"index":9,"generated":"l","finish_reason":null}',
      "",
    ]);
  }
});

test("AnswerJournal.open(): refuses other settings, and files that are none", async () => {
  await write("settled");
  await expect(AnswerJournal.open(at("settled"), { ...settings, model: "n" })).rejects.toThrow(
    /^Cannot go on with ".*settled": model was "m", now it is "n"; remove it to ask anew$/,
  );
  await expect(AnswerJournal.open(at("settled"), { ...settings, more: 1 })).rejects.toThrow(
    "more was null, now it is 1",
  );
  const wrong = async (text: string) => {
    writeFileSync(at("wrong"), text);
    await AnswerJournal.open(at("wrong"), settings);
  };
  const head = `${JSON.stringify({ journal: 1, settings })}\n`;
  await expect(wrong('{"a":1}\n')).rejects.toThrow(/"wrong" is no journal|wrong" is no journal of answers/);
  await expect(wrong(`${head}{no json\n{"index":1,"generated":"a"}\n`)).rejects.toThrow(/line 2 of .*no JSON/);
  await expect(wrong(`${head}{"index":1}\n`)).rejects.toThrow(/line 2 of .* is none of a journal of answers/);
  await expect(wrong(`${head}{"index":-1,"generated":"a"}\n`)).rejects.toThrow(/line 2/);
  const twice = '{"index":1,"generated":"a"}\n{"index":1,"generated":"b"}\n';
  await expect(wrong(head + twice)).rejects.toThrow(/line 3/);
  await expect(AnswerJournal.open(join(folder, "no", "such"), settings)).rejects.toThrow(/^Cannot write ".*such"/);
});
