import type { TensorType } from "./element-types.js";

/** Where one tensor lies in a file. */
export interface TensorEntry {
  /** The name in the file. */
  readonly name: string;
  readonly type: TensorType;
  /** Outermost first, as everywhere outside src/ggml: a matrix of a linear layer is [out, in]. */
  readonly shape: readonly number[];
  readonly path: string;
  /** In bytes from the start of the file. */
  readonly offset: number;
  readonly byteLength: number;
}

/** A tensor of a file. Files may hold types that the project does not run: they matter only where a model needs the tensor. */
export type FileTensor =
  | { readonly kind: "readable"; readonly entry: TensorEntry }
  | {
      readonly kind: "unreadable";
      /** The name in the file. */
      readonly name: string;
      /** The format's own name of the type, for errors. */
      readonly typeName: string;
      /** Outermost first. */
      readonly shape: readonly number[];
      readonly path: string;
    };
