import { readFileSync } from "node:fs";
import type { WeightsConversion } from "../files/element-types.js";
import { formatBytes } from "../files/format-bytes.js";
import { quote } from "../files/quote.js";
import type { Backend } from "../ggml/backend.js";
import type { Device } from "../ggml/library.js";
import type { ExpertsConfig } from "../model/architectures/parts.js";
import { pieceRows } from "../model/decoder.js";
import { rowElements } from "../model/kv-rows.js";
import type { ModelSource } from "../model/model-source.js";
import { type PlannedBytes, planWeightBytes } from "../model/weights.js";
import { leastShare, usableMemory } from "./byte-budget.js";

/** Those that are quickly made and leave a model good without an importance matrix, the largest first. */
const suggestedConversions = ["f16", "q8_0", "q6_k", "q5_k", "q4_k", "q3_k"] as const;

/** Blocks and contexts of fewer are of little use. */
const leastTokens = 2048;

export interface FitOptions {
  readonly conversion: WeightsConversion;
  readonly mapWeights?: boolean | undefined;
  readonly storeBytes?: number | undefined;
  readonly contextBytes?: number | undefined;
}

/** What a model needs at least, and what there is, in bytes. */
export interface MemoryFit {
  /** Mapped ones are no part of it: the system drops their pages where it needs the room, and reads them again. */
  readonly weightBytes: number;
  readonly mappedBytes: number;
  /** Of assembled contexts, and of kept blocks. */
  readonly leastContextBytes: number;
  readonly leastStoreBytes: number;
  /** Intermediate results of the largest graph of a prompt: an estimate that is rather too high. */
  readonly graphBytes: number;
  /** What this program has taken until now, the tokenizer among it; 0 where the device has memory of its own. */
  readonly programBytes: number;
  readonly neededBytes: number;
  readonly availableBytes: number;
  /** Beside what is available: what the system may write to disk meanwhile. */
  readonly swapBytes: number;
  /** Swap counts: a model that is slow is no model that does not run. */
  readonly fits: boolean;
  /** Whether what is mapped has room too. */
  readonly stays: boolean;
  /** One sentence, in numbers. */
  readonly summary: string;
}

/** The memory that weights, blocks and contexts share: the device's own that was free before, or what this process may use. */
export function memoryOf({ device, freeBytes }: Pick<Backend, "device" | "freeBytes">): number {
  return hasOwnMemory(device) ? freeBytes : usableMemory();
}

/**
 * Whether a model has room, before any weight of it is loaded.
 * @param availableBytes as `memoryOf()` gives it.
 */
export function measureFit(
  backend: Backend,
  source: ModelSource,
  options: FitOptions,
  availableBytes = memoryOf(backend),
  swapBytes = swapOf(backend, availableBytes),
): MemoryFit {
  const { weightBytes, mappedBytes } = weightsOf(backend, source, options);
  const least = Math.min(leastShare(availableBytes), bytesOfKeys(source, leastTokens));
  const leastContextBytes = Math.min(options.contextBytes ?? least, least);
  const leastStoreBytes = Math.min(options.storeBytes ?? least, least);
  const graphBytes = estimateGraphBytes(backend, source);
  const { heapTotal, external } = process.memoryUsage();
  const programBytes = hasOwnMemory(backend.device) ? 0 : heapTotal + external;
  const neededBytes = weightBytes + leastContextBytes + leastStoreBytes + graphBytes + programBytes;
  const parts = [
    `weights ${formatBytes(weightBytes)}`,
    `contexts ${formatBytes(leastContextBytes)}`,
    `blocks ${formatBytes(leastStoreBytes)}`,
    `graphs ${formatBytes(graphBytes)}`,
    ...(programBytes > 0 ? [`the program ${formatBytes(programBytes)}`] : []),
  ];
  const swap = swapBytes > 0 ? ` and ${formatBytes(swapBytes)} of swap` : "";
  const mapped = mappedBytes === 0 ? "" : `, and ${formatBytes(mappedBytes)} of weights are mapped from the file`;
  return {
    weightBytes,
    mappedBytes,
    leastContextBytes,
    leastStoreBytes,
    graphBytes,
    programBytes,
    neededBytes,
    availableBytes,
    swapBytes,
    fits: neededBytes <= availableBytes + swapBytes,
    stays: neededBytes + mappedBytes <= availableBytes,
    summary: `needs at least ${formatBytes(neededBytes)} (${parts.join(", ")}${mapped}); there is ${formatBytes(availableBytes)} (${memoryName(backend)})${swap}`,
  };
}

