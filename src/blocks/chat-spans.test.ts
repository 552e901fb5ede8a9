import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { isInputError } from "../files/input-error.js";
import type { ChatMessage, TextBlock } from "./block.js";
import { isAnswer, segmentMessages } from "./chat-prompt.js";
import { type ChatTemplate, compileChatTemplate } from "./chat-template.js";
import { ragPrompt } from "./rag-prompt.js";

const now = new Date(2024, 6, 26);
const tokens = { bos_token: "<s>", eos_token: "</s>", pad_token: "", unk_token: "" };
const compile = (source: string): ChatTemplate => compileChatTemplate(source, { tokens, addsBos: true });
const readTemplate = (name: string): ChatTemplate =>
  compile(readFileSync(new URL(`../../tests/fixtures/templates/${name}.jinja`, import.meta.url), "utf8"));

const chatml = readTemplate("chatml");
const gemma = compile(
  "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
);
const smol = compile(
  "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are SmolLM<|im_end|>\n{% endif %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
);

/** [L] local, [G] global: the spans' texts. */
const shown = (blocks: readonly TextBlock[]) =>
  blocks.map(({ isGlobal, text }) => `${isGlobal === true ? "G" : "L"} ${text}`);
const cut = (messages: readonly ChatMessage[], template = chatml, spans: "auto" | "parts" = "auto") =>
  segmentMessages(messages, template, { spans, now });
const spansOf = (messages: readonly ChatMessage[], template = chatml) => shown(cut(messages, template).blocks);

const words = fc
  .array(fc.constantFrom("a", "Bc ", "😀", "\n", "\n\n", "  ", "<|im_end|>", "[/INST]", "<s>", "Blk0Q1z"), {
    maxLength: 8,
  })
  .map((pieces) => pieces.join(""));
const people = ["Ann was born in Rome.", "Bo was born in Oslo, and lives there.", "Cy is a cat 😀."];
/** Text that holds passages, with or without text around them. */
const found = fc
  .tuple(
    fc.constantFrom("", "Read this.\n\n"),
    fc.subarray(people, { minLength: 2 }),
    fc.constantFrom("", "\n", "\n\nWho?"),
  )
  .map(([before, all, after]) => before + all.map((text, i) => `[${i + 1}] ${text}`).join("\n") + after);
const contents = fc.oneof(words, found, fc.array(words, { maxLength: 4 }));
const question = fc.oneof(
  found,
  words.map((text) => `${text}x`),
  fc.tuple(fc.array(words, { maxLength: 4 }), words).map(([parts, text]) => [...parts, `${text}x`]),
);
const messageOf = (role: string, content = contents) => content.map((text): ChatMessage => ({ role, content: text }));
const answer = messageOf("assistant");
const rounds = fc.array(fc.tuple(messageOf("user", question), answer), { minLength: 1, maxLength: 4 });
const plain = rounds.map((all) => all.flat());
/** With messages of other roles in odd places, answers before questions, steps with tools, empty texts. */
const odd = fc
  .array(
    fc.oneof(
      messageOf("user", question),
      answer,
      messageOf("user"),
      fc.constantFrom("system", "tool", "developer").chain((role) => messageOf(role)),
    ),
    { maxLength: 9 },
  )
  .map((messages) => [...messages, { role: "assistant", content: "end" }]);

const TEMPLATES: [name: string, ChatTemplate, fc.Arbitrary<ChatMessage[]>][] = [
  ["chatml", chatml, odd],
  ["SmolLM2", smol, odd],
  ["tiny-rag", readTemplate("tiny-rag"), plain],
  ["llama-3.1", readTemplate("llama-3.1"), plain],
  ["llama-3.2", readTemplate("llama-3.2"), plain],
  ["qwen-2.5", readTemplate("qwen-2.5"), odd],
  ["tulu-3", readTemplate("tulu-3"), plain],
  ["mistral-nemo", readTemplate("mistral-nemo"), plain],
  ["mistral-7b-v0.2", readTemplate("mistral-7b-v0.2"), plain],
  ["gemma", gemma, odd],
];

for (const [name, template, conversations] of TEMPLATES) {
  test(`segmentMessages(): appending an answer and turns leaves all earlier spans as they are (${name})`, () => {
    let numCompared = 0;
    fc.assert(
      fc.property(conversations, fc.constantFrom("auto", "parts"), (messages, spans) => {
        const prompts = messages.flatMap((message, i) => {
          if (!isAnswer(message)) return [];
          try {
            return [{ blocks: cut(messages.slice(0, i), template, spans).blocks, answer: message.content }];
          } catch (error) {
            // It has no question yet, or an empty one.
            if (isInputError(error)) return [];
            throw error;
          }
        });
        for (const [i, { blocks, answer }] of prompts.slice(0, -1).entries()) {
          const later = prompts[i + 1]!.blocks;
          expect(later.slice(0, blocks.length)).toEqual(blocks);
          const text = typeof answer === "string" ? answer : answer.join("");
          if (text.trim() === "") continue;
          numCompared++;
          expect([text, text.trim()]).toContain(later[blocks.length]?.text);
          expect(later[blocks.length]).toMatchObject({ isGlobal: true, trusted: "none" });
        }
      }),
      { numRuns: 150 },
    );
    expect(numCompared).toBeGreaterThan(40);
  });
}

