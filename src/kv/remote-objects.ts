/** An object as a list of them has it. */
export interface RemoteObject {
  readonly key: string;
  readonly size: number;
  /** When it was used or written last, as far as the server says. */
  readonly usedMs: number;
}

/** A server that keeps bytes under keys. Operations reject where it cannot be reached or refuses; an aborted signal ends them. */
export interface RemoteObjects extends AsyncDisposable {
  /** As metrics have it. */
  readonly name: "redis" | "s3";
  /** Where it is, without what is secret. */
  readonly address: string;
  /** The largest object. */
  readonly maxBytes: number;
  /** So many bytes from a place on, fewer where it ends before; undefined where there is no such object. */
  get(key: string, count: number, position: number, signal: AbortSignal): Promise<Uint8Array | undefined>;
  /** Whether it is there; counts as a use. */
  touch(key: string, signal: AbortSignal): Promise<boolean>;
  put(key: string, bytes: Uint8Array, signal: AbortSignal): Promise<void>;
  /** @returns whether it was there. */
  remove(key: string, signal: AbortSignal): Promise<boolean>;
  /** @param within what keys begin with. Default: all. */
  list(signal: AbortSignal, within?: string): AsyncIterable<RemoteObject>;
  /** Whether the server itself answered with this error. */
  isAnswer(error: unknown): boolean;
}
