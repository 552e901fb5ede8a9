import { totalmem } from "node:os";

/** The bytes that this process may use: the machine's, or fewer where a container or a service is held to a limit. */
export function usableMemory(machineBytes = totalmem(), limitBytes = process.constrainedMemory()): number {
  // 0, or a number no machine has: no limit.
  return limitBytes > 0 ? Math.min(machineBytes, limitBytes) : machineBytes;
}

/**
 * The default limit of kept blocks, and that of contexts: a quarter each of what the weights leave of memory.
 *
 * Weights may be larger than memory (on a device with its own, or swapped out), so each has a 32nd of memory at least.
 *
 * @example memoryShare(1.5 * 2 ** 30, 2 ** 31) is 2 ** 27: 128 MiB of the 512 that 1.5 GiB of weights leave in a container of 2 GiB
 */
export function memoryShare(weightBytes: number, memoryBytes = usableMemory()): number {
  return Math.floor(Math.max((memoryBytes - weightBytes) / 4, memoryBytes / 32));
}
