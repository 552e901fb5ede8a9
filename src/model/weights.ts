import { type FileHandle, open } from "node:fs/promises";
import {
  elementTypeOf,
  elementTypes,
  fittingType,
  rowBytes,
  type TensorType,
  type WeightsConversion,
} from "../files/element-types.js";
import { quote } from "../files/quote.js";
import type { Backend } from "../ggml/backend.js";
import type { Device } from "../ggml/library.js";
import { MappedFile, tensorAlignment } from "../ggml/mapped-file.js";
import type { TensorStorage } from "../ggml/memory.js";
import type { RopeParameters, Tensor } from "../ggml/tensor.js";
import { isConverted, type PlannedTensor, TensorLoader } from "./load-tensor.js";
import { AdapterMerger } from "./low-rank.js";
import type { FilePart, ModelSource, WeightEntry } from "./model-source.js";
import { attentionFactor, frequencyFactors, type RopeConfig, rotatedSize } from "./rope.js";

/** A model's weights in a device's memory, which this owns. Shapes are ggml's, innermost first. */
export interface ModelWeights extends Disposable {
  /** Under the names of `ModelSource.tensors`, and "output.weight" where the embedding is the head too. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** How each layer turns queries and keys; the same object where it is the same, undefined where there is nothing to turn. */
  readonly ropes: readonly (RopeParameters | undefined)[];
  readonly byteLength: number;
  /** How many of the bytes lie in the model's files and are shared with other processes. */
  readonly mappedBytes: number;
}

export interface LoadProgress {
  readonly loadedBytes: number;
  readonly totalBytes: number;
}

export interface LoadWeightsOptions {
  readonly conversion: WeightsConversion;
  /** Whether weights stay in the file where the device can use them there. Default false. */
  readonly mapWeights?: boolean | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Told once of each type that the device does not compute with: what it becomes. */
  readonly onWarning?: ((warning: string) => void) | undefined;
}

/** Tensors that are loaded side by side. */
const maxLanes = 4;

/** Of an element. */
function bytesOf(type: TensorType): number {
  const { typeSize, blockSize } = elementTypes[type];
  return typeSize / blockSize;
}

/**
 * The type a weight has in memory: F32 for vectors and what must be precise, else as asked, or what its rows fit (`fittingType`). Where the device does not
 * take that, a type that loses no more: Q8_0 for types of blocks, the smallest whose steps are finer than theirs, then F16; else F32.
 *
 * @param takes whether the device computes with weights of that type. Default: with all, as the CPU.
 */
export function convertedType(
  entry: Pick<WeightEntry, "shape" | "type" | "isPrecise" | "isMerged">,
  conversion: WeightsConversion,
  takes: (type: TensorType) => boolean = () => true,
): TensorType {
  if (entry.shape.length < 2 || entry.isPrecise) return "F32";
  // An adapter changes a weight by less than the steps of fewer bits: in them much of it would be lost.
  const kept = entry.isMerged && bytesOf(entry.type) < bytesOf("Q8_0") ? "Q8_0" : entry.type;
  const type = fittingType(conversion === "keep" ? kept : elementTypeOf(conversion), entry.shape.at(-1) as number);
  const others = elementTypes[type].blockSize > 1 ? (["Q8_0", "F16"] as const) : [];
  return [type, ...others].find(takes) ?? "F32";
}

/** The bytes that the weights will take in memory. */
export function estimateWeightBytes(source: ModelSource, conversion: WeightsConversion): number {
  let sum = 0;
  for (const entry of source.tensors.values()) {
    const rowLength = entry.shape.at(-1) as number;
    const rows = entry.shape.slice(0, -1).reduce((product, size) => product * size, 1);
    sum += rowBytes(convertedType(entry, conversion), rowLength) * rows;
  }
  return sum;
}

/**
 * Loads a model's weights, tensor by tensor, converting them as asked. At any time at most four tensors of the files are in
 * memory beside what is loaded, and parts of one where some are converted.
 *
 * @throws Error for a file that cannot be read or has changed; the signal's reason. Nothing stays allocated then.
 */
