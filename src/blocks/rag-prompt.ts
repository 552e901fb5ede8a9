import { z } from "zod";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { aFunction, anyText, anything, type FieldsOf, oneOfTexts, optionOf, optionsOf } from "../files/options.js";
import { runToEnd, type Steps } from "../tokenizer/steps.js";
import {
  blockOfRuns,
  type ChatMessage,
  type MessagePart,
  type PartedMessage,
  type SegmentedPrompt,
  type TextBlock,
  type TextRun,
} from "./block.js";
import {
  type ChatPromptOptions,
  chatPromptFields,
  checkMessages,
  cutOfString,
  cutPartedMessages,
  lastUserMessage,
  NUM_MESSAGES_UNCUT,
  partOf,
} from "./chat-prompt.js";
import type { ChatTemplate } from "./chat-template.js";
import { type Passage, type PassageInput, passageBlock, readPassages } from "./passage.js";

/** The fixed texts of a RAG prompt. A model that was trained on others carries its own in its block-attention config. */
export interface RagPromptTexts {
  /** The system message of prompts that have none, where there is a chat template. Default: none. */
  readonly system?: string | undefined;
  /** Before the passages; a system message takes its place. */
  readonly preamble: string;
  /**
   * One passage, with `{title}` and `{text}`. It is a block as it stands, so it should end the line it ends on. Where it has
   * a place for a title, a passage without one is its text alone, with a newline.
   */
  readonly passage: string;
  /** The final block, with `{question}`. */
  readonly final: string;
}

const QUESTION = "{question}";

/** @see docs/reference.md "The RAG prompt". */
export const DEFAULT_RAG_PROMPT_TEXTS: RagPromptTexts = {
  preamble:
    "You are an intelligent AI assistant. Please answer questions based on the user's instructions. Below are some reference documents that may help you in answering the user's question.\n\n",
  passage: "- Title: {title}\n{text}\n",
  final:
    "\n\nPlease write a high-quality answer for the given question using only the provided search documents (some of which might be irrelevant).\nQuestion: {question}",
};

/**
 * Passages and what is asked over them: a question, or a conversation whose last user message is the question. A
 * document that is a text is a passage as it stands.
 */
export type RagPromptInput =
  | { readonly documents: readonly PassageInput[]; readonly question: string }
  | { readonly documents: readonly PassageInput[]; readonly messages: readonly ChatMessage[] };

/** Some of the texts; the others are the model's, or the defaults. */
export type GivenRagTexts = { readonly [K in keyof RagPromptTexts]?: RagPromptTexts[K] | undefined };

export interface RagPromptOptions extends Omit<ChatPromptOptions, "limit"> {
  /** Undefined: no chat template, the texts alone. */
  readonly template?: ChatTemplate | undefined;
  /** The model's or the caller's texts, over the defaults. */
  readonly texts?: GivenRagTexts | undefined;
  /** The documents come best first. "best-last" lays them in the opposite order. Default "best-first". */
  readonly order?: "best-first" | "best-last" | undefined;
  /** How many of the documents are used, the best ones. Default all. */
  readonly maxDocuments?: number | undefined;
  /** The passages that a long one is laid as. Default: itself. */
  readonly partsOf?: ((passage: Passage) => readonly Passage[]) | undefined;
  /** The limit on blocks of earlier turns, where they are cut by rule. */
  readonly limit?: number | undefined;
}

/** Longer ones are no instructions, and would be read with every prompt. */
const maxTextLength = 20_000;
const fixedText = z.string().max(maxTextLength);
function textField(place: string, about = "") {
  const wanted = `up to ${maxTextLength} characters with "${place}" once${about}`;
  const error = `wanted ${wanted}`;
  const isOnce = (text: string): boolean => text.split(place).length === 2;
  const schema = fixedText.includes(place, error).refine(isOnce, { error, params: { isRange: true } });
  return { schema: schema.optional(), wanted };
}

