import { expect, test } from "vitest";
import { hubNameText, parseHubName } from "./hub-name.js";

test.each([
  ["Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", false],
  ["hf:o/n-GGUF@v2:Q4_K_M", "o/n-GGUF@v2:Q4_K_M", true],
  ["hf:o/n@main:dir/m.gguf", "o/n:dir/m.gguf", true],
  ["hf:o/n@refs/pr/1", "o/n@refs/pr/1", true],
  ["https://hf.co/o/n/blob/main/a.gguf", "o/n:a.gguf", true],
  ["https://hf.co/o/n/resolve/refs%2Fpr%2F1/d/A%20b%2B(1).gguf?download=true", "o/n@refs/pr/1:d/A b+(1).gguf", true],
  ["https://hf.co/o/n/tree/main/lora/", "o/n:lora", true],
  ["https://hf.co/o/n/", "o/n", true],
  ["hf:o/n:Modell ü+(1).gguf", "o/n:Modell ü+(1).gguf", true],
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
  "https://hf.co/o/n/resolve/%FF/m.gguf",
  "https://hf.co/o/n/resolve/main/%2e%2e/x.gguf",
  "https://hf.co/o/n/raw/main/m.gguf",
  "hf:o/n:/etc/passwd",
  "hf:o/n:a\nb",
  "o/n m",
])("parseHubName(): %s is none", (text) => expect(parseHubName(text)).toBeUndefined());
