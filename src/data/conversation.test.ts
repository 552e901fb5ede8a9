import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { NUM_MESSAGES_UNCUT } from "../blocks/chat-prompt.js";
import { type ChatTemplate, compileChatTemplate } from "../blocks/chat-template.js";
import { DEFAULT_BLOCK_LIMIT, segmentText } from "../blocks/segment.js";
import { TULU_TEMPLATE } from "./rag/model-prompt.js";
import { type TrainingSample, trainingSamples } from "./training-sample.js";

type Message = { readonly role: string; readonly content: string };

const tokens = { bos_token: "<s>", eos_token: "<|end_of_text|>", pad_token: "", unk_token: "" };
const tulu = compileChatTemplate(TULU_TEMPLATE, { tokens, addsBos: false });
const readTemplate = (name: string): ChatTemplate =>
  compileChatTemplate(readFileSync(new URL(`../../tests/fixtures/templates/${name}.jinja`, import.meta.url), "utf8"), {
    tokens,
    addsBos: true,
  });

/** What the Tulu template prints, written down here a second time. */
const opening = (role: string) => `<|${role}|>\n`;
const closing = (role: string) => (role === "assistant" ? "<|end_of_text|>\n" : "\n");
const printed = ({ role, content }: Message) => opening(role) + content + closing(role);

const contents = fc
  .array(
    fc.constantFrom(
      ...["a", "Bc ", "longer words ", "😀", "東京。", "\n", "\n\n", "\n\t", "---", "===", "  "],
      ...["<|user|>\n", "<|assistant|>", "<|end_of_text|>\n", "<|im_end|>", "<s>", "```python\n", "c++"],
    ),
    { maxLength: 40 },
  )
  .map((pieces) => pieces.join(""));
const filled = contents.map((text) => `${text}x`);

/** Up to nine rounds, with or without a system message; now and then an empty message, or two of the user. */
const conversations: fc.Arbitrary<Message[]> = fc
  .tuple(
    fc.option(filled),
    fc.array(fc.tuple(fc.oneof({ weight: 9, arbitrary: filled }, contents), filled, fc.boolean()), {
      minLength: 1,
      maxLength: 9,
    }),
  )
  .map(([system, rounds]) => [
    ...(system === null ? [] : [{ role: "system", content: system }]),
    ...rounds.flatMap(([user, assistant, isDouble], i) => [
      ...(isDouble && i % 4 === 3 ? [{ role: "user", content: `More.\n${user}` }] : []),
      { role: "user", content: user },
      { role: "assistant", content: assistant },
    ]),
  ]);

/** The samples of a conversation beside the place of the answer that each is made of. */
function samplesOf(messages: readonly Message[], template: ChatTemplate): { sample: TrainingSample; answer: number }[] {
  const outcomes = trainingSamples({ id: "c", messages } as never, "row", {
    template,
    seed: "1",
    singleProbability: 1,
  });
  return outcomes.flatMap((outcome) =>
    outcome.kind === "sample" ? [{ sample: outcome.sample, answer: Number(outcome.sample.id.slice(2)) }] : [],
  );
}

const check = (law: (messages: Message[]) => void) => fc.assert(fc.property(conversations, law), { numRuns: 60 });

test("trainingSamples(): nothing is lost or added, with the Tulu template and with others", () => {
  for (const template of [tulu, readTemplate("llama-3.1"), readTemplate("chatml")]) {
    fc.assert(
      fc.property(conversations, (messages) => {
        for (const { sample, answer } of samplesOf(messages, template)) {
          const seen = messages.slice(0, answer + 1);
          const text = sample.blocks.map((block) => block.text).join("") + sample.response;
          const rendered = template.render(seen, { addGenerationPrompt: false });
          expect(template === tulu ? seen.map(printed).join("") : rendered.replace(/^<s>/, "")).toBe(text);
          expect(sample.blocks.every((block) => block.text !== "")).toBe(true);
        }
      }),
      { numRuns: 25 },
    );
  }
});

test("trainingSamples(): every answer is a sample or is dropped for an empty message", () => {
  check((messages) => {
    const answers = messages.flatMap(({ role }, i) => (role === "assistant" ? [i] : []));
    const isWhole = (answer: number) => messages.slice(0, answer + 1).every(({ content }) => content.trim() !== "");
    expect(samplesOf(messages, tulu).map(({ answer }) => answer)).toEqual(answers.filter(isWhole));
  });
});

test("trainingSamples(): at most 15 blocks; from 12 messages on each message is one", () => {
  check((messages) => {
    for (const { sample, answer } of samplesOf(messages, tulu)) {
      if (answer < NUM_MESSAGES_UNCUT) expect(sample.blocks.length).toBeLessThanOrEqual(DEFAULT_BLOCK_LIMIT);
      else expect(sample.blocks).toHaveLength(answer);
    }
  });
});

test("trainingSamples(): the final block is the last user message, or the last piece of the only one", () => {
  check((messages) => {
    for (const { sample, answer } of samplesOf(messages, tulu)) {
      const { content } = messages[answer - 1] as Message;
      const pieces = answer === 1 ? segmentText(content) : [content];
      const isOnePiece = pieces.length === 1;
      const expected = `${isOnePiece ? opening("user") : ""}${pieces.at(-1)}${closing("user")}${opening("assistant")}`;
      expect(sample.blocks.at(-1)?.text).toBe(expected);
      expect(sample.response).toBe((messages[answer] as Message).content + closing("assistant"));
    }
  });
});

test("trainingSamples(): no cut inside what the template prints", () => {
  check((messages) => {
    for (const { sample, answer } of samplesOf(messages, tulu)) {
      // A cut may stand before a message, or between two characters of its own text.
      const isFit = new Set<number>();
      let start = 0;
      for (const message of messages.slice(0, answer)) {
        isFit.add(start);
        const text = start + opening(message.role).length;
        for (let i = 1; i < message.content.length; i++) isFit.add(text + i);
        start += printed(message).length;
      }
      let cut = 0;
      const cuts = sample.blocks.slice(0, -1).map(({ text }) => {
        cut += text.length;
        return cut;
      });
      expect(cuts.filter((at) => !isFit.has(at))).toEqual([]);
    }
  });
});
