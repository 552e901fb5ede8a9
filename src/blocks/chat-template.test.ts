import { expect, test } from "vitest";
import { compileChatTemplate } from "./chat-template.js";

const tokens = { bos_token: "<s>", eos_token: "</s>", pad_token: "", unk_token: "" };
const compile = (source: string) => compileChatTemplate(source, { tokens, addsBos: true });
const hello = [{ role: "user", content: "hello" }];

test("compileChatTemplate(): renders what Transformers would give the template", () => {
  const source = "{{ bos_token }}{{ messages[0].role }}:{{ messages[0].content }}{{ tools is none }}{{ x }}";
  expect(compile(source).render(hello, { variables: { x: 1 } })).toBe("<s>user:hellotrue1");
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
  expect(() => compile("x".repeat(2_000_000))).toThrow(/at most 1000000 are read$/);
  expect(() => compile(3 as never)).toThrow(TypeError);
});

test("ChatTemplate.render(): a template that refuses or fails is a one-line error", () => {
  expect(() => compile('{{ raise_exception("no\nway") }}').render(hello)).toThrow(
    'Cannot render the chat template: it refuses these messages with "no way"',
  );
  for (const source of ["{{ messages + 1 }}", "{{ range(1, 2, 0) }}", "{{ range('a') }}", "{{ 1 | nofilter }}"]) {
    expect(() => compile(source).render(hello), source).toThrow(/^Cannot render the chat template: [^\n]+$/);
  }
});

test("ChatTemplate.render(): a template without end is stopped", () => {
  const loop = (depth: number): string =>
    depth === 0 ? "x" : `{% for i in range(1000) %}${loop(depth - 1)}{% endfor %}`;
  const sources = [
    loop(4),
    "{{ range(1000000000000) | length }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    `{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}`,
    "{% set ns = namespace(x=[1, 2]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
  ];
  for (const source of sources) {
    const start = performance.now();
    expect(() => compile(source).render(hello), source).toThrow(/^Cannot render the chat template: [^\n]+$/);
    expect(performance.now() - start, source).toBeLessThan(9_000);
  }
});
