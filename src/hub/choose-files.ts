import { InputRangeError } from "../files/input-error.js";
import { namesNear } from "../files/options.js";
import { quote } from "../files/quote.js";

/** What a repository's files are for: a model of this engine, an adapter over one, or a model that Transformers loads. */
export type ModelUse = "model" | "adapter" | "transformers";

/** The files of one model, or adapter, in a repository. */
export interface ModelFiles {
  /** What the engine is given, from the repository's root: a folder, "" for the root, or a GGUF file, the first of a split set. */
  readonly path: string;
  /** All of its files, weights last. */
  readonly names: readonly string[];
  /** Whether no part of a split set is missing. */
  readonly isWhole: boolean;
  /** Folders are for one use. What a GGUF file is for stands in it. */
  readonly use: ModelUse | undefined;
}

/** What a model in a folder is read from, beside its weights. */
const settingsFile =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|.+\.safetensors\.index)\.json$|^(merges\.txt|vocab\.txt|\w+\.model|chat_template\.jinja)$/;
const adapterFiles = ["adapter_config.json", "adapter_model.safetensors"];
const wholeWeights = "model.safetensors";
/** Mistral's weights once more, under Mistral's own names; an adapter beside a model. */
const isOther = (name: string) => /^(consolidated|adapter_model)[.-]/.test(name);
/** Not language models: an image encoder, and the importance matrix of quantizing. */
const isNoModel = (name: string) => /mmproj|imatrix/i.test(name);
/** Taken where none is named. */
const preferred = ["Q4_K_M", "Q8_0"];
const maxNamed = 12;
const wantedFiles: Readonly<Record<ModelUse, string>> = {
  model: "a config.json with safetensors, or GGUF",
  adapter: `${adapterFiles.join(" with ")}, or GGUF`,
  transformers: "a config.json with safetensors or pytorch_model.bin",
};

/**
 * The models among a repository's files: each folder that has a config and weights, each PEFT adapter, and each GGUF file or split
 * set.
 *
 * @param names paths from the repository's root.
 * @param use that alone. Default: models, then adapters.
 */
export function modelsAmong(names: readonly string[], use?: ModelUse): readonly ModelFiles[] {
  const folders = new Map<string, string[]>();
  for (const name of names) {
    const folder = name.slice(0, Math.max(0, name.lastIndexOf("/")));
    folders.set(folder, [...(folders.get(folder) ?? []), name.slice(folder === "" ? 0 : folder.length + 1)]);
  }
  const uses: readonly ModelUse[] = use === undefined ? ["model", "adapter"] : [use];
  const inFolders = uses.flatMap((one) => [...folders].flatMap(([folder, own]) => inFolder(folder, own, one)));
  if (use === "transformers") return inFolders;
  return [...inFolders, ...splitSets(names.filter((name) => /\.gguf$/i.test(name) && !isNoModel(name)))];
}

/** @param names of the files in the folder. */
function inFolder(path: string, names: readonly string[], use: ModelUse): ModelFiles[] {
  const inRepo = (name: string) => (path === "" ? name : `${path}/${name}`);
  if (use === "adapter") {
    const isThere = adapterFiles.every((name) => names.includes(name));
    return isThere ? [{ path, names: adapterFiles.map(inRepo), isWhole: true, use }] : [];
  }
  const safetensors = names.includes(wholeWeights)
    ? [wholeWeights]
    : names.filter((name) => name.endsWith(".safetensors") && !isOther(name));
  const isPickled = use === "transformers" && safetensors.length === 0;
  const weights = isPickled ? names.filter((name) => /^pytorch_model\b.*\.bin$/.test(name)) : safetensors;
  const settings = names.filter(
    (name) => settingsFile.test(name) || (isPickled && name === "pytorch_model.bin.index.json"),
  );
  if (!names.includes("config.json") || weights.length === 0) return [];
  const sets = splitSets(weights);
  const all = [...settings, ...sets.flatMap((set) => set.names)].map(inRepo);
  return [{ path, names: all, isWhole: sets.every(({ isWhole }) => isWhole), use }];
}

