import { createHash } from "node:crypto";
import { isJsonObject, type JsonValue } from "../../files/bounded-json.js";
import { type Fields, objectFields, readText, required, wrongValue } from "../../files/fields.js";
import { quote } from "../../files/quote.js";
import { readModes } from "../../model/block-attention-config.js";

const IGNORED_LABEL = -100;

/**
 * Checks rows of a packed file, one after another.
 *
 * Rows of one row group with an equal `group_id` must share all blocks but the last; what was seen of a group is kept until its
 * row group ends.
 *
 * @see docs/training-data.md.
 */
export class PackedRows {
  /** Where row groups end, as numbers of rows; ascending. */
  readonly #ends: readonly number[];
  readonly #contexts = new Map<string, string>();
  #row = 0;
  #group = 0;

  /** @param groupSizes rows of each row group. */
  constructor(groupSizes: readonly number[]) {
    let end = 0;
    this.#ends = groupSizes.map((size) => {
      end += size;
      return end;
    });
  }

  /** @throws Error that names the place, the column and what was wanted. */
  check(row: JsonValue, where: string): void {
    if (this.#row >= (this.#ends[this.#group] ?? Infinity)) {
      this.#group += 1;
      this.#contexts.clear();
    }
    this.#row += 1;
    const sample = checkedSample(row, where);
    if (sample.group === undefined) return;
    const context = contextDigest(sample);
    const known = this.#contexts.get(sample.group);
    if (known === undefined) this.#contexts.set(sample.group, context);
    else if (known !== context) {
      throw new Error(
        `Cannot use ${where}: its blocks before the last are not those of its group ${quote(sample.group, 60)}`,
      );
    }
  }
}

interface CheckedSample {
  readonly ids: readonly number[];
  readonly lengths: readonly number[];
  /** Undefined in a file of blocks: the last alone is. */
  readonly isGlobal: readonly boolean[] | undefined;
  readonly group: string | undefined;
}

function checkedSample(row: JsonValue, where: string): CheckedSample {
  if (!isJsonObject(row)) throw new Error(`Cannot read ${where}: it is no object`);
  const fields = objectFields(where, row);
  required(fields, "sample_id", readText(fields, "sample_id"));
  const ids = wholeNumbers(fields, "input_ids", 0);
  const labels = wholeNumbers(fields, "labels", IGNORED_LABEL);
  const hasSpans = fields.get("span_lengths") !== undefined || fields.get("is_global") !== undefined;
  const lengthsKey = hasSpans ? "span_lengths" : "block_lengths";
  const lengths = wholeNumbers(fields, lengthsKey, 0);
  const wrong = (what: string): Error => new Error(`Cannot use ${where}: ${what}`);
  if (labels.length !== ids.length) {
    throw wrong(`"labels" has ${labels.length} values, "input_ids" ${ids.length}, wanted as many`);
  }
  if ((lengths.at(-1) ?? 0) < 1) throw wrong(`"${lengthsKey}" does not end in a final block of 1 token or more`);
  const isGlobal = hasSpans ? required(fields, "is_global", fields.get("is_global") ?? undefined) : undefined;
  if (isGlobal !== undefined && !isKinds(isGlobal, lengths.length)) {
    throw wrongValue(fields, "is_global", `${lengths.length} of true or false, the last true`);
  }
  const promptLength = lengths.reduce((sum, length) => sum + length, 0);
  if (promptLength >= ids.length) {
    throw wrong(`the blocks have ${promptLength} tokens of ${ids.length}, which leaves none for the response`);
  }
  for (const [i, label] of labels.entries()) {
    if (label === IGNORED_LABEL) continue;
    if (label !== ids[i]) throw wrong(`label ${i + 1} is ${label}, wanted ${ids[i]} or ${IGNORED_LABEL}`);
    if (i < promptLength) throw wrong(`label ${i + 1} is in the prompt, which is nothing to learn`);
  }
  if (!labels.some((label) => label !== IGNORED_LABEL)) throw wrong("no label is to be learned");
  readModes(fields);
  return { ids, lengths, isGlobal, group: readText(fields, "group_id") };
}

function isKinds(value: unknown, length: number): value is boolean[] {
  if (!Array.isArray(value) || value.length !== length || value.at(-1) !== true) return false;
  return value.every((kind) => typeof kind === "boolean");
}

function wholeNumbers(fields: Fields, key: string, min: number): readonly number[] {
  const value = required(fields, key, fields.get(key) ?? undefined);
  if (!Array.isArray(value)) throw wrongValue(fields, key, "a list of whole numbers");
  for (const [i, item] of value.entries()) {
    if (Number.isSafeInteger(item) && item >= min) continue;
    throw new Error(
      `Cannot read ${fields.where}: value ${i + 1} of ${quote(key)} is ${JSON.stringify(item)}, wanted ${min} or more`,
    );
  }
  return value as readonly number[];
}

/** Of a prompt's blocks but the last. */
function contextDigest({ ids, lengths, isGlobal }: CheckedSample): string {
  const context = lengths.slice(0, -1);
  const numTokens = context.reduce((sum, length) => sum + length, 0);
  return createHash("sha256")
    .update(JSON.stringify([context, isGlobal, ids.slice(0, numTokens)]))
    .digest("hex");
}
