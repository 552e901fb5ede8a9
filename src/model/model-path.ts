import type { Stats } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { isJsonObject, readJson } from "../files/bounded-json.js";
import { ggufSetName } from "../files/gguf.js";
import { quote } from "../files/quote.js";
import { describeFileError, pathExists, undefinedIfMissing } from "../files/regular-file.js";
import { suggestPath } from "../files/suggest-path.js";
import { hubNameText, parseHubName } from "./hub-name.js";
import { packagedDir, packagedModels, packagedPath } from "./packaged-models.js";

/** Of a folder that is no model, so many entries are looked at, and so many models in it named. */
const maxEntries = 1_000;
const maxNamed = 5;

/** A model on the disk: a Hugging Face folder, or a GGUF file, of a split one any part. */
export interface ModelPath {
  readonly kind: "hugging-face" | "gguf";
  readonly path: string;
  /** The folder of an adapter that belongs to it. */
  readonly adapter?: string;
}

/**
 * How a model's path is to be read: as a Hugging Face folder, as a GGUF file, or as the one GGUF file (or split one) that a folder
 * without safetensors holds. A PEFT folder over a model that has a name of its own here stands for both: the base is
 * where `pull` has put it.
 *
 * @param wanted the file of a folder that will be read first.
 * @throws Error, one line, for a path that leads to no model; it names the model that was probably meant, and how one of the
 *   Hugging Face hub gets onto the disk.
 */
export async function findModel(path: string, wanted: "config.json" | "tokenizer.json"): Promise<ModelPath> {
  const found = await statModel(path);
  if (found.isDirectory()) {
    const names = await namesIn(path);
    const files = ggufFiles(path, names);
    const hasWanted = names.includes(wanted);
    if (!hasWanted && names.includes("adapter_config.json")) return await baseOf(path);
    if (hasWanted && (files.length === 0 || names.some((name) => /\.safetensors$/i.test(name)))) {
      return { kind: "hugging-face", path };
    }
    const [only] = files;
    if (only !== undefined && files.length === 1) return { kind: "gguf", path: only };
    const models = await modelsIn(path, wanted);
    if (models.length === 0) return { kind: "hugging-face", path };
    const named = models.slice(0, maxNamed).map((model) => quote(model));
    const meant = `${models.length > 1 ? "one of " : ""}${named.join(", ")}${models.length > maxNamed ? ", …" : ""}`;
    const lacks = hasWanted ? "safetensors" : quote(wanted);
    throw new Error(`Cannot read ${quote(path)}: the folder holds no ${lacks}; did you mean ${meant}?`);
  }
  if (/\.(safetensors|json|bin|pth?)$/i.test(path)) {
    const folder = dirname(path);
    const meant = (await pathExists(join(folder, wanted))) ? `; did you mean ${quote(folder)}?` : "";
    throw new Error(`Cannot read ${quote(path)}: give the model's folder, or a .gguf file${meant}`);
  }
  return { kind: "gguf", path };
}

/** The base of an adapter, where it is one that has a name of its own here. */
async function baseOf(adapter: string): Promise<ModelPath> {
  const config = await readJson(join(adapter, "adapter_config.json"));
  const origin = isJsonObject(config) ? config.base_model_name_or_path : undefined;
  const base = packagedModels.find((model) => model.origin === origin);
  if (base === undefined) throw adapterAsModel(quote(adapter));
  const path = packagedPath(packagedDir(process.env), base);
  const size = (await stat(path).catch(undefinedIfMissing))?.size;
  if (size === base.numBytes) return { kind: "gguf", path, adapter };
  const is = size === undefined ? "is not on the disk" : `has ${size} bytes, wanted ${base.numBytes}`;
  throw new Error(
    `Cannot read ${quote(adapter)}: its base ${quote(path)} ${is}; it is fetched with: block-attention pull ${base.name}`,
  );
}

/** @throws Error of one line, which says how a model, or an adapter, of the Hugging Face hub gets onto the disk. */
export async function statModel(path: string): Promise<Stats> {
  return await stat(path).catch(async (error: unknown) => {
    const described = describeFileError(error, path);
    const advice = (error as NodeJS.ErrnoException).code === "ENOENT" ? await adviceOn(path) : "";
    throw advice === "" ? described : new Error(`${described.message}; ${advice}`, { cause: error });
  });
}

/** @param where the quoted path. */
export function adapterAsModel(where: string): Error {
  return new Error(`Cannot read ${where}: it is an adapter, which is given beside its model: --adapter`);
}

async function namesIn(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(() => [])).sort().slice(0, maxEntries);
}

/** The GGUF files that may be models, of split ones the first part; not what lies beside models: projectors and importance matrices. */
function ggufFiles(folder: string, names: readonly string[]): string[] {
  const files = names.filter((name) => /\.gguf$/i.test(name) && !/mmproj|imatrix/i.test(name));
  const first = new Map(files.toReversed().map((name) => [ggufSetName(name), join(folder, name)]));
  return [...first.values()].reverse();
}

/** The models right within a folder, and within the snapshots of one that the Hugging Face cache keeps. */
async function modelsIn(folder: string, wanted: string): Promise<string[]> {
  const names = await namesIn(folder);
  const models = ggufFiles(folder, names);
  for (const name of names) {
    const path = join(folder, name);
    if (await pathExists(join(path, wanted))) models.push(path);
    else if (name === "snapshots") models.push(...(await modelsIn(path, wanted)));
  }
  return models.sort();
}

/** What to do about a path that leads nowhere and looks like a name or an address of the hub; empty for any other. */
async function adviceOn(path: string): Promise<string> {
  if (suggestPath(path) !== undefined) return "";
  const name = parseHubName(path);
  if (name === undefined) return /^(hf:|https?:\/\/)/i.test(path) ? "models are read from disk, download it first" : "";
  if (!name.isExplicit && /\.(gguf|json|safetensors)$/i.test(path)) return "";
  const folder = basename(name.repo);
  if (await pathExists(folder)) return `did you mean ${quote(folder)}?`;
  return `models are read from disk, one of the Hugging Face hub is fetched with: block-attention pull ${hubNameText(name)}`;
}