/** Of texts that a model, a server's settings, a request or a call may have in place of the defaults. */
export const ragTextFields = {
  system: { schema: fixedText.optional(), wanted: `up to ${maxTextLength} characters` },
  preamble: { schema: fixedText.optional(), wanted: `up to ${maxTextLength} characters` },
  passage: textField("{text}", ', and "{title}" where the title goes'),
  final: textField(QUESTION),
} satisfies FieldsOf<RagPromptTexts>;
const readTexts = optionsOf(ragTextFields);
const readRagInput = optionsOf(
  { documents: anything, question: anyText, messages: optionOf<readonly ChatMessage[]>(() => true, "messages") },
  "field",
);
export const ragFields = {
  ...chatPromptFields,
  template: optionOf<ChatTemplate>(() => true, "a chat template"),
  texts: optionOf<GivenRagTexts>(() => true, "an object"),
  order: oneOfTexts(["best-first", "best-last"]),
  maxDocuments: {
    schema: z.union([z.int().min(0), z.literal(Infinity)]).optional(),
    wanted: "a whole number from 0 on",
  },
  partsOf: aFunction<RagPromptOptions["partsOf"]>(),
} satisfies FieldsOf<RagPromptOptions>;
const readRagOptions = optionsOf(ragFields);

/**
 * The RAG prompt: preamble, one block a passage, and as final block the task sentence with the question.
 *
 * With a chat template the three stand in the first user message, and block 0 is all that stands before the passages. From messages
 * with documents: a system message takes the preamble's place; the passages open the first user message, earlier turns
 * follow them, cut as `segmentMessages` does; the last user message, after the task sentence, is the final block. With `spans`
 * every user message has the task sentence before its last part, as it had when it was the last one.
 * Passages and question are not trusted; the fixed texts are.
 *
 * Passages' blocks tell which document each is.
 *
 * @throws TypeError for documents or texts of the wrong kind, RangeError for an empty question, texts without their
 *   place holders, or messages that `segmentMessages` refuses.
 * @see docs/reference.md "The RAG prompt".
 * @example
 * const { blocks } = ragPrompt({ question: "Who?", documents: [{ title: "A", text: "B" }] });
 * blocks[1].text; // "- Title: A\nB\n"
 */
export function ragPrompt(input: RagPromptInput, options: RagPromptOptions = {}): SegmentedPrompt {
  return runToEnd(ragPromptInSteps(input, options));
}

/** The same in steps. */
export function* ragPromptInSteps(input: RagPromptInput, options: RagPromptOptions = {}): Steps<SegmentedPrompt> {
  const checked = readRagOptions("make a RAG prompt", options);
  const { template, order = "best-first", maxDocuments = Infinity, partsOf = (passage) => [passage] } = checked;
  const texts = ragTexts(checked.texts);
  const asked = readRagInput("make a RAG prompt", input);
  const chosen = readPassages(asked.documents).slice(0, maxDocuments);
  if (order === "best-last") chosen.reverse();
  const passages = chosen.flatMap(partsOf).map((passage): LabelledText => {
    const { text, title = "" } = passage ?? {};
    if (typeof text !== "string" || typeof title !== "string") {
      throw new InputTypeError('Cannot make a RAG prompt: what "partsOf" returned is no array of passages');
    }
    return { text: passageBlock(passage, texts.passage), passage: passage.label };
  });

  const { question, messages } = asked;
  if (messages !== undefined) {
    if (question !== undefined)
      throw new InputTypeError("Cannot make a RAG prompt: there are both a question and messages");
    if (template === undefined)
      throw new InputRangeError("Cannot make a RAG prompt of messages: there is no chat template");
    checkMessages(messages);
    const parted = partMessages(messages, passages, texts, checked);
    return yield* cutPartedMessages(parted, template, { ...checked, joinOpening: true });
  }
  if (question === undefined) throw new InputTypeError("Cannot make a RAG prompt: there is no question, wanted text");
  if (question.trim() === "") throw new InputRangeError("Cannot make a RAG prompt: the question is empty");
  if (template === undefined) {
    const opening = blockOfRuns([{ text: texts.preamble, trusted: true }]);
    const blocks = [
      ...(texts.preamble === "" ? [] : [opening]),
      ...passages.map((passage): TextBlock => ({ ...passage, trusted: "none" })),
      blockOfRuns(finalRuns(texts.final, question)),
    ];
    return { blocks, warnings: [] };
  }
  const parted = partMessages([{ role: "user", content: question }], passages, texts, checked);
  return yield* cutPartedMessages(parted, template, { ...checked, joinOpening: true });
}

