import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { type ChatTemplate, compileChatTemplate, type Reasoning } from "../blocks/chat-template.js";
import { ragTexts } from "../blocks/rag-prompt.js";

import {
  elementTypeOf,
  elementTypes,
  isInBlocks,
  type KVType,
  kvTypeFits,
  type WeightsConversion,
  weightsConversions,
} from "../files/element-types.js";
import { readGguf } from "../files/gguf.js";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import { quote } from "../files/quote.js";
import { thisUsersCacheDir } from "../files/user-cache-dir.js";
import { Backend } from "../ggml/backend.js";
import { type BackendKind, findGgmlDirectory, type Ggml, loadGgml } from "../ggml/library.js";
import {
  installedOpenVino,
  type OpenVino,
  openVinoCommand,
  openVinoVariable,
  type ProductKind,
} from "../ggml/openvino/library.js";
import { type FileState, fileState, sameState } from "../kv/file-digest.js";
import type { AdapterInput } from "../model/adapters.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import type { Decoder } from "../model/decoder.js";
import { findModel } from "../model/model-path.js";
import type { ModelSource } from "../model/model-source.js";
import { openModel } from "../model/open-model.js";
import { packagedDir, packagedPath, smolLM2 } from "../model/packaged-models.js";
import {
  convertedType,
  estimateWeightBytes,
  type LoadProgress,
  loadWeights,
  type ModelWeights,
} from "../model/weights.js";
import { loadTokenizerFromFolder, tokenizerFromGguf } from "../tokenizer/load-tokenizer.js";
import type { Tokenizer } from "../tokenizer/tokenizer.js";
import { measureFit, requireFit } from "./memory-fit.js";
import { modelIdentity } from "./model-identity.js";
import { requireRepair } from "./repair.js";

export interface ModelOptions {
  /** A Hugging Face folder or a .gguf file. */
  readonly model: string;
  /** How weights are converted at load. Default "keep". */
  readonly weights?: WeightsConversion | undefined;
  /** Merged into the weights, in this order. Default: none. */
  readonly adapters?: readonly AdapterInput[] | undefined;
  /** CPU threads. Default: `defaultThreads`, and fewer while other programs use the cores. */
  readonly threads?: number | undefined;
  /** Which build of ggml. Default "auto": a GPU's where its package is installed, else the CPU's. */
  readonly backend?: BackendKind | undefined;
  /** ggml's name of the device, for instance "CUDA0". */
  readonly device?: string | undefined;
  /** What multiplies prompts and blocks by quantized weights on the CPU. Default "auto": OpenVINO where it is installed, else ggml. */
  readonly products?: ProductKind | undefined;
  /**
   * Whether weights are used where they lie in the model's file, if the device can: loading is faster, and processes share them. Once the file
   * was written to, every request fails; where it is cut, the process may end (SIGBUS), so a server runs the engine in a process of
   * its own. Replace files by renaming. Default false.
   */
  readonly mapWeights?: boolean | undefined;
  /** Overrides the model's own prefix. */
  readonly prefix?: string | undefined;
  /** Overrides the modes that the model says it was trained in. */
  readonly trainedModes?: readonly AttentionMode[] | undefined;
  /** The most bytes of kept blocks, and of contexts: what is known of them when it is computed whether the model fits. */
  readonly storeBytes?: number | undefined;
  readonly contextBytes?: number | undefined;
  /** What keys and values are to be kept as. */
  readonly kvType?: KVType | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called before loading. */
  readonly onEstimate?: ((estimate: { readonly weightBytes: number }) => void) | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Told once of each contradiction in the model's files, and that it was not trained for block attention. */
  readonly onWarning?: ((warning: string) => void) | undefined;
}

/** A model ready to compute: weights on a device, tokenizer, template. It owns the device and the weights. */
export interface LoadedModel extends Disposable {
  readonly source: ModelSource;
  readonly backend: Backend;
  readonly decoder: Decoder;
  readonly weights: ModelWeights;
  readonly tokenizer: Tokenizer;
  readonly chatTemplate: ChatTemplate | undefined;
  /** Any of them ends an answer. */
  readonly endTokenIds: ReadonlySet<number>;
  /** Names the model in block ids (`modelIdentity()`); computed in the background at first. */
  readonly identity: Promise<string>;
}

