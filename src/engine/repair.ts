import { z } from "zod";
import type { ChatTemplate } from "../blocks/chat-template.js";
import { show } from "../files/options.js";
import type { BlockAttentionConfig } from "../model/block-attention-config.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import type { Keep } from "./kept-blocks.js";
import type { BlockTokens, PromptSpan, TokenizedPrompt } from "./prompt.js";
import type { Recompute } from "./recompute.js";

/** What is done about what block mode loses, as it is asked for. What is absent is not done. */
export interface Repair {
  /** How many of the local blocks but block 0 stay in the prompt: those that the question looks at most. The others are taken out. */
  readonly keep?: number;
  /** The text behind which each local block but block 0 is encoded; "auto" is the model's own. Nothing else sees it. */
  readonly lead?: "auto" | { readonly text: string };
  /** Local blocks but block 0 see block 0 right before them. */
  readonly preamble?: true;
  /** How many newline tokens are put before each local block but block 0. */
  readonly sink?: number;
  /** How many of each local block's first tokens are computed again over all before them; `Infinity` is all. At most one of the three. */
  readonly first?: number;
  /** The share of the local blocks' tokens that is computed again, by how far they are from what they are in full. */
  readonly deviation?: number;
  /** The share that is computed again, by how much the question attends to them. */
  readonly look?: number;
  /** What scores of what sees all before it, on the tokens of local blocks but block 0, are divided by. */
  readonly temperature?: number;
  /** The power to which the sum of their exponents is raised: below 1 those tokens weigh less together. */
  readonly scale?: number;
}

/** What each item of a repair takes, by its name. */
const items = {
  keep: (value: string | undefined) => wholeNumber(value, 1e4),
  lead: (value: string | undefined) => (value === undefined || value === "auto" ? "auto" : { text: value }),
  preamble: (value: string | undefined) => (value === undefined ? true : undefined),
  sink: (value: string | undefined) => wholeNumber(value, 64),
  first: (value: string | undefined) => (value === "all" ? Number.POSITIVE_INFINITY : wholeNumber(value, 1e6)),
  deviation: (value: string | undefined) => decimal(value, 1),
  look: (value: string | undefined) => decimal(value, 1),
  temperature: (value: string | undefined) => decimal(value, 10),
  scale: (value: string | undefined) => decimal(value, 10),
} satisfies { [K in keyof Required<Repair>]: (value: string | undefined) => Repair[K] };

function wholeNumber(value: string | undefined, most: number): number | undefined {
  return value !== undefined && /^[1-9]\d{0,5}$/.test(value) && Number(value) <= most ? Number(value) : undefined;
}

function decimal(value: string | undefined, most: number): number | undefined {
  const number = value !== undefined && /^(\d{1,2}|\d{0,2}\.\d{1,6})$/.test(value) ? Number(value) : 0;
  return number > 0 && number <= most ? number : undefined;
}

/** Of each group a repair has one at most. */
const alternatives: readonly (readonly (keyof Repair)[])[] = [
  ["lead", "preamble"],
  ["first", "deviation", "look", "temperature"],
  ["first", "deviation", "look", "scale"],
];

/**
 * Reads a repair: `none`, `auto`, or items with commas between them, each at most once. A value in quotes is a JSON string.
 *
 * @returns undefined where it is none.
 * @example parseRepair('lead="Read this:\\n",sink=4') gives { lead: { text: "Read this:\n" }, sink: 4 }
 */
function parseRepair(text: string): Repair | "auto" | undefined {
  if (text === "none") return {};
  if (text === "auto") return "auto";
  const repair: { -readonly [K in keyof Repair]: Repair[K] } = {};
  const item = /([a-z]+)(?:=("(?:[^"\\]|\\.)*"|[^",]*))?(,|$)/y;
  for (let end: string | undefined = ","; end === ","; ) {
    const [, name = "", given, after] = item.exec(text) ?? [];
    if (!Object.hasOwn(items, name) || Object.hasOwn(repair, name)) return undefined;
    const value = given?.startsWith('"') ? textOfJson(given) : given;
    const read = (items as Record<string, (value: string | undefined) => unknown>)[name]?.(value);
    if (read === undefined || (given !== undefined && value === undefined)) return undefined;
    Object.assign(repair, { [name]: read });
    end = after;
  }
  const isOneOf = (group: readonly (keyof Repair)[]) => group.filter((name) => name in repair).length < 2;
  return alternatives.every(isOneOf) ? repair : undefined;
}

function textOfJson(text: string): string | undefined {
  try {
    return JSON.parse(text) as string;
  } catch {
    return undefined;
  }
}

/** A repair as it is written; "none" where nothing is done. */
export function repairText(repair: Repair): string {
  const written = Object.entries(repair).map(([name, value]) => {
    if (value === true || value === "auto") return name;
    if (value === Number.POSITIVE_INFINITY) return `${name}=all`;
    return `${name}=${typeof value === "object" ? JSON.stringify(value.text) : value}`;
  });
  return written.join(",") || "none";
}

const grammar =
  "none, auto, or items with commas between: keep=N; lead, lead=TEXT or preamble; sink=N; first=K, first=all, deviation=SHARE, look=SHARE, or temperature=T and scale=S";
/** Whether a text names a repair itself: neither none nor what is left to the model. */
export function namesRepair(text: string | undefined): text is string {
  return text !== undefined && text !== "none" && text !== "auto";
}

export const repairField = {
  schema: z
    .string()
    .max(2 ** 14)
    .refine((text) => parseRepair(text) !== undefined, `wanted ${grammar}`)
    .optional(),
  wanted: grammar,
  examples: "lead or lead,first=8",
};

