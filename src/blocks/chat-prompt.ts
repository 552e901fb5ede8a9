import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { anyBoolean, anything, type FieldsOf, oneOfTexts, optionsOf, show } from "../files/options.js";
import { runToEnd, type Steps } from "../tokenizer/steps.js";
import {
  blockOfRuns,
  type ChatMessage,
  type MessagePart,
  type PartedMessage,
  type SegmentedPrompt,
  sliceRuns,
  type TextBlock,
  type TextRun,
} from "./block.js";
import { type ChatLayout, type LaidTurn, layoutChat } from "./chat-layout.js";
import { type ChatTemplate, type RenderedMessage, type RenderOptions, renderFields } from "./chat-template.js";
import { findPassages } from "./find-passages.js";
import { type MergePiece, mergePieces } from "./merge-pieces.js";
import type { PassageLabel } from "./passage.js";
import {
  countCharacters,
  cutAtPassages,
  cutText,
  type SegmentOptions,
  type SegmentRule,
  segmentFields,
  segmentRule,
} from "./segment.js";
import { type Tool, toolCallsField, toolMessages, toolsField } from "./tools.js";

/** From so many messages on, each message before the final block is one block. */
export const NUM_MESSAGES_UNCUT = 12;

export interface ChatPromptOptions extends SegmentOptions, RenderOptions {
  /**
   * Makes spans, as conversations are served, in place of the paper's cut, which the options of `SegmentOptions` belong to.
   * "parts": content parts are spans, strings stay whole. "auto": strings are cut at the passages in them, too.
   */
  readonly spans?: "auto" | "parts" | undefined;
  /** What the model may call: rendered by its template where that reads tools, else as a system text. */
  readonly tools?: readonly Tool[] | undefined;
  /** The prompt ends in the assistant's last message, which the answer goes on from. Default false. */
  readonly continuesLast?: boolean | undefined;
}

export const chatPromptFields = {
  ...segmentFields,
  ...renderFields,
  spans: oneOfTexts(["auto", "parts"]),
  tools: { ...toolsField, schema: toolsField.schema.optional() },
  continuesLast: anyBoolean,
} satisfies FieldsOf<ChatPromptOptions>;
const readChatPromptOptions = optionsOf(chatPromptFields);
const readMessage = optionsOf(
  {
    role: anything,
    content: anything,
    name: anything,
    reasoning: anything,
    toolCalls: anything,
    toolCallId: anything,
  } satisfies FieldsOf<ChatMessage>,
  "field",
);

/**
 * Cuts a conversation, rendered with the model's own chat template: by the paper's rule, or into `spans`.
 *
 * By the rule:
 * - The final block begins with the last user message, with what the template opens it with, and goes on to the prompt's
 *   end: later turns (a tool's answer, the opening of an answer) are in it, since they follow the question. The last
 *   user message stays whole; a single message is cut by rule, and its last piece is the final block.
 * - An array of parts is the caller's cut: every part is a block, of the last user message the last part is the final
 *   block. Template text is never glued to a part: what stands before the first is a block of its own, what follows the
 *   last opens the next message. White space at a part's edge stays even where the template trims messages, since a
 *   passage's block must not depend on its place.
 * - Other text is cut by rule, role prefix and suffix on the first and last piece of their message. Over the limit,
 *   pairs inside one message merge first. The characters that count are the messages', not the template's. From 12
 *   messages on each earlier message is one block, and the limit does not apply, so that a growing conversation keeps its blocks.
 *
 * As spans, appending turns leaves the earlier ones as they are:
 * - Local: each part of a user message but its last, or each passage in its text, and messages of all roles but "user"
 *   and "assistant" (or "model"), in parts or cut at their passages. Parts are as by the rule. Before the first question, text around
 *   passages is local, and template text beside text goes with it.
 * - Global: everything else. An answer is a block of its own, since it is tokenized as it was drawn; what stands before
 *   it ends with the text that opens it, as the prompt did that it answered.
 *
 * The blocks' texts, put together, are the rendered prompt, less a BOS text that the template prints itself where the
 * tokenizer adds BOS by id. Only the template's text is trusted, without what it prints of tools and calls.
 *
 * @throws TypeError for messages of the wrong kind or tools that are none, RangeError if there are none, none of role "user", an empty last
 *   user message, an unfit role or name, or if the template refuses them.
 * @see docs/reference.md "Template text is never glued to a passage", "By rule"; docs/reuse.md "Who sees whom".
 * @example
 * const source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}";
 * const tokens = { bos_token: "", eos_token: "", pad_token: "", unk_token: "" };
 * const template = compileChatTemplate(source, { tokens, addsBos: false });
 * const { blocks } = segmentMessages([{ role: "user", content: ["A passage.\n", "Who?"] }], template);
 * blocks.map(({ text }) => text); // ["<|user|>", "A passage.\n", "Who?\n"]
 */
