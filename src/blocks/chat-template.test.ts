import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { loadTokenizerFromFolder } from "../tokenizer/load-tokenizer.js";
import { segmentMessages } from "./chat-prompt.js";
import { compileChatTemplate, reasoningOf } from "./chat-template.js";

const tokens = { bos_token: "<s>", eos_token: "</s>", pad_token: "", unk_token: "" };
const compile = (source: string) => compileChatTemplate(source, { tokens, addsBos: true });
const hello = [{ role: "user", content: "hello" }];

test("compileChatTemplate(): renders what Transformers would give the template", () => {
  const source = "{{ bos_token }}{{ messages[0].role }}:{{ messages[0].content }}{{ tools is none }}{{ x }}";
  expect(compile(source).render(hello, { variables: { x: 1 } })).toBe("<s>user:helloTrue1");
  const prompt = "{% if add_generation_prompt %}>{% endif %}";
  expect(compile(prompt).render(hello)).toBe(">");
  expect(compile(prompt).render(hello, { addGenerationPrompt: false })).toBe("");
});

test("compileChatTemplate(): strftime_now reads the clock that is passed in", () => {
  const template = compile('{{ strftime_now("%d %b %Y, %A %-I:%M %p %% %q") }}');
  expect(template.render(hello, { now: new Date(2024, 6, 6, 15, 4) })).toBe("06 Jul 2024, Saturday 3:04 PM % %q");
});

test("compileChatTemplate(): what is no Jinja is a one-line error", () => {
  for (const source of [
    "{% if %}",
    "{{ 'a' ",
    "{% for x in %}{% endfor %}",
    "{{ a | }}",
    `${"{% if a %}".repeat(20_000)}`,
  ]) {
    expect(() => compile(source)).toThrow(/^Cannot read the chat template: [^\n]+$/);
  }
  expect(() => compile("x".repeat(100_001))).toThrow(
    "Cannot read the chat template: it has 100001 characters, at most 100000 are read",
  );
  expect(() => compile(3 as never)).toThrow(TypeError);
});

test("compileChatTemplate(): what can never be rendered is refused by name and line", () => {
  const refused = (source: string, reason: string) =>
    expect(() => compile(source), source).toThrow(`Cannot read the chat template: ${reason}`);
  refused("{{ 1 | nofilter }}", 'line 1: the filter "nofilter" is not supported');
  refused("\n{% for m in messages %}\n{{ m is notest }}", "line 3: unexpected end of the template");
  refused("a\r\nb\r\n{{ m is notest }}", 'line 3: the test "notest" is not supported');
  refused("{% include 'x' %}", 'line 1: the statement "include" is not supported');
  // As in Jinja2, what a choice may never reach is refused where it is reached.
  const chosen = compile("{% if x %}{{ 1 | nofilter }}{% endif %}{{ (1 | nofilter) if x else 2 }}");
  expect(chosen.render(hello)).toBe("2");
  expect(() => chosen.render(hello, { variables: { x: 1 } })).toThrow(
    'Cannot render the chat template: the filter "nofilter" is not supported',
  );
});

interface TemplateCase {
  readonly source?: string;
  /** In tests/fixtures/templates, in place of a source. */
  readonly file?: string;
  /** Beside those of all cases. */
  readonly variables?: object;
  /** What Jinja2 prints, or its error. */
  readonly prints?: string;
  readonly fails?: string;
  /** Why we do not print it. */
  readonly refused?: string;
}

test("ChatTemplate.render(): prints what Jinja2 prints, fails where it fails, or refuses by name", () => {
  const url = new URL("../../tests/fixtures/chat-templates.json", import.meta.url);
  const { messages, variables: all, cases } = JSON.parse(readFileSync(url, "utf8"));
  const { bos_token, eos_token, pad_token, unk_token, ...variables } = all;
  const outcome = (source: string, own: object): string => {
    try {
      const template = compileChatTemplate(source, {
        tokens: { bos_token, eos_token, pad_token, unk_token },
        addsBos: false,
      });
      return `prints ${template.render(messages, { variables: { ...variables, ...own } })}`;
    } catch (error) {
      return `fails: ${(error as Error).message}`;
    }
  };
  const wrong = (cases as TemplateCase[]).flatMap(({ file, variables: own = {}, prints, refused, ...given }) => {
    const source = given.source ?? readFileSync(new URL(`templates/${file}`, url), "utf8");
    const ours = outcome(source, own);
    const isRight =
      refused !== undefined
        ? ours.startsWith("fails: Cannot") && ours.endsWith(refused)
        : prints === undefined
          ? /^fails: Cannot (?:read|render) the chat template: [^\n]+$/.test(ours)
          : ours === `prints ${prints}`;
    return isRight ? [] : [{ source: file ?? source, prints, refused, ours }];
  });
  expect(wrong).toEqual([]);
  expect(cases.length).toBeGreaterThanOrEqual(130);
});

