import type { PassageLabel } from "../blocks/passage.js";
import type { KVType } from "../files/element-types.js";
import { blockId } from "../kv/block-id.js";
import { BLOCK_KV_FORMAT_VERSION } from "../kv/block-kv.js";
import type { BlockRequest, BlockStore } from "../kv/block-store.js";
import { type LeasedBlocks, leaseBlocks } from "../kv/lease-blocks.js";
import { AssembledContext, assemble, type ContextUse, contextBytes } from "./assemble.js";
import type { ByteBudget } from "./byte-budget.js";
import type { DecodeSlot } from "./decode-slots.js";
import { blockShape, type DeviceBlockMemory } from "./device-memory.js";
import type { LoadedModel } from "./model.js";
import type { PromptSpan, TokenizedPrompt } from "./prompt.js";
import { nothingReused, type ReusedTokens, type ServedBlock, type Timings } from "./results.js";
import type { Scheduler, WorkOf } from "./scheduler.js";
import { unlessAborted } from "./task.js";

/** A local block's tokens, and its passage if it is one. */
export interface LocalBlock {
  readonly tokenIds: Int32Array;
  readonly passage?: PassageLabel | undefined;
}

/** A local block to find or to encode. */
type TokenBlock = BlockRequest & LocalBlock;

/** Who asks, and what holds for the whole request. Its owner is the salt of its blocks' ids. */
export interface RequestOf extends WorkOf {
  readonly owner: string;
  readonly signal: AbortSignal;
  readonly positionReencoding: boolean;
}

export type MutableTimings = { -readonly [K in keyof Timings]: Timings[K] };

/** Timings of a request that begins. */
export function newTimings(): MutableTimings {
  return {
    tokenizeMs: 0,
    queueMs: 0,
    waitMs: 0,
    encodeMs: 0,
    assembleMs: 0,
    prefillMs: 0,
    ttftMs: undefined,
    decodeMs: 0,
  };
}

/** What is computed over a prompt's context. */
export interface ContextWork {
  /** Rows to prefill after the prompt's. */
  readonly moreRows?: number;
  /** Rows to decode, of one answer. */
  readonly answerRows?: number;
  /** Answers that are decoded in forks of the context, as many at a time as there is room for. 0: one answer, in the context itself. */
  readonly numForks?: number;
  /** Whether local blocks are computed again, for their rows' logits. */
  readonly scoresPrompt?: boolean;
}

/** What a request needs of its context. */
export interface ContextNeeds {
  /** Rows of the context. */
  readonly capacity: number;
  readonly use: ContextUse;
  /** How many forks fit at a time. */
  readonly numForks: number;
  /** Of the context, its forks, and the scratch context in which the prompt is scored. */
  readonly bytes: number;
}

/** A prompt's context with its local blocks laid out, and how its blocks were served. Disposing frees the context and its room. */
export interface Prepared extends Disposable {
  readonly context: AssembledContext;
  readonly finalTokens: Int32Array;
  /** The position of the final block's first token. */
  readonly finalPosition: number;
  readonly blocks: readonly ServedBlock[];
  readonly cachedTokens: number;
  readonly reused: ReusedTokens;
}

/** Makes prompts' contexts: finds blocks in the store or encodes them, and lays them out. */
export class ContextMaker {
  constructor(
    private readonly model: LoadedModel,
    private readonly kvType: KVType,
    private readonly store: BlockStore<DeviceBlockMemory>,
    private readonly budget: ByteBudget,
    private readonly scheduler: Scheduler,
  ) {}

  /** What a request needs. @throws EngineError "too_long" where it would never find room, before it waits for anything. */
  needs(blocks: readonly Int32Array[], work: ContextWork): ContextNeeds {
    const { moreRows = 0, answerRows = 0, numForks: wantedForks = 0, scoresPrompt = false } = work;
    const { memory } = this.scheduler;
    const promptRows = blocks.reduce((sum, { length }) => sum + length, 0) + moreRows;
    const isForked = wantedForks > 0;
    const capacity = promptRows + (isForked ? 0 : answerRows);
    const use = isForked ? "shared" : answerRows > 0 ? "answer" : "prefill";
    const longestLocal = longest(blocks.slice(0, -1));
    const scratchBytes = scoresPrompt && longestLocal > 0 ? contextBytes(memory, longestLocal, "prefill") : 0;
    const ownBytes = contextBytes(memory, capacity, use) + scratchBytes;
    const forkBytes = isForked ? contextBytes(memory, answerRows, "fork") : 0;
    this.budget.requireFit(ownBytes + forkBytes);
    const room = isForked ? Math.floor((this.budget.capBytes - ownBytes) / forkBytes) : 0;
    const numForks = Math.min(wantedForks, room);
    return { capacity, use, numForks, bytes: ownBytes + numForks * forkBytes };
  }

