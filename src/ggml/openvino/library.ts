import { existsSync, readdirSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import koffi from "koffi";
import { quote } from "../../files/quote.js";
import { thisUsersCacheDir } from "../../files/user-cache-dir.js";
import type { Bound, Pointer } from "../symbols.js";

/** What may multiply by quantized weights on the CPU: the best that is installed, or the one that is named. */
export const productKinds = ["auto", "ggml", "openvino"] as const;
export type ProductKind = (typeof productKinds)[number];

/** A folder with OpenVINO's libraries, or with the Python package that holds them; "none" is as if there were none. */
export const openVinoVariable = "BLOCK_ATTENTION_OPENVINO";
/** The version that the project is tested with. */
const openVinoVersion = "2026.4.0";
/** Older versions number element types otherwise, and take properties by a variable number of arguments alone. */
const oldest = [2026, 4] as const;

const ok = 0;
/** ov_element_type_e. @see openvino/c/ov_common.h of OpenVINO 2026.4 */
const elementTypeIds = { F16: 3, F32: 4, U8: 16 } as const;

/** The C functions that the project calls; each gives ov_status_e unless it says otherwise. @see openvino/c of OpenVINO 2026.4 */
const functions = {
  ov_get_last_err_msg: "str ov_get_last_err_msg()",
  ov_core_create: "int ov_core_create(_Out_ void **core)",
  ov_core_free: "void ov_core_free(void *core)",
  ov_core_read_model_from_memory_buffer:
    "int ov_core_read_model_from_memory_buffer(void *core, const char *xml, size_t length, void *weights, _Out_ void **model)",
  ov_model_free: "void ov_model_free(void *model)",
  ov_compiled_model_create_infer_request:
    "int ov_compiled_model_create_infer_request(void *compiled, _Out_ void **request)",
  ov_compiled_model_free: "void ov_compiled_model_free(void *compiled)",
  ov_tensor_data: "int ov_tensor_data(void *tensor, _Out_ void **data)",
  ov_tensor_free: "void ov_tensor_free(void *tensor)",
  ov_infer_request_set_input_tensor_by_index:
    "int ov_infer_request_set_input_tensor_by_index(void *request, size_t index, void *tensor)",
  ov_infer_request_set_output_tensor_by_index:
    "int ov_infer_request_set_output_tensor_by_index(void *request, size_t index, void *tensor)",
  ov_infer_request_infer: "int ov_infer_request_infer(void *request)",
  ov_infer_request_free: "void ov_infer_request_free(void *request)",
} as const;

type StructFunction =
  | "ov_get_openvino_version"
  | "ov_tensor_create"
  | "ov_tensor_create_from_host_ptr"
  | "ov_core_compile_model_props";

type Symbols = Record<keyof typeof functions | StructFunction, Bound>;

/** OpenVINO's libraries, loaded once a process. */
export interface OpenVino {
  readonly directory: string;
  readonly version: string;
  readonly symbols: Symbols;
}

/** Where `installedOpenVino()` looks beside the variable's folder. */
function packageFolder(): string {
  return join(thisUsersCacheDir(), "openvino");
}

/** The command that installs it. */
export function openVinoCommand(): string {
  return `pip install --no-deps --target ${quote(packageFolder())} openvino==${openVinoVersion}`;
}

/** OpenVINO, loaded, where it is installed for this user. @throws Error where it is and cannot be used. */
export function installedOpenVino(environment = process.env): OpenVino | undefined {
  const directory = findOpenVino(environment, packageFolder());
  return directory === undefined ? undefined : loadOpenVino(directory);
}

/**
 * The folder of OpenVINO's C library: the environment variable's, else that of the Python package in the user's cache folder; undefined
 * where there is neither.
 *
 * @param packages a folder that packages were installed into (`pip install --target`).
 * @throws Error if the variable names a folder without the library.
 */
export function findOpenVino(
  environment: Readonly<Record<string, string | undefined>>,
  packages: string,
): string | undefined {
  const chosen = environment[openVinoVariable];
  if (chosen === "none") return undefined;
  if (chosen !== undefined && chosen !== "") {
    const found = within(resolve(chosen));
    if (found !== undefined) return found;
    throw new Error(
      `Cannot find OpenVINO: ${openVinoVariable} is ${quote(chosen)}, a folder with the library openvino_c is wanted, as the Python package openvino has it`,
    );
  }
  return within(packages);
}

function within(directory: string): string | undefined {
  return [".", "libs", join("openvino", "libs")]
    .map((folder) => join(directory, folder))
    .find((folder) => libraryIn(folder) !== undefined);
}

function libraryIn(directory: string): string | undefined {
  if (!existsSync(directory) || !statSync(directory).isDirectory()) return undefined;
  const pattern = /^(lib)?openvino_c(\.[0-9.]+)?\.(so|dylib|dll)([.0-9]*)$/;
  const file = readdirSync(directory).find((entry) => pattern.test(entry));
  return file === undefined ? undefined : join(directory, file);
}

/** Those that take structs, without names, since koffi keeps names for the whole process: what they take. */
function functionsOfStructs(): Record<
  StructFunction,
  readonly (string | ReturnType<typeof koffi.struct | typeof koffi.out>)[]
> {
  const version = koffi.struct({ buildNumber: "const char *", description: "const char *" });
  const shape = koffi.struct({ rank: "int64_t", dims: "int64_t *" });
  const property = koffi.struct({ key: "const char *", value: "const char *" });
  const out = koffi.out(koffi.pointer("void *"));
  return {
    ov_get_openvino_version: [koffi.out(koffi.pointer(version))],
    ov_tensor_create: ["int", shape, out],
    ov_tensor_create_from_host_ptr: ["int", shape, "void *", out],
    ov_core_compile_model_props: ["void *", "void *", "const char *", "size_t", koffi.pointer(property), out],
  };
}

// The operating system loads a library once a process.
const loaded = new Map<string, OpenVino>();

/** @throws Error that names the folder, and the version where another is wanted. */
export function loadOpenVino(directory: string): OpenVino {
  const known = loaded.get(directory);
  if (known !== undefined) return known;
  const path = libraryIn(directory);
  if (path === undefined) throw new Error(`Cannot load OpenVINO: ${quote(directory)} holds no library openvino_c`);
  const bound: Record<string, unknown> = {};
  try {
    const library = koffi.load(path);
    for (const [name, prototype] of Object.entries(functions)) bound[name] = library.func(prototype);
    for (const [name, types] of Object.entries(functionsOfStructs()))
      bound[name] = library.func(name, "int", [...types] as never);
  } catch (error) {
    const [why] = String((error as Error).message).split("\n");
    throw new Error(
      `Cannot load OpenVINO in ${quote(directory)}: ${why}; version ${oldest.join(".")} or newer is wanted`,
      {
        cause: error,
      },
    );
  }
  const symbols = bound as Symbols;
  const version = versionOf(symbols);
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major < oldest[0] || (major === oldest[0] && minor < oldest[1])) {
    throw new Error(
      `Cannot use OpenVINO ${version} in ${quote(directory)}: version ${oldest.join(".")} or newer is wanted`,
    );
  }
  const openVino = { directory, version, symbols };
  loaded.set(directory, openVino);
  return openVino;
}

