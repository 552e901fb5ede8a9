import type { KVType } from "../files/element-types.js";
import { blockId } from "../kv/block-id.js";
import { BlockKV, blockKVByteLength } from "../kv/block-kv.js";
import type { Acquisition, BlockStore, Match, Reservation } from "../kv/block-store.js";
import { AssembledContext, assemble, type ContextUse, contextBytes, copyRows, type LaidRows } from "./assemble.js";
import type { ByteBudget } from "./byte-budget.js";
import type { DecodeSlot } from "./decode-slots.js";
import { DeviceBlockMemory, pageShape } from "./device-memory.js";
import { lookedAt, rowsToLook, spansToDrop } from "./kept-blocks.js";
import { LocalBlocks } from "./local-blocks.js";
import type { LoadedModel } from "./model.js";
import { numRowsOf, type PromptSpan, rowsOfBlock, type TokenizedPrompt } from "./prompt.js";
import { PAGE_TOKENS, passagesOf, promptParts } from "./prompt-parts.js";
import { computeBetween, movedRanges, numIn, rowsToChoose } from "./recompute.js";
import type { TokenizedRepair } from "./repair.js";
import {
  nothingReused,
  type ReusedTokens,
  type ReuseMiss,
  type ServedBlock,
  type Timings,
  type UsedRepair,
} from "./results.js";
import { ReuseMisses } from "./reuse-misses.js";
import type { Scheduler, WorkOf } from "./scheduler.js";
import { inTurns } from "./task.js";

/** Who asks, and what holds for the whole request. Its owner is the salt of its blocks' ids. */
export interface RequestOf extends WorkOf {
  readonly owner: string;
  readonly payer: string;
  readonly signal: AbortSignal;
  readonly positionReencoding: boolean;
  readonly repair?: TokenizedRepair | undefined;
  readonly keepPrefixes: boolean;
  readonly explain: boolean;
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
  /** What is done about what block mode loses. */
  readonly repair?: TokenizedRepair | undefined;
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

/**
 * A prompt's context with all that was found or encoded laid out, and what stands between computed, but for the end. Disposing
 * frees the context and its room.
 */
export interface Prepared extends Disposable {
  /** The prompt that the context holds: without the blocks that a repair leaves out. */
  readonly prompt: TokenizedPrompt;
  readonly context: AssembledContext;
  /** The prompt's last tokens, which are to be computed: one or more. */
  readonly finalTokens: Int32Array;
  /** The position of the first of them, and its place. */
  readonly finalPosition: number;
  readonly blocks: readonly ServedBlock[];
  readonly cachedTokens: number;
  readonly reused: ReusedTokens;
  readonly repair: UsedRepair | undefined;
  readonly misses: readonly ReuseMiss[] | undefined;
}

/** Tokens of a prompt that are to be computed. */
interface Rest {
  readonly place: number;
  readonly tokenIds: number[];
}

/** A page that is copied out of a context. */
interface PageCopy {
  readonly reservation: Reservation<DeviceBlockMemory>;
  /** Its place among what is held. */
  readonly order: number;
  readonly block: BlockKV<DeviceBlockMemory>;
  readonly place: number;
}

/** Pages that are copied at a time. */
const pagesAtATime = 16;

/**
 * Makes prompts' contexts: finds blocks in the store or encodes them, finds pages of what a prompt begins with, lays all of them
 * out, and keeps pages of what is computed.
 */
export class ContextMaker {
  readonly blocks: LocalBlocks;

  constructor(
    private readonly model: LoadedModel,
    private readonly kvType: KVType,
    private readonly store: BlockStore<DeviceBlockMemory>,
    private readonly budget: ByteBudget,
    private readonly scheduler: Scheduler,
  ) {
    this.blocks = new LocalBlocks(model, kvType, store, scheduler);
  }