export function segmentMessages(
  messages: readonly ChatMessage[],
  template: ChatTemplate,
  options: ChatPromptOptions = {},
): SegmentedPrompt {
  return runToEnd(segmentMessagesInSteps(messages, template, options));
}

/** The same in steps. */
export function* segmentMessagesInSteps(
  messages: readonly ChatMessage[],
  template: ChatTemplate,
  options: ChatPromptOptions = {},
): Steps<SegmentedPrompt> {
  const checked = readChatPromptOptions("use messages", options);
  checkMessages(messages);
  const final = lastUserMessage(messages);
  const isSingle = messages.length === 1;
  const isCut = messages.length < NUM_MESSAGES_UNCUT;
  const parted = messages.map(({ content, ...message }, i): PartedMessage => {
    if (typeof content !== "string") return { ...message, parts: content.map((text) => partOf(text, "given")) };
    return { ...message, parts: [partOf(content, cutOfString(checked, i === final ? isSingle : isCut))] };
  });
  return yield* cutPartedMessages(parted, template, checked);
}

/** @param isByRule whether the rule, where it is asked for, cuts the string. */
export function cutOfString({ spans }: ChatPromptOptions, isByRule: boolean): MessagePart["cut"] {
  return spans === "auto" ? "passages" : spans === undefined && isByRule ? "rule" : "whole";
}

/** A part of somebody's text: never trusted. */
export function partOf(text: string, cut: MessagePart["cut"]): MessagePart {
  return { runs: text === "" ? [] : [{ text, trusted: false }], cut };
}

/** @throws TypeError, RangeError as `segmentMessages`. */
export function checkMessages(messages: readonly ChatMessage[]): void {
  if (!Array.isArray(messages))
    throw new InputTypeError(`Cannot use messages: they are ${show(messages)}, wanted an array`);
  if (messages.length === 0) throw new InputRangeError("Cannot use messages: there are none");
  for (const [i, message] of messages.entries()) {
    const { role, name, content, reasoning, toolCalls, toolCallId } = readMessage(`use message ${i + 1}`, message);
    checkWord(i, "role", role);
    if (name !== undefined) checkWord(i, "name", name);
    const isText =
      typeof content === "string" || (Array.isArray(content) && content.every((part) => typeof part === "string"));
    if (!isText)
      throw new InputTypeError(`Cannot use message ${i + 1}: its content is neither text nor an array of texts`);
    if (reasoning !== undefined && !(isAnswer(message) && typeof reasoning === "string"))
      throw new InputTypeError(
        `Cannot use message ${i + 1}: its reasoning is ${show(reasoning)}, wanted an assistant's text`,
      );
    if (toolCalls !== undefined && !(isAnswer(message) && toolCallsField.safeParse(toolCalls).success)) {
      const wanted = 'an assistant\'s, each with texts "id", "name" and "arguments"';
      throw new InputTypeError(`Cannot use message ${i + 1}: its calls are ${show(toolCalls)}, wanted ${wanted}`);
    }
    if (toolCallId !== undefined && typeof toolCallId !== "string")
      throw new InputTypeError(`Cannot use message ${i + 1}: its toolCallId is ${show(toolCallId)}, wanted text`);
  }
}

