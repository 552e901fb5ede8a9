import type { PassageLabel } from "../blocks/passage.js";
import type { KVType } from "../files/element-types.js";
import { type ModelIdFields, passageName } from "../kv/block-id.js";
import { BLOCK_KV_FORMAT_VERSION, type BlockKV } from "../kv/block-kv.js";
import type { BlockRequest, BlockStore } from "../kv/block-store.js";
import { type LeasedBlock, type LeasedBlocks, leaseBlocks } from "../kv/lease-blocks.js";
import { assemble } from "./assemble.js";
import { blockShape, type DeviceBlockMemory } from "./device-memory.js";
import { HeldRows } from "./held-rows.js";
import type { LoadedModel } from "./model.js";
import type { BlockTokens } from "./prompt.js";
import { localBlock, nameOfPassage } from "./prompt-parts.js";
import type { ServedBlock } from "./results.js";
import type { Nearest } from "./reuse-misses.js";
import type { Scheduler } from "./scheduler.js";
import { unlessAborted } from "./task.js";

/** A local block's tokens, and its passage if it is one. */
export interface LocalBlock extends BlockTokens {
  readonly passage?: PassageLabel | undefined;
}

/** A local block to find or to encode. */
type TokenBlock = BlockRequest & LocalBlock;

/** Whose blocks they are, and what gives them up. */
interface BlocksOf {
  readonly owner: string;
  readonly payer: string;
  readonly signal: AbortSignal;
  /** Whether what rests on a slow medium is waited for, where computing it would be faster. */
  readonly isPatient?: boolean | undefined;
}

/** Local blocks of requests: found in the store, or encoded. */
export class LocalBlocks {
  constructor(
    private readonly model: LoadedModel,
    private readonly kvType: KVType,
    private readonly store: BlockStore<DeviceBlockMemory>,
    private readonly scheduler: Scheduler,
  ) {}

  /** Leases blocks from the store, encodes those that it lacks, and reports how each was served. */
  async lease(
    blocks: readonly LocalBlock[],
    of: BlocksOf,
  ): Promise<LeasedBlocks<DeviceBlockMemory> & { readonly served: readonly ServedBlock[] }> {
    const requests = blocks.length > 0 ? await this.#requests(blocks, of) : [];
    const isAlone = ({ preamble }: TokenBlock) => preamble === undefined;
    const leaseAll = (some: readonly TokenBlock[]) =>
      leaseBlocks(this.store, some, (misses) => this.#encode(misses, of), { signal: of.signal });
    // A preamble may be one of the blocks.
    const alone = await leaseAll(requests.filter(isAlone));
    try {
      const behind = await leaseAll(requests.filter((request) => !isAlone(request)));
      const [nextAlone, nextBehind] = [alone.blocks.values(), behind.blocks.values()];
      const leased = requests.map(
        (request) => (isAlone(request) ? nextAlone : nextBehind).next().value as LeasedBlock<DeviceBlockMemory>,
      );
      const served = requests.map(({ id, passage, tokenIds }, i) => {
        const one = { id, tokens: tokenIds.length, hit: leased[i]?.fromStore === true };
        return passage === undefined ? one : { ...one, passage };
      });
      const giveBack = () => {
        behind[Symbol.dispose]();
        alone[Symbol.dispose]();
      };
      return { blocks: leased, served, [Symbol.dispose]: giveBack };
    } catch (error) {
      alone[Symbol.dispose]();
      throw error;
    }
  }

  /** The kept blocks that begin most like these. */
  async nearest(blocks: readonly LocalBlock[], of: BlocksOf): Promise<(Nearest | undefined)[]> {
    const found: (Nearest | undefined)[] = [];
    const { owner, signal } = of;
    const fields = await this.idFields(of);
    for (const block of blocks) {
      const { context } = localBlock(fields, block);
      using match = await this.store.longestMatch({ owner, tokenIds: block.tokenIds, context }, { signal });
      found.push(match && { tokenIds: match.tokenIds, numShared: match.numShared });
    }
    return found;
  }

  /** What ids of blocks and pages have in common. */
  async idFields({ owner, signal }: BlocksOf): Promise<ModelIdFields> {
    const model = await unlessAborted(this.model.identity, signal);
    return { model, kvType: this.kvType, formatVersion: BLOCK_KV_FORMAT_VERSION, salt: owner };
  }

  /** Names of the passages that blocks are. */
  async namesOf(blocks: readonly LocalBlock[], of: BlocksOf): Promise<readonly string[]> {
    const fields = await this.idFields(of);
    return blocks.map((block) => nameOfPassage(fields, block, this.model.tokenizer.bosTokenId));
  }

  async #requests(blocks: readonly LocalBlock[], of: BlocksOf): Promise<TokenBlock[]> {
    const fields = await this.idFields(of);
    const { bosTokenId } = this.model.tokenizer;
    return blocks.map((block) => {
      const named = localBlock(fields, block);
      const name = nameOfPassage(fields, block, bosTokenId);
      const shape = blockShape(this.model.decoder, this.kvType, block.tokenIds.length);
      const documents = passageName(named.id) === name ? undefined : [name];
      return { ...block, ...named, documents, shape, owner: of.owner, isPatient: of.isPatient };
    });
  }

  /** Encodes blocks, those with a preamble over its rows: of its own block, found or encoded as any other, turned to places from 0 on. */
  async *#encode(misses: readonly TokenBlock[], of: BlocksOf): AsyncGenerator<BlockKV<DeviceBlockMemory>> {
    for (let next = 0; next < misses.length; ) {
      const { preamble } = misses[next] as TokenBlock;
      const after = misses.findIndex((one, i) => i > next && !isSame(one.preamble, preamble));
      const tokens = misses.slice(next, after < 0 ? undefined : after).map(({ tokenIds }) => tokenIds);
      next += tokens.length;
      if (preamble === undefined) {
        yield* this.scheduler.encode(tokens, of);
        continue;
      }
      using before = new HeldRows(this.scheduler.memory, preamble.length, {}, true);
      using leased = await this.lease([{ tokenIds: preamble }], of);
      const { block } = leased.blocks[0] as LeasedBlock<DeviceBlockMemory>;
      const pieces = [{ block, numRows: preamble.length, place: 0, position: 0 }];
      await assemble(this.scheduler.runnerOf(of.payer), this.model.decoder, before, pieces, of.signal);
      before.length = preamble.length;
      yield* this.scheduler.encode(tokens, of, before);
    }
  }
}

function isSame(a: Int32Array | undefined, b: Int32Array | undefined): boolean {
  return a === b || (a !== undefined && b !== undefined && a.length === b.length && a.every((id, i) => id === b[i]));
}
