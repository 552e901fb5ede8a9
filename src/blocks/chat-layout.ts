import { InputTypeError, isInputError } from "../files/input-error.js";
import { show } from "../files/options.js";
import type { TextRun } from "./block.js";
import type { ChatTemplate, RenderedMessage, RenderOptions } from "./chat-template.js";

/** One message as a template printed it, in the order of printing. */
export interface LaidTurn {
  /** Which of the messages it is. */
  readonly message: number;
  /** The template's text that opens the message. */
  readonly prefix: string;
  /** The message's text as printed: its own, but for white space that the template trims, unless `rewritten`. */
  readonly content: string;
  /** How many UTF-16 units the template trimmed from the start of the message's text; 0 if `rewritten`. */
  readonly trimmedStart: number;
  /** The template's text that closes the message; for the last one all that is left, the assistant's opening included. */
  readonly suffix: string;
  /** The template does more to the text than trim it, so no place in the printed text can be traced to the message's. */
  readonly rewritten: boolean;
}

/**
 * A rendered prompt, taken apart. All texts put together, in order, are the prompt, less the template's own BOS
 * (`ChatTemplate.bosText`).
 */
export type ChatLayout =
  | { readonly kind: "turns"; readonly turns: readonly LaidTurn[]; readonly warnings: readonly string[] }
  /** What the template does cannot be followed: the prompt is one piece. */
  | { readonly kind: "whole"; readonly runs: readonly TextRun[]; readonly warnings: readonly string[] };

/** Messages rendered, all told, to find out what a template does with those that it rewrites. */
const MAX_PROBED_MESSAGES = 50_000;
/** Renderings to find out where one message ends and the next begins. A conversation has a handful of such borders. */
const MAX_BORDER_PROBES = 64;

/**
 * Renders messages and finds each message's text in the prompt.
 *
 * The template is rendered twice: with the messages, and with a placeholder in each message's place that occurs in none
 * of them. What stands between the placeholders is the template's text; then the real prompt must read
 * the same with the texts in the placeholders' places, trimmed or not. Where it does not, the message at fault is rendered
 * alone among placeholders, which shows what it becomes.
 *
 * @throws RangeError, Error as `ChatTemplate.render`.
 */
export function layoutChat(
  template: ChatTemplate,
  messages: readonly RenderedMessage[],
  options: RenderOptions = {},
): ChatLayout {
  if (typeof template?.render !== "function") {
    throw new InputTypeError(
      `Cannot use the chat template: it is ${show(template)}, wanted what compileChatTemplate() gives`,
    );
  }
  // One clock for all renderings: a date that changes in between would look like rewriting.
  const { addGenerationPrompt, variables, now = new Date() } = options;
  const fixed = { addGenerationPrompt, variables, now };
  const prompt = template.render(messages, fixed);
  const placeholders = choosePlaceholders(template, messages, fixed);
  const skeleton = parseSkeleton(template.render(placeholders.fill(new Set()), fixed), placeholders.pattern);

  const rewrites = new Map<number, string>();
  const pieces = [...skeleton.pieces];
  const texts = messages.map((message) => message.content);
  let probesLeft = Math.max(4, Math.floor(MAX_PROBED_MESSAGES / Math.max(1, messages.length)));
  const probed = new Set<number>();
  let alignment = align(prompt, pieces, skeleton.order, texts, rewrites);
  while (alignment.kind === "differs") {
    // The fault shows in the message itself, or in the text before the next one.
    const suspects = [alignment.at, alignment.at + 1].filter((at) => at < skeleton.order.length && !probed.has(at));
    let isExplained = false;
    for (const at of suspects) {
      if (probesLeft-- <= 0) break;
      probed.add(at);
      const message = skeleton.order[at]!;
      const isRepeated = skeleton.order.indexOf(message) !== skeleton.order.lastIndexOf(message);
      if (isRepeated) continue;
      const probe = template.render(placeholders.fill(new Set([message])), fixed);
      const change = explain(parseSkeleton(probe, placeholders.pattern), skeleton, at, texts[message]!);
      if (change === undefined) continue;
      rewrites.set(message, change.text);
      pieces[at] = pieces[at]!.slice(0, change.numBefore);
      pieces[at + 1] = pieces[at + 1]!.slice(
        pieces[at + 1]!.length - Math.min(change.numAfter, pieces[at + 1]!.length),
      );
      isExplained = true;
      break;
    }
    if (!isExplained) {
      const { runs, warning } = wholePrompt(prompt, skeleton.pieces, template.bosText);
      return { kind: "whole", runs, warnings: [...unreadNames(template, messages, prompt, fixed), warning] };
    }
    alignment = align(prompt, pieces, skeleton.order, texts, rewrites);
  }

  const { spans } = alignment;
  const { bosText } = template;
  if (bosText !== "" && pieces[0]!.startsWith(bosText)) pieces[0] = pieces[0]!.slice(bosText.length);
  const borders = splitBorders(template, messages, fixed, placeholders, skeleton.order, pieces);
  const numPrinted = countBy(skeleton.order);
  const turns = skeleton.order.map((message, k): LaidTurn => {
    const { text, trimmedStart } = spans[k]!;
    return {
      message,
      prefix: borders[k]!.prefix,
      content: text,
      trimmedStart,
      suffix: borders[k + 1]!.suffix,
      rewritten: rewrites.has(message) || (numPrinted.get(message) ?? 0) > 1,
    };
  });
  const warnings = [...unreadNames(template, messages, prompt, fixed), ...warningsOf(messages, numPrinted, rewrites)];
  return { kind: "turns", turns, warnings };
}

