import type { TextBlock } from "../blocks/block.js";
import { ragPrompt } from "../blocks/rag-prompt.js";
import { isJsonObject, type JsonObject, type JsonValue } from "../files/bounded-json.js";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { quote } from "../files/quote.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { openDatabase } from "./duckdb.js";
import { type ModelPrompt, modelPrompt } from "./rag/model-prompt.js";
import { parseRagRow } from "./rag/rag-row.js";
import { readRows } from "./rows.js";
import { type SampleOptions, trainingSamples } from "./training-sample.js";

/** A stretch of a sample: a block of its prompt, or its response. */
export interface InspectedPart {
  readonly kind: "local" | "global" | "final" | "response";
  readonly text: string;
  readonly tokens: number;
}

/** One sample of a file, as a model would meet it. */
export interface InspectedSample {
  readonly format: "rag" | "train" | "conversation" | "packed";
  readonly id: string;
  readonly parts: readonly InspectedPart[];
  /** What else there is to tell, a line each. */
  readonly notes: readonly string[];
}

export interface InspectOptions {
  readonly path: string;
  /** From 1 on; rows that cannot be used are counted too. */
  readonly row: number;
  /** A model folder, a tokenizer folder or a .gguf file: what cuts and counts. */
  readonly model: string;
  readonly template: "own" | "tulu";
  readonly conversations?: SampleOptions["conversations"];
  readonly signal: AbortSignal;
}

/**
 * The samples of one row: a RAG line, a training line (a sample for each answer of a conversation), or a row of a packed Parquet
 * file. What the row is, its fields say.
 *
 * @throws Error if the file cannot be read, ends before the row, or the row is none of these; the signal's reason.
 */
export async function inspectRow(options: InspectOptions): Promise<InspectedSample[]> {
  const { path, model, template, conversations } = options;
  const { where, value } = await rowOf(options);
  const prompt = await modelPrompt(model, template);
  try {
    if (Object.hasOwn(value, "input_ids")) {
      const digest = /\.parquet$/i.test(path) ? await packedDigest(path) : undefined;
      return [packedSample(value, prompt.tokenizer, digest)];
    }
    if (Object.hasOwn(value, "question") && Object.hasOwn(value, "documents")) return [ragSample(value, where, prompt)];
    return trainSamples(value, where, prompt, conversations);
  } catch (error) {
    throw new Error(`Cannot show ${where}: ${(error as Error).message}`, { cause: error });
  }
}

async function rowOf({ path, row, signal }: InspectOptions): Promise<{ where: string; value: JsonObject }> {
  let number = 0;
  for await (const found of readRows(path, signal)) {
    number += 1;
    if (number < row) continue;
    if (found.kind === "bad") throw new Error(`Cannot show ${found.where}: ${found.error}`);
    if (!isJsonObject(found.value)) throw new Error(`Cannot show ${found.where}: it is no object`);
    return { where: found.where, value: found.value };
  }
  throw new Error(`Cannot show row ${row} of ${quote(path)}: it has ${number} ${number === 1 ? "row" : "rows"}`);
}

function ragSample(value: JsonObject, where: string, { tokenizer, rag }: ModelPrompt): InspectedSample {
  const { id, question, documents, generated } = parseRagRow({ where, index: 0, value });
  const cut = ragPrompt({ question, documents }, rag);
  const answers = Array.isArray(value.answers) ? (value.answers as readonly JsonValue[]).map(String) : [];
  const scores = Array.isArray(value.documents)
    ? (value.documents as readonly JsonValue[]).flatMap((document) =>
        isJsonObject(document) && typeof document.score === "number" ? [document.score] : [],
      )
    : [];
  return {
    format: "rag",
    id,
    parts: [
      ...promptParts(cut.blocks, tokenizer),
      ...(generated === undefined ? [] : [response(generated, tokenizer)]),
    ],
    notes: [
      `${documents.length} documents${scores.length > 0 ? `, scores ${scores.join(", ")}` : ""}`,
      ...(answers.length > 0 ? [`answers: ${answers.map((answer) => quote(answer)).join(", ")}`] : []),
      ...(generated === undefined ? ["no answer was generated yet"] : []),
      ...cut.warnings,
    ],
  };
}