// Templates print roles and names, and what a template prints is trusted.
function checkWord(index: number, field: "role" | "name", value: unknown): void {
  if (typeof value !== "string") {
    throw new InputTypeError(`Cannot use message ${index + 1}: its ${field} is ${show(value)}, wanted text`);
  }
  if (!/^[\w.-]{1,64}$/.test(value)) {
    throw new InputRangeError(
      `Cannot use message ${index + 1}: its ${field} is ${JSON.stringify(value.slice(0, 80))}, wanted 1 to 64 letters, digits, "_", "-" or "."`,
    );
  }
}

/** @throws RangeError if there is none. */
export function lastUserMessage(messages: readonly { readonly role: string }[]): number {
  const last = messages.findLastIndex((message) => message.role === "user");
  if (last < 0)
    throw new InputRangeError('Cannot use messages: none has the role "user", which the final block is made of');
  return last;
}

/** A block in the making. */
interface Item {
  readonly runs: readonly TextRun[];
  /** "rule": counts against the limit and may merge. "given": nothing is glued to it. */
  readonly kind: "rule" | "whole" | "given" | "header";
  readonly isGlobal: boolean;
  readonly message: number;
  readonly numCharacters: number;
  readonly passage?: PassageLabel | undefined;
}

/** What of a message is global: nothing, its last piece, or all of it, which an answer is apart from what is beside it. */
type Sight = "local" | "question" | "answer" | "global";

/** Whether it is the model that speaks in this role. */
export function isAnswer({ role }: { readonly role: string }): boolean {
  return role === "assistant" || role === "model";
}

/**
 * Cuts messages whose parts say how: one walk over the template's and the messages' text in the order of printing.
 *
 * @param options.joinOpening puts all that stands before the first given part into one block, as a RAG prompt wants it.
 */
