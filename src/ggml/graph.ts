import { elementTypes, type GgmlType } from "../files/element-types.js";
import { GraphFrame } from "./graph-frame.js";
import {
  byteLength,
  contiguousStrides,
  type Dims,
  describe,
  isContiguous,
  numElements,
  type RopeParameters,
  requireContiguous,
  requirePackedRows,
  requireSame,
  requireType,
  type Tensor,
} from "./tensor.js";

/** Types that are copied and converted whatever their strides. */
const floatTypes: readonly GgmlType[] = ["F32", "F16", "BF16"];
/** Types in blocks that block KV may be of: the CPU makes them of F32 row by row, and F32 of them. */
const blockTypes: readonly GgmlType[] = ["Q8_0", "Q4_0"];
const ropeModes = { adjacent: 0, half: 2 } as const;
const precisionF32 = 10;

/** A compute graph, and the operations that add to it: each checks shapes, types and strides, and adds one node. */
export class Graph extends GraphFrame {
  /** [K, N] weights times [K, R, …] rows: [N, R, …], in F32. Weights are broadcast over the outer sizes. */
  mulMat(w: Tensor, x: Tensor): Tensor {
    if (w.ne[0] !== x.ne[0]) {
      throw new RangeError(
        `Cannot multiply ${describe(x)} by ${describe(w)}: inner sizes are ${x.ne[0]} and ${w.ne[0]}`,
      );
    }
    if (x.ne[2] % w.ne[2] !== 0 || x.ne[3] % w.ne[3] !== 0) {
      throw new RangeError(`Cannot multiply ${describe(x)} by ${describe(w)}: the outer sizes are no multiples`);
    }
    requireType(x, "multiply", "F32");
    requirePackedRows(w, "multiply by");
    requirePackedRows(x, "multiply");
    return this.op("ggml_mul_mat", "F32", [w.ne[1], x.ne[1], x.ne[2], x.ne[3]], w.pointer, x.pointer);
  }

  /**
   * Each row by the matrices that it names: w [K, N, E] times x [K, U, R], or [K, 1, R], with ids [U, R]: [N, U, R], in F32.
   * The ids of a row must differ and lie below E: the caller checks them.
   */
  mulMatId(w: Tensor, x: Tensor, ids: Tensor): Tensor {
    requireType(ids, "choose weights by", "I32");
    requireType(x, "multiply", "F32");
    for (const t of [w, x, ids]) requirePackedRows(t, "multiply with");
    const outer = w.ne[3] * x.ne[3] * ids.ne[2] * ids.ne[3];
    if (w.ne[0] !== x.ne[0] || ids.ne[1] !== x.ne[2] || ids.ne[0] % x.ne[1] !== 0 || outer !== 1) {
      throw new RangeError(`Cannot multiply ${describe(x)} by ${describe(w)} as ${describe(ids)} says: sizes differ`);
    }
    return this.op("ggml_mul_mat_id", "F32", [w.ne[1], ids.ne[0], x.ne[2], 1], w.pointer, x.pointer, ids.pointer);
  }

  /** Where the k largest numbers of each row stand, in no stated order: [k, …] I32. Equal rows get equal answers. */
  topK(x: Tensor, k: number): Tensor {
    requireType(x, "find the largest of", "F32");
    requireContiguous(x, "find the largest of");
    if (!(Number.isSafeInteger(k) && k > 0 && k <= x.ne[0])) {
      throw new RangeError(`Cannot find the ${k} largest of ${describe(x)}: 1 to ${x.ne[0]} are wanted`);
    }
    return this.op("ggml_top_k", "I32", [k, x.ne[1], x.ne[2], x.ne[3]], x.pointer, k);
  }

  /** Where a largest number of each row [N, R] stands: [R] I32. Which one of several equal ones is up to the device. */
  argmax(x: Tensor): Tensor {
    requireType(x, "find the largest of", "F32");
    requireContiguous(x, "find the largest of");
    if (x.ne[2] * x.ne[3] !== 1) throw new RangeError(`Cannot find the largest of ${describe(x)}: rows are wanted`);
    return this.op("ggml_argmax", "I32", [x.ne[1], 1, 1, 1], x.pointer);
  }

  /** The sum of each row. */
  sumRows(x: Tensor): Tensor {
    requireType(x, "add the rows of", "F32");
    requireContiguous(x, "add the rows of");
    return this.op("ggml_sum_rows", "F32", [1, x.ne[1], x.ne[2], x.ne[3]], x.pointer);
  }

