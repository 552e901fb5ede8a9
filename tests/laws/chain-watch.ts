import { expect } from "vitest";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import type { TokenizedPrompt } from "../../src/engine/prompt.js";
import { type PromptPart, promptParts } from "../../src/engine/prompt-parts.js";
import type { BlockId, ContextId } from "../../src/kv/block-id.js";
import { commonLength } from "../../src/kv/block-index.js";
import { BLOCK_KV_FORMAT_VERSION } from "../../src/kv/block-kv.js";
import type { BlockRequest } from "../../src/kv/block-store.js";
import { MemoryStore } from "../../src/kv/memory-store.js";

/** A prompt whose pages may be kept, and its answers. */
interface Kept {
  readonly prompt: TokenizedPrompt;
  readonly salt: string;
  readonly positionReencoding: boolean;
  readonly answers: readonly { readonly tokenIds: readonly number[] }[];
}

/** Looks, whenever a store is asked for something, at what it holds. */
export class ChainWatch {
  readonly #requests = new Map<BlockId, BlockRequest>();
  readonly #deleted = new Set<BlockId>();
  readonly #looks: Promise<BlockId[]>[] = [];
  readonly #end: () => void;

  constructor(private readonly engine: LocalEngine) {
    const { prototype } = MemoryStore;
    const { acquire, longestMatch, lease } = prototype;
    const watch = this;
    prototype.acquire = function (requests, options) {
      for (const request of requests) watch.#requests.set(request.id, request);
      watch.#look(this);
      return acquire.call(this, requests, options) as never;
    };
    prototype.longestMatch = function (wanted, options) {
      watch.#look(this);
      return longestMatch.call(this, wanted, options) as never;
    };
    prototype.lease = function (id) {
      watch.#look(this);
      return lease.call(this, id) as never;
    };
    this.#end = () => Object.assign(prototype, { acquire, longestMatch, lease });
  }

  async deleteBlock(id: BlockId, salt: string): Promise<void> {
    this.#deleted.add(id);
    await this.engine.deleteBlock(id, { salt });
  }

  /** Looking is no use of a block. All are looked up before anything else happens. */
  #look(store: MemoryStore): void {
    const found = [...this.#requests.values()].map(async ({ id, owner }) => (await store.find(id, owner)) && id);
    this.#looks.push(Promise.all(found).then((ids) => ids.filter((id) => id !== undefined)));
  }

  /**
   * Expects that whenever a page was there, so was all that it stands on: blocks, and pages that begin with the tokens that are
   * wanted. What was deleted may be missing.
   *
   * @returns how many pages were looked at, each as often as it was.
   */
  async expectChains(all: readonly Kept[]): Promise<number> {
    const model = await this.engine.model.identity;
    const { kvType } = this.engine;
    const before = new Map<ContextId, readonly PromptPart[]>();
    for (const { prompt, salt, positionReencoding, answers } of all) {
      const fields = { model, kvType, formatVersion: BLOCK_KV_FORMAT_VERSION, salt };
      for (const { tokenIds } of [{ tokenIds: [] }, ...answers]) {
        const parts: PromptPart[] = [];
        for (const part of promptParts(prompt, fields, { positionReencoding }, tokenIds)) {
          if (part.kind === "page") before.set(part.context, [...parts]);
          parts.push(part);
        }
      }
    }
    let numPages = 0;
    for (const found of await Promise.all(this.#looks)) {
      const ids = new Set(found);
      const pages = found.map((id) => this.#requests.get(id) as BlockRequest).filter(({ isPage }) => isPage);
      const isThere = (part: PromptPart): boolean =>
        part.kind === "block"
          ? ids.has(part.id) || this.#deleted.has(part.id)
          : pages.some(
              ({ context, tokenIds }) =>
                context === part.context && commonLength(tokenIds, part.tokenIds) === part.tokenIds.length,
            );
      for (const page of pages) {
        numPages += 1;
        const chain = before.get(page.context as ContextId);
        expect(chain, "what a page stands on").toBeDefined();
        const missing = chain?.filter((part) => !isThere(part)).map(({ kind, place }) => ({ kind, place }));
        expect(missing, `what a page of ${page.tokenIds.length} tokens stands on`).toEqual([]);
      }
    }
    return numPages;
  }

  [Symbol.dispose](): void {
    this.#end();
  }
}
