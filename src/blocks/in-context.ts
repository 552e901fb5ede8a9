import { z } from "zod";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { anyText, type FieldsOf, optionsOf, show, someText } from "../files/options.js";
import { blockOfRuns, type SegmentedPrompt, type TextBlock, type TextRun } from "./block.js";
import { layoutChat } from "./chat-layout.js";
import { type ChatTemplate, type RenderOptions, renderFields } from "./chat-template.js";

/** One round: what is asked, and the answer that shows how. */
export interface Demonstration {
  readonly question: string;
  readonly answer: string;
}

export interface InContextInput {
  readonly demonstrations: readonly Demonstration[];
  readonly query: string;
  /** A system message, in a block of its own. */
  readonly system?: string | undefined;
}

const readInput = optionsOf(
  {
    demonstrations: { schema: z.array(z.unknown()), wanted: "an array" },
    query: someText,
    system: anyText,
  } satisfies FieldsOf<InContextInput>,
  "field",
);
const readDemonstration = optionsOf(
  { question: someText, answer: someText } satisfies FieldsOf<Demonstration>,
  "field",
);
const readRenderOptions = optionsOf(renderFields);

/**
 * In-context learning as chat: every round (a user and an assistant turn) is a block, the query is the final block. What
 * the template puts before the first round only, and the system message, are a block before it, so that a
 * demonstration's block is the same at every place.
 *
 * @throws TypeError for demonstrations of the wrong kind, RangeError for an empty query or if the template refuses.
 * @see docs/reference.md "In-context learning".
 * @example
 * const source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}";
 * const tokens = { bos_token: "", eos_token: "", pad_token: "", unk_token: "" };
 * const template = compileChatTemplate(source, { tokens, addsBos: false });
 * const { blocks } = inContextPrompt({ demonstrations: [{ question: "1 + 1", answer: "2" }], query: "2 + 2" }, template);
 * blocks.map(({ text }) => text); // ["<|user|>1 + 1\n<|assistant|>2\n", "<|user|>2 + 2\n"]
 */
export function inContextPrompt(
  input: InContextInput,
  template: ChatTemplate,
  options: RenderOptions = {},
): SegmentedPrompt {
  const { demonstrations, query, system } = readInput("use demonstrations", input);
  const checked = readRenderOptions("use demonstrations", options);
  if (query.trim() === "") throw new InputRangeError("Cannot use demonstrations: the query is empty");
  const messages = [
    ...(system === undefined ? [] : [{ role: "system", content: system }]),
    ...demonstrations.flatMap((demonstration, i) => {
      const { question, answer } = readDemonstration(`use demonstration ${i + 1}`, demonstration);
      return [
        { role: "user", content: question },
        { role: "assistant", content: answer },
      ];
    }),
    { role: "user", content: query },
  ];
  const layout = layoutChat(template, messages, checked);
  if (layout.kind === "whole") return { blocks: [blockOfRuns(layout.runs)], warnings: layout.warnings };

  const numBefore = system === undefined ? 0 : 1;
  const final = messages.length - 1;
  // The system message, each round, and the query have a block each; a template that prints them in another order
  // makes more blocks, never other text.
  const unitOf = (message: number) => (message < numBefore ? -1 : Math.floor((message - numBefore) / 2));
  const firstFinal = layout.turns.findIndex((turn) => turn.message === final);
  if (firstFinal < 0) throw new InputRangeError("Cannot use demonstrations: the chat template leaves out the query");
  const laterPrefix = layout.turns.find(
    (turn) => turn.message > numBefore && messages[turn.message]!.role === "user",
  )?.prefix;

  const units: { unit: number; runs: TextRun[] }[] = [];
  for (const [k, { message, prefix, content, suffix }] of layout.turns.entries()) {
    const unit = k >= firstFinal ? Number.POSITIVE_INFINITY : unitOf(message);
    let opening = prefix;
    const isFirstRound = message === numBefore && laterPrefix !== undefined && laterPrefix !== "";
    if (isFirstRound && prefix !== laterPrefix && prefix.endsWith(laterPrefix)) {
      units.push({ unit: -1, runs: [{ text: prefix.slice(0, -laterPrefix.length), trusted: true }] });
      opening = laterPrefix;
    }
    const runs = [
      { text: opening, trusted: true },
      { text: content, trusted: false },
      { text: suffix, trusted: true },
    ];
    const last = units.at(-1);
    if (last !== undefined && last.unit === unit) last.runs.push(...runs);
    else units.push({ unit, runs });
  }
  const blocks = units.map(({ runs }) => blockOfRuns(runs)).filter((block) => block.text !== "");
  return { blocks, warnings: layout.warnings };
}

