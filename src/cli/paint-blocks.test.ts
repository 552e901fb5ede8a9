import pc from "picocolors";
import { expect, test } from "vitest";
import { cleanText, paintBlocks } from "./paint-blocks.js";

const parts = [
  { kind: "local", text: "one\ntwo\n", tokens: 4 },
  { kind: "global", text: "2\n", tokens: 1 },
  { kind: "final", text: "three", tokens: 1 },
  { kind: "response", text: "four", tokens: 2 },
] as const;

test("paintBlocks(): each block under its name and number of tokens, then their sum", () => {
  expect(paintBlocks(parts, { colors: pc.createColors(false) })).toBe(
    "[block 1: 4 tokens]\none\ntwo\n\n[global block: 1 token]\n2\n\n[final block: 1 token]\nthree\n[response: 2 tokens]\nfour\n3 blocks, 8 tokens\n",
  );
});

test("paintBlocks(): a colour ends with its line", () => {
  const painted = paintBlocks(parts, { colors: pc.createColors(true) });
  for (const line of painted.split("\n")) {
    const codes = line
      .split("\u001b[")
      .slice(1)
      .map((code) => Number.parseInt(code, 10));
    const isEnd = (code: number) => code === 22 || code === 39;
    expect(codes.filter(isEnd).length).toBe(codes.filter((code) => !isEnd(code)).length);
  }
  expect(painted).toContain("\u001b[36mone\u001b[39m");
});

test("cleanText(): nothing of it moves the cursor, paints, or hides", () => {
  expect(cleanText("a\u001b[2Jb\u0007\r\n\tc\u202e\u200bd\u009b")).toBe(
    "a\ufffd[2Jb\ufffd\ufffd\n\tc\ufffd\ufffdd\ufffd",
  );
});
