import { BlockKV, type BlockKVShape, type BlockMemory, blockKVByteLength } from "./block-kv.js";

/** Gives out block memory for tests and counts it: every piece goes back exactly once. */
export class MemoryLedger {
  numLive = 0;
  liveBytes = 0;
  numMade = 0;

  allocate(byteLength: number): BlockMemory {
    const bytes = new Uint8Array(byteLength);
    let isLive = true;
    this.numLive += 1;
    this.liveBytes += byteLength;
    this.numMade += 1;
    const check = (): void => {
      if (!isLive) throw new Error("Cannot use block memory: it was disposed");
    };
    return {
      byteLength,
      read: () => {
        check();
        return bytes.slice();
      },
      write: (source, offset) => {
        check();
        bytes.set(source, offset);
        return undefined;
      },
      [Symbol.dispose]: () => {
        check();
        isLive = false;
        this.numLive -= 1;
        this.liveBytes -= byteLength;
      },
    };
  }

  /** A block whose every byte is `fill`. */
  block(shape: BlockKVShape, fill = 0): BlockKV {
    const memory = this.allocate(blockKVByteLength(shape));
    memory.write(new Uint8Array(memory.byteLength).fill(fill));
    return new BlockKV(shape, memory);
  }
}
