import { join } from "node:path";
import { type JsonLimits, readJson } from "../files/bounded-json.js";
import { quote } from "../files/quote.js";
import { openRegularFile, undefinedIfMissing } from "../files/regular-file.js";
import { type HuggingFaceFiles, type JsonFile, tokenizerFromHuggingFace } from "./hugging-face-tokenizer.js";
import { longest, type Tokenizer } from "./tokenizer.js";

export { tokenizerFromGguf } from "./gguf-tokenizer.js";

/**
 * The tokenizer of a Hugging Face folder: tokenizer.json, and where they exist tokenizer_config.json,
 * special_tokens_map.json, generation_config.json, config.json (ends of answers) and chat_template.jinja or .json.
 *
 * @throws Error, one line, for a file that is missing, too large, no JSON, or says what is not supported.
 */
export async function loadTokenizerFromFolder(folder: string): Promise<Tokenizer> {
  return tokenizerFromHuggingFace(await readHuggingFaceFiles(folder));
}

/** The files of a folder that decide its tokenizer. @throws Error as loadTokenizerFromFolder(), as far as reading goes. */
export async function readHuggingFaceFiles(folder: string): Promise<HuggingFaceFiles> {
  const json = (name: string) => readJsonFile(join(folder, name));
  const [tokenizer, tokenizerConfig, specialTokensMap, generationConfig, config, chatTemplateJson, chatTemplate] =
    await Promise.all([
      json("tokenizer.json"),
      json("tokenizer_config.json"),
      json("special_tokens_map.json"),
      json("generation_config.json"),
      json("config.json"),
      json("chat_template.json"),
      readTemplate(join(folder, "chat_template.jinja")),
    ]);
  if (tokenizer === undefined)
    throw new Error(`Cannot read ${quote(join(folder, "tokenizer.json"))}: no such file or folder`);
  return { tokenizer, tokenizerConfig, specialTokensMap, generationConfig, config, chatTemplateJson, chatTemplate };
}

/** The largest tokenizer.json of the models that are served has 35 MB. */
const limits: JsonLimits = { maxBytes: 2 ** 27, uniqueKeys: true };

async function readJsonFile(path: string): Promise<JsonFile | undefined> {
  const value = await readJson(path, limits).catch(undefinedIfMissing);
  return value === undefined ? undefined : { name: path, value };
}

async function readTemplate(path: string): Promise<string | undefined> {
  const file = await openRegularFile(path).catch(undefinedIfMissing);
  if (file === undefined) return undefined;
  try {
    if (file.size > longest.chatTemplate) {
      throw new Error(
        `Cannot read ${quote(path)}: it has ${file.size} bytes, at most ${longest.chatTemplate} are read`,
      );
    }
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.handle.readFile());
  } catch (error) {
    throw error instanceof TypeError
      ? new Error(`Cannot read ${quote(path)}: it is not UTF-8`, { cause: error })
      : error;
  } finally {
    await file.handle.close();
  }
}
