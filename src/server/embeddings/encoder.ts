import { basename, join, resolve } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { isJsonObject, type JsonObject, readJson } from "../../files/bounded-json.js";
import { type Fields, objectFields, readPositive } from "../../files/fields.js";
import { quote } from "../../files/quote.js";
import { pathExists, undefinedIfMissing } from "../../files/regular-file.js";

/** What of onnxruntime-node is used. */
export interface Runtime {
  readonly InferenceSession: {
    create(path: string, options: object): Promise<Session>;
  };
  readonly Tensor: new (type: "int64", data: BigInt64Array, dims: readonly number[]) => object;
}

interface Session {
  readonly inputNames: readonly string[];
  run(feeds: Readonly<Record<string, object>>): Promise<Readonly<Record<string, Output>>>;
}

interface Output {
  readonly data: unknown;
  readonly dims: readonly number[];
}

/** A text that is too long, or none. */
export interface RefusedText {
  /** Its place among the texts. */
  readonly index: number;
  readonly error: string;
}

export interface Embedded {
  /** Of length 1, in the texts' order. */
  readonly vectors: readonly Float32Array[];
  readonly numTokens: number;
}

/** An encoder model, such as MiniLM or BGE, as Sentence Transformers and ONNX exports lay it out. */
export interface Encoder {
  readonly name: string;
  embed(texts: readonly string[]): Promise<Embedded | RefusedText>;
}

/** Padded tokens that are computed at once. */
const maxBatchTokens = 4096;
/** A token of text has a few characters: longer texts need not be read to be refused. */
const maxCharactersPerToken = 64;
const modelFiles = ["model.onnx", join("onnx", "model.onnx")];
const inputNames: ReadonlySet<string> = new Set(["input_ids", "attention_mask", "token_type_ids"]);
const meanPooling = "pooling_mode_mean_tokens";
const poolings: readonly string[] = ["pooling_mode_cls_token", meanPooling];

/**
 * Loads an encoder from a folder: model.onnx or onnx/model.onnx, tokenizer.json, and 1_Pooling/config.json, which says how tokens become
 * one vector; the longest text is sentence_bert_config.json's max_seq_length, else config.json's max_position_embeddings.
 *
 * @throws Error, one line, for what is missing or not supported.
 */