/** Where a text of demonstrations is cut: after or before each place that reads so. */
export type DemonstrationRule =
  | { readonly after: string }
  | {
      readonly before: string;
      /** From the last of this on, all is the final block; what stands between it and the mark belongs to it. */
      readonly closing?: string | undefined;
    };

/** How the prompts of known benchmarks are cut. */
export const DEMONSTRATION_RULES = {
  gsm8k: { after: "<|end_of_text|>\n" },
  math: { after: "<|end_of_text|>\n" },
  bbh: { before: "\n\nQ: " },
  drop: { before: "\n---", closing: "# Your Task" },
} as const satisfies Record<string, DemonstrationRule>;

const readRule = optionsOf({ after: anyText, before: anyText, closing: anyText }, "field");

/**
 * In-context learning as text: every demonstration is a block, the last piece, the query, the final block. The caller
 * composed the text, so all of it is trusted.
 *
 * @throws TypeError if the text is no string, RangeError if it is empty or ends with a demonstration, leaving no query.
 * @see docs/reference.md "In-context learning".
 * @example
 * const { blocks } = segmentDemonstrations("Q: 1 + 1\nA: 2\n\nQ: 2 + 2\nA:", DEMONSTRATION_RULES.bbh);
 * blocks.map(({ text }) => text); // ["Q: 1 + 1\nA: 2", "\n\nQ: 2 + 2\nA:"]
 */
export function segmentDemonstrations(text: string, rule: DemonstrationRule): SegmentedPrompt {
  if (typeof text !== "string")
    throw new InputTypeError(`Cannot cut demonstrations: the text is ${show(text)}, wanted text`);
  const { after, before, closing } = readRule("cut demonstrations", rule);
  const mark = after ?? before;
  if (mark === undefined || (after !== undefined && (before ?? closing) !== undefined)) {
    throw new InputTypeError(`Cannot cut demonstrations: the rule is ${show(rule)}, wanted "after" alone, or "before"`);
  }
  if (mark === "") throw new InputRangeError("Cannot cut demonstrations: the text to cut at is empty");
  if (text === "") throw new InputRangeError("Cannot cut demonstrations: the text is empty");
  const pieces = text.split(mark).map((piece, i, all) => {
    if (after !== undefined) return i < all.length - 1 ? piece + mark : piece;
    return i > 0 ? mark + piece : piece;
  });
  const closingStart = closing === undefined || closing === "" ? -1 : text.lastIndexOf(closing);
  if (closingStart >= 0) {
    let start = 0;
    const held = pieces.findIndex((piece) => {
      const isHere = start + piece.length > closingStart;
      if (!isHere) start += piece.length;
      return isHere;
    });
    const [piece, ...later] = pieces.splice(held) as [string, ...string[]];
    const head = piece.slice(0, closingStart - start);
    const isMarkAlone = (head.startsWith(mark) ? head.slice(mark.length) : head).trim() === "";
    if (isMarkAlone) pieces.push([piece, ...later].join(""));
    else pieces.push(head, [piece.slice(head.length), ...later].join(""));
  }
  if (pieces.at(-1) === "") throw new InputRangeError("Cannot cut demonstrations: no query follows the last of them");
  const blocks = pieces.filter((piece) => piece !== "").map((piece): TextBlock => ({ text: piece, trusted: "all" }));
  return { blocks, warnings: [] };
}