/** The tokenizer of a model folder or .gguf file. */
export async function loadTokenizer(path: string): Promise<Tokenizer> {
  const found = await findModel(path, "tokenizer.json");
  return found.kind === "gguf"
    ? tokenizerFromGguf((await readGguf(found.path)).metadata)
    : loadTokenizerFromFolder(found.path);
}

/** Compiles a tokenizer's chat template, if it has one. */
export function templateOf(tokenizer: Tokenizer): ChatTemplate | undefined {
  if (tokenizer.chatTemplate === undefined) return undefined;
  return compileChatTemplate(tokenizer.chatTemplate, {
    tokens: tokenizer.templateTokens,
    addsBos: tokenizer.bosTokenId !== undefined,
  });
}

/**
 * Loads a model: headers first, so that what is wrong with the files is said before gigabytes are read.
 *
 * @throws Error for files that are missing, damaged or not supported, a tokenizer that does not fit, or too little
 * memory; the signal's reason. Nothing stays allocated then.
 */
export async function loadModel(options: ModelOptions): Promise<LoadedModel> {
  const { model, weights: conversion = "keep", prefix, trainedModes, signal } = options;
  if (!weightsConversions.includes(conversion)) {
    throw new RangeError(`Cannot convert weights to "${String(conversion)}": wanted ${weightsConversions.join(", ")}`);
  }
  const source = await openModel(model, { prefix, trainedModes, adapters: options.adapters });
  const files = await FileStates.of([source, ...(source.adapters ?? [])].flatMap((one) => one.files));
  const tokenizer = await loadTokenizer(model);
  if (tokenizer.vocabSize > source.config.vocabSize) {
    throw new RangeError(
      `Cannot use the tokenizer of "${model}": it has ${tokenizer.vocabSize} tokens, the model's embedding has ${source.config.vocabSize}`,
    );
  }
  const ownPrefix = tokenizer.encode(source.config.blockAttention?.prefix ?? "", "all").length;
  if (ownPrefix >= source.config.contextLength) {
    throw new RangeError(
      `Cannot use the prefix of "${model}": it has ${ownPrefix} tokens, the context has ${source.config.contextLength}`,
    );
  }
  const { kvType } = options;
  const { headSize } = source.config;
  if (kvType !== undefined && !kvTypeFits(kvType, headSize)) {
    const { blockSize } = elementTypes[elementTypeOf(kvType)];
    throw new InputRangeError(
      `Cannot keep keys and values as ${kvType}: the model's heads have ${headSize} elements, wanted a multiple of ${blockSize}`,
    );
  }
  // Refused now, and not with each prompt.
  ragTexts(source.config.blockAttention?.ragPrompt);
  requireRepair(source.config.blockAttention?.repair, model);
  const chatTemplate = templateOf(tokenizer);
  for (const warning of [...source.warnings, ...tokenizer.warnings]) options.onWarning?.(warning);
  const note = reuseNote(source.config.blockAttention?.modes);
  if (note !== undefined) options.onWarning?.(note);
  const weightBytes = estimateWeightBytes(source, conversion);
  options.onEstimate?.({ weightBytes });
  const threads = options.threads ?? defaultThreads(weightBytes);
  const ggml = loadGgml(await findGgmlDirectory(options.backend ?? "auto"));
  const adaptsThreads = options.threads === undefined;
  const backend = await startBackend(ggml, source, { ...options, conversion, threads }, adaptsThreads);
  try {
    if (kvType !== undefined && isInBlocks(kvType) && backend.device.kind !== "cpu") {
      // Vulkan reads such a tensor's windows from wrong places where they start at no multiple of its alignment.
      throw new InputRangeError(
        `Cannot keep keys and values as ${kvType} on ${backend.device.name}: the CPU alone does, wanted f16, f32, bf16 or another device`,
      );
    }
    const crowded = requireFit(backend, source, { ...options, conversion });
    if (crowded !== undefined) options.onWarning?.(crowded);
  } catch (error) {
    backend[Symbol.dispose]();
    throw error;
  }
  const hashing = new AbortController();
  const identity = modelIdentity(ggml, source, conversion, {
    cacheDir: thisUsersCacheDir(),
    signal: hashing.signal,
  }).then(async (id) => {
    await files.requireSame();
    return id;
  });
  // Whoever needs a block id sees the failure; nobody may.
  identity.catch(() => undefined);
  let loaded: ModelWeights | undefined;
  try {
    const { onProgress } = options;
    const weights = await loadWeights(backend, source, {
      conversion,
      mapWeights: options.mapWeights,
      onProgress,
      signal,
      onWarning: options.onWarning,
    });
    loaded = weights;
    await files.requireSame();
    return {
      source,
      backend,
      decoder: { ggml, architecture: source.architecture, config: source.config, weights, device: backend.policy },
      weights,
      tokenizer,
      chatTemplate,
      endTokenIds: new Set([...tokenizer.endTokenIds, ...source.endTokenIds]),
      identity,
      [Symbol.dispose]: () => {
        hashing.abort(new Error("Cannot hash the model's files: the engine was closed"));
        weights[Symbol.dispose]();
        backend[Symbol.dispose]();
      },
    };
  } catch (error) {
    hashing.abort(error);
    loaded?.[Symbol.dispose]();
    backend[Symbol.dispose]();
    throw error;
  }
}

