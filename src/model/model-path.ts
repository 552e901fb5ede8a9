import { readdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { quote } from "../files/quote.js";
import { describeFileError, pathExists } from "../files/regular-file.js";
import { suggestPath } from "../files/suggest-path.js";

/** Of a folder that is no model, so many entries are looked at, and so many models in it named. */
const maxEntries = 1_000;
const maxNamed = 5;

/**
 * How a model's path is to be read.
 *
 * @param wanted the file of a folder that will be read first.
 * @throws Error, one line, for a path that leads to no model; it names the model that was probably meant, and how one of the
 *   Hugging Face hub gets onto the disk.
 */
export async function modelKind(
  path: string,
  wanted: "config.json" | "tokenizer.json",
): Promise<"hugging-face" | "gguf"> {
  const found = await stat(path).catch(async (error: unknown) => {
    const described = describeFileError(error, path);
    const advice = (error as NodeJS.ErrnoException).code === "ENOENT" ? await adviceOn(path) : "";
    throw advice === "" ? described : new Error(`${described.message}; ${advice}`, { cause: error });
  });
  if (found.isDirectory()) {
    if (await pathExists(join(path, wanted))) return "hugging-face";
    const models = await modelsIn(path, wanted);
    if (models.length === 0) return "hugging-face";
    const named = models.slice(0, maxNamed).map((model) => quote(model));
    const meant = `${models.length > 1 ? "one of " : ""}${named.join(", ")}${models.length > maxNamed ? ", …" : ""}`;
    throw new Error(`Cannot read ${quote(path)}: the folder holds no "${wanted}"; did you mean ${meant}?`);
  }
  if (/\.(safetensors|json|bin|pth?)$/i.test(path)) {
    const folder = dirname(path);
    const meant = (await pathExists(join(folder, wanted))) ? `; did you mean ${quote(folder)}?` : "";
    throw new Error(`Cannot read ${quote(path)}: give the model's folder, or a .gguf file${meant}`);
  }
  return "gguf";
}

/** The models right within a folder, and within the snapshots of one that the Hugging Face cache keeps. */
async function modelsIn(folder: string, wanted: string): Promise<string[]> {
  const models: string[] = [];
  for (const name of (await readdir(folder).catch(() => [])).sort().slice(0, maxEntries)) {
    const path = join(folder, name);
    if (/\.gguf$/i.test(name) || (await pathExists(join(path, wanted)))) models.push(path);
    else if (name === "snapshots") models.push(...(await modelsIn(path, wanted)));
  }
  return models;
}

/** What to do about a path that leads nowhere and looks like a name or an address of the hub; empty for any other. */
async function adviceOn(path: string): Promise<string> {
  if (suggestPath(path) !== undefined) return "";
  const name = path.replace(/^hf:\/{0,2}|^(https?:\/\/)?(www\.)?(huggingface\.co|hf\.co)\//i, "");
  const isName =
    name === path && /^\w[\w.-]*\/\w[\w.-]*(:[\w.-]+)?$/.test(path) && !/\.(gguf|json|safetensors)$/i.test(path);
  const isAddress = name !== path || /^https?:\/\//i.test(path);
  if (!isName && !isAddress) return "";
  const [, owner, model, tail = ""] = /^(\w[\w.-]*)\/(\w[\w.-]*)([/:?#].*)?$/.exec(name) ?? [];
  if (owner === undefined || model === undefined || /^https?:/i.test(name)) {
    return "models are read from disk, download it first";
  }
  if (await pathExists(model)) return `did you mean ${quote(model)}?`;
  const [, file] = /^\/(?:resolve|blob)\/[^/]+\/([\w./-]+\.gguf)/i.exec(tail) ?? [];
  const [, type] = /^:([\w.-]+)$/.exec(tail) ?? [];
  const part = file !== undefined ? ` ${file}` : type !== undefined ? ` --include "*${type}*"` : "";
  const command = `hf download ${owner}/${model}${part} --local-dir ${model}`;
  return `models are read from disk, one of the Hugging Face hub is fetched with: ${command}`;
}