type LabelledText = Required<Pick<TextBlock, "text" | "passage">>;

function partMessages(
  given: readonly ChatMessage[],
  passages: readonly LabelledText[],
  texts: RagPromptTexts,
  options: ChatPromptOptions,
): PartedMessage[] {
  const isLacking = texts.system !== undefined && !given.some(({ role }) => role === "system");
  const messages = isLacking ? [{ role: "system", content: texts.system }, ...given] : given;
  const cut = cutOfString(options, messages.length < NUM_MESSAGES_UNCUT);
  const question = lastUserMessage(messages);
  const firstUser = messages.findIndex((message) => message.role === "user");
  const hasSystem = messages.some((message) => message.role === "system");
  return messages.map(({ content, ...message }, i): PartedMessage => {
    const { role } = message;
    const parts: MessagePart[] = [];
    if (i === firstUser) {
      if (!hasSystem && texts.preamble !== "") {
        parts.push({ runs: [{ text: texts.preamble, trusted: true }], cut: "whole" });
      }
      parts.push(...passages.map(({ text, passage }) => ({ ...partOf(text, "given"), passage })));
    }
    const own = typeof content === "string" ? [content] : content.length === 0 ? [""] : content;
    // As spans, every question is written as it was when it was asked, so that its keys and values are found again.
    const isAsked = role === "user" && options.spans !== undefined && own.at(-1)?.trim() !== "";
    if (i === question || isAsked) {
      const given = options.spans === undefined ? [] : own.slice(0, -1);
      parts.push(...given.map((part) => partOf(part, "given")));
      const text = own.slice(given.length).join("");
      if (text.trim() === "") throw new InputRangeError("Cannot make a RAG prompt: the last user message is empty");
      // Blank lines set the task sentence off from the passages before it; in a message of its own there are none.
      const final = i === firstUser ? texts.final : texts.final.replace(/^\n+/, "");
      parts.push({ runs: finalRuns(final, text), cut: "whole" });
    } else if (typeof content === "string") {
      parts.push(partOf(content, role === "system" ? "whole" : cut));
    } else {
      parts.push(...own.map((part) => partOf(part, "given")));
    }
    return { ...message, parts };
  });
}

/** The final text with the question in its place: the text is trusted, the question is not. */
function finalRuns(final: string, question: string): TextRun[] {
  const at = final.indexOf(QUESTION);
  return [
    { text: final.slice(0, at), trusted: true },
    { text: question, trusted: false },
    { text: final.slice(at + QUESTION.length), trusted: true },
  ];
}
/**
 * The texts of a RAG prompt: those given, in their place the others.
 *
 * @throws TypeError for texts that are none; RangeError for those that are too long, or lack their place holder.
 */
export function ragTexts(given: unknown = {}, others: GivenRagTexts = DEFAULT_RAG_PROMPT_TEXTS): RagPromptTexts {
  const texts = readTexts("use the texts of the RAG prompt", given);
  const { preamble, passage, final } = DEFAULT_RAG_PROMPT_TEXTS;
  const system = texts.system ?? others.system;
  return {
    ...(system !== undefined && { system }),
    preamble: texts.preamble ?? others.preamble ?? preamble,
    passage: texts.passage ?? others.passage ?? passage,
    final: texts.final ?? others.final ?? final,
  };
}
