import type { Redis, RedisOptions } from "iovalkey";
import type { RemoteObject, RemoteObjects } from "./remote-objects.js";

/** The largest value of Redis. */
const maxValueBytes = 512 * 2 ** 20;
/** Keys that are looked at in one round trip. */
const keysAtATime = 512;

/** Objects in Valkey or Redis, one server, which may be a replicated one's primary. Reads and writes have a connection each, made when it is needed. */
export class RedisObjects implements RemoteObjects {
  readonly name = "redis";
  readonly maxBytes = maxValueBytes;
  readonly address: string;
  readonly #options: RedisOptions;
  readonly #clients = new Map<"reads" | "writes", Promise<Redis>>();

  private constructor(
    url: URL,
    timeoutMs: number,
    private readonly prefix: string,
    private readonly Client: typeof Redis,
  ) {
    const { hostname, port, username, password, pathname, protocol } = url;
    // A URL has an IPv6 address in brackets.
    const host = hostname.replace(/^\[(.*)\]$/, "$1");
    this.address = `${protocol}//${url.host}${pathname}`;
    this.#options = {
      ...{ host, port: port === "" ? 6379 : Number(port), db: Number(pathname.slice(1)) },
      ...(username !== "" && { username: decodeURIComponent(username) }),
      ...(password !== "" && { password: decodeURIComponent(password) }),
      ...(protocol === "rediss:" && { tls: { servername: host } }),
      ...{ connectTimeout: timeoutMs, lazyConnect: true, enableReadyCheck: false, enableOfflineQueue: false },
      // Who asks decides when it is tried again.
      ...{ retryStrategy: () => null, maxRetriesPerRequest: 0, autoResendUnfulfilledCommands: false },
    };
  }

  /**
   * @param url redis://[user:password@]host[:port][/database], or rediss: with TLS.
   * @throws Error where the package "iovalkey" is not installed.
   */
  static async open(url: URL, { timeoutMs, prefix }: { timeoutMs: number; prefix: string }): Promise<RedisObjects> {
    const { Redis } = await import("iovalkey").catch(() => {
      throw new Error('Cannot use a Redis store: the package "iovalkey" is missing, wanted "npm install iovalkey"');
    });
    return new RedisObjects(url, timeoutMs, prefix, Redis);
  }

  async get(key: string, count: number, position: number, signal: AbortSignal): Promise<Uint8Array | undefined> {
    const bytes = await this.#use("reads", signal, (client) =>
      client.getrangeBuffer(this.#named(key), position, position + count - 1),
    ).catch((error: Error) => {
      if (this.isAnswer(error) && error.message.startsWith("WRONGTYPE")) return undefined;
      throw error;
    });
    // Of another type: it is no object, and one may take its place.
    if (bytes === undefined) return new Uint8Array();
    // No key has an empty value here.
    return bytes.length === 0 ? undefined : bytes;
  }

  async touch(key: string, signal: AbortSignal): Promise<boolean> {
    return (await this.#use("writes", signal, (client) => client.touch(this.#named(key)))) > 0;
  }

  async put(key: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    const { buffer, byteOffset, byteLength } = bytes;
    await this.#use("writes", signal, (client) =>
      client.set(this.#named(key), Buffer.from(buffer, byteOffset, byteLength)),
    );
  }

  async remove(key: string, signal: AbortSignal): Promise<boolean> {
    return (await this.#use("writes", signal, (client) => client.unlink(this.#named(key)))) > 0;
  }

  async *list(signal: AbortSignal, within = ""): AsyncGenerator<RemoteObject> {
    const pattern = `${this.#named(within).replace(/[\\*?[\]]/g, "\\$&")}*`;
    const seen = new Set<string>();
    for (let cursor = "0", isFirst = true; isFirst || cursor !== "0"; isFirst = false) {
      const [next, found] = await this.#use("reads", signal, (client) =>
        client.scan(cursor, "MATCH", pattern, "COUNT", keysAtATime),
      );
      cursor = next;
      // A scan may give a key again.
      const keys = found.filter((key) => !seen.has(key));
      for (const key of keys) seen.add(key);
      const facts = await this.#use("reads", signal, (client) =>
        Promise.all(
          keys.map(async (key) => {
            // Servers that evict by frequency do not tell it.
            const idle = client.object("IDLETIME", key).catch(() => 0);
            return { key, size: await client.strlen(key), usedMs: Date.now() - 1000 * Number(await idle) };
          }),
        ),
      );
      for (const one of facts) if (one.size > 0) yield { ...one, key: one.key.slice(this.#named("").length) };
    }
  }

  isAnswer(error: unknown): boolean {
    return (error as Error).name === "ReplyError";
  }

  #named(key: string): string {
    return `${this.prefix}:${key}`;
  }

  /** After an aborted operation the connection is closed: what it still sends is of no use. */
  async #use<T>(kind: "reads" | "writes", signal: AbortSignal, use: (client: Redis) => Promise<T>): Promise<T> {
    const client = await this.#connected(kind);
    signal.throwIfAborted();
    const end = () => client.disconnect();
    signal.addEventListener("abort", end, { once: true });
    try {
      return await use(client);
    } finally {
      signal.removeEventListener("abort", end);
    }
  }

  async #connected(kind: "reads" | "writes"): Promise<Redis> {
    const known = this.#clients.get(kind);
    if (known !== undefined) return await known;
    const client = new this.Client(this.#options);
    const connecting = client.connect().then(() => client);
    this.#clients.set(kind, connecting);
    client.on("end", () => {
      if (this.#clients.get(kind) === connecting) this.#clients.delete(kind);
    });
    // Who asks is told: without a listener they are printed.
    let reason: Error | undefined;
    client.on("error", (error: Error) => {
      reason = error;
    });
    return await connecting.catch((error: Error) => {
      if (this.#clients.get(kind) === connecting) this.#clients.delete(kind);
      throw reason ?? error;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const clients = [...this.#clients.values()];
    this.#clients.clear();
    for (const client of clients) (await client.catch(() => undefined))?.disconnect();
  }
}
