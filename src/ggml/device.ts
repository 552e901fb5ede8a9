import { CpuBackend, maxThreads } from "./cpu/cpu-backend.js";
import { CpuPolicy } from "./cpu/cpu-policy.js";
import { type DevicePolicy, plainPolicy } from "./device-policy.js";
import { type Device, type Ggml, type NativeBackend, startBackend } from "./library.js";

export interface BackendOptions {
  /** ggml's name of the device, for instance "CPU" or "CUDA0"; the first GPU of the library, else the CPU, where left out. */
  readonly device?: string;
  /** CPU threads, 1 to 512. */
  readonly threads: number;
  /** Whether graphs get fewer threads while other programs use the cores. Default false. */
  readonly adaptsThreads?: boolean;
}

/** A started device and the CPU, which computes what the device cannot. It owns the native backends. */
export class StartedDevice implements Disposable {
  readonly device: Device;
  readonly cpu: CpuBackend;
  /** The device's, then the CPU's where that is another. */
  readonly backends: readonly NativeBackend[];
  readonly policy: DevicePolicy;

  /** @throws RangeError for a device that the library does not have, or a wrong number of threads. */
  constructor(
    readonly ggml: Ggml,
    { device, threads, adaptsThreads }: BackendOptions,
  ) {
    if (!Number.isInteger(threads) || threads < 1 || threads > maxThreads) {
      throw new RangeError(`Cannot use ${threads} threads: an integer from 1 to ${maxThreads} is wanted`);
    }
    this.device = chooseDevice(ggml, device);
    this.cpu = new CpuBackend(ggml, threads, adaptsThreads);
    const { device: cpu } = this.cpu;
    this.policy = this.device === cpu ? new CpuPolicy(ggml, cpu, threads) : plainPolicy(ggml, this.device, cpu);
    try {
      this.backends = this.device === cpu ? [this.cpu] : [startBackend(ggml, this.device), this.cpu];
    } catch (error) {
      this.cpu[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    for (const backend of this.backends) backend[Symbol.dispose]();
  }
}

function chooseDevice(ggml: Ggml, name: string | undefined): Device {
  if (name === undefined) return (ggml.devices.find((device) => device.kind === "gpu") ?? ggml.devices[0]) as Device;
  const found = ggml.devices.find((device) => device.name.toLowerCase() === name.toLowerCase());
  if (found !== undefined) return found;
  const known = ggml.devices.map((device) => `"${device.name}"`).join(", ");
  throw new RangeError(`Cannot use device "${name}": ggml ${ggml.version} found ${known}`);
}