  /** Natural logarithms. */
  log(x: Tensor): Tensor {
    requireType(x, "take the logarithm of", "F32");
    requireContiguous(x, "take the logarithm of");
    return this.op("ggml_log", "F32", x.ne, x.pointer);
  }

  /** 1 where a number is greater than 0, else 0. */
  step(x: Tensor): Tensor {
    requireType(x, "step", "F32");
    requireContiguous(x, "step");
    return this.op("ggml_step", "F32", x.ne, x.pointer);
  }

  /** Element by element; b is repeated over a's sizes. */
  add(a: Tensor, b: Tensor): Tensor {
    return this.#elementwise("ggml_add", a, b);
  }

  sub(a: Tensor, b: Tensor): Tensor {
    return this.#elementwise("ggml_sub", a, b);
  }

  mul(a: Tensor, b: Tensor): Tensor {
    return this.#elementwise("ggml_mul", a, b);
  }

  /** Divides a by b element by element; b is repeated over a's outer sizes. */
  div(a: Tensor, b: Tensor): Tensor {
    return this.#elementwise("ggml_div", a, b);
  }

  /** x * factor + offset. */
  scale(x: Tensor, factor: number, offset = 0): Tensor {
    requireType(x, "scale", "F32");
    requireContiguous(x, "scale");
    return this.op("ggml_scale_bias", "F32", x.ne, x.pointer, factor, offset);
  }

  /** Divides each row by its root mean square, in F32. */
  rmsNorm(x: Tensor, eps: number): Tensor {
    requireType(x, "normalize", "F32");
    requirePackedRows(x, "normalize");
    return this.op("ggml_rms_norm", "F32", x.ne, x.pointer, eps);
  }

  /** silu(gate) * up. */
  swiglu(gate: Tensor, up: Tensor): Tensor {
    requireSame(gate, up, "gate");
    requireContiguous(gate, "gate");
    requireContiguous(up, "gate");
    return this.op("ggml_swiglu_split", "F32", gate.ne, gate.pointer, up.pointer);
  }

  /** The same where gates and what they let through are the halves of each row, [2 N, R, …]: [N, R, …]. */
  swigluHalves(x: Tensor): Tensor {
    requireType(x, "gate", "F32");
    requireContiguous(x, "gate");
    if (x.ne[0] % 2 !== 0) throw new RangeError(`Cannot gate ${describe(x)}: rows of an even size are wanted`);
    return this.op("ggml_swiglu", "F32", [x.ne[0] / 2, x.ne[1], x.ne[2], x.ne[3]], x.pointer);
  }

  /** Rows of tables [K, N, …] by ids [R, …]: [K, R, …] in F32. The ids must lie below N: the caller checks them. */
  getRows(table: Tensor, ids: Tensor): Tensor {
    requireType(ids, "look rows up with", "I32");
    requirePackedRows(ids, "look rows up with");
    if (table.ne[2] !== ids.ne[1] || table.ne[3] !== ids.ne[2] || ids.ne[3] !== 1) {
      throw new RangeError(`Cannot look up ${describe(ids)} in ${describe(table)}: a list for each table is wanted`);
    }
    requirePackedRows(table, "look rows up in");
    const ofHost = table.isOnHost && this.inputs.find(({ tensor }) => tensor.pointer === ids.pointer);
    if (ofHost) ofHost.isOnHost = true;
    return this.op("ggml_get_rows", "F32", [table.ne[0], ids.ne[0], ids.ne[1], ids.ne[2]], table.pointer, ids.pointer);
  }