  /** What a request needs. @throws EngineError "too_long" where it would never find room, before it waits for anything. */
  needs({ spans, numTokens }: TokenizedPrompt, work: ContextWork): ContextNeeds {
    const { moreRows = 0, answerRows = 0, numForks: wantedForks = 0, scoresPrompt = false, repair } = work;
    const { memory } = this.scheduler;
    const rowsToChooseBy = Math.max(rowsToChoose(repair?.recompute), rowsToLook(repair?.keep));
    const promptRows = numTokens + Math.max(moreRows, rowsToChooseBy);
    const isForked = wantedForks > 0;
    const capacity = promptRows + (isForked ? 0 : answerRows);
    const use = isForked ? "shared" : answerRows > 0 ? "answer" : "prefill";
    const scratchRows = scoresPrompt ? longestLocal(spans) : 0;
    const scratchBytes = scratchRows > 0 ? contextBytes(memory, scratchRows, "prefill") : 0;
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
   * Leases or encodes the local blocks, finds pages of the global text, lays all out and computes what is missing between.
   *
   * @param room for what it needs, which becomes the context's, or goes back.
   * @param isScored every row's logits are wanted: pages are not looked for, and global text is left to `promptRows()`.
   * @throws the signal's reason; the device's error.
   */
  async prepare(
    whole: TokenizedPrompt,
    { capacity, use }: ContextNeeds,
    room: Disposable,
    of: RequestOf,
    timings: MutableTimings,
    isScored = false,
  ): Promise<Prepared> {
    const { owner, payer, signal, positionReencoding, repair, explain } = of;
    let context: AssembledContext | undefined;
    let slot: DecodeSlot | undefined;
    const giveBack = (): void => {
      // The context owns room and slot once it is made.
      for (const owned of context ? [context] : [slot, room]) owned?.[Symbol.dispose]();
    };
    try {
      const encodeFrom = performance.now();
      const allLocal = whole.spans.filter(({ kind }) => kind === "local");
      const allNearest = explain ? await this.blocks.nearest(allLocal, of) : [];
      using leased = await this.blocks.lease(allLocal, of);
      const assembleFrom = performance.now();
      timings.encodeMs = assembleFrom - encodeFrom;
      const dropped = await this.#dropped(whole, leased.blocks, of);
      const prompt = dropped.size > 0 ? whole.withSpans(whole.spans.filter((span) => !dropped.has(span))) : whole;
      const stays = allLocal.map((span) => !dropped.has(span));
      const ofThose = <T>(all: readonly T[]): readonly T[] => all.filter((_, i) => stays[i]);
      const [blocksHere, nearest, served] = [ofThose(leased.blocks), ofThose(allNearest), ofThose(leased.served)];
      // Pages go back before the blocks that they stand on: so they are evicted first.
      const matches: Match<DeviceBlockMemory>[] = [];
      using _ = inReverse(matches);

      const laid: LaidRows[] = [];
      const rests: Rest[] = [];
      const misses = explain ? new ReuseMisses(this.model.tokenizer, prompt) : undefined;
      const lastPlace = prompt.numTokens - 1;
      let reusedOfPages = 0;
      let isFound = !isScored;
      for await (const part of inTurns(promptParts(prompt, await this.blocks.idFields(of), of))) {
        const { place, tokenIds } = part;
        if (part.kind === "block") {
          const { block, fromStore } = blocksHere[part.index] as (typeof leased.blocks)[number];
          const temperature = part.span === prompt.spans[0] ? undefined : repair?.temperature;
          const position = positionReencoding ? place : 0;
          laid.push({ block, numRows: tokenIds.length, place, position, temperature });
          if (!fromStore) misses?.ofBlock(part, nearest[part.index]);
          continue;
        }
        // Who looks at blocks must see the text between them as it is before blocks are computed again, and kept pages are as after.
        const isSkipped = repair?.recompute?.kind === "look" && part.span !== prompt.spans.at(-1);
        const page = { id: part.id, shape: pageShape(this.model.decoder, this.kvType, tokenIds.length) };
        const wanted = { context: part.context, tokenIds, page, owner };
        const match = isFound && !isSkipped ? await this.store.longestMatch(wanted, { signal }) : undefined;
        if (match) matches.push(match);
        // The last token is computed always: what follows it is asked for.
        const numRows = Math.min(match?.numShared ?? 0, lastPlace - place);
        if (match && numRows > 0) laid.push({ block: match.lease.block, numRows, place });
        reusedOfPages += numRows;
        if (isFound && !isSkipped && numRows < tokenIds.length) {
          isFound = false;
          misses?.ofPage(part, match);
        }
        if (numRows === tokenIds.length) continue;
        const after = rests.at(-1);
        const rest =
          after && after.place + after.tokenIds.length === place ? after : { place: place + numRows, tokenIds: [] };
        if (rest !== after) rests.push(rest);
        rest.tokenIds.push(...tokenIds.subarray(numRows));
      }

      slot = use === "answer" ? this.scheduler.slots.take(capacity) : undefined;
      context = new AssembledContext(this.scheduler.memory, capacity, { room, slot });
      if (repair?.scale !== undefined) context.scaled = { ranges: movedRanges(prompt), power: repair.scale };
      await assemble(this.scheduler.runnerOf(payer), this.model.decoder, context, laid, signal);
      const prefillFrom = performance.now();
      timings.assembleMs = prefillFrom - assembleFrom;
      const { place, tokenIds } = rests.pop() as Rest;
      const recomputing = { scheduler: this.scheduler, decoder: this.model.decoder, context, prompt };
      const again = isScored ? new Int32Array() : await computeBetween(rests, recomputing, of, repair?.recompute);
      context.length = place;
      timings.prefillMs = performance.now() - prefillFrom;
      const hits = leased.served.reduce((sum, { hit, tokens }) => sum + (hit ? tokens : 0), 0);
      const blocks = hits - numIn(again, prompt, served);
      const pages = prompt.isConversation ? "conversation" : "prefix";
      return {
        ...{ context, prompt },
        ...{ finalTokens: Int32Array.from(tokenIds), finalPosition: place },
        ...{ blocks: leased.served, misses: misses?.found, cachedTokens: blocks + reusedOfPages },
        reused: { ...nothingReused, blocks, [pages]: reusedOfPages },
        repair: of.repair && {
          ...{ text: of.repair.text, recomputedTokens: again.length },
          ...(of.repair.keep && { kept: [...stays.keys()].filter((i) => stays[i]) }),
        },
        [Symbol.dispose]: giveBack,
      };
    } catch (error) {
      giveBack();
      throw error;
    }
  }

  /** The spans that a repair takes out of a prompt. @param leased of its local spans. */
  async #dropped(
    whole: TokenizedPrompt,
    leased: readonly { readonly block: BlockKV<DeviceBlockMemory> }[],
    { payer, signal, positionReencoding, repair }: RequestOf,
  ): Promise<ReadonlySet<PromptSpan>> {
    const looked = repair?.keep && lookedAt(whole, repair.keep);
    if (repair?.keep === undefined || looked === undefined) return new Set();
    const { prompt } = looked;
    const { memory } = this.scheduler;
    const runner = this.scheduler.runnerOf(payer);
    // The room of the request's own context, which is made when this one is gone, has room for it.
    using context = new AssembledContext(memory, prompt.numTokens + rowsToLook(repair.keep));
    let place = 0;
    const laid = leased.map(({ block }, i): LaidRows => {
      const numRows = prompt.spans[i]?.tokenIds.length ?? 0;
      place += numRows;
      return { block, numRows, place: place - numRows, position: positionReencoding ? place - numRows : 0 };
    });
    const { decoder } = this.model;
    await assemble(runner, decoder, context, laid, signal);
    return await spansToDrop(repair.keep, looked, { runner, decoder, context, signal });
  }

