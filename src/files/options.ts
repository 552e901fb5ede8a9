import { z } from "zod";
import { editDistance } from "./edit-distance.js";
import { InputRangeError, InputTypeError } from "./input-error.js";
import { clip, quote, withoutPassword } from "./quote.js";

/** An option of a call: the check, and what it may be in words, as the error says it: "a number from 0 to 1". */
export interface OptionField<T extends z.ZodType = z.ZodType> {
  readonly schema: T;
  readonly wanted: string;
  /** The value that a text spells, a flag's for instance; the text itself where it spells none. Left out: the text. */
  readonly fromText?: (text: string) => unknown;
  /** Texts that spell values, where that is not plain. */
  readonly examples?: string;
}

export type OptionFields = Readonly<Record<string, OptionField>>;

/** A field for each option of a type, so that none is declared that nothing checks. */
export type FieldsOf<T> = { readonly [K in keyof Required<T>]: OptionField };

type Checked<F extends OptionFields> = z.output<ReturnType<typeof schemaOf<F>>>;

/** Checks that several calls share. An option that is left out is undefined; null is a value, and the wrong one. */
export const anyBoolean = { schema: z.boolean().optional(), wanted: "true or false" };
/** One that cannot be left out. */
export const someText = { schema: z.string(), wanted: "text" };
export const anyText = { schema: z.string().optional(), wanted: "text" };
/** What takes the value checks it. */
export const anything = { schema: z.unknown().optional(), wanted: "anything" };
export const anySignal = optionOf<AbortSignal>((value) => {
  // Not instanceof: another realm's signals are as good.
  return isObject(value) && typeof value.aborted === "boolean" && typeof value.addEventListener === "function";
}, "an AbortSignal");

export function anObject<T extends object>(wanted: string) {
  return optionOf<T>(isOptions, wanted);
}

export function aFunction<F>() {
  return optionOf<NonNullable<F>>((value) => typeof value === "function", "a function");
}

export function oneOfTexts<const T extends readonly string[]>(values: T) {
  const wanted = values.map((value) => quote(value)).join(", ");
  return { schema: z.enum(values).optional(), wanted: wanted.replace(/, ([^,]*)$/, " or $1") };
}

export function wholeNumber(min: number, max = Number.MAX_SAFE_INTEGER) {
  const wanted = `a whole number from ${min} ${max === Number.MAX_SAFE_INTEGER ? "on" : `to ${max}`}`;
  const fromText = (text: string) => (/^[+-]?\d+$/.test(text) ? Number(text) : text);
  return { schema: z.int().min(min).max(max).optional(), wanted, fromText };
}

/** An option that `is` decides on; left out it is undefined. */
export function optionOf<T>(is: (value: unknown) => boolean, wanted: string): OptionField<z.ZodOptional<z.ZodType<T>>> {
  return { schema: z.custom<T>(is).optional(), wanted };
}

/** Gives options with their defaults, or throws; `action` is what cannot be done with others: "load the engine". */
export type OptionsReader<F extends OptionFields> = (action: string, input: unknown) => Checked<F>;

/**
 * The check of a call's options, or of an input's fields.
 *
 * @returns a function that throws a TypeError for what is no object, for a name that is none, and for a value of another kind; a
 *   RangeError for a value out of range.
 * @example optionsOf({ topK: wholeNumber(0) })("sample", { topk: 1 }):
 *   TypeError 'Cannot sample: there is no option "topk", wanted "topK"'
 */
export function optionsOf<F extends OptionFields>(fields: F, noun: "option" | "field" = "option"): OptionsReader<F> {
  const schema = schemaOf(fields);
  const known = Object.keys(fields);
  return (action, input) => {
    if (!isOptions(input)) {
      throw new InputTypeError(`Cannot ${action}: the ${noun}s are ${show(input)}, wanted an object`);
    }
    const result = schema.safeParse(input);
    if (result.success) return result.data;
    const unknown = result.error.issues.find((issue) => issue.code === "unrecognized_keys" && issue.path.length === 0);
    if (unknown?.code === "unrecognized_keys") {
      const key = unknown.keys[0] as string;
      const near = namesNear(key, known);
      const wanted = (near.length === 0 ? known : near).map((name) => quote(name)).join(" or ");
      throw new InputTypeError(`Cannot ${action}: there is no ${noun} ${quote(key, 80)}, wanted ${wanted}`);
    }
    const issue = result.error.issues[0] as z.core.$ZodIssue;
    const name = String(issue.path[0]);
    const value = input[name];
    const message = `Cannot ${action}: ${name} is ${show(value)}, wanted ${fields[name]?.wanted}`;
    throw isOfKind(issue, value) ? new InputRangeError(message) : new InputTypeError(message);
  };
}

/** An object of these fields and no others. */
export function schemaOf<F extends OptionFields>(fields: F) {
  const shape = Object.fromEntries(Object.entries(fields).map(([name, { schema }]) => [name, schema]));
  return z.strictObject(shape as { -readonly [K in keyof F]: F[K]["schema"] });
}

/** Whether a value that does not fit is of the right kind, and out of range. */
function isOfKind(issue: z.core.$ZodIssue, value: unknown): boolean {
  switch (issue.code) {
    case "custom":
      return issue.params?.isRange === true;
    case "invalid_type":
      return typeof value === "number" && /^(number|int)$/.test(issue.expected);
    case "invalid_value":
      return typeof value === typeof issue.values[0];
    case "invalid_union":
      return issue.errors.some(([first]) => first !== undefined && isOfKind(first, value));
    default:
      return true;
  }
}

/** The names that a wrong one was meant for: those that differ in spelling alone, or else in one letter. */
export function namesNear(wrong: string, names: readonly string[]): readonly string[] {
  const same = names.filter((name) => plain(name) === plain(wrong));
  return same.length > 0 ? same : names.filter((name) => isNear(plain(name), plain(wrong)));
}

/** Whether two names differ in one letter more, less, changed or swapped. */
function isNear(a: string, b: string): boolean {
  return Math.abs(a.length - b.length) <= 1 && editDistance(a, b) <= 1;
}

const plain = (name: string): string => name.slice(0, 80).toLowerCase().replace(/[_-]/g, "");

/** Any object that may hold options, of a class too; a list, a map or a promise holds none. */
function isOptions(value: unknown): value is Readonly<Record<string, unknown>> {
  return isObject(value) && Object.prototype.toString.call(value) === "[object Object]";
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null;
}

/** A value for a message: JSON where it has some, cut where it is long. */
export function show(value: unknown): string {
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  let text: string;
  try {
    text = JSON.stringify(value) ?? typeof value;
  } catch {
    text = typeof value;
  }
  return clip(withoutPassword(text), 80);
}
