/** What is known of an element type. What is absent it is not used for. */
interface ElementType {
  /** ggml's number, which GGUF files have too. @see ggml.h, enum ggml_type */
  readonly id?: number;
  /** Elements and bytes of a block. */
  readonly blockSize?: number;
  readonly typeSize?: number;
  /** llama.cpp's number of a file that is mostly of it; weights may be of it. @see include/llama.h, enum llama_ftype */
  readonly fileType?: number;
  /** Whether `--weights` may ask for it: ggml makes it without an importance matrix. @see ggml_quantize_requires_imatrix */
  readonly isConversion?: true;
  /** What rows that its blocks do not divide become, as in llama.cpp; F16 where absent. @see llama-quant.cpp, tensor_type_fallback */
  readonly fallback?: string;
  /** Its number in stored blocks; keys and values may be of it. */
  readonly kvCode?: number;
}

/** All element types of weight files, of graphs and of block KV, by ggml's names, or safetensors' where ggml has none. */
export const elementTypes = {
  F32: { id: 0, blockSize: 1, typeSize: 4, fileType: 0, isConversion: true, kvCode: 1 },
  BF16: { id: 30, blockSize: 1, typeSize: 2, fileType: 32, isConversion: true, kvCode: 2 },
  F16: { id: 1, blockSize: 1, typeSize: 2, fileType: 1, isConversion: true, kvCode: 0 },
  Q8_0: { id: 8, blockSize: 32, typeSize: 34, fileType: 7, isConversion: true, kvCode: 3 },
  Q6_K: { id: 14, blockSize: 256, typeSize: 210, fileType: 18, isConversion: true, fallback: "Q8_0" },
  Q5_K: { id: 13, blockSize: 256, typeSize: 176, fileType: 16, isConversion: true, fallback: "Q5_1" },
  Q5_1: { id: 7, blockSize: 32, typeSize: 24, fileType: 9, isConversion: true },
  Q5_0: { id: 6, blockSize: 32, typeSize: 22, fileType: 8, isConversion: true },
  Q4_K: { id: 12, blockSize: 256, typeSize: 144, fileType: 14, isConversion: true, fallback: "Q5_0" },
  Q4_1: { id: 3, blockSize: 32, typeSize: 20, fileType: 3, isConversion: true },
  Q4_0: { id: 2, blockSize: 32, typeSize: 18, fileType: 2, isConversion: true, kvCode: 4 },
  Q3_K: { id: 11, blockSize: 256, typeSize: 110, fileType: 11, isConversion: true, fallback: "Q4_0" },
  Q2_K: { id: 10, blockSize: 256, typeSize: 84, fileType: 10, isConversion: true, fallback: "Q4_0" },
  Q2_0: { id: 42, blockSize: 64, typeSize: 18, fileType: 41, isConversion: true, fallback: "Q4_0" },
  Q1_0: { id: 41, blockSize: 128, typeSize: 18, fileType: 40, isConversion: true },
  IQ4_NL: { id: 20, blockSize: 32, typeSize: 18, fileType: 25, isConversion: true },
  IQ4_XS: { id: 23, blockSize: 256, typeSize: 136, fileType: 30, isConversion: true, fallback: "IQ4_NL" },
  IQ3_S: { id: 21, blockSize: 256, typeSize: 110, fileType: 26, isConversion: true, fallback: "IQ4_NL" },
  IQ3_XXS: { id: 18, blockSize: 256, typeSize: 98, fileType: 23, isConversion: true, fallback: "IQ4_NL" },
  IQ2_S: { id: 22, blockSize: 256, typeSize: 82, fileType: 28, isConversion: true, fallback: "IQ4_NL" },
  IQ2_XS: { id: 17, blockSize: 256, typeSize: 74, fileType: 20 },
  IQ2_XXS: { id: 16, blockSize: 256, typeSize: 66, fileType: 19 },
  IQ1_M: { id: 29, blockSize: 256, typeSize: 56, fileType: 31, isConversion: true, fallback: "IQ4_NL" },
  IQ1_S: { id: 19, blockSize: 256, typeSize: 50, fileType: 24 },
  TQ2_0: { id: 35, blockSize: 256, typeSize: 66, fileType: 37, isConversion: true, fallback: "Q4_0" },
  TQ1_0: { id: 34, blockSize: 256, typeSize: 54, fileType: 36, isConversion: true, fallback: "Q4_0" },
  MXFP4: { id: 39, blockSize: 32, typeSize: 17, fileType: 38, isConversion: true },
  NVFP4: { id: 40, blockSize: 64, typeSize: 36, fileType: 39, isConversion: true },
  I8: { id: 24, blockSize: 1, typeSize: 1 },
  I16: { id: 25, blockSize: 1, typeSize: 2 },
  I32: { id: 26, blockSize: 1, typeSize: 4 },
  I64: { id: 27, blockSize: 1, typeSize: 8 },
  F64: { id: 28, blockSize: 1, typeSize: 8 },
  // Of ggml's intermediate results: nothing reads them as weights.
  Q8_1: { id: 9, blockSize: 32, typeSize: 36 },
  Q8_K: { id: 15, blockSize: 256, typeSize: 292 },
  BOOL: { blockSize: 1, typeSize: 1 },
  U8: { blockSize: 1, typeSize: 1 },
  F8_E4M3: { blockSize: 1, typeSize: 1 },
  F8_E5M2: { blockSize: 1, typeSize: 1 },
  U16: { blockSize: 1, typeSize: 2 },
  U32: { blockSize: 1, typeSize: 4 },
  U64: { blockSize: 1, typeSize: 8 },
} as const satisfies Readonly<Record<string, ElementType>>;

