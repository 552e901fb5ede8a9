import { isJsonObject, type JsonValue } from "../../files/bounded-json.js";
import { objectFields } from "../../files/fields.js";
import { fidQuestion } from "./fid-question.js";
import { multiHopQuestion, spacedSentences } from "./multi-hop-question.js";

/** Raw question sets, by the names of the commands that read them. */
export const RAW_FORMATS = ["2wiki", "hqa", "nq", "tqa"] as const;
export type RawFormat = (typeof RAW_FORMATS)[number];

/** A passage as a raw file has it. */
export interface RawPassage {
  readonly title: string;
  readonly text: string;
  /** A retriever's; undefined where the file has none. */
  readonly score: number | undefined;
  /** Whether the file says that the answer rests on it; undefined where it says nothing. */
  readonly supports: boolean | undefined;
}

/** A question of a raw file, whatever its format. */
export interface RawQuestion {
  readonly id: string | undefined;
  /** For instance "comparison". */
  readonly kind: string | undefined;
  readonly question: string;
  /** Any of them is right. */
  readonly answers: readonly string[];
  readonly passages: readonly RawPassage[];
}

/**
 * Reads a row of a raw file.
 *
 * @param where the row's place, for errors.
 * @throws Error that names the place, the field and what was wanted.
 * @see FACTS §4.
 */
export function rawQuestion(format: RawFormat, row: JsonValue, where: string): RawQuestion {
  if (!isJsonObject(row)) throw new Error(`Cannot read ${where}: it is no object, one with "question" is wanted`);
  const fields = objectFields(where, row);
  switch (format) {
    case "2wiki":
      return multiHopQuestion(fields, spacedSentences);
    case "hqa":
      return multiHopQuestion(fields, (sentences) => sentences.join(""));
    case "nq":
    case "tqa":
      return fidQuestion(fields);
    default:
      return format satisfies never;
  }
}
