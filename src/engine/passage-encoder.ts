import type { PassageInput } from "../blocks/passage.js";
import type { BlockStore } from "../kv/block-store.js";
import type { DocumentEntry, Documents } from "../kv/documents.js";
import type { Admission } from "./admission.js";
import { CallDocuments } from "./call-documents.js";
import type { DeviceBlockMemory } from "./device-memory.js";
import { checkInput } from "./engine-error.js";
import type { EncodeOptions } from "./engine-options.js";
import type { LocalBlock, LocalBlocks } from "./local-blocks.js";
import type { RequestChecks, Terms } from "./request-checks.js";
import type { RequestTokens } from "./request-tokens.js";
import type { EncodedPassage, EncodeResult, FailedPassage, ServedBlock } from "./results.js";
import { unlessAborted } from "./task.js";

/** Passages leased at a time while encoding for an index. */
const batchSize = 64;

/** What passages are encoded with. */
export interface PassageEncoderParts {
  readonly checks: RequestChecks;
  readonly admission: Admission;
  readonly tokens: RequestTokens;
  readonly blocks: LocalBlocks;
  readonly store: BlockStore<DeviceBlockMemory>;
  readonly documents: Documents;
  /** Where blocks outlive the process: resolves once they can be kept there. */
  readonly lasting?: (() => Promise<unknown>) | undefined;
}

/** Encodes passages ahead, and keeps which documents they are of. */
export class PassageEncoder {
  constructor(private readonly parts: PassageEncoderParts) {}

  async encode(passages: readonly PassageInput[], options: EncodeOptions): Promise<EncodeResult> {
    const { checks, admission, tokens } = this.parts;
    const leaving = new AbortController();
    const { terms, onBlock, ...rule } = checkInput(() => checks.encode(options, leaving));
    // What is told to be durable is not evicted for what the same call encodes after it.
    const holds: Disposable[] = [];
    const encoding = admission.run(terms, async (ticket) => {
      const { signal } = terms;
      const tokenized = await tokens.passages(passages, rule, terms);
      const documents = checkInput(() => new CallDocuments(passages, tokenized));
      const numTokens = tokenized.filter(isLocal).reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
      await ticket.enter(numTokens, signal);
      const encoded: EncodedPassage[] = [];
      const report = async (block: EncodedPassage): Promise<void> => {
        encoded.push(block);
        try {
          if (onBlock !== undefined) await unlessAborted(Promise.resolve(onBlock(block)), signal);
        } catch (error) {
          // The call ends with what its caller threw.
          leaving.abort(error);
        }
        signal.throwIfAborted();
      };
      for (let first = 0; first < tokenized.length; first += batchSize) {
        const batch = tokenized.slice(first, first + batchSize);
        const local = batch.filter(isLocal);
        const served = await this.#served(local, terms, holds);
        const names = await this.parts.blocks.namesOf(local, terms);
        for (const [i, { id, tokens }] of served.entries()) {
          documents.add(local[i] as LocalBlock, { id, tokens, name: names[i] as string });
        }
        const lost = await this.#keepDocuments(documents.take(first + batchSize), terms.owner);
        const told = served.map((one) => (one.durable && lost.has(one.passage?.id) ? { ...one, durable: false } : one));
        const next = told.values();
        for (const one of batch) await report(isLocal(one) ? (next.next().value as EncodedPassage) : one);
      }
      return { blocks: encoded, failed: encoded.filter(({ error }) => error !== undefined).length };
    });
    return await encoding.finally(() => giveBack(holds));
  }

  /** Finds or encodes blocks, which stay in the store while it has room, and where they outlive the process are there then. */
  async #served(blocks: readonly LocalBlock[], terms: Terms, holds: Disposable[]): Promise<readonly ServedBlock[]> {
    const { store, lasting } = this.parts;
    using leased = await this.parts.blocks.lease(blocks, { ...terms, isPatient: true });
    if (lasting === undefined) return leased.served;
    await unlessAborted(lasting(), terms.signal);
    const keeping = Promise.all(leased.served.map(({ id }) => store.keep(id, holds)));
    // An aborted call does not wait for what is being written.
    void keeping.finally(() => terms.signal.aborted && giveBack(holds)).catch(() => undefined);
    const kept = await unlessAborted(keeping, terms.signal);
    return leased.served.map((one, i) => ({ ...one, durable: kept[i] as boolean }));
  }

  /** @returns the ids of those that could not be kept. */
  async #keepDocuments(entries: readonly DocumentEntry[], owner: string): Promise<ReadonlySet<unknown>> {
    try {
      if (entries.length > 0) await this.parts.documents.put(owner, entries);
      return new Set();
    } catch {
      return new Set(entries.map(({ id }) => id));
    }
  }
}

function isLocal(one: LocalBlock | FailedPassage): one is LocalBlock {
  return !("error" in one);
}

function giveBack(holds: Disposable[]): void {
  for (const hold of holds.splice(0)) hold[Symbol.dispose]();
}