type Table = typeof elementTypes;
type Having<Fields> = { [K in keyof Table]: Table[K] extends Fields ? K : never }[keyof Table];

/** The types that tensors of a graph may have. */
export type GgmlType = Having<{ readonly id: number; readonly typeSize: number }>;
/** The types that the project reads weights in. */
export type TensorType = Having<{ readonly fileType: number }>;
/** What `--weights` may ask for: the file's own types, or one type for all matrices. */
export type WeightsConversion = "keep" | Lowercase<Having<{ readonly isConversion: true }>>;
/** The types that keys and values are kept in. */
export type KVType = Lowercase<Having<{ readonly kvCode: number }>>;

const rows: ReadonlyMap<string, ElementType> = new Map(Object.entries(elementTypes));
/** The names of types that have the field. */
function namesWith(field: keyof ElementType): readonly string[] {
  return [...rows].filter(([, row]) => row[field] !== undefined).map(([name]) => name);
}

/** Names by ggml's number. */
export const elementTypeNames: ReadonlyMap<number | undefined, string> = new Map(
  [...rows].map(([name, { id }]) => [id, name]),
);
export const tensorTypes = namesWith("fileType") as readonly TensorType[];
export const weightsConversions = ["keep", ...namesWith("isConversion")].map(
  (name) => name.toLowerCase() as WeightsConversion,
);
/** In the order of their numbers. */
export const KV_TYPES = [...namesWith("kvCode")]
  .sort((a, b) => (rows.get(a)?.kvCode ?? 0) - (rows.get(b)?.kvCode ?? 0))
  .map((name) => name.toLowerCase() as KVType);

/** A type by its name in a file. */
export function findElementType(name: string): ElementType | undefined {
  return rows.get(name);
}

export function isTensorType(name: string): name is TensorType {
  return (tensorTypes as readonly string[]).includes(name);
}

/**
 * The type for rows of so many elements: the one asked for, else the first that such rows fill whole blocks of, as llama.cpp's
 * quantizer chooses.
 *
 * @example fittingType("Q4_K", 896) is "Q5_0", fittingType("Q4_K", 40) is "F16"
 */
export function fittingType(wanted: TensorType, numElements: number): TensorType {
  const fallback: ElementType["fallback"] = (rows.get(wanted) as ElementType).fallback;
  const types = [wanted, ...(fallback === undefined ? [] : [fallback as TensorType]), "F16" as const];
  return types.find((type) => numElements % elementTypes[type].blockSize === 0) as TensorType;
}

/** The type that a conversion or a KV type is called after. */
export function elementTypeOf<T extends string>(name: T): Uppercase<T> {
  return name.toUpperCase() as Uppercase<T>;
}

/** Whether a type rounds several elements together. */
export function isInBlocks(type: KVType): boolean {
  return elementTypes[elementTypeOf(type)].blockSize > 1;
}

/** Whether heads of so many elements are whole blocks of a type. */
export function kvTypeFits(type: KVType, headSize: number): boolean {
  return headSize % elementTypes[elementTypeOf(type)].blockSize === 0;
}

/**
 * The bytes of one row.
 * @throws RangeError if the elements do not fill whole blocks of the type.
 */
export function rowBytes(type: GgmlType, numElements: number): number {
  const { blockSize, typeSize } = elementTypes[type];
  if (numElements % blockSize !== 0) {
    throw new RangeError(
      `Cannot lay out a row: ${numElements} elements are no multiple of ${type}'s block of ${blockSize}`,
    );
  }
  return (numElements / blockSize) * typeSize;
}
