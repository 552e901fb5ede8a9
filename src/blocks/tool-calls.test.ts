import fc from "fast-check";
import { expect, test } from "vitest";
import { ToolCallReader } from "./tool-calls.js";

const names = new Set(["get_weather", "now"]);
interface Read {
  text: string;
  calls: [name: string, text: string][];
}

function read(pieces: readonly string[]): Read {
  const reader = new ToolCallReader(names);
  const all = [...pieces.flatMap((piece) => reader.push(piece)), ...reader.end()];
  const found: Read = { text: "", calls: [] };
  for (const piece of all) {
    if (piece.kind === "text") found.text += piece.text;
    else if (piece.kind === "call") found.calls.push([piece.name, ""]);
    else found.calls[piece.index]![1] += piece.text;
  }
  expect(reader.numCalls).toBe(found.calls.length);
  return found;
}

const rome = '{"city": "Rome"}';
const weather = (given: string) => `{"name": "get_weather", "arguments": ${given}}`;
const called: Read["calls"] = [["get_weather", rome]];
const cases: [name: string, answer: string, text: string, calls: Read["calls"]][] = [
  ["text", "The < is [less].\n", "The < is [less].\n", []],
  ["Hermes' form", `<tool_call>\n${weather(rome)}\n</tool_call>`, "", called],
  ["text before it", `I look.\n\n<tool_call>\n${weather(rome)}\n</tool_call>\n`, "I look.", called],
  [
    "several",
    `<tool_call>\n${weather(rome)}\n</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>`,
    "",
    [...called, ["now", "{}"]],
  ],
  [
    "Mistral's form",
    `[TOOL_CALLS][${weather(rome)}, {"name": "now", "arguments": {}}]`,
    "",
    [...called, ["now", "{}"]],
  ],
  [
    "Mistral's form without its mark, with ids",
    ` [{"name": "get_weather", "arguments": ${rome}, "id": "abcdefghi"}]`,
    "",
    called,
  ],
  ["Llama's form", `{"name": "get_weather", "parameters": ${rome}}`, "", called],
  // As Qwen2.5-Coder-0.5B-Instruct answers.
  [
    "a code fence",
    '```json\n{\n  "name": "get_weather",\n  "arguments": {\n    "city": "Rome"\n  }\n}\n```',
    "",
    [["get_weather", '{\n    "city": "Rome"\n  }']],
  ],
  // As Qwen2.5-Coder-1.5B-Instruct does.
  ["doubled braces", `{${weather(rome)}`, "", called],
  ["doubled braces at both ends", `<tool_call>\n{${weather(rome)}}\n</tool_call>`, "", called],
  ["the tools' tag", `<tools>\n${weather(rome)}\n</tools>`, "", called],
  ["unclosed", `<tool_call>\n${weather(rome)}`, "", called],
  ["unclosed braces", `<tool_call>\n{"name": "get_weather", "arguments": ${rome}`, "", called],
  ["cut off", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ro', "", [["get_weather", '{"city": "Ro']]],
  [
    "other quotes",
    "<tool_call>\n{'name': 'get_weather', 'arguments': {'city': 'Rome', 'x': True}}\n</tool_call>",
    "",
    [["get_weather", '{"city":"Rome","x":true}']],
  ],
  [
    "another order",
    `<tool_call>{"arguments": ${rome}, "name": "get_weather"}</tool_call>`,
    "",
    [["get_weather", '{"city":"Rome"}']],
  ],
  [
    "arguments as text",
    `<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\"}"}</tool_call>`,
    "",
    [["get_weather", '{"city":"Rome"}']],
  ],
  ["no arguments", '<tool_call>\n{"name": "now"}\n</tool_call>', "", [["now", "{}"]]],
  [
    "braces in texts",
    `<tool_call>\n${weather('{"city": "}\\"]</tool_call>"}')}\n</tool_call>`,
    "",
    [["get_weather", '{"city": "}\\"]</tool_call>"}']],
  ],
  ["text after it", `<tool_call>\n${weather(rome)}\n</tool_call>\nand, then`, "and, then", called],
  [
    "an unknown tool",
    '<tool_call>\n{"name": "no", "arguments": {}}\n</tool_call>',
    '<tool_call>\n{"name": "no", "arguments": {}}\n</tool_call>',
    [],
  ],
  ["no JSON", "<tool_call>\nget_weather(Rome)\n</tool_call> x", "<tool_call>\nget_weather(Rome)\n</tool_call> x", []],
  ["JSON that is no call", '{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', []],
  ["JSON that is more than a call", `{"name": "now", "about": ${rome}}`, `{"name": "now", "about": ${rome}}`, []],
  ["a list that is no call", `[${"1, ".repeat(200)}1]`, `[${"1, ".repeat(200)}1]`, []],
  ["a fence in text", `So: \`\`\`json\n${weather(rome)}\n\`\`\``, `So: \`\`\`json\n${weather(rome)}\n\`\`\``, []],
  ["an unfinished mark", "a <tool_", "a <tool_", []],
];

test.each(cases)("ToolCallReader: %s, in whatever pieces it comes", (_, answer, text, calls) => {
  expect(read([answer])).toEqual({ text, calls });
  expect(read([...answer])).toEqual({ text, calls });
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1 }), (lengths) => {
      const pieces: string[] = [];
      for (let at = 0, i = 0; at < answer.length; i++) {
        const length = lengths[i % lengths.length]!;
        pieces.push(answer.slice(at, at + length));
        at += length;
      }
      expect(read(pieces)).toEqual({ text, calls });
    }),
    { numRuns: 20 },
  );
});

test("ToolCallReader: text comes as soon as it can be no call, and arguments as they are written", () => {
  const reader = new ToolCallReader(names);
  expect(reader.push("Hello")).toEqual([{ kind: "text", text: "Hello" }]);
  expect(reader.push(" <to")).toEqual([]);
  expect(reader.push("p>")).toEqual([{ kind: "text", text: " <top>" }]);
  expect(reader.push('<tool_call>\n{"name": "now", "arguments": {"a')).toEqual([
    { kind: "call", index: 0, name: "now" },
    { kind: "arguments", index: 0, text: '{"a' },
  ]);
  expect(reader.push('": 1')).toEqual([{ kind: "arguments", index: 0, text: '": 1' }]);
});