  /** A fork of a prompt's context, with the slot in which its answer is decoded. @param rows of the fork alone. */
  fork(context: AssembledContext, rows: number): AssembledContext {
    const slot = this.scheduler.slots.take(rows);
    try {
      return context.fork(context.length + rows, { slot });
    } catch (error) {
      slot[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * Leases or encodes the local blocks and lays them out.
   *
   * @param room for what it needs, which becomes the context's, or goes back.
   * @throws the signal's reason; the device's error.
   */
  async prepare(
    { spans, numTokens }: TokenizedPrompt,
    { capacity, use }: ContextNeeds,
    room: Disposable,
    of: RequestOf,
    timings: MutableTimings,
  ): Promise<Prepared> {
    const { owner, signal, positionReencoding } = of;
    const local = spans.slice(0, -1);
    const finalTokens = (spans.at(-1) as PromptSpan).tokenIds;
    let context: AssembledContext | undefined;
    let slot: DecodeSlot | undefined;
    const giveBack = (): void => {
      // The context owns room and slot once it is made.
      for (const owned of context ? [context] : [slot, room]) owned?.[Symbol.dispose]();
    };
    try {
      const encodeFrom = performance.now();
      using leased = await this.lease(local, of);
      const assembleFrom = performance.now();
      timings.encodeMs = assembleFrom - encodeFrom;

      slot = use === "answer" ? this.scheduler.slots.take(capacity) : undefined;
      context = new AssembledContext(this.scheduler.memory, capacity, { room, slot });
      const numLocal = numTokens - finalTokens.length;
      const positions = positionReencoding
        ? Int32Array.from({ length: numLocal }, (_, i) => i)
        : ownPositions(local.map(({ tokenIds }) => tokenIds));
      const laid = leased.blocks.map(({ block }) => block);
      await assemble(this.scheduler.runnerOf(owner), this.model.decoder, context, laid, positions, signal);
      timings.assembleMs = performance.now() - assembleFrom;
      const cachedTokens = leased.served.reduce((sum, { hit, tokens }) => sum + (hit ? tokens : 0), 0);
      const served = { blocks: leased.served, cachedTokens, reused: { ...nothingReused, blocks: cachedTokens } };
      return { context, finalTokens, finalPosition: numLocal, ...served, [Symbol.dispose]: giveBack };
    } catch (error) {
      giveBack();
      throw error;
    }
  }

  /** Leases blocks from the store, encodes those that it lacks, and reports how each was served. */
  async lease(
    blocks: readonly LocalBlock[],
    of: Pick<RequestOf, "owner" | "signal">,
  ): Promise<LeasedBlocks<DeviceBlockMemory> & { readonly served: readonly ServedBlock[] }> {
    const requests = blocks.length > 0 ? await this.#requests(blocks, of) : [];
    const encode = (misses: readonly TokenBlock[]) =>
      this.scheduler.encode(
        misses.map(({ tokenIds }) => tokenIds),
        of,
      );
    const leased = await leaseBlocks(this.store, requests, encode, { signal: of.signal });
    const served = requests.map(({ id, passage, tokenIds }, i) => {
      const one = { id, tokens: tokenIds.length, hit: leased.blocks[i]?.fromStore === true };
      return passage === undefined ? one : { ...one, passage };
    });
    return { ...leased, served };
  }

  /** The logits of every row of a prompt. Rows of a local block see their block alone. */
  async *promptRows(
    blocks: readonly Int32Array[],
    { context, finalTokens, finalPosition }: Prepared,
    of: WorkOf,
  ): AsyncGenerator<Float32Array> {
    const local = blocks.slice(0, -1);
    if (local.length > 0) {
      // Its room was taken with the context's.
      using scratch = this.#scratch(longest(local), context.pin());
      for (const block of local) {
        scratch.length = 0;
        yield* this.scheduler.prefill(scratch, block, 0, 0, of);
      }
    }
    yield* this.scheduler.prefill(context, finalTokens, finalPosition, 0, of);
  }

  #scratch(rows: number, room: Disposable): AssembledContext {
    try {
      return new AssembledContext(this.scheduler.memory, rows, { room });
    } catch (error) {
      room[Symbol.dispose]();
      throw error;
    }
  }

  /** The logits of the final block's rows from one on. */
  lastRows({ context, finalTokens, finalPosition }: Prepared, firstWanted: number, of: WorkOf) {
    return this.scheduler.prefill(context, finalTokens, finalPosition, firstWanted, of);
  }

  async #requests(
    blocks: readonly LocalBlock[],
    { owner, signal }: Pick<RequestOf, "owner" | "signal">,
  ): Promise<TokenBlock[]> {
    const fingerprint = await unlessAborted(this.model.fingerprint, signal);
    const fields = { fingerprint, kvType: this.kvType, formatVersion: BLOCK_KV_FORMAT_VERSION, salt: owner };
    return blocks.map(({ tokenIds, passage }) => ({
      id: blockId({ ...fields, tokenIds: Uint32Array.from(tokenIds) }),
      shape: blockShape(this.model.decoder, this.kvType, tokenIds.length),
      owner,
      tokenIds,
      passage,
    }));
  }
}

function longest(blocks: readonly Int32Array[]): number {
  return blocks.reduce((most, { length }) => Math.max(most, length), 0);
}

/** Each block's positions from 0 on. */
function ownPositions(blocks: readonly Int32Array[]): Int32Array {
  return Int32Array.from(blocks.flatMap((block) => Array.from(block, (_, i) => i)));
}