export async function loadWeights(
  backend: Backend,
  source: ModelSource,
  options: LoadWeightsOptions,
): Promise<ModelWeights> {
  const plan = planTensors(backend, source, options.conversion);
  for (const warning of notesOf(backend, plan, options.conversion)) options.onWarning?.(warning);
  const { architecture, config } = source;
  const layerRopes = Array.from({ length: config.numLayers }, (_, layer) => architecture.rope(config, layer));
  const ropes = [...new Set(layerRopes)].filter((rope) => rope !== undefined);
  const factors = ropes.map((rope, i) => ({ name: `rope_factors.${i}`, numbers: ropeFactors(rope) }));
  const storages: TensorStorage[] = [];
  const files = new Map<string, FileHandle>();
  using merger = new AdapterMerger(backend.ggml, source, backend.threads);
  try {
    const factorTensors = factors.flatMap(({ name, numbers }) => {
      if (numbers === undefined) return [];
      const ne = [numbers.length];
      return [{ name, type: "F32" as const, ne, place: backend.policy.weightPlace("F32", ne, "other") }];
    });
    const mapped = options.mapWeights ? mapTensors(backend, plan, storages) : new Map<string, MappedFile>();
    const mappedBytes = storages.reduce((sum, storage) => sum + storage.byteLength, 0);
    const all = [...plan, ...factorTensors].filter((tensor) => !mapped.has(tensor.name));
    for (const place of new Set(all.map((tensor) => tensor.place))) {
      storages.push(
        backend.allocate(
          all.filter((tensor) => tensor.place === place),
          place,
        ),
      );
    }
    const tensors = new Map(storages.flatMap((storage) => [...storage.tensors]));
    for (const { name, entry, isMultipliedOutside } of plan) {
      if (mapped.has(name) && !isMultipliedOutside) continue;
      for (const { path } of entry.parts) if (!files.has(path)) files.set(path, await open(path, "r"));
    }
    const totalBytes = plan.reduce((sum, { entry }) => sum + entry.byteLength, 0);
    let loadedBytes = 0;
    let next = 0;
    const load = async (): Promise<void> => {
      const loader = new TensorLoader(backend, files, options.signal);
      for (let planned = plan[next++]; planned !== undefined; planned = plan[next++]) {
        options.signal?.throwIfAborted();
        const file = mapped.get(planned.name);
        const change = file ? undefined : await merger.changeOf(planned.name, config.rope.pairs);
        const tensor = tensors.get(planned.name) as Tensor;
        if (file === undefined) await loader.load(planned, change, tensor);
        else {
          for (const { offset, byteLength } of planned.entry.parts) await file.populate(offset, byteLength);
          if (planned.isMultipliedOutside) await loader.addProduct(planned, change, tensor);
        }
        loadedBytes += planned.entry.byteLength;
        options.onProgress?.({ loadedBytes, totalBytes });
      }
    };
    // Laying weights out anew takes longer than reading them, and compiling products longer still. Converting shares its rows among
    // threads as it is.
    const isShared = plan.some(isConverted) && backend.policy.products === undefined;
    const lanes = isShared ? 1 : Math.min(maxLanes, backend.threads);
    const stopOthers = (error: unknown): never => {
      next = plan.length;
      throw error;
    };
    const ends = await Promise.allSettled(Array.from({ length: lanes }, () => load().catch(stopOthers)));
    for (const end of ends) if (end.status === "rejected") throw end.reason;
    for (const { name, numbers } of factors) {
      if (numbers) await backend.write(tensors.get(name) as Tensor, new Uint8Array(numbers.buffer));
    }
    if (!tensors.has("output.weight")) tensors.set("output.weight", tensors.get("token_embd.weight") as Tensor);
    const turns = ropes.map((rope, i): RopeParameters => {
      const { headSize, theta, pairs } = rope;
      const frequencyFactors = tensors.get(`rope_factors.${i}`);
      return {
        headSize,
        rotatedSize: rotatedSize(rope),
        theta,
        pairs,
        frequencyFactors,
        attentionFactor: attentionFactor(rope),
      };
    });
    return {
      tensors,
      ropes: layerRopes.map((rope) => rope && turns[ropes.indexOf(rope)]),
      byteLength: storages.reduce((sum, storage) => sum + storage.byteLength, productBytes(backend, plan)),
      mappedBytes,
      [Symbol.dispose]: () => {
        for (const storage of storages) storage[Symbol.dispose]();
      },
    };
  } catch (error) {
    for (const storage of storages) storage[Symbol.dispose]();
    throw error;
  } finally {
    for (const file of files.values()) await file.close();
  }
}

export interface PlannedBytes {
  /** Bytes that are allocated. */
  readonly weightBytes: number;
  /** Bytes that stay in the model's files. */
  readonly mappedBytes: number;
}

/** Where those weights would lie that take the device's memory: others are the CPU's, beside a device that has its own. */
export function planWeightBytes(
  backend: Backend,
  source: ModelSource,
  conversion: WeightsConversion,
  mapWeights: boolean,
): PlannedBytes {
  const plan = planTensors(backend, source, conversion);
  let [weightBytes, mappedBytes] = [productBytes(backend, plan), 0];
  for (const planned of plan) {
    const [rowLength = 1, ...others] = planned.ne;
    const bytes = rowBytes(planned.type, rowLength) * others.reduce((product, size) => product * size, 1);
    if (planned.place.device !== backend.device) continue;
    if (mapWeights && isMappable(planned)) mappedBytes += bytes;
    else weightBytes += bytes;
  }
  return { weightBytes, mappedBytes };
}

