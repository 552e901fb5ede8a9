import { CpuBackend, maxThreads } from "./cpu/cpu-backend.js";
import { CpuPolicy } from "./cpu/cpu-policy.js";
import { type DevicePolicy, plainPolicy } from "./device-policy.js";
import {
  type BackendKind,
  backendNames,
  type Device,
  deviceNames,
  type Ggml,
  type NativeBackend,
  startBackend,
} from "./library.js";
import type { OpenVino } from "./openvino/library.js";
import { OpenVinoProducts } from "./openvino/products.js";

export interface BackendOptions {
  /** Of which kind the device is to be. Default "auto": any. */
  readonly backend?: BackendKind | undefined;
  /** ggml's name of the device, for instance "CPU" or "CUDA0". Default: the first GPU that is no software, else the CPU. */
  readonly device?: string | undefined;
  /** CPU threads, 1 to 512. */
  readonly threads: number;
  /** Whether graphs get fewer threads while other programs use the cores. Default false. */
  readonly adaptsThreads?: boolean;
  /** What multiplies by quantized weights on the CPU in place of ggml. Default: nothing. */
  readonly openVino?: OpenVino | undefined;
}

/** A started device and the CPU, which computes what the device cannot. It owns the native backends. */
export class StartedDevice implements Disposable {
  readonly device: Device;
  readonly cpu: CpuBackend;
  /** The device's, then the CPU's where that is another. */
  readonly backends: readonly NativeBackend[];
  readonly policy: DevicePolicy;
  readonly #products: OpenVinoProducts | undefined;

  /** @throws RangeError for a device that the library does not have, or a wrong number of threads. */
  constructor(
    readonly ggml: Ggml,
    { device, backend, threads, adaptsThreads, openVino }: BackendOptions,
  ) {
    if (!Number.isInteger(threads) || threads < 1 || threads > maxThreads) {
      throw new RangeError(`Cannot use ${threads} threads: an integer from 1 to ${maxThreads} is wanted`);
    }
    this.device = chooseDevice(ggml, device, backend);
    const isCpu = this.device.kind === "cpu";
    this.#products = openVino && isCpu ? new OpenVinoProducts(openVino, threads) : undefined;
    this.cpu = new CpuBackend(ggml, threads, adaptsThreads);
    const { device: cpu } = this.cpu;
    try {
      this.policy = isCpu
        ? new CpuPolicy(ggml, cpu, threads, undefined, this.#products)
        : plainPolicy(ggml, this.device, cpu);
      this.backends = this.device === cpu ? [this.cpu] : [startBackend(ggml, this.device), this.cpu];
    } catch (error) {
      this.cpu[Symbol.dispose]();
      this.#products?.[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    for (const backend of this.backends) backend[Symbol.dispose]();
    this.#products?.[Symbol.dispose]();
  }
}

/** @throws RangeError that names the devices there are. */
export function chooseDevice(
  ggml: Pick<Ggml, "directory" | "version" | "devices">,
  name: string | undefined,
  kind: BackendKind = "auto",
): Device {
  const found = `ggml ${ggml.version} in "${ggml.directory}" found ${deviceNames(ggml)}`;
  const devices = ggml.devices.filter((device) => kind === "auto" || backendNames[kind].test(device.backend));
  if (devices.length === 0) throw new RangeError(`Cannot use backend "${kind}": it has no device here, ${found}`);
  if (name !== undefined) {
    const named = devices.find((device) => device.name.toLowerCase() === name.toLowerCase());
    if (named !== undefined) return named;
    throw new RangeError(`Cannot use device "${name}"${kind === "auto" ? "" : ` of backend "${kind}"`}: ${found}`);
  }
  for (const wanted of ["gpu", "integrated-gpu", "cpu"] as const) {
    const first = devices.find((device) => device.kind === wanted && !device.isSoftware);
    if (first !== undefined) return first;
  }
  throw new RangeError(`Cannot use backend "${kind}" unless a device is named: ${found}, none of them a GPU`);
}