  /**
   * Turns each head to its position: x [D, heads, T] with T positions. In place where asked, else into new memory.
   * @see ggml_rope_ext; the angles of a token are computed once for all its heads.
   */
  rope(x: Tensor, positions: Tensor, rope: RopeParameters, inPlace = false): Tensor {
    requireType(positions, "turn heads to", "I32");
    if (x.type !== "F32" && x.type !== "F16") {
      throw new TypeError(`Cannot turn ${describe(x)}: its type is ${x.type}, F32 or F16 is wanted`);
    }
    if (x.ne[0] !== rope.headSize || x.ne[2] !== positions.ne[0] || x.ne[3] !== 1) {
      throw new RangeError(
        `Cannot turn ${describe(x)}: ${positions.ne[0]} positions of heads of ${rope.headSize} are wanted`,
      );
    }
    requirePackedRows(x, "turn");
    if (positions.ne[1] * positions.ne[2] * positions.ne[3] !== 1) {
      throw new RangeError(`Cannot turn heads to ${describe(positions)}: a list is wanted`);
    }
    if (rope.frequencyFactors) requireType(rope.frequencyFactors, "scale RoPE by", "F32");
    if (rope.frequencyFactors && rope.frequencyFactors.ne[0] !== rope.rotatedSize / 2) {
      throw new RangeError(
        `Cannot turn ${describe(x)}: ${describe(rope.frequencyFactors)} should hold ${rope.rotatedSize / 2} factors`,
      );
    }
    const factors = rope.frequencyFactors?.pointer ?? null;
    // Frequency scale 1 and extrapolation factor 0 leave all scaling to the factors and the attention factor.
    const rest = [rope.rotatedSize, ropeModes[rope.pairs], 0, rope.theta, 1, 0, rope.attentionFactor, 32, 1] as const;
    if (inPlace) {
      const pointer = this.call("ggml_rope_ext_inplace", x.pointer, positions.pointer, factors, ...rest);
      return { ...x, pointer };
    }
    return this.op("ggml_rope_ext", x.type, x.ne, x.pointer, positions.pointer, factors, ...rest);
  }

  /** softmax(x * scale + mask) over each row of x [N, R, H, S]; mask [N, R, …] F16 or F32, repeated over the outer sizes. */
  softmax(x: Tensor, mask: Tensor | undefined, scale: number): Tensor {
    requireType(x, "take the softmax of", "F32");
    requireContiguous(x, "take the softmax of");
    if (mask) {
      if (mask.type !== "F16") requireType(mask, "mask with", "F32");
      requireContiguous(mask, "mask with");
    }
    const repeats = mask && x.ne[2] % mask.ne[2] === 0 && x.ne[3] % mask.ne[3] === 0;
    if (mask && (mask.ne[0] !== x.ne[0] || mask.ne[1] < x.ne[1] || !repeats)) {
      throw new RangeError(`Cannot mask ${describe(x)} by ${describe(mask)}: sizes differ`);
    }
    return this.op("ggml_soft_max_ext", "F32", x.ne, x.pointer, mask?.pointer ?? null, scale, 0);
  }

