import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { ResumedLines } from "./resumed-lines.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-resumed-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string) => join(folder, name);

const settings = { method: "m" };
const line = (i: number) => `${JSON.stringify({ id: i, text: "é".repeat(i) })}\n`;
const all = Array.from({ length: 7 }, (_, i) => line(i)).join("");

/** Writes the lines that are missing, three a piece. */
async function write(path: string, wanted: object = settings): Promise<number> {
  await using lines = await ResumedLines.open(path, wanted as typeof settings, 3);
  for (let i = lines.numKept; i < 7; i += 3)
    await lines.append(
      [i, i + 1, i + 2]
        .filter((n) => n < 7)
        .map(line)
        .join(""),
    );
  return lines.numKept;
}

test("ResumedLines: cut off at any byte, whole pieces are kept and the others written anew", async () => {
  await write(at("whole"));
  const bytes = readFileSync(at("whole"));
  expect(bytes.toString("utf8")).toBe(all);
  for (let length = 0; length <= bytes.length; length++) {
    writeFileSync(at("whole"), bytes.subarray(0, length));
    const numLines = bytes.subarray(0, length).toString("utf8").split("\n").length - 1;
    expect(await write(at("whole"))).toBe(numLines - (numLines % 3));
    expect(readFileSync(at("whole"), "utf8")).toBe(all);
  }
});

test("ResumedLines: other settings begin anew, and a finished file leaves nothing beside it", async () => {
  await write(at("other"));
  expect(await write(at("other"), { method: "n" })).toBe(0);
  rmSync(at("other.json"));
  expect(await write(at("other"), { method: "n" })).toBe(0);
  {
    await using lines = await ResumedLines.open(at("other"), { method: "n" }, 3);
    expect(lines.numKept).toBe(6);
    await lines.append(line(6));
    await lines.sync();
    await lines.finish(at("place"));
  }
  expect(readFileSync(at("place"), "utf8")).toBe(all);
  await write(at("gone"));
  {
    await using lines = await ResumedLines.open(at("gone"), settings, 3);
    await lines.finish(undefined);
  }
  {
    // Nothing was written: nothing stays.
    await using _lines = await ResumedLines.open(at("empty"), settings, 3);
    expect(existsSync(at("empty"))).toBe(true);
  }
  expect(readdirSync(folder).sort()).toEqual(["place", "whole", "whole.json"]);
  // Settings that cannot be read may be these: what was written stays.
  writeFileSync(at("kept"), "{}\n");
  mkdirSync(at("kept.json"));
  await expect(ResumedLines.open(at("kept"), settings, 3)).rejects.toThrow(/^Cannot write ".*kept": it is a folder$/);
  expect(readFileSync(at("kept"), "utf8")).toBe("{}\n");
  await expect(ResumedLines.open(join(at("place"), "no"), settings, 3)).rejects.toThrow(
    /^Cannot write ".*place.no": a part of the path is no folder$/,
  );
});
