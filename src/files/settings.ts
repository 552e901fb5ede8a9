import { z } from "zod";
import { type OptionField, show } from "./options.js";
import { UsageError } from "./usage-error.js";

/** An option that a flag, an environment variable or a config file may give too. */
export interface Setting<T extends z.ZodType = z.ZodType> extends OptionField<T> {
  /** What it takes, as in --port <n>. */
  readonly value: string;
  /** Its option's name, where that is not the setting's. */
  readonly option?: string;
  /** One line for help and documents. */
  readonly about: string;
  /** The default, in words. */
  readonly fallback: string;
}

export function setting<F extends OptionField>(
  field: F,
  value: string,
  about: string,
  fallback: string,
): F & Omit<Setting, "schema"> {
  return { ...field, value, about, fallback };
}

/** A setting whose default is a value. */
export function defaulted<T extends z.ZodType>(
  field: OptionField<z.ZodOptional<T>>,
  value: string,
  about: string,
  fallback: z.output<T>,
): Setting<z.ZodDefault<T>> {
  const schema = z._default(field.schema.unwrap(), fallback as never) as z.ZodDefault<T>;
  return { ...field, schema, value, about, fallback: String(fallback) };
}

/** Text that is not empty. */
export const someWords = { schema: z.string().min(1).optional(), wanted: "some text" };

export function aNumber(wanted: string, schema: z.ZodNumber) {
  return { schema: schema.optional(), wanted, fromText: numberOf };
}

export function bytes(min: number) {
  return {
    schema: z.int().min(min).optional(),
    wanted: `a whole number of bytes from ${min} on`,
    fromText: (text: string) => parseBytes(text) ?? text,
    examples: "1000000, 512MiB or 2GB",
  };
}

/** A list of what a field takes; a text has commas between. */
export function listOf<T extends z.ZodType>(
  { schema, wanted, fromText = (text) => text }: OptionField<z.ZodOptional<T>>,
  { isUnique = false, words = `one or more, with commas between, each ${wanted}` } = {},
) {
  const list = z.array(schema.unwrap()).min(1).max(100);
  const isFit = (values: readonly unknown[]) => !isUnique || new Set(values).size === values.length;
  return {
    schema: list.refine(isFit).optional(),
    wanted: isUnique ? `${words}, none twice` : words,
    fromText: (text: string) => text.split(",").map((part) => fromText(part.trim())),
  };
}

/** The number that a text spells, else the text. */
export function numberOf(text: string): unknown {
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text.trim()) ? Number(text) : text;
}

/**
 * A field's value as a text or a config file's JSON has it. What is there is a value: only what is absent has a default.
 *
 * @param origin how the user wrote the field.
 * @throws UsageError for a value that does not fit.
 * @example 'Cannot use --port: it is "x", wanted a whole number from 0 to 65535'
 */
export function readSetting<T extends z.ZodType>(
  field: OptionField<T>,
  given: unknown,
  origin: string,
): z.output<T> & {} {
  const { schema, wanted, fromText, examples } = field;
  const value = typeof given === "string" ? (fromText?.(given) ?? given) : given;
  const result = schema.safeParse(value);
  if (result.success && given !== undefined) return result.data as z.output<T> & {};
  const words = examples === undefined ? wanted : `${wanted}, for instance ${examples}`;
  throw new UsageError(`Cannot use ${origin}: it is ${show(given)}, wanted ${words}`);
}

/** A setting's name in a config file: "store_bytes" of storeBytes. */
export const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
/** Its flag: "--store-bytes". */
export const flagOf = (name: string): string => `--${snakeCase(name).replaceAll("_", "-")}`;

const units: ReadonlyMap<string, number> = new Map([
  ["", 1],
  ["b", 1],
  ["kb", 1e3],
  ["mb", 1e6],
  ["gb", 1e9],
  ["tb", 1e12],
  ["kib", 2 ** 10],
  ["mib", 2 ** 20],
  ["gib", 2 ** 30],
  ["tib", 2 ** 40],
]);

/**
 * A number of bytes as people write it: a whole number, or one with a unit such as 512MiB or 2GB; undefined if the text
 * is none.
 *
 * @example parseBytes("1.5KiB") is 1536
 */
function parseBytes(text: string): number | undefined {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim()) ?? [];
  const factor = units.get(unit.toLowerCase());
  if (number === undefined || factor === undefined) return undefined;
  const value = Number(number) * factor;
  const isWhole = unit !== "" || Number.isInteger(value);
  const rounded = Math.floor(value);
  return Number.isSafeInteger(rounded) && isWhole ? rounded : undefined;
}
