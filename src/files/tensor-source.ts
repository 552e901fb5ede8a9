/** The element types of the weight files that the project reads, by ggml's names. */
export type TensorType = "F32" | "F16" | "BF16" | "Q8_0" | "Q4_0" | "Q4_K" | "Q5_K" | "Q6_K";

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