export function* cutPartedMessages(
  given: readonly PartedMessage[],
  template: ChatTemplate,
  options: ChatPromptOptions & { readonly joinOpening?: boolean } = {},
): Steps<SegmentedPrompt> {
  const rule = segmentRule(options);
  const { messages, variables, runsOf } = toolMessages(given, template, options);
  const final = lastUserMessage(messages);
  const finalPart = messages[final]!.parts.at(-1);
  if (finalPart === undefined || textOf(finalPart).trim() === "") {
    throw new InputRangeError("Cannot use messages: the last user message, or its last part, is empty");
  }
  const rendered = messages.map(({ parts, ...message }) => ({ ...message, content: parts.map(textOf).join("") }));
  const { continuesLast = false } = options;
  const laid = layoutChat(template, rendered, {
    ...options,
    variables,
    ...(continuesLast && { addGenerationPrompt: false }),
  });
  const layout = continuesLast ? endInLast(laid, rendered) : laid;
  const { warnings } = layout;
  const isConversation = messages.slice(0, final).some(isAnswer) || given.some(({ toolCalls }) => toolCalls);
  if (layout.kind === "whole") {
    const runs = layout.runs.flatMap(({ text, trusted }) => runsOf(text, trusted));
    return { blocks: [blockOfRuns(runs)], isConversation, warnings };
  }
  if (layout.turns.every((turn) => turn.message !== final))
    throw new InputRangeError("Cannot use messages: the chat template leaves out the last user message");

  const items: Item[] = [];
  // What the next item begins with: the template's text; from the first question on, all global text.
  let open: TextRun[] = [];
  let hasGlobal = false;
  const sightOf = (message: number): Sight => {
    if (options.spans === undefined) return hasGlobal ? "global" : message === final ? "question" : "local";
    const { role } = messages[message]!;
    return role === "user" ? "question" : isAnswer({ role }) ? "answer" : "local";
  };
  for (const { message, ...turn } of layout.turns) {
    const sight = sightOf(message);
    const close = (item: Omit<Item, "message" | "numCharacters">) => {
      const numCharacters =
        item.kind !== "rule" ? 0 : item.runs.reduce((sum, run) => sum + countCharacters(run.text), 0);
      items.push({ ...item, runs: [...open, ...item.runs], message, numCharacters });
      open = [];
    };
    open.push(...runsOf(turn.prefix, true));
    const content = runsOf(turn.content, false).map(({ text }) => text);
    const unmarked = { ...turn, content: content.join("") };
    const pieces: readonly TurnPiece[] = yield* piecesOfTurn(
      unmarked,
      messages[message]!.parts,
      sight,
      rule,
      !hasGlobal,
    );
    for (const piece of pieces) {
      hasGlobal ||= piece.isGlobal;
      // An answer is tokenized as it was drawn; what is local after a question holds nothing of the text around it.
      const isApart = sight === "answer" || (!piece.isGlobal && (hasGlobal || piece.kind === "given"));
      if (isApart) close({ runs: [], kind: "header", isGlobal: hasGlobal });
      if (isApart || !piece.isGlobal) close(piece);
      else open.push(...piece.runs);
    }
    const last = items.at(-1);
    const closing = runsOf(turn.suffix, true);
    if (hasGlobal || last === undefined || last.kind === "given" || pieces.length === 0) open.push(...closing);
    else items[items.length - 1] = { ...last, runs: [...last.runs, ...closing] };
  }
  items.push({ runs: open, kind: "header", isGlobal: true, message: final, numCharacters: 0 });

  const joined = options.joinOpening === true ? joinOpening(items) : items;
  const blocks = mergeItems(joined, rule.limit - 1).map((runs, i): TextBlock => {
    const { isGlobal, passage } = joined[i]!;
    return { ...blockOfRuns(runs), ...(isGlobal && { isGlobal }), ...(passage !== undefined && { passage }) };
  });
  const filled = blocks.filter((block) => block.text !== "");
  // Where nothing follows a tool's result, it is what the answer goes on from.
  const last = filled.pop() ?? blocks.at(-1)!;
  return { blocks: [...filled, { ...last, isGlobal: true }], isConversation, warnings };
}

/** The layout without what closes the last message. @throws RangeError where that is no answer, or no text of the template's own follows it. */
function endInLast(layout: ChatLayout, messages: readonly RenderedMessage[]): ChatLayout {
  const last = messages.at(-1)!;
  const cannot = "Cannot go on with the last message";
  if (!isAnswer(last)) throw new InputRangeError(`${cannot}: its role is "${last.role}", wanted "assistant"`);
  if (last.content.trim() === "") throw new InputRangeError(`${cannot}: it is empty`);
  if (last.tool_calls !== undefined) throw new InputRangeError(`${cannot}: it calls tools, wanted text alone`);
  const turn = layout.kind === "turns" ? layout.turns.at(-1) : undefined;
  if (layout.kind !== "turns" || turn?.message !== messages.length - 1 || turn.rewritten)
    throw new InputRangeError(`${cannot}: the chat template rewrites it`);
  return { ...layout, turns: [...layout.turns.slice(0, -1), { ...turn, suffix: "" }] };
}

function textOf(part: Pick<MessagePart, "runs">): string {
  return part.runs.length === 1 ? part.runs[0]!.text : part.runs.map((run) => run.text).join("");
}

type TurnPiece = Pick<Item, "runs" | "kind" | "isGlobal" | "passage">;

/** A printed message as the pieces that its parts make. */
function* piecesOfTurn(
  turn: Omit<LaidTurn, "message">,
  parts: readonly MessagePart[],
  sight: Sight,
  rule: SegmentRule,
  isFirst: boolean,
): Steps<TurnPiece[]> {
  const printed = printedParts(turn, parts, sight);
  if (turn.rewritten || sight === "answer" || sight === "global") {
    const runs = turn.rewritten ? [{ text: turn.content, trusted: false }] : printed.flatMap((part) => part.runs);
    return [{ runs, kind: "whole", isGlobal: sight !== "local" }];
  }
  const pieces: (readonly TurnPiece[])[] = [];
  for (const [i, part] of printed.entries()) {
    pieces.push(yield* piecesOfPart(part, sight === "question" && i === printed.length - 1, rule, isFirst));
  }
  return pieces.flat();
}