function unreadNames(
  template: ChatTemplate,
  messages: readonly RenderedMessage[],
  prompt: string,
  options: RenderOptions,
): string[] {
  if (messages.every(({ name }) => name === undefined)) return [];
  const isRead =
    template.render(
      messages.map(({ name: _, ...message }) => message),
      options,
    ) !== prompt;
  return isRead ? [] : ['The chat template reads no names: the "name" of messages is passed over'];
}

function warningsOf(
  messages: readonly RenderedMessage[],
  numPrinted: ReadonlyMap<number, number>,
  rewrites: ReadonlyMap<number, string>,
): string[] {
  const warnings: string[] = [];
  for (const [i, { role, content }] of messages.entries()) {
    const name = `message ${i + 1} ("${role}")`;
    const times = numPrinted.get(i) ?? 0;
    if (times === 0 && content !== "") warnings.push(`The chat template leaves out ${name}`);
    if (times > 1) warnings.push(`The chat template prints ${name} ${times} times: each time it is one block`);
    if (rewrites.has(i)) warnings.push(`The chat template rewrites ${name}: it is one block`);
  }
  return warnings;
}

/** The prompt as one piece; what the template surely printed itself, before and after all messages, is trusted. */
function wholePrompt(
  prompt: string,
  pieces: readonly string[],
  bosText: string,
): { readonly runs: readonly TextRun[]; readonly warning: string } {
  const numBefore = commonPrefix(prompt, pieces[0]!);
  const rest = prompt.slice(numBefore);
  const numAfter = pieces.length > 1 ? commonSuffix(rest, pieces.at(-1)!) : 0;
  let before = prompt.slice(0, numBefore);
  if (bosText !== "" && before.startsWith(bosText)) before = before.slice(bosText.length);
  const runs = [
    { text: before, trusted: true },
    { text: rest.slice(0, rest.length - numAfter), trusted: false },
    { text: rest.slice(rest.length - numAfter), trusted: true },
  ].filter((run) => run.text !== "");
  const warning =
    "The chat template rewrites the messages in a way that cannot be followed: the whole prompt is one block";
  return { runs, warning };
}

interface Placeholders {
  readonly pattern: RegExp;
  /** The messages with placeholders for their texts, but for those in `real`. */
  fill(real: ReadonlySet<number>): RenderedMessage[];
}