/** What products outside of ggml take beside its weights. */
function productBytes({ policy }: Backend, plan: readonly PlannedTensor[]): number {
  const outside = plan.filter(({ isMultipliedOutside }) => isMultipliedOutside);
  return outside.reduce((sum, { ne }) => sum + (policy.products?.numBytes(ne) ?? 0), 0);
}

/** Whether its device uses a weight as it lies in its file. */
function isMappable(planned: PlannedTensor): boolean {
  const [part, second] = planned.entry.parts;
  if (part === undefined || second !== undefined || part.offset % tensorAlignment !== 0) return false;
  return planned.place.takesMapped && !isConverted(planned) && MappedFile.isPossible(part.path);
}

function planTensors(backend: Backend, source: ModelSource, conversion: WeightsConversion): PlannedTensor[] {
  const { policy } = backend;
  const plan: PlannedTensor[] = [];
  for (const [name, entry] of source.tensors) {
    const ne = [...entry.shape].reverse();
    const typeFor = (use: "product" | "lookup") =>
      convertedType(entry, conversion, (candidate) => policy.takesWeights(candidate, ne, use));
    const isEmbedding = name === "token_embd.weight";
    const type = typeFor(isEmbedding ? "lookup" : "product");
    const place = policy.weightPlace(type, ne, isEmbedding ? "lookup" : ne.length > 1 ? "product" : "other");
    const isMultipliedOutside = name.startsWith("blk.") && policy.products?.takes(type, ne) === true;
    plan.push({ name, entry, type, ne, place, isMultipliedOutside });
    if (!isEmbedding || !source.config.tiedHead) continue;
    // A tied head is multiplied by: where rows are looked up in other memory, or in another type, it is there twice.
    const headType = typeFor("product");
    const own = policy.weightPlace(headType, ne, "other");
    if (place !== own || type !== headType) {
      plan.push({ name: "output.weight", entry, type: headType, ne, place: own, isMultipliedOutside: false });
    }
  }
  return plan;
}

/**
 * Maps the files of those weights that the device can use as they lie there: of a type that needs no conversion, in one run that begins
 * where tensors may.
 *
 * @param storages which own the files; new ones are added.
 * @returns the file of each such weight, by its name in memory.
 */
function mapTensors(
  backend: Backend,
  plan: readonly PlannedTensor[],
  storages: TensorStorage[],
): ReadonlyMap<string, MappedFile> {
  const files = new Map<string, { readonly device: Device; readonly fit: (PlannedTensor & FilePart)[] }>();
  for (const planned of plan) {
    if (!isMappable(planned)) continue;
    const { device } = planned.place;
    const part = planned.entry.parts[0] as FilePart;
    const key = `${device.name} ${part.path}`;
    const of = files.get(key) ?? { device, fit: [] };
    of.fit.push({ ...planned, ...part });
    files.set(key, of);
  }
  const homes = new Map<string, MappedFile>();
  for (const { device, fit } of files.values()) {
    const file = MappedFile.open((fit[0] as FilePart).path);
    if (file === undefined) continue;
    try {
      // What lies past its end is read, and missed then.
      const inside = fit.filter(({ offset, byteLength }) => offset + byteLength <= file.byteLength);
      const storage = inside.length === 0 ? undefined : backend.map(file, device, inside);
      if (storage === undefined) {
        file[Symbol.dispose]();
        continue;
      }
      storages.push(storage);
      for (const { name } of inside) homes.set(name, file);
    } catch (error) {
      file[Symbol.dispose]();
      throw error;
    }
  }
  return homes;
}

/** A sentence for each type of the model's weights that the device does not take: what it becomes while loading. */
export function conversionNotes(
  backend: Backend,
  source: ModelSource,
  conversion: WeightsConversion,
): ReadonlySet<string> {
  return notesOf(backend, planTensors(backend, source, conversion), conversion);
}

function notesOf(
  { device }: Backend,
  plan: readonly PlannedTensor[],
  conversion: WeightsConversion,
): ReadonlySet<string> {
  return new Set(
    plan.flatMap(({ entry, type }) => {
      const wanted = convertedType(entry, conversion);
      if (type === wanted) return [];
      return [
        `Device ${quote(device.name)} does not compute with weights of type ${wanted}: they become ${type} while loading`,
      ];
    }),
  );
}

/** The divisors of RoPE's plain frequencies, where they are not all 1. */
function ropeFactors(rope: RopeConfig): Float32Array<ArrayBuffer> | undefined {
  const factors = frequencyFactors(rope);
  return factors.every((factor) => factor === 1) ? undefined : Float32Array.from(factors);
}
