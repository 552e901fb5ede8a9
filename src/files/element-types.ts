/** What is known of an element type. What is absent it is not used for. */
interface ElementType {
  /** ggml's number, which GGUF files have too. @see ggml.h, enum ggml_type */
  readonly id?: number;
  /** Elements and bytes of a block. */
  readonly blockSize?: number;
  readonly typeSize?: number;
  /** llama.cpp's number of a file that is mostly of it; weights may be of it. @see include/llama.h, enum llama_ftype */
  readonly fileType?: number;
  /** Whether `--weights` may ask for it. */
  readonly isConversion?: true;
  /** Its number in stored blocks; keys and values may be of it. */
  readonly kvCode?: number;
}

/** All element types of weight files, of graphs and of block KV, by ggml's names, or safetensors' where ggml has none. */
export const elementTypes = {
  F32: { id: 0, blockSize: 1, typeSize: 4, fileType: 0, isConversion: true, kvCode: 1 },
  BF16: { id: 30, blockSize: 1, typeSize: 2, fileType: 32, isConversion: true, kvCode: 2 },
  F16: { id: 1, blockSize: 1, typeSize: 2, fileType: 1, isConversion: true, kvCode: 0 },
  Q8_0: { id: 8, blockSize: 32, typeSize: 34, fileType: 7, isConversion: true },
  Q4_0: { id: 2, blockSize: 32, typeSize: 18, fileType: 2, isConversion: true },
  Q4_K: { id: 12, blockSize: 256, typeSize: 144, fileType: 14, isConversion: true },
  Q5_K: { id: 13, blockSize: 256, typeSize: 176, fileType: 16 },
  Q6_K: { id: 14, blockSize: 256, typeSize: 210, fileType: 18 },
  I8: { id: 24, blockSize: 1, typeSize: 1 },
  I16: { id: 25, blockSize: 1, typeSize: 2 },
  I32: { id: 26, blockSize: 1, typeSize: 4 },
  I64: { id: 27, blockSize: 1, typeSize: 8 },
  F64: { id: 28, blockSize: 1, typeSize: 8 },
  // Only of tensors that are refused.
  Q4_1: { id: 3 },
  Q5_0: { id: 6 },
  Q5_1: { id: 7 },
  Q8_1: { id: 9 },
  Q2_K: { id: 10 },
  Q3_K: { id: 11 },
  Q8_K: { id: 15 },
  IQ2_XXS: { id: 16 },
  IQ2_XS: { id: 17 },
  IQ3_XXS: { id: 18 },
  IQ1_S: { id: 19 },
  IQ4_NL: { id: 20 },
  IQ3_S: { id: 21 },
  IQ2_S: { id: 22 },
  IQ4_XS: { id: 23 },
  IQ1_M: { id: 29 },
  TQ1_0: { id: 34 },
  TQ2_0: { id: 35 },
  MXFP4: { id: 39 },
  NVFP4: { id: 40 },
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

/** The type that a conversion or a KV type is called after. */
export function elementTypeOf<T extends string>(name: T): Uppercase<T> {
  return name.toUpperCase() as Uppercase<T>;
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