/** Letters and digits only: nothing that a template would escape, trim or split. */
function choosePlaceholders(
  template: ChatTemplate,
  messages: readonly RenderedMessage[],
  options: RenderOptions,
): Placeholders {
  const texts = [template.source, JSON.stringify(options.variables ?? {})];
  for (const { role, name = "", content, reasoning_content = "", tool_calls } of messages)
    texts.push(role, name, content, reasoning_content, JSON.stringify(tool_calls ?? []));
  // No message begins with its letter: a template that prints the first letters alone would print the same of both.
  const starts = new Set(messages.map(({ content }) => content.trimStart().charAt(0).toUpperCase()));
  const letter = [..."BCDFGHJKLMNPQRSTVWXZ"].find((one) => !starts.has(one)) ?? "B";
  let salt = 0;
  const tagOf = () => `${letter}lk${salt}Q`;
  while (texts.some((text) => text.includes(tagOf()))) salt++;
  const tag = tagOf();
  return {
    pattern: new RegExp(`${tag}(\\d+)z`, "g"),
    // Calls without a text stay so: templates print another form where there is one.
    fill: (real) =>
      messages.map((message, i) =>
        real.has(i) || (message.content === "" && message.tool_calls !== undefined)
          ? message
          : { ...message, content: `${tag}${i}z` },
      ),
  };
}

/** A prompt with placeholders: pieces[0], message order[0], pieces[1], … pieces[n]. */
interface Skeleton {
  readonly pieces: readonly string[];
  readonly order: readonly number[];
}

function parseSkeleton(rendered: string, pattern: RegExp): Skeleton {
  const parts = rendered.split(pattern);
  return {
    pieces: parts.filter((_, i) => i % 2 === 0),
    order: parts.filter((_, i) => i % 2 === 1).map(Number),
  };
}

interface Span {
  readonly text: string;
  readonly trimmedStart: number;
}
type Alignment =
  | { readonly kind: "same"; readonly spans: readonly Span[] }
  | { readonly kind: "differs"; readonly at: number };

/** Reads the prompt along the skeleton; `at` is the printed message where it first reads otherwise. */
function align(
  prompt: string,
  pieces: readonly string[],
  order: readonly number[],
  texts: readonly string[],
  rewrites: ReadonlyMap<number, string>,
): Alignment {
  if (!prompt.startsWith(pieces[0]!)) return { kind: "differs", at: 0 };
  let position = pieces[0]!.length;
  const spans: Span[] = [];
  for (const [k, message] of order.entries()) {
    const rewritten = rewrites.get(message);
    const candidates = rewritten === undefined ? trimmings(texts[message]!) : [{ text: rewritten, trimmedStart: 0 }];
    const after = pieces[k + 1]!;
    const isLast = k === order.length - 1;
    const span = candidates.find(({ text }) => {
      if (!prompt.startsWith(text, position) || !prompt.startsWith(after, position + text.length)) return false;
      return !isLast || position + text.length + after.length === prompt.length;
    });
    if (span === undefined) return { kind: "differs", at: k };
    spans.push(span);
    position += span.text.length + after.length;
  }
  return position === prompt.length ? { kind: "same", spans } : { kind: "differs", at: order.length - 1 };
}

/** A text as it is, and with line breaks or all white space trimmed at either side: what templates do without rewriting. */
function trimmings(text: string): Span[] {
  const starts = new Set([0, text.length - text.replace(/^\n+/, "").length, text.length - text.trimStart().length]);
  const ends = new Set([text.length, trimNewlinesAtEnd(text), text.trimEnd().length]);
  const spans: Span[] = [];
  for (const start of starts) {
    for (const end of ends) {
      const isEmptied = start >= end;
      if (!isEmptied) spans.push({ text: text.slice(start, end), trimmedStart: start });
    }
  }
  if (text.trim() === "") spans.push({ text: "", trimmedStart: text.length });
  return spans;
}

// A loop, not /\n+$/, which takes quadratic time over a text of many line breaks.
function trimNewlinesAtEnd(text: string): number {
  let end = text.length;
  while (end > 0 && text[end - 1] === "\n") end--;
  return end;
}

/** What one real message among placeholders became, and how much of the template's text beside it stayed. */
interface Change {
  readonly text: string;
  /** In UTF-16 units: of the text before the message, how many from its start are still there; after it, to its end. */
  readonly numBefore: number;
  readonly numAfter: number;
}