function versionOf({ ov_get_openvino_version: get }: Symbols): string {
  const version: { buildNumber?: string } = {};
  (get as unknown as (into: object) => number)(version);
  const [, found = "0.0"] = /^(\d+\.\d+\.\d+)/.exec(version.buildNumber ?? "") ?? [];
  return found;
}

/** @throws Error with OpenVINO's own words where a call failed. */
export function requireOk({ symbols }: OpenVino, status: Pointer | number, action: string): void {
  if (Number(status) === ok) return;
  const [why] = String(symbols.ov_get_last_err_msg() ?? "")
    .split("\n")
    .filter((line) => line.trim() !== "")
    .slice(-1);
  throw new Error(`Cannot ${action}: OpenVINO failed with status ${Number(status)}${why ? `: ${why.trim()}` : ""}`);
}

/** What a function writes through its last argument, a pointer to a pointer. */
export function made(openVino: OpenVino, action: string, call: (out: [Pointer | null]) => Pointer | number): Pointer {
  const out: [Pointer | null] = [null];
  requireOk(openVino, call(out), action);
  return out[0] as Pointer;
}

/** The bytes of a tensor in OpenVINO's own memory, until it is freed. */
export function bytesOf(openVino: OpenVino, tensor: Pointer, byteLength: number): ArrayBuffer {
  const data = made(openVino, "fill a tensor", (out) => openVino.symbols.ov_tensor_data(tensor, out as never));
  return koffi.view(data, byteLength);
}

/** A tensor over memory that the caller keeps, or over OpenVINO's own; the caller frees it. */
export function newTensor(
  openVino: OpenVino,
  type: keyof typeof elementTypeIds,
  sizes: readonly number[],
  data?: Pointer,
): Pointer {
  const { ov_tensor_create: create, ov_tensor_create_from_host_ptr: over } = openVino.symbols;
  const shape = { rank: sizes.length, dims: BigInt64Array.from(sizes, BigInt) };
  return made(openVino, "make a tensor", (out) =>
    data === undefined
      ? (create as unknown as (...args: unknown[]) => number)(elementTypeIds[type], shape, out)
      : (over as unknown as (...args: unknown[]) => number)(elementTypeIds[type], shape, data, out),
  );
}