function trainSamples(
  value: JsonObject,
  where: string,
  { tokenizer, rag: { template } }: ModelPrompt,
  conversations: SampleOptions["conversations"],
): InspectedSample[] {
  // Every single message is shown as it would be in block mode.
  const outcomes = trainingSamples(value, where, { template, seed: "", singleProbability: 1, conversations });
  const format = Object.hasOwn(value, "messages") ? "conversation" : "train";
  if (outcomes.length === 0) throw new InputTypeError("it has no answer to learn");
  return outcomes.map((outcome): InspectedSample => {
    if (outcome.kind === "dropped") {
      return { format, id: outcome.id, parts: [], notes: [`dropped when packed: ${outcome.reason}`] };
    }
    const { id, blocks, response: text, modes, group } = outcome.sample;
    return {
      format,
      id,
      parts: [...promptParts(blocks, tokenizer), response(text, tokenizer)],
      notes: [`trained in ${modes.join(" and ")} mode`, ...(group === undefined ? [] : [`group ${quote(group)}`])],
    };
  });
}

function promptParts(blocks: readonly TextBlock[], tokenizer: Tokenizer): InspectedPart[] {
  return blocks.map(({ text, trusted, isGlobal }, i) => ({
    kind: i === blocks.length - 1 ? "final" : isGlobal ? "global" : "local",
    text,
    tokens: tokenizer.encode(text, trusted).length,
  }));
}

function response(text: string, tokenizer: Tokenizer): InspectedPart {
  return { kind: "response", text, tokens: tokenizer.encode(text, "all").length };
}

function packedSample(value: JsonObject, tokenizer: Tokenizer, digest: string | undefined): InspectedSample {
  const ids = numbersOf(value, "input_ids");
  const hasSpans = Object.hasOwn(value, "span_lengths");
  const lengths = numbersOf(value, hasSpans ? "span_lengths" : "block_lengths");
  const isGlobal = Array.isArray(value.is_global) ? value.is_global : [];
  const modes = Array.isArray(value.modes) ? value.modes.map(String) : [];
  const promptLength = lengths.reduce((sum, length) => sum + length, 0);
  if (promptLength > ids.length) {
    throw new InputRangeError(`its blocks have ${promptLength} tokens, "input_ids" has ${ids.length}`);
  }
  let start = 0;
  const parts = lengths.map((length, i): InspectedPart => {
    const kind = i === lengths.length - 1 ? "final" : isGlobal[i] ? "global" : "local";
    const part = { kind, text: spell(ids.slice(start, start + length), tokenizer), tokens: length } as const;
    start += length;
    return part;
  });
  const rest = ids.slice(promptLength);
  const isOther = digest !== undefined && digest !== tokenizer.digest;
  return {
    format: "packed",
    id: typeof value.sample_id === "string" ? value.sample_id : "",
    parts: [...parts, { kind: "response", text: spell(rest, tokenizer), tokens: rest.length }],
    notes: [
      `trained in ${modes.join(" and ")} mode`,
      ...(typeof value.group_id === "string" ? [`group ${quote(value.group_id)}`] : []),
      ...(isOther ? ["the file was packed with another tokenizer: --model names the one to read it with"] : []),
    ],
  };
}

/** What ids spell, control tokens as their own text, which decoding leaves out. */
function spell(ids: readonly number[], tokenizer: Tokenizer): string {
  const wrong = ids.find((id) => id >= tokenizer.vocabSize);
  if (wrong !== undefined) {
    throw new InputRangeError(
      `its id ${wrong} is none of the tokenizer's ${tokenizer.vocabSize}; --model names another one`,
    );
  }
  let text = "";
  let run: number[] = [];
  for (const id of ids) {
    if (!tokenizer.specialTokenIds.has(id)) run.push(id);
    else {
      text += tokenizer.decode(run) + Buffer.from(tokenizer.tokenBytes(id)).toString("utf8");
      run = [];
    }
  }
  return text + tokenizer.decode(run);
}

function numbersOf(value: JsonObject, key: string): readonly number[] {
  const list = Object.hasOwn(value, key) ? value[key] : undefined;
  const isIds = Array.isArray(list) && list.every((id: JsonValue) => Number.isSafeInteger(id) && (id as number) >= 0);
  if (!isIds) throw new InputTypeError(`"${key}" is no list of whole numbers from 0 on`);
  return list as readonly number[];
}

async function packedDigest(path: string): Promise<string | undefined> {
  const instance = await openDatabase({ threads: "1" });
  try {
    const connection = await instance.connect();
    try {
      const query = "SELECT decode(value) FROM parquet_kv_metadata($path) WHERE decode(key) = 'tokenizer_digest'";
      const reader = await connection.runAndReadAll(query, { path });
      const [row] = reader.getRows();
      return row === undefined ? undefined : String(row[0]);
    } finally {
      connection.closeSync();
    }
  } finally {
    instance.closeSync();
  }
}
