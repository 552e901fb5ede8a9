import { type WeightsConversion, weightsConversions } from "../files/element-types.js";
import { formatBytes } from "../files/format-bytes.js";
import { quote } from "../files/quote.js";
import type { Backend } from "../ggml/backend.js";
import type { Device } from "../ggml/library.js";
import { pieceRows } from "../model/decoder.js";
import type { ModelSource } from "../model/model-source.js";
import { type PlannedBytes, planWeightBytes } from "../model/weights.js";
import { leastShare, usableMemory } from "./byte-budget.js";

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
  readonly neededBytes: number;
  readonly availableBytes: number;
  readonly fits: boolean;
  /** One sentence, in numbers. */
  readonly summary: string;
}

/** The memory that weights, blocks and contexts share: the device's own that is free, or what this process may use. */
export function memoryOf({ device }: Backend): number {
  return hasOwnMemory(device) ? device.memoryBytes.free : usableMemory();
}

/** Whether a model has room, before anything of it is loaded. @param availableBytes as `memoryOf()` gives it. */
export function measureFit(
  backend: Backend,
  source: ModelSource,
  options: FitOptions,
  availableBytes = memoryOf(backend),
): MemoryFit {
  const { weightBytes, mappedBytes } = weightsOf(backend, source, options);
  const least = leastShare(availableBytes);
  const leastContextBytes = Math.min(options.contextBytes ?? least, least);
  const leastStoreBytes = Math.min(options.storeBytes ?? least, least);
  const graphBytes = estimateGraphBytes(backend, source);
  const neededBytes = weightBytes + leastContextBytes + leastStoreBytes + graphBytes;
  const parts = [
    `weights ${formatBytes(weightBytes)}`,
    `contexts ${formatBytes(leastContextBytes)}`,
    `blocks ${formatBytes(leastStoreBytes)}`,
    `graphs ${formatBytes(graphBytes)}`,
  ];
  const mapped = mappedBytes === 0 ? "" : `, and ${formatBytes(mappedBytes)} of weights are mapped from the file`;
  return {
    weightBytes,
    mappedBytes,
    leastContextBytes,
    leastStoreBytes,
    graphBytes,
    neededBytes,
    availableBytes,
    fits: neededBytes <= availableBytes,
    summary: `needs at least ${formatBytes(neededBytes)} (${parts.join(", ")}${mapped}); there is ${formatBytes(availableBytes)} (${memoryName(backend)})`,
  };
}

/** @throws Error where the model has no room, which says what would have. @returns a warning, where mapped weights will not stay in memory. */
export function requireFit(
  backend: Backend,
  source: ModelSource,
  options: FitOptions,
  availableBytes = memoryOf(backend),
): string | undefined {
  const fit = measureFit(backend, source, options, availableBytes);
  if (!fit.fits) {
    throw new Error(`Cannot load ${quote(source.path)}: it ${fit.summary}; ${whatFits(backend, source, options, fit)}`);
  }
  if (fit.neededBytes + fit.mappedBytes <= availableBytes) return undefined;
  return `The model ${fit.summary}: not all of it stays there, and answers wait for the disk`;
}

/** Less room for blocks and contexts, or mapping, where that is enough; else the conversion that changes the weights least and has room. */
function whatFits(backend: Backend, source: ModelSource, options: FitOptions, fit: MemoryFit): string {
  const room = fit.availableBytes - fit.neededBytes + fit.weightBytes;
  const halfLeast = (fit.leastContextBytes + fit.leastStoreBytes) / 2;
  if (fit.neededBytes - fit.availableBytes <= halfLeast) {
    return `--context-bytes and --store-bytes of ${formatBytes(halfLeast / 2)} each have room`;
  }
  if (!options.mapWeights && weightsOf(backend, source, { ...options, mapWeights: true }).weightBytes <= room) {
    return "--map-weights true has room (mapWeights in the library)";
  }
  const smaller = weightsConversions
    .filter((conversion) => conversion !== "keep")
    .map((conversion) => ({ conversion, ...weightsOf(backend, source, { ...options, conversion }) }))
    .filter(({ weightBytes }) => weightBytes <= room)
    .sort((a, b) => b.weightBytes - a.weightBytes)[0];
  return smaller === undefined
    ? "no --weights makes it small enough: a smaller model or more memory is wanted"
    : `--weights ${smaller.conversion} has room, with weights of ${formatBytes(smaller.weightBytes)}`;
}

function weightsOf(backend: Backend, source: ModelSource, options: FitOptions): PlannedBytes {
  return planWeightBytes(backend, source, options.conversion, options.mapWeights ?? false);
}

/** A layer's rows, side by side: the residual, norms, queries, keys, values, the MLP; and the logits of two rows. */
function estimateGraphBytes(backend: Backend, { config }: ModelSource): number {
  const { hiddenSize, intermediateSize, numHeads, numKvHeads, headSize, vocabSize } = config;
  const rowNumbers = 3 * hiddenSize + 3 * intermediateSize + 2 * (numHeads + numKvHeads) * headSize;
  const rows = pieceRows({ config, device: backend.policy });
  return Float32Array.BYTES_PER_ELEMENT * (rows * rowNumbers + 2 * vocabSize);
}

/** Some devices do not say what they have. */
function hasOwnMemory({ kind, memoryBytes }: Device): boolean {
  return kind !== "cpu" && memoryBytes.total > 0;
}

function memoryName({ device }: Backend): string {
  if (hasOwnMemory(device)) return `free on device ${device.name}`;
  const limit = process.constrainedMemory();
  return limit > 0 && limit === usableMemory() ? "the container's or service's limit" : "all of this machine";
}
