export interface EngineStatus {
  /** `loading` before the first load is done, `restarting` after a death; `failed` where the first load failed or files changed under it. */
  readonly state: "loading" | "ready" | "restarting" | "failed" | "closed";
  /** How often the engine was started again. */
  readonly restarts: number;
  /** What went wrong last, one line. */
  readonly lastError?: string | undefined;
  /** The servers that compute, where there are such. */
  readonly replicas?: readonly ReplicaStatus[];
}

/** A server that computes answers for this one. */
export interface ReplicaStatus {
  readonly url: string;
  /** Requests that it has. */
  readonly running: number;
  /** Why it gets none now; undefined where it gets them. */
  readonly downReason?: string | undefined;
}

/** A status and its listeners. */
export class StatusSource {
  readonly #listeners = new Set<{ readonly tell: (status: EngineStatus) => void }>();

  constructor(private status: EngineStatus) {}

  get current(): EngineStatus {
    return this.status;
  }

  change(status: Partial<EngineStatus>): void {
    this.status = { ...this.status, ...status };
    for (const { tell } of [...this.#listeners]) tell(this.status);
  }

  /** @returns ends the listening; again does nothing. */
  listen(listener: (status: EngineStatus) => void): () => void {
    // An entry of its own, so that one function may listen twice.
    const entry = { tell: listener };
    this.#listeners.add(entry);
    return () => this.#listeners.delete(entry);
  }
}