export async function loadEncoder(folder: string, runtime: Runtime, numThreads: number): Promise<Encoder> {
  const json = async (name: string): Promise<JsonObject | undefined> => {
    const value = await readJson(join(folder, name), { maxBytes: 2 ** 27 }).catch(undefinedIfMissing);
    if (value !== undefined && !isJsonObject(value))
      throw new Error(`Cannot read ${quote(join(folder, name))}: it is no JSON object`);
    return value;
  };
  const fields = async (name: string): Promise<Fields> => objectFields(join(folder, name), (await json(name)) ?? {});
  const tokenizerJson = await json("tokenizer.json");
  if (tokenizerJson === undefined) throw missing(folder, "tokenizer.json");
  const pooling = (await json(join("1_Pooling", "config.json"))) ?? {};
  const modes = Object.keys(pooling).filter((key) => key.startsWith("pooling_mode_") && pooling[key] === true);
  if (modes.length !== 1 || !poolings.includes(modes[0] as string)) {
    const has = modes.join(" and ") || "no pooling_mode that is true";
    throw new Error(
      `Cannot use the embedding model ${quote(folder)}: 1_Pooling/config.json has ${has}, wanted ${poolings.join(" or ")}`,
    );
  }
  const maxTokens =
    readPositive(await fields("sentence_bert_config.json"), "max_seq_length") ??
    readPositive(await fields("config.json"), "max_position_embeddings");
  if (maxTokens === undefined) throw missing(folder, "config.json with max_position_embeddings");
  let path: string | undefined;
  for (const name of modelFiles)
    if (path === undefined && (await pathExists(join(folder, name)))) path = join(folder, name);
  if (path === undefined) throw missing(folder, "model.onnx");
  const tokenizer = new Tokenizer(tokenizerJson, (await json("tokenizer_config.json")) ?? {});
  const session = await runtime.InferenceSession.create(path, {
    intraOpNumThreads: numThreads,
    interOpNumThreads: 1,
    // Waiting for work would take cores from answers.
    extra: { session: { intra_op: { allow_spinning: "0" } } },
  });
  const unknown = session.inputNames.find((name) => !inputNames.has(name));
  if (unknown !== undefined)
    throw new Error(
      `Cannot use the embedding model ${quote(path)}: it has the input ${quote(unknown)}, wanted ${[...inputNames].join(", ")}`,
    );
  const isMean = modes[0] === meanPooling;

  const run = async (ids: readonly (readonly number[])[]): Promise<Float32Array[]> => {
    const longest = Math.max(...ids.map(({ length }) => length));
    const dims = [ids.length, longest];
    const zeros = () => new BigInt64Array(ids.length * longest);
    const feeds = { input_ids: zeros(), attention_mask: zeros(), token_type_ids: zeros() };
    for (const [row, list] of ids.entries()) {
      for (const [at, id] of list.entries()) {
        feeds.input_ids[row * longest + at] = BigInt(id);
        feeds.attention_mask[row * longest + at] = 1n;
      }
    }
    const tensors = Object.entries(feeds)
      .filter(([name]) => session.inputNames.includes(name))
      .map(([name, data]) => [name, new runtime.Tensor("int64", data, dims)] as const);
    const outputs = await session.run(Object.fromEntries(tensors));
    const hidden = Object.values(outputs).find(({ dims }) => dims.length === 3);
    const [rows, length, size = 0] = hidden?.dims ?? [];
    if (!(hidden?.data instanceof Float32Array) || rows !== ids.length || length !== longest)
      throw new Error(`Cannot use the embedding model ${quote(folder)}: it gives no 32-bit vectors of each token`);
    const { data } = hidden;
    return ids.map((list, row) => {
      const numPooled = isMean ? list.length : 1;
      const sum = new Float32Array(size);
      for (let at = 0; at < numPooled; at++)
        for (let i = 0; i < size; i++) sum[i]! += data[(row * longest + at) * size + i]!;
      const norm = Math.hypot(...sum);
      return sum.map((value) => value / (norm || 1));
    });
  };

  const embed = async (texts: readonly string[]): Promise<Embedded | RefusedText> => {
    const ids: number[][] = [];
    for (const [index, text] of texts.entries()) {
      const maxCharacters = maxCharactersPerToken * maxTokens;
      if (text.length > maxCharacters)
        return {
          index,
          error: `it has ${text.length} characters, wanted up to ${maxTokens} tokens of the embedding model`,
        };
      const list = tokenizer.encode(text).ids;
      if (list.length > maxTokens)
        return { index, error: `it has ${list.length} tokens, the embedding model takes up to ${maxTokens}` };
      if (list.length === 0) return { index, error: "it has no tokens" };
      ids.push(list);
    }
    const vectors = new Array<Float32Array>(texts.length);
    // Those of about the same length together: the shorter ones are padded.
    const order = [...ids.keys()].sort((a, b) => ids[a]!.length - ids[b]!.length);
    while (order.length > 0) {
      let numTexts = 1;
      while (numTexts < order.length && (numTexts + 1) * ids[order[numTexts]!]!.length <= maxBatchTokens) numTexts++;
      const batch = order.splice(0, numTexts);
      const made = await run(batch.map((i) => ids[i]!));
      for (const [k, i] of batch.entries()) vectors[i] = made[k]!;
    }
    return { vectors, numTokens: ids.reduce((sum, { length }) => sum + length, 0) };
  };
  return { name: basename(resolve(folder)), embed };
}

function missing(folder: string, what: string): Error {
  return new Error(
    `Cannot use the embedding model ${quote(folder)}: it has no ${what}, wanted a folder of an ONNX encoder`,
  );
}