/** @throws Error where OpenVINO is asked for and is not there, or does not load; else that is said, and ggml goes on. */
function openVinoFor({ products = "auto", onWarning }: ModelOptions): OpenVino | undefined {
  if (products === "ggml") return undefined;
  try {
    const found = installedOpenVino();
    if (found === undefined && products === "openvino") {
      throw new Error(
        `Cannot find OpenVINO: it is not installed (${openVinoCommand()}), and ${openVinoVariable} names no folder`,
      );
    }
    return found;
  } catch (error) {
    if (products === "openvino") throw error;
    onWarning?.(`${(error as Error).message}; ggml multiplies in its place`);
    return undefined;
  }
}

/** Starts the device. Where OpenVINO is not asked for, and has no room for its copy of the weights or fails, ggml multiplies, which is said. */
async function startBackend(
  ggml: Ggml,
  source: ModelSource,
  options: ModelOptions & { readonly conversion: WeightsConversion; readonly threads: number },
  adaptsThreads: boolean,
): Promise<Backend> {
  const { threads, backend: kind = "auto", device, products = "auto" } = options;
  const start = (openVino?: OpenVino) => new Backend(ggml, { threads, adaptsThreads, backend: kind, device, openVino });
  const backend = start(openVinoFor(options));
  try {
    await backend.policy.products?.check();
    if (backend.policy.products === undefined || products === "openvino") return backend;
    const fit = measureFit(backend, source, options);
    if (fit.fits && fit.stays) return backend;
    throw new Error(`The model with OpenVINO ${fit.summary}`);
  } catch (error) {
    backend[Symbol.dispose]();
    if (products === "openvino") throw error;
    options.onWarning?.(`${(error as Error).message}; ggml multiplies in its place`);
    return start();
  }
}

/** The states in which a model's files were opened: its headers, weights and digests are those of one state, or it is not used. */
class FileStates {
  private constructor(private readonly states: ReadonlyMap<string, FileState>) {}

  static async of(paths: readonly string[]): Promise<FileStates> {
    return new FileStates(
      new Map(await Promise.all(paths.map(async (path) => [path, await fileState(path)] as const))),
    );
  }

  /** @throws Error if a file was replaced or written to since. */
  async requireSame(): Promise<void> {
    for (const [path, state] of this.states) {
      if (sameState(state, await fileState(path))) continue;
      throw new Error(`Cannot load ${quote(path)}: it was replaced or written to meanwhile`);
    }
  }
}

/**
 * As many threads as the machine runs at once; for a model below 64 MiB, one. ggml's threads wait for each other at every
 * node by spinning: on a busy machine that costs a time slice a node, and so small a model's nodes are over sooner.
 */
function defaultThreads(weightBytes: number): number {
  return weightBytes < 2 ** 26 ? 1 : availableParallelism();
}

/** The types that a model's matrices will have, with their numbers, for `info`. */
export function weightTypes(source: ModelSource, conversion: WeightsConversion): Map<string, number> {
  const types = new Map<string, number>();
  for (const entry of source.tensors.values()) {
    if (entry.shape.length < 2) continue;
    const type = convertedType(entry, conversion);
    types.set(type, (types.get(type) ?? 0) + 1);
  }
  return types;
}