function* piecesOfPart(
  { runs, cut, passage }: MessagePart,
  isQuestion: boolean,
  rule: SegmentRule,
  isFirst: boolean,
): Steps<readonly TurnPiece[]> {
  const text = textOf({ runs });
  if (cut === "given" && !isQuestion) return text === "" ? [] : [{ runs, kind: "given", isGlobal: false, passage }];
  if (cut === "passages" && text !== "") {
    const found = isQuestion
      ? yield* cutAtPassages(text, isFirst)
      : (yield* findPassages(text)).map((piece) => ({ ...piece, isGlobal: false }));
    return found.map((piece) => ({
      runs: [{ text: piece.text, trusted: false }],
      kind: piece.kind === "text" ? "whole" : "given",
      isGlobal: piece.isGlobal,
    }));
  }
  if (cut !== "rule" || (isQuestion && rule.limit === 1)) return [{ runs, kind: "whole", isGlobal: isQuestion }];
  const pieces = text === "" ? [""] : cutText(text, rule);
  return pieces.map((piece, k) => ({
    runs: [{ text: piece, trusted: false }],
    kind: "rule",
    isGlobal: isQuestion && k === pieces.length - 1,
  }));
}

/** A message's parts as printed: trimmed at its edges where the template trims, but never at a given part's edge. */
function printedParts(turn: Omit<LaidTurn, "message">, parts: readonly MessagePart[], sight: Sight): MessagePart[] {
  const spans: { part: MessagePart; start: number; end: number }[] = [];
  let length = 0;
  for (const part of parts) {
    const start = length;
    length += textOf(part).length;
    spans.push({ part, start, end: length });
  }
  const numKept = sight === "answer" ? 0 : sight === "local" ? spans.length : spans.length - 1;
  const given = spans.slice(0, numKept).filter(({ part }) => part.cut === "given");
  const from = Math.min(turn.trimmedStart, given[0]?.start ?? length);
  const to = Math.max(turn.trimmedStart + turn.content.length, given.at(-1)?.end ?? 0);
  return spans.map(({ part, start, end }) => ({
    ...part,
    runs: sliceRuns(part.runs, Math.max(0, from - start), Math.max(0, Math.min(end, to) - start)),
  }));
}

function joinOpening(items: readonly Item[]): readonly Item[] {
  const numOpening = items.findIndex((item) => item.kind === "given");
  const opening = items.slice(0, Math.max(0, numOpening));
  if (opening.length === 0 || opening.some((item) => item.isGlobal)) return items;
  const runs = opening.flatMap((item) => item.runs);
  return [{ ...opening[0]!, runs, kind: "header" }, ...items.slice(numOpening)];
}

/** Merges items cut by rule until at most `maxPieces` of them are left; all others stay as they are. */
function mergeItems(items: readonly Item[], maxPieces: number): (readonly TextRun[])[] {
  const pieces: MergePiece[] = [];
  const itemOfPiece: number[] = [];
  for (const [i, { kind, message, numCharacters }] of items.entries()) {
    if (kind !== "rule") continue;
    pieces.push({ message, numCharacters, followsPrevious: itemOfPiece.at(-1) === i - 1 });
    itemOfPiece.push(i);
  }
  const merged: (readonly TextRun[])[] = items.map((item) => item.runs);
  for (const [first, end] of mergePieces(pieces, maxPieces)) {
    if (end - first === 1) continue;
    const start = itemOfPiece[first]!;
    merged[start] = items.slice(start, start + end - first).flatMap((item) => item.runs);
    for (let i = start + 1; i < start + end - first; i++) merged[i] = [];
  }
  return merged;
}