/** Said of a model that fits and does not stay in memory. */
export const waitsForDisk = "not all of it stays there, and answers wait for the disk";

/** @throws Error where the model has no room, which says what would have. @returns a warning, where not all of it stays in memory. */
export function requireFit(
  backend: Backend,
  source: ModelSource,
  options: FitOptions,
  fit = measureFit(backend, source, options),
): string | undefined {
  if (!fit.fits) {
    throw new Error(`Cannot load ${quote(source.path)}: it ${fit.summary}; ${whatFits(backend, source, options, fit)}`);
  }
  return fit.stays ? undefined : `The model ${fit.summary}: ${waitsForDisk}`;
}

/** Less room for blocks and contexts, or mapping, where that is enough; else the largest conversion that has room. */
function whatFits(backend: Backend, source: ModelSource, options: FitOptions, fit: MemoryFit): string {
  const missing = fit.neededBytes - fit.availableBytes - fit.swapBytes;
  const room = fit.weightBytes - missing;
  const halfLeast = (fit.leastContextBytes + fit.leastStoreBytes) / 2;
  if (missing <= halfLeast) {
    return `--context-bytes and --store-bytes of ${formatBytes(halfLeast / 2)} each have room`;
  }
  if (!options.mapWeights && weightsOf(backend, source, { ...options, mapWeights: true }).weightBytes <= room) {
    return "--map-weights true has room (mapWeights in the library)";
  }
  const smaller = suggestedConversions
    .map((conversion) => ({ conversion, ...weightsOf(backend, source, { ...options, conversion }) }))
    .find(({ weightBytes }) => weightBytes <= room);
  return smaller === undefined
    ? "no --weights that keeps it good makes it small enough: a smaller model or more memory is wanted"
    : `--weights ${smaller.conversion} has room, with weights of ${formatBytes(smaller.weightBytes)}`;
}

/** Keys and values of so many tokens, in 16 bit, or of as many as the model takes. */
function bytesOfKeys({ config }: ModelSource, numTokens: number): number {
  return 2 * Uint16Array.BYTES_PER_ELEMENT * rowElements(config, Math.min(numTokens, config.contextLength));
}

function weightsOf(backend: Backend, source: ModelSource, options: FitOptions): PlannedBytes {
  return planWeightBytes(backend, source, options.conversion, options.mapWeights ?? false);
}

/** A layer's rows, side by side: the residual, norms, queries, keys, values, the MLP or the experts'; and the logits of two rows. */
function estimateGraphBytes(backend: Backend, { config }: ModelSource): number {
  const { hiddenSize, intermediateSize, numHeads, numKvHeads, headSize, vocabSize } = config;
  const { numExpertsUsed = 0, expertSize = 0 } = config as Partial<ExpertsConfig>;
  const mlpNumbers = Math.max(3 * intermediateSize, numExpertsUsed * Math.max(3 * expertSize, expertSize + hiddenSize));
  const rowNumbers = 3 * hiddenSize + mlpNumbers + 2 * (numHeads + numKvHeads) * headSize;
  const rows = pieceRows({ config, device: backend.policy });
  return Float32Array.BYTES_PER_ELEMENT * (rows * rowNumbers + 2 * vocabSize);
}

/** Some devices do not say what they have, or what of it is free. */
function hasOwnMemory({ kind, memoryBytes }: Device): boolean {
  return kind !== "cpu" && memoryBytes.free > 0;
}

/** As much as there is memory, at most: Docker gives a container that much. Systems other than Linux make files for it as they need them. */
function swapOf({ device }: Backend, availableBytes: number): number {
  if (hasOwnMemory(device)) return 0;
  if (process.platform !== "linux") return availableBytes;
  const [, kib = "0"] = /^SwapTotal:\s+(\d+) kB$/m.exec(readFileSync("/proc/meminfo", "utf8")) ?? [];
  return Math.min(Number(kib) * 1024, availableBytes);
}

function memoryName({ device }: Backend): string {
  if (hasOwnMemory(device)) return `free on device ${device.name}`;
  const limit = process.constrainedMemory();
  return limit > 0 && limit === usableMemory() ? "the container's or service's limit" : "all of this machine";
}
