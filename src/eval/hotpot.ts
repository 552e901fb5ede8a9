import { z } from "zod";
import type { JsonValue } from "../files/bounded-json.js";
import { readJson } from "../files/bounded-json.js";
import { issueSentence } from "../files/schema-issue.js";
import type { RagLine } from "./rag-line.js";

const row = z.object({
  _id: z.string(),
  question: z.string().min(1),
  answer: z.string(),
  type: z.string().optional(),
  context: z.array(z.tuple([z.string(), z.array(z.string())])),
});

/**
 * Turns HotpotQA's distractor format into lines: a passage is a title and its sentences, joined as they are.
 *
 * @throws Error that names the row which is none of this format.
 */
function hotpotLines(value: JsonValue): RagLine[] {
  if (!Array.isArray(value)) throw new Error("Cannot use HotpotQA's questions: they are no array");
  return value.map((item: JsonValue, i) => {
    const parsed = row.safeParse(item);
    if (!parsed.success) {
      throw new Error(`Cannot use HotpotQA's question ${i + 1}: ${issueSentence(parsed.error, item)}`);
    }
    const { _id, question, answer, type, context } = parsed.data;
    const documents = context.map(([title, sentences]) => ({ title, text: sentences.join("") }));
    return { id: _id, kind: type, question, answers: [answer], firstHop: undefined, documents };
  });
}

/** hotpotLines() of a file. @throws Error if it cannot be read, or as hotpotLines(). */
export async function readHotpot(path: string): Promise<RagLine[]> {
  return hotpotLines(await readJson(path));
}
