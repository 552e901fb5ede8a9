import { join } from "node:path";
import { quote } from "../files/quote.js";
import { openRegularFile } from "../files/regular-file.js";
import { type JsonFile, tokenizerFromHuggingFace } from "./hugging-face-tokenizer.js";
import type { Tokenizer } from "./tokenizer.js";

export { tokenizerFromGguf } from "./gguf-tokenizer.js";

/**
 * The tokenizer of a Hugging Face folder: tokenizer.json, and where they exist tokenizer_config.json,
 * special_tokens_map.json, generation_config.json, config.json (ends of answers) and chat_template.jinja or .json.
 *
 * @throws Error, one line, for a file that is missing, too large, no JSON, or says what is not supported.
 */
export async function loadTokenizerFromFolder(folder: string): Promise<Tokenizer> {
  const json = (name: string) => readJson(join(folder, name));
  const [tokenizer, tokenizerConfig, specialTokensMap, generationConfig, config, chatTemplateJson, chatTemplate] =
    await Promise.all([
      json("tokenizer.json"),
      json("tokenizer_config.json"),
      json("special_tokens_map.json"),
      json("generation_config.json"),
      json("config.json"),
      json("chat_template.json"),
      readText(join(folder, "chat_template.jinja")),
    ]);
  if (tokenizer === undefined)
    throw new Error(`Cannot read ${quote(join(folder, "tokenizer.json"))}: no such file or folder`);
  return tokenizerFromHuggingFace({
    tokenizer,
    tokenizerConfig,
    specialTokensMap,
    generationConfig,
    config,
    chatTemplateJson,
    chatTemplate,
  });
}

/** In bytes. The largest tokenizer.json of the models that are served has 35 MB. */
const maxFileSize = 256 * 2 ** 20;

async function readJson(path: string): Promise<JsonFile | undefined> {
  const text = await readText(path);
  if (text === undefined) return undefined;
  try {
    return { name: path, value: JSON.parse(text) as unknown };
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new Error(`Cannot read ${quote(path)}: it is no JSON (${error.message.replaceAll(/\s+/g, " ")})`);
  }
}

/** A file's text; undefined where there is none. */
async function readText(path: string): Promise<string | undefined> {
  const file = await openRegularFile(path).catch((error: unknown) => {
    if (
      error instanceof Error &&
      error.cause instanceof Error &&
      "code" in error.cause &&
      error.cause.code === "ENOENT"
    )
      return undefined;
    throw error;
  });
  if (file === undefined) return undefined;
  try {
    if (file.size > maxFileSize)
      throw new Error(`Cannot read ${quote(path)}: it has ${file.size} bytes, more than ${maxFileSize}`);
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.handle.readFile());
  } catch (error) {
    if (error instanceof TypeError) throw new Error(`Cannot read ${quote(path)}: it is no UTF-8`);
    throw error;
  } finally {
    await file.handle.close();
  }
}
