import { elementTypes, type GgmlType, rowBytes } from "../files/element-types.js";
import type { Ggml } from "./library.js";
import type { Pointer } from "./symbols.js";

export type Dims = readonly [number, number, number, number];

/**
 * A ggml tensor: its address, and its shape as TypeScript knows it, so that every operation is checked before a call.
 * `ne` are elements and `nb` strides in bytes, innermost first, as ggml.h has them.
 */
export interface Tensor {
  readonly pointer: Pointer;
  readonly name: string;
  readonly type: GgmlType;
  readonly ne: Dims;
  readonly nb: Dims;
  /** Whether it lies in the CPU's memory, beside a device that has its own. */
  readonly isOnHost?: true;
}

/** What ggml_rope_ext takes beside positions. Scaling is wholly in the factors, so that one rule serves every kind. */
export interface RopeParameters {
  readonly headSize: number;
  /** Of a head's elements, so many of the first are turned; even. The others stay. */
  readonly rotatedSize: number;
  readonly theta: number;
  /** Of R turned elements, ggml's GGML_ROPE_TYPE_NEOX pairs (i, i + R/2); "adjacent" is GGML_ROPE_TYPE_NORMAL, (2i, 2i + 1). */
  readonly pairs: "half" | "adjacent";
  /** R/2 divisors of the plain frequencies, F32; undefined for plain RoPE. */
  readonly frequencyFactors: Tensor | undefined;
  /** Multiplies cos and sin (YaRN's attention factor). */
  readonly attentionFactor: number;
}

/** Strides of a tensor without gaps. */
export function contiguousStrides(type: GgmlType, ne: Dims): Dims {
  const row = rowBytes(type, ne[0]);
  return [elementTypes[type].typeSize, row, row * ne[1], row * ne[1] * ne[2]];
}

export function numElements(t: Tensor): number {
  return t.ne[0] * t.ne[1] * t.ne[2] * t.ne[3];
}

/** The bytes from the first element to the last. */
export function byteLength(t: Tensor): number {
  return rowBytes(t.type, t.ne[0]) + (t.ne[1] - 1) * t.nb[1] + (t.ne[2] - 1) * t.nb[2] + (t.ne[3] - 1) * t.nb[3];
}

export function isContiguous(t: Tensor): boolean {
  const wanted = contiguousStrides(t.type, t.ne);
  // A stride over one element is never taken.
  return t.nb[0] === wanted[0] && [1, 2, 3].every((i) => t.ne[i] === 1 || t.nb[i] === wanted[i]);
}

/** For messages: `blk.0.attn_q.weight [64, 128] F16`, innermost first. */
export function describe(t: Tensor): string {
  const last = t.ne.findLastIndex((n) => n !== 1);
  return `${t.name || "tensor"} [${t.ne.slice(0, Math.max(last, 0) + 1).join(", ")}] ${t.type}`;
}

export function requireType(t: Tensor, action: string, type: GgmlType): void {
  if (t.type !== type) throw new TypeError(`Cannot ${action} ${describe(t)}: its type is ${t.type}, ${type} is wanted`);
}

export function requireContiguous(t: Tensor, action: string): void {
  if (!isContiguous(t)) throw new RangeError(`Cannot ${action} ${describe(t)}: its memory has gaps or another order`);
}

/** Elements of a row lie side by side; outer sizes may be strided. */
export function requirePackedRows(t: Tensor, action: string): void {
  if (t.nb[0] !== elementTypes[t.type].typeSize) {
    throw new RangeError(`Cannot ${action} ${describe(t)}: the elements of a row do not lie side by side`);
  }
}

export function requireSame(a: Tensor, b: Tensor, action: string): void {
  if (a.type !== b.type || a.ne.some((n, i) => n !== b.ne[i])) {
    throw new RangeError(`Cannot ${action} ${describe(a)} by ${describe(b)}: shapes or types differ`);
  }
}

/**
 * A packed tensor that has no address yet.
 * @throws RangeError for a size that is no positive integer, or a row that does not fill whole blocks.
 */
export function planTensor(name: string, type: GgmlType, ne: readonly number[]): Tensor {
  const dims: Dims = [ne[0] ?? 1, ne[1] ?? 1, ne[2] ?? 1, ne[3] ?? 1];
  if (ne.length > 4 || dims.some((n) => !Number.isSafeInteger(n) || n < 1)) {
    throw new RangeError(
      `Cannot make tensor "${name}": sizes are [${ne.join(", ")}], up to 4 positive integers are wanted`,
    );
  }
  return { pointer: 0n, name, type, ne: dims, nb: contiguousStrides(type, dims) };
}

/** A ggml context without data of its own: it owns the descriptions of tensors. */
export class TensorContext implements Disposable {
  readonly pointer: Pointer;
  #disposed = false;

  /** @param byteLength room for descriptions, see ggml_tensor_overhead and ggml_graph_overhead_custom. */
  constructor(
    readonly ggml: Ggml,
    byteLength: number,
  ) {
    this.pointer = ggml.symbols.ggml_init({ mem_size: byteLength, mem_buffer: null, no_alloc: true });
    if (!this.pointer) throw new Error(`Cannot make a tensor context: no memory for ${byteLength} bytes`);
    ggml.live.contexts += 1;
  }

  /** @throws RangeError as planTensor() does. */
  newTensor(name: string, type: GgmlType, ne: readonly number[]): Tensor {
    const planned = planTensor(name, type, ne);
    const pointer = this.ggml.symbols.ggml_new_tensor_4d(this.pointer, elementTypes[type].id, ...planned.ne);
    if (name !== "") this.ggml.symbols.ggml_set_name(pointer, name.slice(0, 63));
    return { ...planned, pointer };
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.ggml.symbols.ggml_free(this.pointer);
    this.ggml.live.contexts -= 1;
  }
}
