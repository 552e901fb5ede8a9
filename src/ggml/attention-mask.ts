import type { Graph } from "./graph.js";
import type { Tensor } from "./tensor.js";

/** Which keys each query row sees, as data: a device's attention turns it into what its kernels take. */
export interface AttentionMask {
  readonly numRows: number;
  readonly numKeys: number;
  /** Masks of one graph with equal ids are equal, and share a tensor. */
  readonly id: string;
  /** The keys that a row sees, as [first, end) pairs in ascending order: at least one key. */
  visible(row: number): readonly (readonly [number, number])[];
}

/** Rows that follow `past` keys and see all of them, and each other causally: row t sees keys 0..past + t. */
export function causalMask(numRows: number, past: number): AttentionMask {
  return {
    numRows,
    numKeys: past + numRows,
    id: `causal ${numRows} after ${past}`,
    visible: (row) => [[0, past + row + 1]],
  };
}

/** Minus infinity as a 16-bit float. */
const hidden = 0xfc00;

/** Rows of a mask that one node attends with. */
export interface MaskPart {
  readonly mask: AttentionMask;
  readonly firstRow: number;
  readonly numRows: number;
  /** Up to the last key that any of the rows sees. */
  readonly numKeys: number;
}

/** The masks of one graph: equal ones share a tensor. */
export class MaskTensors {
  readonly #parts = new Map<string, MaskPart>();
  readonly #tensors = new Map<string, Tensor>();

  constructor(readonly graph: Graph) {}

  whole(mask: AttentionMask): MaskPart {
    return this.part(mask, 0, mask.numRows);
  }

  /** @throws RangeError for a row that sees no key. */
  part(mask: AttentionMask, firstRow: number, numRows: number): MaskPart {
    const key = `${mask.id}: ${firstRow} + ${numRows}`;
    const known = this.#parts.get(key);
    if (known !== undefined) return known;
    let numKeys = 0;
    for (let row = firstRow; row < firstRow + numRows; row++) {
      const end = mask.visible(row).at(-1)?.[1] ?? 0;
      if (end < 1 || end > mask.numKeys) {
        throw new RangeError(`Cannot attend: row ${row} sees keys up to ${end}, wanted 1 to ${mask.numKeys}`);
      }
      numKeys = Math.max(numKeys, end);
    }
    const part = { mask, firstRow, numRows, numKeys };
    this.#parts.set(key, part);
    return part;
  }

  /** [keys, rows] F16: row t * group + g is the part's row t. Rows past them see everything, for each must see something. */
  tensor(part: MaskPart, group = 1, paddedRows = part.numRows): Tensor {
    const { mask, firstRow, numRows, numKeys } = part;
    const key = `${mask.id}: ${firstRow} + ${numRows} by ${group} in ${paddedRows}`;
    const known = this.#tensors.get(key);
    if (known !== undefined) return known;
    const make = () => maskData(part, group, paddedRows);
    const tensor = this.graph.input("mask", "F16", [numKeys, paddedRows], make);
    this.#tensors.set(key, tensor);
    return tensor;
  }
}

function maskData({ mask, firstRow, numRows, numKeys }: MaskPart, group: number, paddedRows: number): Uint16Array {
  const data = new Uint16Array(numKeys * paddedRows);
  for (let t = 0; t < numRows; t++) {
    const start = t * group * numKeys;
    let end = 0;
    for (const [first, next] of mask.visible(firstRow + t)) {
      data.fill(hidden, start + end, start + first);
      end = next;
    }
    data.fill(hidden, start + end, start + numKeys);
    for (let g = 1; g < group; g++) data.copyWithin(start + g * numKeys, start, start + numKeys);
  }
  return data;
}