  /**
   * Attention in tiles: q [D, R, H, S] F32, k and v [D, N, H', S] with H a multiple of H', mask [N, R, 1, S] F16 or none.
   *
   * @param by whose node it is: a mask of one that ggml does not compute may have a row for several of q's.
   * @returns [D, H, R, S] in F32.
   */
  flashAttention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | undefined,
    scale: number,
    by: "ggml" | "outside" = "ggml",
  ): Tensor {
    requireType(q, "attend with", "F32");
    if (k.type !== v.type)
      throw new TypeError(`Cannot attend: keys are ${k.type} and values ${v.type}, one type is wanted`);
    if (k.type !== "F16") requireType(k, "attend over", "F32");
    const [d, rows, heads, sequences] = q.ne;
    const fits = k.ne.every((n, i) => n === v.ne[i]) && k.ne[0] === d && k.ne[3] === sequences;
    if (!fits || heads % k.ne[2] !== 0) {
      throw new RangeError(`Cannot attend: ${describe(q)} over ${describe(k)} and ${describe(v)}`);
    }
    for (const t of [q, k, v]) requirePackedRows(t, "attend with");
    if (mask) {
      requireType(mask, "mask with", "F16");
      requireContiguous(mask, "mask with");
      if (
        mask.ne[0] !== k.ne[1] ||
        (by === "ggml" && mask.ne[1] < rows) ||
        mask.ne[2] !== 1 ||
        mask.ne[3] !== sequences
      ) {
        throw new RangeError(`Cannot mask by ${describe(mask)}: ${k.ne[1]} keys and ${rows} rows are wanted`);
      }
    }
    const ne: Dims = [d, heads, rows, sequences];
    return this.op(
      "ggml_flash_attn_ext",
      "F32",
      ne,
      q.pointer,
      k.pointer,
      v.pointer,
      mask?.pointer ?? null,
      scale,
      0,
      0,
    );
  }

  /** Has a product or attention summed in 32 bit, where a device would take 16. @returns the same. */
  summedInF32(x: Tensor, of: "ggml_mul_mat" | "ggml_flash_attn_ext"): Tensor {
    if (this.native) this.ggml.symbols[`${of}_set_prec`](x.pointer, precisionF32);
    return x;
  }

  /** The same data in another shape. */
  reshape(x: Tensor, ne: readonly number[]): Tensor {
    requireContiguous(x, "reshape");
    const dims: Dims = [ne[0] ?? 1, ne[1] ?? 1, ne[2] ?? 1, ne[3] ?? 1];
    if (dims[0] * dims[1] * dims[2] * dims[3] !== numElements(x)) {
      throw new RangeError(`Cannot reshape ${describe(x)} to [${ne.join(", ")}]: the numbers of elements differ`);
    }
    const pointer = this.call("ggml_reshape_4d", x.pointer, ...dims);
    return { pointer, name: x.name, type: x.type, ne: dims, nb: contiguousStrides(x.type, dims) };
  }

  /**
   * A window on x.
   * @param strides bytes from one element of an outer size to the next, from the second size on; packed where left out.
   * @param offset in bytes.
   */
  view(x: Tensor, ne: readonly number[], strides: readonly number[] = [], offset = 0): Tensor {
    const dims: Dims = [ne[0] ?? 1, ne[1] ?? 1, ne[2] ?? 1, ne[3] ?? 1];
    if (ne.length > 4 || dims.some((n) => !Number.isSafeInteger(n) || n < 1)) {
      throw new RangeError(`Cannot view ${describe(x)} as [${ne.join(", ")}]: up to 4 positive integers are wanted`);
    }
    if (![offset, ...strides].every((n) => Number.isSafeInteger(n) && n >= 0)) {
      throw new RangeError(
        `Cannot view ${describe(x)}: strides ${strides.join(", ")} and offset ${offset} are no whole numbers from 0 on`,
      );
    }
    const packed = contiguousStrides(x.type, dims);
    const nb1 = strides[0] ?? packed[1];
    const nb2 = strides[1] ?? nb1 * dims[1];
    const nb3 = strides[2] ?? nb2 * dims[2];
    const nb: Dims = [packed[0], nb1, nb2, nb3];
    const view: Tensor = { pointer: 0n, name: x.name, type: x.type, ne: dims, nb };
    // ggml checks the view's elements as if they lay side by side.
    const span = Math.max(byteLength(view), byteLength({ ...view, nb: packed }));
    if (offset + span > byteLength(x)) {
      throw new RangeError(
        `Cannot view ${describe(x)} as [${ne.join(", ")}]: bytes ${offset} to ${offset + span} of ${byteLength(x)}`,
      );
    }
    return { ...view, pointer: this.call("ggml_view_4d", x.pointer, ...dims, nb1, nb2, nb3, offset) };
  }

  /** Size i of x becomes size axes[i] of the result; no data move. */
  permute(x: Tensor, axes: Dims): Tensor {
    if ([...axes].sort().join() !== "0,1,2,3")
      throw new RangeError(`Cannot permute ${describe(x)} by [${axes.join(", ")}]`);
    const ne: [number, number, number, number] = [1, 1, 1, 1];
    const nb: [number, number, number, number] = [0, 0, 0, 0];
    for (const [i, axis] of axes.entries()) {
      ne[axis] = x.ne[i] as number;
      nb[axis] = x.nb[i] as number;
    }
    return { pointer: this.call("ggml_permute", x.pointer, ...axes), name: x.name, type: x.type, ne, nb };
  }

  /** A packed copy. */
  contiguous(x: Tensor): Tensor {
    if (!floatTypes.includes(x.type) && x.type !== "I32") {
      throw new TypeError(`Cannot copy ${describe(x)}: its type lies in blocks`);
    }
    return this.op("ggml_cont", x.type, x.ne, x.pointer);
  }

  /** A packed copy in F32: of whole numbers exact below 2^24. */
  toF32(x: Tensor): Tensor {
    if (![...floatTypes, ...blockTypes, "I32"].includes(x.type))
      throw new TypeError(`Cannot copy ${describe(x)} as F32: it is ${x.type}, which is not widened`);
    return this.op("ggml_cast", "F32", x.ne, x.pointer, elementTypes.F32.id);
  }

  /** Copies a's elements, in order, into b's memory, converting the type; a node that must be expanded. */
  copy(a: Tensor, b: Tensor): Tensor {
    if (numElements(a) !== numElements(b)) {
      throw new RangeError(`Cannot copy ${describe(a)} to ${describe(b)}: the numbers of elements differ`);
    }
    for (const { type } of [a, b]) {
      if (!floatTypes.includes(type) && !(a.type === b.type && isContiguous(a) && isContiguous(b))) {
        throw new TypeError(`Cannot copy ${describe(a)} to ${describe(b)}: F32, F16 or BF16 is wanted`);
      }
    }
    return { ...b, pointer: this.call("ggml_cpy", a.pointer, b.pointer) };
  }

  /**
   * Writes rows into a's memory, at the places that a list names, converting the type; a node that must be expanded.
   * The ids must lie below N: the caller checks them.
   *
   * @param a [K, N, …], F32, F16, BF16, Q8_0 or Q4_0.
   * @param rows [K, R, …] F32, as many in the outer sizes.
   * @param ids [R, …] I32, repeated over the outer sizes.
   */
  setRows(a: Tensor, rows: Tensor, ids: Tensor): Tensor {
    requireType(rows, "write rows of", "F32");
    requireType(ids, "write rows at", "I32");
    if (![...floatTypes, ...blockTypes].includes(a.type)) {
      throw new TypeError(`Cannot write rows into ${describe(a)}: F32, F16, BF16, Q8_0 or Q4_0 is wanted`);
    }
    for (const t of [a, rows, ids]) requirePackedRows(t, "write rows with");
    const fits = a.ne[0] === rows.ne[0] && a.ne[2] === rows.ne[2] && a.ne[3] === rows.ne[3];
    const named = rows.ne[1] === ids.ne[0] && rows.ne[2] % ids.ne[1] === 0 && rows.ne[3] % ids.ne[2] === 0;
    if (!fits || !named || ids.ne[3] !== 1) {
      throw new RangeError(`Cannot write ${describe(rows)} into ${describe(a)} at ${describe(ids)}: sizes differ`);
    }
    return { ...a, pointer: this.call("ggml_set_rows", a.pointer, rows.pointer, ids.pointer) };
  }

  /** b's elements after a's along one size; the others must agree. */
  concat(a: Tensor, b: Tensor, axis: 0 | 1 | 2 | 3): Tensor {
    if (elementTypes[a.type].blockSize !== 1) {
      throw new TypeError(`Cannot put ${describe(b)} after ${describe(a)}: their type lies in blocks`);
    }
    if (a.type !== b.type || a.ne.some((n, i) => i !== axis && n !== b.ne[i])) {
      throw new RangeError(`Cannot put ${describe(b)} after ${describe(a)} along size ${axis}: shapes or types differ`);
    }
    const ne = a.ne.map((n, i) => (i === axis ? n + (b.ne[i] as number) : n)) as unknown as Dims;
    return this.op("ggml_concat", a.type, ne, a.pointer, b.pointer, axis);
  }

  /** Appends zeros to the first sizes of a packed F32 tensor. */
  pad(x: Tensor, extra: readonly number[]): Tensor {
    requireType(x, "pad", "F32");
    requirePackedRows(x, "pad");
    const more: Dims = [extra[0] ?? 0, extra[1] ?? 0, extra[2] ?? 0, extra[3] ?? 0];
    if (more.some((n) => !Number.isSafeInteger(n) || n < 0)) {
      throw new RangeError(`Cannot pad ${describe(x)} by [${extra.join(", ")}]: whole numbers from 0 on are wanted`);
    }
    const ne: Dims = [x.ne[0] + more[0], x.ne[1] + more[1], x.ne[2] + more[2], x.ne[3] + more[3]];
    return this.op("ggml_pad", "F32", ne, x.pointer, ...more);
  }

  #elementwise(name: "ggml_add" | "ggml_sub" | "ggml_mul" | "ggml_div", a: Tensor, b: Tensor): Tensor {
    requireType(a, "combine", "F32");
    requireType(b, "combine", "F32");
    requirePackedRows(a, "combine");
    requirePackedRows(b, "combine");
    if (a.ne.some((n, i) => n % (b.ne[i] as number) !== 0)) {
      throw new RangeError(
        `Cannot combine ${describe(a)} with ${describe(b)}: the second does not repeat into the first`,
      );
    }
    return this.op(name, "F32", a.ne, a.pointer, b.pointer);
  }
}