/** What is loaded, as data. */
export interface ModelInfo {
  /** The model's file or folder name, without path and ending. */
  readonly name: string;
  /** The longest prompt plus answer, in tokens. */
  readonly contextLength: number;
  readonly vocabSize: number;
  readonly kvType: KVType;
  readonly defaultMode: AttentionMode;
  readonly trainedModes: readonly AttentionMode[];
  /** What to know of reuse where the model was not trained for block attention, and what to do. */
  readonly reuseNote: string | undefined;
  /** What is merged into it; absent where nothing is. */
  readonly adapters?: readonly { readonly name: string; readonly scale: number }[];
  readonly hasChatTemplate: boolean;
  /** Of a model whose chat template knows reasoning: what turns it on and off. */
  readonly reasoning?: Reasoning | undefined;
  /** When it was loaded, in seconds since 1970. */
  readonly loadedAt: number;
}

/** Said in the same words wherever a user may look: `onWarning`, the server's log and page, `info`, and answers. */
export function reuseNote(trainedModes: readonly AttentionMode[] = []): string | undefined {
  if (trainedModes.includes("block")) return undefined;
  return "This model was not trained for block attention: in full mode it reuses passages only as a prefix, the same ones in the same order; block mode reuses them in any order, but answers get worse (71.3 to 49.9 on average in the paper; here models of 0.5B and 1.5B kept 73 and 65% of full mode's right answers, with the repair auto, which serve uses, 82 and 75%, with lead,look=0.1 95 and 85%) until the model is trained for it, see docs/reuse.md and docs/accuracy.md";
}

/**
 * A model's file or folder name, without path and ending, nor which part of a split file it is; of a folder in the Hugging Face
 * cache, which is named after a commit, the repository's.
 */
export function modelName(path: string): string {
  const [, repo] = /[/\\]models--(?:(?!--).)*--([^/\\]+)[/\\]snapshots[/\\][^/\\]+$/.exec(resolve(path)) ?? [];
  return (repo ?? basename(resolve(path))).replace(/(-\d{5}-of-\d{5})?\.gguf$/i, "");
}

/**
 * The model that comes with the package, whole.
 *
 * @example
 * await using engine = await Engine.load({ model: embeddedModelPath(), threads: 1 });
 * const { text } = await engine.complete({ prompt: "Who is the director?" }, { maxTokens: 8 });
 */
export function embeddedModelPath(): string {
  return shippedPath("tiny-rag");
}

/** The model of those who name none. */
export interface DefaultModel {
  /** What `Engine.load({ model })` takes. */
  readonly path: string;
  /** Why it is this one, one line. */
  readonly reason: string;
  /** What `pull` fetches for a better one to take its place. */
  readonly missing?: string;
}

/**
 * The adapter that comes with the package, where its base is on the disk; else the embedded model. Nothing is fetched.
 *
 * @example
 * const { path, reason, missing } = defaultModel();
 * console.log(`${path}: ${reason}`); // where nothing was fetched: "smollm2-135m is not on the disk: block-attention pull smollm2-135m"
 */
export function defaultModel(env: Readonly<Record<string, string | undefined>> = process.env): DefaultModel {
  const { name } = smolLM2;
  if (existsSync(packagedPath(packagedDir(env), smolLM2))) {
    return { path: shippedPath("smollm2-rag"), reason: `its base ${name} is on the disk` };
  }
  const reason = `${name} is not on the disk: block-attention pull ${name}`;
  return { path: embeddedModelPath(), reason, missing: name };
}

/** The model that options name, else the default one. @throws InputTypeError for adapters that no model is named for. */
export function chosenModel({
  model,
  adapters = [],
}: {
  readonly model?: string | undefined;
  readonly adapters?: readonly AdapterInput[] | undefined;
}): string {
  if (model === undefined && adapters.length > 0) {
    throw new InputTypeError(
      "Cannot load the adapter: no model is named, wanted the one that it was trained over (--model)",
    );
  }
  return model ?? defaultModel().path;
}

function shippedPath(name: string): string {
  const path = fileURLToPath(new URL(`../../models/${name}`, import.meta.url));
  if (!existsSync(path)) throw new Error(`Cannot find the default model: "${path}" does not exist; name a model`);
  return path;
}