const folder = "../shared/cases";
const say = (role: string, content: string) => ({ role, content });
test.skipIf(!existsSync(folder)).each([
  {
    name: "t12-lstrip-newline",
    messages: [say("user", "a"), say("assistant", "</think>\n\n    x"), say("user", "b")],
    wanted: "<|user|>a\n<|assistant|>    x\n<|user|>b\n<|assistant|>",
  },
  { name: "t13-crlf", messages: [say("user", "a")], wanted: "<|user|>\na<|assistant|>" },
  { name: "t14-bool", messages: [say("user", "x")], wanted: "x True None" },
])(
  `segmentMessages(): $name is cut as Transformers prints it (skipped without ${folder})`,
  async ({ name, messages, wanted }) => {
    const { chatTemplate, templateTokens } = await loadTokenizerFromFolder(join(folder, name));
    const template = compileChatTemplate(chatTemplate!, { tokens: templateTokens, addsBos: false });
    const { blocks } = segmentMessages(messages, template);
    expect(blocks.map(({ text }) => text).join("")).toBe(wanted);
  },
);

test("ChatTemplate.render(): a template that refuses or fails is a one-line error", () => {
  expect(() => compile('{{ raise_exception("no\nway") }}').render(hello)).toThrow(
    'Cannot render the chat template: it refuses these messages with "no way"',
  );
  for (const source of ["{{ messages + 1 }}", "{{ range(1, 2, 0) }}", "{{ range('a') }}", "{{ nosuch.x }}"]) {
    expect(() => compile(source).render(hello), source).toThrow(/^Cannot render the chat template: [^\n]+$/);
  }
});

test("ChatTemplate.render(): a template without end is stopped", () => {
  const loop = (depth: number): string =>
    depth === 0 ? "x" : `{% for i in range(1000) %}${loop(depth - 1)}{% endfor %}`;
  const sources = [
    loop(4),
    "{{ range(1000000000000) | length }}",
    "{{ 'x' * 10 ** 9 }}",
    "{{ [1] * 10 ** 9 }}",
    "{{ 'a' | indent(10 ** 9) }}",
    "{{ 10 ** (10 ** 10) }}",
    "{% set ns = namespace(x=9) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x.join(ns.x) %}{% endfor %}",
    "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x | tojson }}",
    "{% set ns = namespace(x=1, y=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
    "{% set a = 'a' * 4000000 %}{{ ('b' ~ 'a' * 1000000) in a }}",
    "{{ messages | tojson(indent=10 ** 9) }}",
    "{% for i in range(100000) %}{% set x = 'a' * 100000 %}{{ x | length }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    `{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}`,
    "{% set ns = namespace(x=[1, 2]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    `{{ ${"1+".repeat(49_000)}1 }}`,
  ];
  for (const source of sources) {
    expect(() => compile(source).render(hello), source).toThrow(
      /^Cannot render the chat template: it (?:is not done|makes|counts|searches|is nested too) [^\n]+$/,
    );
  }
});

test.each([
  ["qwen-3", { switches: ["enable_thinking"], isTagged: true }],
  ["smollm3", { switches: ["enable_thinking"], isTagged: true }],
  ["granite-3.3", { switches: ["thinking"], isTagged: true }],
  ["llama-3.1", undefined],
  ["chatml", undefined],
])("reasoningOf(): what %s knows of reasoning", (name, reasoning) => {
  const source = readFileSync(new URL(`../../tests/fixtures/templates/${name}.jinja`, import.meta.url), "utf8");
  expect(reasoningOf(compile(source))).toEqual(reasoning);
});
