import { InputRangeError } from "../../files/input-error.js";
import { ApiError } from "../api-error.js";
import type { ResponseAnswer } from "./responses-answer.js";
import type { ResponseItem } from "./responses-request.js";

interface Kept {
  /** The request's own items, as JSON. */
  readonly input: Buffer;
  /** The items of the answer, as JSON. */
  readonly output: Buffer;
  /** The response without its output, as JSON. */
  readonly response: Buffer;
  readonly previous: string | undefined;
  readonly itemIds: readonly string[];
  readonly numBytes: number;
  readonly usedAt: number;
}

interface Owner {
  /** By id, the one that was used the longest ago first; what a response goes on from was used after it. */
  readonly responses: Map<string, Kept>;
  /** The response that holds an item. */
  readonly items: Map<string, string>;
  numBytes: number;
}

export interface KeptResponsesOptions {
  /** Of all owners. */
  readonly maxBytes: number;
  /** How long one is kept that nobody uses, in milliseconds. */
  readonly maxMs: number;
  /** In milliseconds. */
  readonly now: () => number;
}

/** About what a response takes beside its JSON. */
const overheadBytes = 1024;

/**
 * Responses that others may go on from, as JSON in memory: each owner's are out of reach for all others. Where there are too many
 * bytes, the owner with the most loses the one that was used the longest ago; a response goes before those it stands on.
 */
export class KeptResponses {
  readonly #owners = new Map<string, Owner>();
  #numBytes = 0;

  constructor(private readonly options: KeptResponsesOptions) {
    const { maxBytes, maxMs } = options;
    if (!(maxBytes >= 0 && maxMs > 0))
      throw new InputRangeError(`Cannot keep responses: the limits are ${maxBytes} bytes and ${maxMs} ms, wanted more`);
  }

  get numBytes(): number {
    return this.#numBytes;
  }

  /** @returns whether it is kept: one that is larger than the limit is not. */
  put(owner: string, response: ResponseAnswer, input: readonly ResponseItem[]): boolean {
    this.#expire();
    const { output, ...rest } = response;
    const [inputJson, outputJson, json] = [input, output, rest].map((one) => Buffer.from(JSON.stringify(one)));
    const itemIds = [...input, ...output].flatMap(({ id }) => (id == null ? [] : [id]));
    const numIdBytes = itemIds.reduce((sum, id) => sum + 4 * id.length, 0);
    const numBytes = overheadBytes + inputJson!.length + outputJson!.length + json!.length + numIdBytes;
    if (numBytes > this.options.maxBytes) return false;
    const mine = this.#owners.get(owner) ?? { responses: new Map(), items: new Map(), numBytes: 0 };
    this.#owners.set(owner, mine);
    const kept = { input: inputJson!, output: outputJson!, response: json!, itemIds, numBytes };
    const previous = response.previous_response_id ?? undefined;
    mine.responses.set(response.id, { ...kept, previous, usedAt: this.options.now() });
    for (const id of itemIds) mine.items.set(id, response.id);
    mine.numBytes += numBytes;
    this.#numBytes += numBytes;
    this.#use(owner, response.id);
    while (this.#numBytes > this.options.maxBytes) {
      const [most, { responses }] = [...this.#owners].reduce((a, b) => (b[1].numBytes > a[1].numBytes ? b : a));
      this.#forget(most, responses.keys().next().value as string);
    }
    return true;
  }

  /** @throws ApiError 404 where the owner has none of this id. */
  get(owner: string, id: string): { readonly response: ResponseAnswer; readonly input: readonly ResponseItem[] } {
    this.#expire();
    const kept = this.#kept(owner, id, "id");
    this.#use(owner, id);
    const response = { ...JSON.parse(kept.response.toString()), output: JSON.parse(kept.output.toString()) };
    return { response, input: itemsOf(kept.input) };
  }

  /** All that was said up to a response's end. @throws ApiError 404 where it, or one that it goes on from, is not kept. */
  conversation(owner: string, id: string): ResponseItem[] {
    this.#expire();
    const turns: ResponseItem[][] = [];
    for (let next: string | undefined = id; next !== undefined; ) {
      const kept: Kept = this.#kept(owner, next, "previous_response_id");
      turns.unshift([...itemsOf(kept.input), ...itemsOf(kept.output)]);
      next = kept.previous;
    }
    this.#use(owner, id);
    return turns.flat();
  }

  /** The items, with kept ones in place of references. @throws ApiError 404 where the owner has none of an id. */
  resolve(owner: string, items: readonly ResponseItem[]): ResponseItem[] {
    this.#expire();
    const mine = this.#owners.get(owner);
    const read = new Map<string, ReadonlyMap<unknown, ResponseItem>>();
    return items.map((item) => {
      if (item.type !== "item_reference") return item;
      const holder = mine?.items.get(item.id as string);
      const kept = holder === undefined ? undefined : mine?.responses.get(holder);
      if (holder === undefined || kept === undefined) throw notFound("item", item.id as string, "input");
      if (!read.has(holder)) {
        const all = [...itemsOf(kept.input), ...itemsOf(kept.output)];
        read.set(holder, new Map(all.map((one) => [one.id, one])));
        this.#use(owner, holder);
      }
      return read.get(holder)?.get(item.id) as ResponseItem;
    });
  }

  /** @throws ApiError 404 where the owner has none of this id. */
  delete(owner: string, id: string): void {
    this.#expire();
    this.#kept(owner, id, "id");
    this.#forget(owner, id);
  }

  #forget(owner: string, id: string): void {
    const mine = this.#owners.get(owner);
    const kept = mine?.responses.get(id);
    if (mine === undefined || kept === undefined) return;
    mine.responses.delete(id);
    for (const item of kept.itemIds) if (mine.items.get(item) === id) mine.items.delete(item);
    mine.numBytes -= kept.numBytes;
    this.#numBytes -= kept.numBytes;
    if (mine.responses.size === 0) this.#owners.delete(owner);
  }

  #kept(owner: string, id: string, param: string): Kept {
    const kept = this.#owners.get(owner)?.responses.get(id);
    if (kept === undefined) throw notFound("response", id, param);
    return kept;
  }

  /** A response was used, and with it those that it stands on: these last, so that they go after it. */
  #use(owner: string, id: string): void {
    const responses = this.#owners.get(owner)?.responses;
    for (let next: string | undefined = id; next !== undefined; ) {
      const kept: Kept | undefined = responses?.get(next);
      if (responses === undefined || kept === undefined) return;
      responses.delete(next);
      responses.set(next, { ...kept, usedAt: this.options.now() });
      next = kept.previous;
    }
  }

  #expire(): void {
    const oldest = this.options.now() - this.options.maxMs;
    for (const [owner, { responses }] of this.#owners) {
      for (const [id, { usedAt }] of responses) {
        if (usedAt > oldest) break;
        this.#forget(owner, id);
      }
    }
  }
}

function itemsOf(json: Buffer): ResponseItem[] {
  return JSON.parse(json.toString()) as ResponseItem[];
}

function notFound(what: "response" | "item", id: string, param: string): ApiError {
  const message = `Cannot find the ${what} ${JSON.stringify(id.slice(0, 80))}: none of this id is kept, wanted one that was stored and not deleted, and not long ago`;
  return new ApiError(404, message, { code: `${what}_not_found`, param });
}
