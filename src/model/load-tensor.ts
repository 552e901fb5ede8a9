import type { FileHandle } from "node:fs/promises";
import { rowBytes, type TensorType } from "../files/element-types.js";
import { describeFileError } from "../files/regular-file.js";
import type { Backend } from "../ggml/backend.js";
import type { WeightPlace, WeightProducts } from "../ggml/device-policy.js";
import { convertRows } from "../ggml/quantize.js";
import { byteLength, type Tensor } from "../ggml/tensor.js";
import type { RowChange } from "./low-rank.js";
import { partsWithin, type WeightEntry } from "./model-source.js";

/** A weight, and what it becomes in memory. */
export interface PlannedTensor {
  /** The name in memory; a tied head may be the embedding under another name. */
  readonly name: string;
  readonly entry: WeightEntry;
  readonly type: TensorType;
  readonly ne: readonly number[];
  readonly place: WeightPlace;
  /** Whether it lies in memory once more, for products outside of ggml: `DevicePolicy.products`. */
  readonly isMultipliedOutside: boolean;
}

/** Elements converted by one native call. */
const conversionChunk = 1 << 19;
const readChunkBytes = 1 << 22;
/** What products outside of ggml are given. */
const productType = "Q8_0";
/** Whether a tensor's bytes are not the file's: of another type, added to, or merged with an adapter. */
export function isConverted({ entry, type }: PlannedTensor): boolean {
  return entry.type !== type || entry.added !== undefined || entry.isMerged === true;
}

/** By path. */
export type OpenFiles = ReadonlyMap<string, FileHandle>;

/** Where converted rows go. */
interface ConversionTarget {
  readonly type: TensorType;
  readonly byteLength: number;
  readonly isWrittenWhole: boolean;
  write(bytes: Uint8Array, offset: number): Promise<void>;
}

/** Reads one weight after another from a model's files into a device's memory, and uses its own memory again for each. */
export class TensorLoader {
  readonly #buffers = new Map<string, ArrayBuffer>();

  constructor(
    private readonly backend: Backend,
    private readonly files: OpenFiles,
    private readonly signal: AbortSignal | undefined,
  ) {}

  /**
   * Writes a weight to the device's memory, and compiles its product where that is outside of ggml.
   *
   * @param change of the weight's elements before they are converted.
   */
  async load(planned: PlannedTensor, change: RowChange | undefined, tensor: Tensor): Promise<void> {
    const { type, place, isMultipliedOutside } = planned;
    // The device's bytes are the product's too.
    const isShared = isMultipliedOutside && type === productType;
    await this.#deliver(planned, change, {
      type,
      byteLength: byteLength(tensor),
      isWrittenWhole: place.isWrittenWhole || isShared,
      write: async (bytes, offset) => {
        await this.backend.write(tensor, bytes, offset);
        if (isShared) await this.#products.add(tensor, bytes);
      },
    });
    if (isMultipliedOutside && !isShared) await this.addProduct(planned, change, tensor);
  }

  /** Compiles the product with a weight outside of ggml. @param tensor the weight in the device's memory, which names it. */
  async addProduct(planned: PlannedTensor, change: RowChange | undefined, tensor: Tensor): Promise<void> {
    const [rowLength = 1, numRows = 1] = planned.ne;
    await this.#deliver(planned, change, {
      type: productType,
      byteLength: rowBytes(productType, rowLength) * numRows,
      isWrittenWhole: true,
      write: (bytes) => this.#products.add(tensor, bytes),
    });
  }

  get #products(): WeightProducts {
    return this.backend.policy.products as WeightProducts;
  }

  /** Gives a weight's bytes in the target's type, whole or a part at a time. */
  async #deliver(planned: PlannedTensor, change: RowChange | undefined, target: ConversionTarget): Promise<void> {
    const { entry } = planned;
    if (isConverted({ ...planned, type: target.type })) {
      await this.#convert(planned, change, target);
      return;
    }
    const partBytes = target.isWrittenWhole ? entry.byteLength : readChunkBytes;
    for (let done = 0; done < entry.byteLength; done += partBytes) {
      this.signal?.throwIfAborted();
      const part = this.#buffer("part", Math.min(partBytes, entry.byteLength - done));
      await this.#read(part, entry, done);
      await target.write(part, done);
    }
  }

  /** Reads, changes, converts and writes whole rows, several chunks of them side by side. */
  async #convert({ entry, ne }: PlannedTensor, change: RowChange | undefined, target: ConversionTarget): Promise<void> {
    const rowLength = ne[0] as number;
    const sourceRow = rowBytes(entry.type, rowLength);
    const targetRow = rowBytes(target.type, rowLength);
    const numRows = target.byteLength / targetRow;
    const chunkRows = Math.max(1, Math.floor(conversionChunk / rowLength));
    const whole = target.isWrittenWhole ? this.#buffer("whole", target.byteLength) : undefined;
    let nextRow = 0;
    const worker = async (_: unknown, index: number): Promise<void> => {
      while (nextRow < numRows) {
        this.signal?.throwIfAborted();
        const first = nextRow;
        nextRow = Math.min(numRows, first + chunkRows);
        const count = nextRow - first;
        const rows = this.#buffer(`source ${index}`, count * sourceRow);
        const values = this.#buffer(`values ${index}`, count * rowLength * Float32Array.BYTES_PER_ELEMENT);
        const floats = new Float32Array(values.buffer, 0, count * rowLength);
        const out =
          whole?.subarray(first * targetRow, (first + count) * targetRow) ??
          this.#buffer(`target ${index}`, count * targetRow);
        await this.#read(rows, entry, first * sourceRow);
        const changed = change && (() => change(floats, first));
        await convertRows(this.backend.ggml, entry.type, target.type, rows, rowLength, floats, out, changed);
        if (whole === undefined) await target.write(out, first * targetRow);
      }
    };
    // All come to their end before the target may be freed.
    const ends = await Promise.allSettled(Array.from({ length: this.backend.threads }, worker));
    for (const end of ends) if (end.status === "rejected") throw end.reason;
    if (whole !== undefined) await target.write(whole, 0);
  }

  /** The first bytes of the buffer of that name, made larger where needed: what is left to the garbage collector piles up. */
  #buffer(name: string, byteLength: number): Uint8Array<ArrayBuffer> {
    let buffer = this.#buffers.get(name);
    if (buffer === undefined || buffer.byteLength < byteLength) {
      buffer = new ArrayBuffer(byteLength);
      this.#buffers.set(name, buffer);
    }
    return new Uint8Array(buffer, 0, byteLength);
  }

  async #read(into: Uint8Array, entry: WeightEntry, offset: number): Promise<void> {
    let done = 0;
    for (const part of partsWithin(entry, offset, into.byteLength)) {
      const file = this.files.get(part.path) as FileHandle;
      const end = part.offset + part.byteLength;
      for (let at = part.offset; at < end; ) {
        const { bytesRead } = await file.read(into, done, end - at, at).catch((error: unknown) => {
          throw describeFileError(error, part.path);
        });
        if (bytesRead === 0) {
          throw new Error(
            `Cannot load tensor "${entry.name}" of "${part.path}": the file ends at byte ${at}, ${end} are wanted`,
          );
        }
        at += bytesRead;
        done += bytesRead;
      }
    }
  }
}
