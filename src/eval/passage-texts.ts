import { readRows } from "../data/rows.js";
import { isJsonObject, type JsonValue } from "../files/bounded-json.js";
import { quote } from "../files/quote.js";
import { documentText } from "./rag-line.js";

/**
 * The raw texts of passages: of lines {"title","text"} or {"text"}, and of a set's lines their "documents", each text once.
 *
 * @throws Error for a row that is none of these, or a file that cannot be read or has none; the signal's reason.
 */
export async function readPassageTexts(path: string, signal: AbortSignal): Promise<string[]> {
  const texts = new Set<string>();
  for await (const row of readRows(path, signal)) {
    if (row.kind === "bad") throw new Error(row.error);
    const { documents } = isJsonObject(row.value) ? row.value : {};
    const passages: readonly JsonValue[] = Array.isArray(documents) ? documents : [row.value];
    for (const passage of passages) {
      const text = textOf(passage);
      if (text === undefined) {
        throw new Error(`Cannot use ${row.where}: it has no "text" of text and no "documents" that have`);
      }
      texts.add(text);
    }
  }
  if (texts.size === 0) throw new Error(`Cannot use ${quote(path)}: it holds no passages`);
  return [...texts];
}

function textOf(passage: JsonValue): string | undefined {
  if (typeof passage === "string") return passage;
  if (!isJsonObject(passage) || typeof passage.text !== "string") return undefined;
  const { title, text } = passage;
  return typeof title === "string" ? documentText({ title, text }) : text;
}
