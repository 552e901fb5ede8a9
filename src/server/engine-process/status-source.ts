import type { HostStatus } from "../engine-host.js";

/** A status, and those who want to know when it changes. */
export class StatusSource {
  readonly #listeners = new Set<{ readonly tell: (status: HostStatus) => void }>();
  #status: HostStatus;

  constructor(status: HostStatus) {
    this.#status = status;
  }

  get current(): HostStatus {
    return this.#status;
  }

  change(status: Partial<HostStatus>): void {
    this.#status = { ...this.#status, ...status };
    for (const { tell } of [...this.#listeners]) tell(this.#status);
  }

  /** @returns ends the listening; again does nothing. */
  listen(listener: (status: HostStatus) => void): () => void {
    // An entry of its own, so that one function may listen twice.
    const entry = { tell: listener };
    this.#listeners.add(entry);
    return () => this.#listeners.delete(entry);
  }
}