  /**
   * Keeps pages of a prompt's global text, and of the answer after it, whose rows the context holds. What cannot be kept is not:
   * no answer fails for it.
   *
   * @param answerIds the answer's tokens so far.
   * @param isEnd whether a last page that is partly filled is kept too: no more of the text comes.
   */
  async keep(
    prompt: TokenizedPrompt,
    context: AssembledContext,
    answerIds: readonly number[],
    of: RequestOf,
    isEnd: boolean,
  ): Promise<void> {
    if (!of.keepPrefixes) return;
    const { owner, payer, signal } = of;
    // What pages stand on is used by them, and goes back after them: so they are evicted first.
    const held: Disposable[] = [];
    using _ = inReverse(held);
    const copies: PageCopy[] = [];
    let passages: ReturnType<typeof passagesOf> | undefined;
    const copyAll = async (): Promise<void> => {
      const rows = copies.map(({ block, place }) => ({
        memory: block.memory,
        first: place,
        numRows: block.shape.numTokens,
      }));
      await copyRows(this.scheduler.runnerOf(payer), this.model.decoder, context, rows, signal);
      for (let [copy] = copies; copy !== undefined; [copy] = copies) {
        // A page that is not kept would leave those that stand on it.
        if (!this.#hasRoom(copy.block.byteLength)) throw new Error("Cannot keep a page: others took its room");
        held[copy.order] = copy.reservation.commit(copy.block);
        copies.shift();
      }
    };
    try {
      const fields = await this.blocks.idFields(of);
      for await (const part of inTurns(promptParts(prompt, fields, of, answerIds))) {
        const numRows = Math.min(part.tokenIds.length, context.length - part.place);
        const tokenIds = part.tokenIds.subarray(0, numRows);
        if (numRows <= 0 || (part.isOpen && numRows < PAGE_TOKENS && !isEnd)) break;
        if (part.kind === "block") {
          const lease = await this.store.lease(part.id);
          if (lease === undefined) break;
          held.push(lease);
          continue;
        }
        const { context: seen, place } = part;
        const id = numRows === part.tokenIds.length ? part.id : blockId({ ...fields, context: seen, tokenIds });
        const kept = await this.store.lease(id);
        if (kept) {
          held.push(kept);
          continue;
        }
        const shape = pageShape(this.model.decoder, this.kvType, numRows);
        const page = { id, shape };
        const match = await this.store.longestMatch({ context: seen, tokenIds, page, owner }, { signal });
        if (match?.numShared === numRows) {
          held.push(match);
          continue;
        }
        match?.[Symbol.dispose]();
        const copiedBytes = copies.reduce((sum, copy) => sum + copy.block.byteLength, 0);
        if (!this.#hasRoom(copiedBytes + blockKVByteLength(shape))) break;
        passages ??= passagesOf(prompt, fields, this.model.tokenizer.bosTokenId);
        const documents = passages.filter(({ start }) => start < place + numRows).map(({ name }) => name);
        const request = { id, shape, owner, tokenIds: tokenIds.slice(), context: seen, isPage: true, documents };
        const [asked] = (await this.store.acquire([request], { signal })) as [Acquisition<DeviceBlockMemory>];
        const order = held.push(asked) - 1;
        // Another answer's copy of the same rows. Own ones come first, so that no two wait for each other.
        if (asked.kind === "pending") await copyAll();
        const reservation = asked.kind === "pending" ? await asked.settled : asked;
        if (reservation.kind !== "miss") continue;
        const block = new BlockKV(shape, new DeviceBlockMemory(this.scheduler.memory, shape));
        copies.push({ reservation, order, block, place });
        if (copies.length === pagesAtATime) await copyAll();
      }
      await copyAll();
    } catch {
      // The device failed, or has no memory left: the next graph says so to whom it concerns.
    } finally {
      for (const { block } of copies) block[Symbol.dispose]();
    }
  }

  /** Whether the store would keep so many bytes more. */
  #hasRoom(bytes: number): boolean {
    const { capBytes, leasedBytes, tiers } = this.store.stats();
    return leasedBytes + bytes <= capBytes || tiers.some(({ capBytes = 0 }) => bytes <= capBytes);
  }

  /** The logits of every row of a prompt. Rows of a local block see their block alone. */
  async *promptRows({ spans }: TokenizedPrompt, { context }: Prepared, of: WorkOf): AsyncGenerator<Float32Array> {
    const scratchRows = longestLocal(spans);
    // Its room was taken with the context's.
    using scratch = scratchRows > 0 ? this.#scratch(scratchRows, context.pin()) : undefined;
    let place = 0;
    for (const { kind, tokenIds, preamble } of spans) {
      if (kind === "global" || scratch === undefined) {
        context.length = place;
        yield* this.scheduler.prefill(context, tokenIds, place, 0, of);
      } else {
        scratch.length = 0;
        const before = preamble?.length ?? 0;
        yield* this.scheduler.prefill(scratch, rowsOfBlock({ tokenIds, preamble }), 0, before, of);
      }
      place += tokenIds.length;
    }
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
}

/** Rows of the longest local span, its preamble's among them; 0 where there is none. */
function longestLocal(spans: TokenizedPrompt["spans"]): number {
  return spans.reduce((most, span) => (span.kind === "local" ? Math.max(most, numRowsOf(span)) : most), 0);
}

/** Gives all back that is held by then, what was taken last first. */
function inReverse(held: readonly Disposable[]): Disposable {
  return {
    [Symbol.dispose]: () => {
      for (const one of held.toReversed()) one[Symbol.dispose]();
    },
  };
}
