import { expect, test } from "vitest";
import { hubNameText, parseHubName } from "./hub-name.js";

test.each([
  ["Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", false],
  ["hf:o/n-GGUF@v2:Q4_K_M", "o/n-GGUF@v2:Q4_K_M", true],
  ["hf:o/n@main:dir/m.gguf", "o/n:dir/m.gguf", true],
  ["hf:o/n@refs/pr/1", "o/n@refs/pr/1", true],
  ["https://hf.co/o/n/blob/main/a.gguf", "o/n:a.gguf", true],
])("parseHubName(): %s is %s", (text, name, isExplicit) => {
  const parsed = parseHubName(text);
  expect(parsed?.isExplicit).toBe(isExplicit);
  expect(parsed && hubNameText(parsed)).toBe(name);
});

test.each([
  "model",
  "./o/n",
  "o/n/m",
  "/o/n",
  "hf:o/..",
  "hf:o/n@../..",
  "hf:o/n:../x",
  "hf:o/n@a/../b",
  "hf:o/n:a\\b",
  "https://x.org/o/n",
  "o/n m",
])("parseHubName(): %s is none", (text) => expect(parseHubName(text)).toBeUndefined());