/**
 * What a text asks for of a model. `auto` is the model's own; of a model that says nothing, nothing where it was trained for
 * blocks, else what was measured to bring most at no cost to requests (docs/accuracy.md).
 */
export function resolveRepair(text: string, own: BlockAttentionConfig | undefined): Repair {
  const repair = parseRepair(text);
  if (repair !== "auto") return repair ?? {};
  const { repair: ownText = "auto", modes = [] } = own ?? {};
  const ownRepair = parseRepair(ownText);
  if (ownRepair !== "auto" && ownRepair !== undefined) return ownRepair;
  return modes.includes("block") ? {} : { lead: "auto" };
}

/** @throws RangeError for a model's own repair that is none. */
export function requireRepair(text: string | undefined, model: string): void {
  if (text === undefined || parseRepair(text) !== undefined) return;
  throw new RangeError(
    `Cannot use the repair of "${model}": its config says ${show(text)}, wanted ${repairField.wanted}`,
  );
}

/** A repair with the tokens that it puts before blocks. */
export interface TokenizedRepair {
  /** As answers name it. */
  readonly text: string;
  readonly lead?: Int32Array | undefined;
  readonly preamble?: true | undefined;
  readonly sinks: readonly number[];
  readonly keep?: Keep | undefined;
  readonly recompute?: Recompute | undefined;
  readonly temperature?: number | undefined;
  readonly scale?: number | undefined;
}

/** Of a lead-in where nobody says: it reads as the beginning of any prompt with documents, and of this world says nothing. */
const leadSystem =
  "You are a helpful assistant. You read the documents that the user gives and answer the question from them.";
const leadPassage =
  "- Title: The weather\nIt rained in the morning and the sun shone in the afternoon. Most people stayed at home.\n\n";

/**
 * What a lead-in is where nobody says: the chat template's opening with a system text, then a passage; of a model without a
 * template, BOS and the passage. Other texts were tried: docs/accuracy.md.
 */
function ownLead(template: ChatTemplate | undefined): string {
  const mark = "\u2042";
  const user = { role: "user", content: mark };
  const system = { role: "system", content: leadSystem };
  for (const messages of [[system, user], [user]]) {
    try {
      // A template that prints the date must not change the lead-in each day.
      const text = template?.render(messages, { addGenerationPrompt: false, now: new Date(0) }) ?? "";
      if (text.includes(mark)) return text.slice(0, text.indexOf(mark)) + leadPassage;
    } catch {
      // It takes no system message, or no such conversation at all.
    }
  }
  return leadPassage;
}

/** A question that asks for nothing, as the end of a prompt: what it looks at says how much any question would. */
function neutralOf(tokenizer: Tokenizer, template: ChatTemplate | undefined): Int32Array {
  const mark = "\u{e000}";
  let end = "\nAnswer:";
  try {
    const text =
      template?.render([{ role: "user", content: mark }], { addGenerationPrompt: true, now: new Date(0) }) ?? "";
    if (text.includes(mark)) end = text.slice(text.indexOf(mark) + mark.length);
  } catch {
    // It takes no such conversation.
  }
  return Int32Array.from(tokenizer.encode(`\n\nQuestion: N/A${end}`, "all"));
}

function recomputeOf({ first, deviation, look }: Repair): Recompute | undefined {
  if (first !== undefined) return { kind: "first", count: first };
  if (deviation !== undefined) return { kind: "deviation", share: deviation };
  return look === undefined ? undefined : { kind: "look", share: look };
}

/** The tokens of a repair. @throws RangeError for a lead-in that has half a character, or no tokens. */
export function tokenizeRepair(
  repair: Repair,
  tokenizer: Tokenizer,
  template: ChatTemplate | undefined,
): TokenizedRepair {
  const { lead, preamble, sink = 0 } = repair;
  const newline = sink > 0 ? tokenizer.encode("\n", "all") : [];
  const sinks = Array.from({ length: sink }, () => newline).flat();
  const { temperature, scale } = repair;
  const keep = repair.keep === undefined ? undefined : { count: repair.keep, neutral: neutralOf(tokenizer, template) };
  const common = { text: repairText(repair), sinks, keep, recompute: recomputeOf(repair), temperature, scale };
  if (lead === undefined) return { ...common, preamble };
  const ids = tokenizer.encode(lead === "auto" ? ownLead(template) : lead.text, "all");
  const { bosTokenId } = tokenizer;
  if (bosTokenId !== undefined && ids[0] !== bosTokenId) ids.unshift(bosTokenId);
  if (ids.length === 0) throw new RangeError("Cannot use the lead-in: it has no tokens");
  return { ...common, lead: Int32Array.from(ids) };
}

/** A local block with what a repair puts before it. @param system block 0's tokens, where it is local. */
export function repairedBlock<B extends BlockTokens>(
  block: B,
  { lead, preamble, sinks }: TokenizedRepair,
  system: Int32Array | undefined,
): B {
  const before = preamble ? system : lead;
  const own = { ...block, ...(before && { preamble: before }) };
  if (sinks.length === 0) return own;
  return { ...own, tokenIds: Int32Array.from([...sinks, ...block.tokenIds]), ownTokenIds: block.tokenIds };
}

/** A prompt whose local blocks but block 0 have what a repair puts before them. */
export function repairedPrompt(prompt: TokenizedPrompt, repair: TokenizedRepair): TokenizedPrompt {
  const [first, ...others] = prompt.spans as readonly [PromptSpan, ...PromptSpan[]];
  const system = first.kind === "local" ? first.tokenIds : undefined;
  const spans = others.map((span) => (span.kind === "local" ? repairedBlock(span, repair, system) : span));
  return prompt.withSpans([first, ...spans]);
}
