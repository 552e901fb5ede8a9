import { InputRangeError } from "../files/input-error.js";
import { namesNear } from "../files/options.js";
import { quote } from "../files/quote.js";

/** The files of one model in a repository. */
export interface ModelFiles {
  /** What the engine is given, from the repository's root: "" for the folder itself, or a GGUF file, the first of a split set. */
  readonly path: string;
  /** All of its files, weights last. */
  readonly names: readonly string[];
  /** Whether no part of a split set is missing. */
  readonly isWhole: boolean;
}

/** What a model in a folder is read from, beside its weights. */
const settingsFile =
  /^(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|.+\.safetensors\.index)\.json$|^(merges\.txt|tokenizer\.model|chat_template\.jinja)$/;
/** Mistral's weights once more, under Mistral's own names. */
const isDuplicate = (name: string) => /^consolidated[.-]/.test(name);
/** Not language models: an image encoder, and the importance matrix of quantizing. */
const isNoModel = (name: string) => /mmproj|imatrix/i.test(name);
/** Taken where none is named. */
const preferred = ["Q4_K_M", "Q8_0"];
const maxNamed = 12;

/**
 * The models among a repository's files: its folder, where it has a config and safetensors, and each GGUF file or split set.
 *
 * @param names paths from the repository's root.
 */
export function modelsAmong(names: readonly string[]): readonly ModelFiles[] {
  const inRoot = names.filter((name) => !name.includes("/"));
  const sets = splitSets(inRoot.filter((name) => name.endsWith(".safetensors") && !isDuplicate(name)));
  const isFolder = inRoot.some((name) => /^(adapter_)?config\.json$/.test(name)) && sets.length > 0;
  const folder = {
    path: "",
    names: [...inRoot.filter((name) => settingsFile.test(name)), ...sets.flatMap(({ names: weights }) => weights)],
    isWhole: sets.every(({ isWhole }) => isWhole),
  };
  return [
    ...(isFolder ? [folder] : []),
    ...splitSets(names.filter((name) => /\.gguf$/i.test(name) && !isNoModel(name))),
  ];
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
    return { path: parts[0] as string, names: parts, isWhole: parts.length === count };
  });
}

/**
 * The model that is meant.
 *
 * @param part a file's path or a quantization; undefined: the folder, else Q4_K_M, else Q8_0, else the only GGUF file.
 * @throws InputRangeError that lists what there is, for none or several.
 */
export function chooseModel(names: readonly string[], part: string | undefined, repo: string): ModelFiles {
  const models = modelsAmong(names);
  const wanted = part === undefined ? unnamed(models) : modelsNamed(models, part);
  const [only, another] = wanted;
  if (only !== undefined && another === undefined) {
    if (only.isWhole) return only;
    throw new InputRangeError(`Cannot take ${quote(only.path)} of ${quote(repo)}: parts of it are missing`);
  }
  const what = part === undefined ? "a model" : quote(part);
  const shown = list(
    wanted.length > 0 ? wanted.map(({ path }) => path) : models.map(({ path }) => path || "safetensors"),
  );
  if (wanted.length > 0) {
    throw new InputRangeError(
      `Cannot choose ${what} in ${quote(repo)}: it holds ${shown}; name one with ${repo}:FILE or its quantization`,
    );
  }
  if (models.length === 0) {
    const there = names.length === 0 ? "nothing" : list(names.filter((name) => !name.startsWith(".")));
    throw new InputRangeError(
      `Cannot find a model in ${quote(repo)}: wanted a config.json with safetensors, or GGUF, and there is ${there}`,
    );
  }
  const near = namesNear(
    part ?? "",
    models.map(({ path }) => path),
  );
  const meant = near.length === 0 ? shown : list(near);
  throw new InputRangeError(`Cannot find ${what} in ${quote(repo)}: it holds ${meant}`);
}

function unnamed(models: readonly ModelFiles[]): readonly ModelFiles[] {
  const folder = models.find(({ path }) => path === "");
  if (folder !== undefined) return [folder];
  return preferred.map((quant) => modelsNamed(models, quant)).find((found) => found.length > 0) ?? models;
}

/** A file's own path before a quantization that names of several have. */
export function modelsNamed(models: readonly ModelFiles[], part: string): readonly ModelFiles[] {
  const exact = models.filter(({ names, path }) => path !== "" && names.includes(part));
  if (exact.length > 0) return exact;
  const quant = new RegExp(`(^|[-._/])${part.replace(/[.]/g, "\\.")}(?=[-./])`, "i");
  return models.filter(({ path }) => quant.test(path));
}

function list(names: readonly string[]): string {
  return (
    names
      .slice(0, maxNamed)
      .map((name) => quote(name))
      .join(", ") + (names.length > maxNamed ? ", …" : "")
  );
}