/** Undefined where the message is printed as it is, or where it changes more than its own surroundings. */
function explain(probe: Skeleton, skeleton: Skeleton, at: number, text: string): Change | undefined {
  const others = skeleton.order.filter((_, k) => k !== at);
  const isOrderKept = others.length === probe.order.length && others.every((message, k) => message === probe.order[k]);
  if (!isOrderKept) return undefined;
  for (const [k, piece] of probe.pieces.entries()) {
    if (k < at && piece !== skeleton.pieces[k]) return undefined;
    if (k > at && piece !== skeleton.pieces[k + 1]) return undefined;
  }
  const region = probe.pieces[at]!;
  const before = skeleton.pieces[at]!;
  const after = skeleton.pieces[at + 1]!;
  const numBefore = commonPrefix(region, before);
  const numAfter = commonSuffix(region.slice(numBefore), after);
  const middle = region.slice(numBefore, region.length - numAfter);
  const isKept = numBefore === before.length && numAfter === after.length;
  if (isKept && trimmings(text).some((span) => span.text === middle)) return undefined;
  return { text: middle, numBefore, numAfter };
}

/** The template's text between two messages: what closes the one, and what opens the next. */
interface Border {
  readonly suffix: string;
  readonly prefix: string;
}

/**
 * Splits each piece of template text into what closes the message before it and what opens the one after. What closes a
 * message is what the template prints after it when the conversation ends there, if the longer conversation reads on
 * like that, with the white space that follows. Else all of it opens the next message.
 */
function splitBorders(
  template: ChatTemplate,
  messages: readonly RenderedMessage[],
  options: RenderOptions,
  placeholders: Placeholders,
  order: readonly number[],
  pieces: readonly string[],
): Border[] {
  const filled = placeholders.fill(new Set());
  const known = new Map<string, number>();
  return pieces.map((piece, k): Border => {
    if (k === 0) return { suffix: "", prefix: piece };
    if (k === order.length) return { suffix: piece, prefix: "" };
    const message = order[k - 1]!;
    const key = `${messages[message]!.role}\n${messages[order[k]!]!.role}\n${piece}`;
    let numClosing = known.get(key);
    if (numClosing === undefined) {
      const shortened = filled.slice(0, message + 1);
      const closing = known.size < MAX_BORDER_PROBES ? closingText(template, shortened, options, placeholders) : "";
      numClosing = piece.startsWith(closing) ? closing.length : 0;
      numClosing += /^\s*/.exec(piece.slice(numClosing))![0].length;
      known.set(key, numClosing);
    }
    return { suffix: piece.slice(0, numClosing), prefix: piece.slice(numClosing) };
  });
}

/** What a template prints after the last of some messages, no answer being asked for; "" where it refuses them. */
function closingText(
  template: ChatTemplate,
  messages: readonly RenderedMessage[],
  options: RenderOptions,
  placeholders: Placeholders,
): string {
  try {
    const rendered = template.render(messages, { ...options, addGenerationPrompt: false });
    const { pieces, order } = parseSkeleton(rendered, placeholders.pattern);
    return order.at(-1) === messages.length - 1 ? pieces.at(-1)! : "";
  } catch (error) {
    if (!isInputError(error)) throw error;
    // The whole conversation was rendered well; a shorter one need not be.
    return "";
  }
}

function countBy(values: readonly number[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}

function commonPrefix(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  let common = 0;
  while (common < length && a[common] === b[common]) common++;
  // Not between the halves of a surrogate pair.
  return common > 0 && common < a.length && isHighSurrogate(a, common - 1) ? common - 1 : common;
}

function commonSuffix(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  let common = 0;
  while (common < length && a[a.length - 1 - common] === b[b.length - 1 - common]) common++;
  const start = a.length - common;
  return common > 0 && start > 0 && isHighSurrogate(a, start - 1) ? common - 1 : common;
}

function isHighSurrogate(text: string, at: number): boolean {
  return (text.charCodeAt(at) & 0xfc00) === 0xd800;
}
