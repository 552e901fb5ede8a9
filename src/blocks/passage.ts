import { z } from "zod";
import { InputTypeError } from "../files/input-error.js";
import { optionsOf, schemaOf, show, someText } from "../files/options.js";

/** An id comes back with each part of a passage. */
const maxIdLength = 1000;
/** What a passage may carry beside its text. It is given back with the passage's blocks, and never part of them. */
const carried = {
  id: {
    schema: z.union([z.string().max(maxIdLength), z.number()]).nullish(),
    wanted: `text of up to ${maxIdLength} characters, or a number`,
  },
  metadata: { schema: z.record(z.string(), z.unknown()).nullish(), wanted: "an object" },
  score: { schema: z.number().nullish(), wanted: "a number" },
};
const type = { schema: z.literal("Document").nullish(), wanted: '"Document"' };

/** The forms of a passage that is an object, by the key of its text. */
const forms = {
  text: { title: { schema: z.string().nullish(), wanted: "text" }, text: someText, ...carried },
  pageContent: { pageContent: someText, ...carried, type },
  page_content: { page_content: someText, ...carried, type },
};
/** Every field that a passage may have. */
export const PASSAGE_FIELDS = Object.keys({ ...forms.text, ...forms.pageContent, ...forms.page_content });
const readers = {
  text: optionsOf(forms.text, "field"),
  pageContent: optionsOf(forms.pageContent, "field"),
  page_content: optionsOf(forms.page_content, "field"),
};

/** A passage in any of its forms: a text as it stands, a document, LangChain's in JavaScript and in Python. */
export const passageSchema = z.union(
  [
    z.string().describe("A passage as it stands."),
    schemaOf(forms.text).describe("A passage in the model's form; without a title its text alone."),
    schemaOf(forms.pageContent).describe("LangChain's document. Its title is the text at `metadata.title`."),
    schemaOf(forms.page_content).describe("LangChain's document in Python."),
  ],
  'wanted text, or an object with "text", "pageContent" or "page_content"',
);

/** A passage as a caller gives it. */
export type PassageInput = Readonly<z.input<typeof passageSchema>>;

/** Which of a caller's passages a block is made of, by its place among them, and what else it was given with. */
export interface PassageLabel {
  /** From 0 on. */
  readonly index: number;
  readonly id?: string | number;
  readonly metadata?: Readonly<Record<string, unknown>>;
  readonly score?: number;
  /** Which part it is of a passage that was split, from 0 on. */
  readonly part?: number;
  /** Of a part that was encoded, its text. */
  readonly text?: string;
}

/** A passage, read. */
export interface Passage {
  readonly label: PassageLabel;
  /** Undefined where there is none. */
  readonly title: string | undefined;
  readonly text: string;
  /** Whether the text is the block as it stands, in place of the model's form of a passage. */
  readonly isBlock: boolean;
}

/**
 * Reads a passage in any of its forms. An empty title is none.
 *
 * @param index its place among the caller's, from 0 on; messages count from 1.
 * @throws TypeError for what is no passage, or for a key that its form has not.
 * @example readPassage({ pageContent: "B", metadata: { title: "A" } }, 0) has the title "A" and the text "B"
 */
export function readPassage(input: unknown, index: number): Passage {
  if (typeof input === "string") return { label: { index }, title: undefined, text: input, isBlock: true };
  const has = (key: string): boolean => typeof input === "object" && input !== null && key in input;
  const form = has("pageContent") ? "pageContent" : has("page_content") ? "page_content" : "text";
  const read: ReadFields = readers[form](`use passage ${index + 1}`, input);
  const { id, metadata, score } = read;
  const label = {
    index,
    ...(id != null && { id }),
    ...(metadata != null && { metadata }),
    ...(score != null && { score }),
  };
  const title = form === "text" ? read.title : metadata?.title;
  return {
    label,
    title: typeof title === "string" && title.trim() !== "" ? title : undefined,
    text: read[form] as string,
    isBlock: false,
  };
}

/**
 * A passage of the same block that carries nothing, and what the given one carries: who tells it need not hand it on.
 *
 * @example { pageContent: "B", id: 7 } gives [{ text: "B" }, { id: 7 }]
 */
export function unloadPassage(input: PassageInput): [PassageInput, Omit<PassageLabel, "index">] {
  if (typeof input === "string") return [input, {}];
  const { id, metadata, score } = input;
  const load = { ...(id != null && { id }), ...(metadata != null && { metadata }), ...(score != null && { score }) };
  if ("text" in input) return [{ title: input.title, text: input.text }, load];
  const title = typeof metadata?.title === "string" ? metadata.title : undefined;
  return [{ title, text: "pageContent" in input ? input.pageContent : input.page_content }, load];
}

interface ReadFields extends Partial<Record<keyof typeof forms, string>> {
  readonly title?: string | null | undefined;
  readonly id?: string | number | null | undefined;
  readonly metadata?: Readonly<Record<string, unknown>> | null | undefined;
  readonly score?: number | null | undefined;
}

/** @throws TypeError for what is no list, or as readPassage(). */
export function readPassages(inputs: unknown): Passage[] {
  if (!Array.isArray(inputs))
    throw new InputTypeError(`Cannot use the passages: they are ${show(inputs)}, wanted an array`);
  return Array.from(inputs, readPassage);
}

/**
 * A passage's block.
 *
 * @param form the model's form of a passage, with `{title}` and `{text}`. A passage without a title is its text alone, on lines of
 *   its own, unless the form has no place for a title.
 * @example passageBlock({ title: "A", text: " B " }, "- Title: {title}\n{text}\n") is "- Title: A\nB\n"
 */
export function passageBlock({ title, text, isBlock }: Omit<Passage, "label">, form: string): string {
  if (isBlock) return text;
  const own = title === undefined && form.includes("{title}") ? "{text}\n" : form;
  // One pass: a title that spells "{text}" stays as it is.
  return own.replace(/\{(title|text)\}/g, (_, name) => (name === "title" ? (title ?? "") : text.trim()));
}