test("segmentMessages(): system text, parts but the last and tools' results are local, all else is global from the first question on", () => {
  const messages: ChatMessage[] = [
    { role: "system", content: "S" },
    { role: "user", content: ["p1", "p2", "Q1"] },
    { role: "assistant", content: ["A", "1"] },
    { role: "tool", content: "T" },
    { role: "user", content: "Q2" },
    { role: "developer", content: ["d1", "d2"] },
  ];
  expect(spansOf(messages)).toEqual([
    "L <|im_start|>system\nS<|im_end|>\n",
    "L <|im_start|>user\n",
    "L p1",
    "L p2",
    "G Q1<|im_end|>\n<|im_start|>assistant\n",
    "G A1",
    "G <|im_end|>\n<|im_start|>tool\n",
    "L T",
    "G <|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>developer\n",
    "L d1",
    "L d2",
    "G <|im_end|>\n<|im_start|>assistant\n",
  ]);
  expect(cut(messages).isConversation).toBe(true);
  expect(cut(messages.slice(0, 4)).isConversation).toBe(false);
});

test("segmentMessages(): passages in a string are local; text around them is until the first question; the last is global where nothing follows", () => {
  const passages = "[1] Ann was born in Rome.\n[2] Bo was born in Oslo.";
  const local = ["L [1] ", "L Ann was born in Rome.", "L \n[2] "];
  expect(
    spansOf([
      { role: "system", content: `Rules.\n${passages}` },
      { role: "user", content: `Read.\n${passages}\n\nWho?` },
      { role: "assistant", content: passages },
      { role: "tool", content: passages },
      { role: "user", content: `Read.\n${passages}` },
    ]),
  ).toEqual([
    "L <|im_start|>system\nRules.\n",
    ...local,
    "L Bo was born in Oslo.",
    "L <|im_end|>\n<|im_start|>user\nRead.\n",
    ...local,
    "L Bo was born in Oslo.",
    "G \n\nWho?<|im_end|>\n<|im_start|>assistant\n",
    `G ${passages}`,
    "G <|im_end|>\n<|im_start|>tool\n",
    ...local,
    "L Bo was born in Oslo.",
    "G <|im_end|>\n<|im_start|>user\nRead.\n",
    ...local,
    "G Bo was born in Oslo.<|im_end|>\n<|im_start|>assistant\n",
  ]);
});

test("segmentMessages(): spans end with a global one whatever the prompt ends with", () => {
  const bare = compile("{% for m in messages %}{{ m.content }}{% endfor %}");
  const asked: ChatMessage[] = [{ role: "user", content: ["p", "Q"] }];
  expect(spansOf([...asked, { role: "tool", content: "T" }], bare)).toEqual(["L p", "G Q", "G T"]);
  expect(spansOf([...asked, { role: "tool", content: "" }], bare)).toEqual(["L p", "G Q"]);
  expect(spansOf([...asked, { role: "assistant", content: "A" }], bare)).toEqual(["L p", "G Q", "G A"]);
});

test("ragPrompt(): documents, then turns by the same rule", () => {
  const messages: ChatMessage[] = [
    { role: "user", content: "Q1" },
    { role: "assistant", content: "A1" },
    { role: "user", content: "Q2" },
  ];
  const { preamble, final } = { preamble: "Read.\n", final: "Answer {question}" };
  const prompt = ragPrompt(
    { documents: ["d1\n", "d2\n"], messages },
    { template: chatml, texts: { preamble, final }, spans: "parts" },
  );
  expect(shown(prompt.blocks)).toEqual([
    "L <|im_start|>user\nRead.\n",
    "L d1\n",
    "L d2\n",
    "G Answer Q1<|im_end|>\n<|im_start|>assistant\n",
    "G A1",
    "G <|im_end|>\n<|im_start|>user\nAnswer Q2<|im_end|>\n<|im_start|>assistant\n",
  ]);
  expect(prompt.isConversation).toBe(true);
  const documents = ["d1\n", "d2\n"];
  const options = { template: chatml, texts: { preamble, final }, spans: "parts" } as const;
  const before = ragPrompt({ documents, messages: messages.slice(0, 1) }, options).blocks;
  expect(prompt.blocks.slice(0, before.length)).toEqual(before);
  // Passages of a later turn are local in the turn that they come in, too.
  const later = ragPrompt(
    {
      documents: ["d1\n"],
      messages: [
        { role: "user", content: [] },
        { role: "user", content: ["p", "Q2"] },
      ],
    },
    { template: chatml, texts: { preamble, final }, spans: "auto" },
  );
  expect(shown(later.blocks)).toEqual([
    "L <|im_start|>user\nRead.\n",
    "L d1\n",
    "G <|im_end|>\n<|im_start|>user\n",
    "L p",
    "G Answer Q2<|im_end|>\n<|im_start|>assistant\n",
  ]);
  // An answer before all questions is global, and no part of the opening.
  const greeted = ragPrompt(
    { documents: ["d1\n"], messages: [{ role: "assistant", content: "Hi" }, messages[2]!] },
    { template: chatml, texts: { preamble, final }, spans: "auto" },
  );
  expect(shown(greeted.blocks)).toEqual([
    "G <|im_start|>assistant\n",
    "G Hi",
    "G <|im_end|>\n<|im_start|>user\n",
    "L Read.\n",
    "L d1\n",
    "G Answer Q2<|im_end|>\n<|im_start|>assistant\n",
  ]);
});
