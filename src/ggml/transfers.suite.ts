import { vi } from "vitest";
import type { Ggml } from "./library.js";

/** What moved between JavaScript's memory and the device's, by calls of ggml. */
export interface Transfers {
  /** Copies that were waited for, one by one. */
  readonly set: number;
  /** Copies that the device has in its queue. */
  readonly queued: number;
  /** Waits for the queue before the graph. */
  readonly waits: number;
  readonly read: number;
  readonly readBytes: number;
  /** The parts of the last graph that got memory: between two of them devices wait for each other. */
  readonly parts: number;
}

/** Counts what moves while `work` runs. */
export async function transfersOf({ symbols }: Ggml, work: () => Promise<unknown>): Promise<Transfers> {
  const names = ["tensor_set", "tensor_set_async", "synchronize", "tensor_get", "sched_alloc_graph"] as const;
  const spies = names.map((name) => vi.spyOn(symbols, `ggml_backend_${name}`));
  try {
    await work();
    const [set, queued, waits, read] = spies.map(({ mock }) => mock.calls.length) as [number, number, number, number];
    const [, , , reads, allocated] = spies.map(({ mock }) => mock.calls);
    const readBytes = reads?.reduce((sum, call) => sum + (call[3] as number), 0) ?? 0;
    const schedule = allocated?.at(-1)?.[0] as bigint | undefined;
    const parts = schedule === undefined ? 0 : Number(symbols.ggml_backend_sched_get_n_splits(schedule));
    return { set, queued, waits, read, readBytes, parts };
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}