/** Files by their sets: one that is no part of a split set is a set of its own. */
function splitSets(names: readonly string[]): ModelFiles[] {
  const sets = new Map<string, string[]>();
  for (const name of [...names].sort()) {
    const set = name.replace(/-\d{5}-of-/, "-*-of-");
    sets.set(set, [...(sets.get(set) ?? []), name]);
  }
  return [...sets].map(([set, parts]) => {
    const count = set.includes("-*-of-") ? Number(/-\*-of-(\d+)/.exec(set)?.[1]) : 1;
    return { path: parts[0] as string, names: parts, isWhole: parts.length === count, use: undefined };
  });
}

/**
 * The model, or adapter, that is meant.
 *
 * @param part a file's or a folder's path, or a quantization; undefined: the root, else Q4_K_M, else Q8_0, else the only one.
 * @param use default: a model, else an adapter.
 * @throws InputRangeError that lists what there is, for none or several.
 */
export function chooseModel(
  names: readonly string[],
  part: string | undefined,
  repo: string,
  use?: ModelUse,
): ModelFiles {
  const models = modelsAmong(names, use);
  const wanted = part === undefined ? unnamed(models) : modelsNamed(models, part);
  const [only, another] = wanted;
  if (only !== undefined && (another === undefined || another.path === only.path)) {
    if (only.isWhole) return only;
    throw new InputRangeError(`Cannot take ${quote(only.path)} of ${quote(repo)}: parts of it are missing`);
  }
  const noun = use === "adapter" ? "an adapter" : "a model";
  const what = part === undefined ? noun : quote(part);
  const shown = list((wanted.length > 0 ? wanted : models).map(({ path }) => path || "safetensors"));
  if (wanted.length > 0) {
    throw new InputRangeError(
      `Cannot choose ${what} in ${quote(repo)}: it holds ${shown}; name one with ${repo}:FILE or its quantization`,
    );
  }
  if (models.length === 0) {
    const cannot = (why: string) => new InputRangeError(`Cannot find ${noun} in ${quote(repo)}: ${why}`);
    if (use === "model" && modelsAmong(names, "adapter").length > 0) {
      throw cannot(`it holds an adapter, wanted a model under it: --adapter hf:${repo}`);
    }
    const there = names.length === 0 ? "nothing" : list(names.filter((name) => !name.startsWith(".")));
    throw cannot(`wanted ${wantedFiles[use ?? "model"]}, and there is ${there}`);
  }
  const near = namesNear(
    part ?? "",
    models.map(({ path }) => path),
  );
  const meant = near.length === 0 ? shown : list(near);
  throw new InputRangeError(`Cannot find ${what} in ${quote(repo)}: it holds ${meant}`);
}

function unnamed(models: readonly ModelFiles[]): readonly ModelFiles[] {
  const root = models.find(({ path }) => path === "");
  if (root !== undefined) return [root];
  return preferred.map((quant) => modelsNamed(models, quant)).find((found) => found.length > 0) ?? models;
}

/** An own path before a quantization that names of several have. */
export function modelsNamed(models: readonly ModelFiles[], part: string): readonly ModelFiles[] {
  const exact = models.filter(({ names, path, use }) => path === part || (use === undefined && names.includes(part)));
  if (exact.length > 0) return exact;
  const quant = new RegExp(`(^|[-._/])${part.replace(/[.]/g, "\\.")}(?=[-./])`, "i");
  return models.filter(({ path, use }) => use === undefined && quant.test(path));
}

function list(names: readonly string[]): string {
  return (
    names
      .slice(0, maxNamed)
      .map((name) => quote(name))
      .join(", ") + (names.length > maxNamed ? ", …" : "")
  );
}
