import { existsSync, readdirSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import koffi from "koffi";
import { type Bound, bindSymbols, type Pointer, procPrototypes, type Symbols } from "./symbols.js";

/** Kinds of ggml builds that the project knows how to find. */
export const buildKinds = ["cpu", "cuda", "vulkan", "metal"] as const;
export type BuildKind = (typeof buildKinds)[number];
/** What may be asked for: a kind, or the best that is installed. */
export const backendKinds = ["auto", ...buildKinds] as const;
export type BackendKind = (typeof backendKinds)[number];

/** What ggml calls the devices of each kind. */
export const backendNames: Readonly<Record<BuildKind, RegExp>> = {
  cpu: /^CPU$/i,
  cuda: /^CUDA$/i,
  vulkan: /^Vulkan$/i,
  metal: /^(Metal|MTL)$/i,
};

/** One device that ggml found, for instance "CPU" or "CUDA0". */
export interface Device {
  readonly pointer: Pointer;
  readonly name: string;
  readonly description: string;
  /** ggml's registry of the device's backend, for instance "CPU". */
  readonly backend: string;
  readonly kind: "cpu" | "gpu" | "integrated-gpu" | "accelerator";
  /** Whether it is a program on the CPU that stands in for a GPU: for tests, and used only where it is named. */
  readonly isSoftware: boolean;
  /** When ggml was loaded; see `memoryNow()`. */
  readonly memoryBytes: { readonly free: number; readonly total: number };
}

/** What the native side holds at this moment, for tests that count. */
export interface NativeCounts {
  contexts: number;
  buffers: number;
  bufferBytes: number;
  backends: number;
}

/** ggml's libraries, loaded once a process for each folder. */
export interface Ggml {
  readonly directory: string;
  readonly version: string;
  readonly symbols: Symbols;
  readonly devices: readonly Device[];
  readonly live: NativeCounts;
  /** A function that a device's backend hands out by name, or undefined where it has none. */
  proc(device: Device, name: keyof typeof procPrototypes): Bound | undefined;
}

/** A folder with ggml's libraries, in place of a package's. */
export const ggmlVariable = "BLOCK_ATTENTION_GGML";
/** sizeof(ggml_object) + sizeof(ggml_tensor) in the ggml versions that the project knows: a change of layout is noticed. */
const knownTensorOverhead = 368;
const softwareDevices = /llvmpipe|lavapipe|softpipe|swiftshader|microsoft basic render/i;
const deviceKinds = ["cpu", "gpu", "integrated-gpu", "accelerator"] as const;

/** The npm package that carries ggml for this platform. */
export function ggmlPackageName(
  kind: BuildKind,
  platform: NodeJS.Platform = process.platform,
  arch: string = process.arch,
): string {
  if (!buildKinds.includes(kind)) {
    throw new RangeError(`Cannot use backend "${String(kind)}": wanted ${backendKinds.join(", ")}`);
  }
  const os = ({ linux: "linux", darwin: "mac", win32: "win" } as Record<string, string>)[platform];
  const known = os !== undefined && (arch === "x64" || arch === "arm64");
  if (!known) {
    throw new Error(
      `Cannot find ggml: no package for ${platform}-${arch}, wanted linux, darwin or win32 on x64 or arm64; set ${ggmlVariable} to a folder with ggml's libraries`,
    );
  }
  if (platform === "darwin" && arch === "arm64") return "@node-llama-cpp/mac-arm64-metal";
  const suffix = kind === "cuda" || kind === "vulkan" ? `-${kind}` : "";
  return `@node-llama-cpp/${os}-${arch}${suffix}`;
}

/**
 * The folder of ggml's libraries: the environment variable's, else the platform package's. Of "auto" the first package that is
 * installed of CUDA's, Vulkan's and the CPU's: each has the CPU's libraries too.
 * @throws Error that names the package or folder that is missing.
 */
export async function findGgmlDirectory(
  kind: BackendKind,
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Promise<string> {
  const chosen = environment[ggmlVariable];
  if (chosen !== undefined && chosen !== "") {
    if (!existsSync(chosen) || !statSync(chosen).isDirectory()) {
      throw new Error(`Cannot find ggml: ${ggmlVariable} is "${chosen}", a folder is wanted`);
    }
    return resolve(chosen);
  }
  if (kind === "auto") {
    for (const gpu of ["cuda", "vulkan"] as const) {
      const found = await findGgmlDirectory(gpu, environment).catch(() => undefined);
      if (found !== undefined) return found;
    }
    return findGgmlDirectory("cpu", environment);
  }
  const name = ggmlPackageName(kind);
  let found: { getBinsDir?(): { binsDir: string } };
  try {
    found = (await import(name)) as typeof found;
  } catch (error) {
    throw new Error(`Cannot find ggml: the package "${name}" is not installed (npm install ${name})`, { cause: error });
  }
  if (found.getBinsDir === undefined) {
    throw new Error(
      `Cannot find ggml: "${name}" is not installed, but a stand-in of development is in its place (npm install ${name})`,
    );
  }
  const bins = found.getBinsDir().binsDir;
  const folder = readdirSync(bins).find((entry) => findLibrary(join(bins, entry), "ggml-base") !== undefined);
  if (folder === undefined) throw new Error(`Cannot find ggml: "${bins}" holds no folder with the library ggml-base`);
  return join(bins, folder);
}

function findLibrary(directory: string, name: string): string | undefined {
  if (!existsSync(directory) || !statSync(directory).isDirectory()) return undefined;
  const pattern = new RegExp(`^(lib)?${name}(\\.[a-z]+)?(\\.v?[0-9.]+)?\\.(so|dylib|dll)([.0-9]*)$`);
  const file = readdirSync(directory).find((entry) => pattern.test(entry));
  return file === undefined ? undefined : join(directory, file);
}

// The operating system loads a library once a process and ggml's registry of backends is global, so loading a folder
// twice would list its devices twice.
const loaded = new Map<string, Ggml>();

/**
 * Loads ggml's libraries from a folder and lists the devices they find.
 * @throws Error that names the folder, the library and what was wanted.
 */
export function loadGgml(directory: string): Ggml {
  const known = loaded.get(directory);
  if (known !== undefined) return known;
  const basePath = findLibrary(directory, "ggml-base");
  const registryPath = findLibrary(directory, "ggml");
  if (basePath === undefined || registryPath === undefined) {
    throw new Error(`Cannot load ggml: "${directory}" holds no library ${basePath ? "ggml" : "ggml-base"}`);
  }
  const [first] = loaded.keys();
  if (first !== undefined) {
    // The second one's libraries would be linked to the first one's by their names.
    throw new Error(
      `Cannot load ggml: "${directory}" is wanted, and this process uses "${first}": a process has one, whose devices are ${deviceNames(loaded.get(first) as Ggml)}`,
    );
  }
  let symbols: Symbols;
  try {
    symbols = bindSymbols(koffi.load(basePath), koffi.load(registryPath));
  } catch (error) {
    throw new Error(`Cannot load ggml: "${directory}": ${String((error as Error).message).split("\n")[0]}`, {
      cause: error,
    });
  }
  const version = String(symbols.ggml_version());
  const overhead = Number(symbols.ggml_tensor_overhead());
  if (overhead !== knownTensorOverhead) {
    throw new Error(
      `Cannot use ggml ${version} in "${directory}": a tensor takes ${overhead} bytes, ${knownTensorOverhead} are wanted (ggml 0.9 to 0.25)`,
    );
  }
  // ggml prints its log to standard error; a function that takes nothing and does nothing silences it.
  symbols.ggml_log_set(symbols.timeInitAddress, null);
  if (Number(symbols.ggml_backend_reg_count()) === 0) symbols.ggml_backend_load_all_from_path(directory);
  const devices = listDevices(symbols);
  if (!devices.some((device) => device.kind === "cpu")) {
    throw new Error(`Cannot use ggml in "${directory}": it holds no CPU backend for this machine`);
  }
  const procs = new Map<string, Bound | undefined>();
  const ggml: Ggml = {
    directory,
    version,
    symbols,
    devices,
    live: { contexts: 0, buffers: 0, bufferBytes: 0, backends: 0 },
    proc(device, name) {
      const key = `${device.backend} ${name}`;
      if (!procs.has(key)) {
        const registry = symbols.ggml_backend_dev_backend_reg(device.pointer);
        const address = symbols.ggml_backend_reg_get_proc_address(registry, name);
        const found = address
          ? (koffi.decode(address, koffi.proto(procPrototypes[name].replace(`${name}(`, "("))) as Bound)
          : undefined;
        procs.set(key, found);
      }
      return procs.get(key);
    },
  };
  loaded.set(directory, ggml);
  return ggml;
}

/** Kinds whose library lies in the folder and has found no device: it does not load, or there is no driver. */
export function kindsWithoutDevice({ directory, devices }: Pick<Ggml, "directory" | "devices">): BuildKind[] {
  return buildKinds.filter(
    (kind) =>
      findLibrary(directory, `ggml-${kind}`) !== undefined &&
      !devices.some(({ backend }) => backendNames[kind].test(backend)),
  );
}

/** The names of its devices, as messages say them. */
export function deviceNames({ devices }: Pick<Ggml, "devices">): string {
  return devices.map(({ name }) => `"${name}"`).join(", ");
}

function listDevices(symbols: Symbols): Device[] {
  return Array.from({ length: Number(symbols.ggml_backend_dev_count()) }, (_, index) => {
    const pointer = symbols.ggml_backend_dev_get(index);
    const description = String(symbols.ggml_backend_dev_description(pointer));
    return {
      pointer,
      name: String(symbols.ggml_backend_dev_name(pointer)),
      description,
      isSoftware: softwareDevices.test(description),
      backend: String(symbols.ggml_backend_reg_name(symbols.ggml_backend_dev_backend_reg(pointer))),
      kind: deviceKinds[Number(symbols.ggml_backend_dev_type(pointer))] ?? "accelerator",
      memoryBytes: memoryNow(symbols, pointer),
    };
  });
}

/** A device's memory by its own figures, as it is now; zeros where it does not tell. */
export function memoryNow(symbols: Symbols, device: Pointer): Device["memoryBytes"] {
  const [free, total] = [[0], [0]];
  symbols.ggml_backend_dev_memory(device, free, total);
  return { free: Number(free[0]), total: Number(total[0]) };
}

/** A device's native backend, given back by disposing. */
export interface NativeBackend extends Disposable {
  readonly pointer: Pointer;
}

/** @throws Error if the device does not start. */
export function startBackend({ symbols, live }: Ggml, device: Device): NativeBackend {
  const pointer = symbols.ggml_backend_dev_init(device.pointer, null);
  if (!pointer) throw new Error(`Cannot start device "${device.name}" (${device.description})`);
  live.backends += 1;
  return {
    pointer,
    [Symbol.dispose]: () => {
      symbols.ggml_backend_free(pointer);
      live.backends -= 1;
    },
  };
}

/** The CPU's features that ggml was compiled for and uses, for instance ["AVX2", "F16C"]. */
export function cpuFeatures(ggml: Ggml): string[] {
  const cpu = ggml.devices.find((device) => device.kind === "cpu");
  const get = cpu && ggml.proc(cpu, "ggml_backend_get_features");
  if (!cpu || !get) return [];
  const list = get(ggml.symbols.ggml_backend_dev_backend_reg(cpu.pointer));
  const names: string[] = [];
  // An array of pairs of C strings that ends with a null name.
  for (let offset = 0; ; offset += 16) {
    const name = koffi.decode(list, offset, "void *") as Pointer | null;
    if (!name) return names;
    const value = koffi.decode.string(koffi.decode(list, offset + 8, "void *"));
    names.push(value === "1" ? koffi.decode.string(name) : `${koffi.decode.string(name)}=${value}`);
  }
}
