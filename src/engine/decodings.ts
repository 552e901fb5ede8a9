import { type AssembledContext, requireRoom } from "./assemble.js";
import type { DecodeWork } from "./decode-steps.js";
import type { LikelyToken } from "./results.js";
import type { Sampler } from "./sampler.js";
import { inTurns, type Task } from "./task.js";

/** What is decoded token by token: an answer, or a text that is scored. */
export interface Stepped {
  readonly context: AssembledContext;
  /** Whether steps leave it out for now, since its reader has enough unread. */
  readonly isPaused: boolean;
  /** The token to compute. */
  readonly next: { readonly tokenId: number; readonly position: number };
  /** Chooses what follows the token without all logits, where it can. */
  readonly sampleGreatest?: Sampler["sampleGreatest"];
  /** Undefined where the next token can be chosen now; else resolves once it can. */
  readonly ready?: Promise<void> | undefined;
  /** Takes the logits of what follows the token, [vocabulary], or what `sampleGreatest` chose. @returns whether it goes on. */
  take(next: Float32Array | LikelyToken): boolean;
}

/** A sequence in a graph of decoding. */
interface Decoding extends DecodeWork {
  readonly task: Task<void>;
  readonly sequence: Stepped;
  readonly context: AssembledContext;
  readonly pin: Disposable;
}

/** A sequence of which a token was computed, and the logits of what follows, or what was chosen by them. */
export interface Decoded {
  readonly task: Task<void>;
  readonly sequence: Stepped;
  readonly next: Float32Array | LikelyToken;
}

/** The sequences that are decoded, and how each chooses its next token. */
export class Decodings {
  readonly #all = new Map<Task<void>, Stepped>();
  /** Those that wait for what decides about their next token. */
  readonly #late = new Set<Stepped>();

  /** @param onReady told when a sequence can go on that could not. */
  constructor(private readonly onReady: () => void) {}

  get tasks(): Iterable<Task<void>> {
    return this.#all.keys();
  }

  /** Whether the next step computes tokens. */
  get isDecoding(): boolean {
    for (const sequence of this.#all.values()) if (this.#isWanted(sequence)) return true;
    return false;
  }

  add(task: Task<void>, sequence: Stepped): void {
    this.#all.set(task, sequence);
  }

  clear(): void {
    this.#all.clear();
  }

  /** Whether the next step computes a token of it. */
  #isWanted(sequence: Stepped): boolean {
    return !sequence.isPaused && !this.#late.has(sequence);
  }

  forgetEnded(): void {
    for (const task of this.#all.keys()) if (task.isOver) this.#all.delete(task);
  }

  /** What the next step computes, pinned. */
  works(): Decoding[] {
    const works: Decoding[] = [];
    for (const [task, sequence] of this.#all) {
      if (!this.#isWanted(sequence)) continue;
      const { context } = sequence;
      try {
        requireRoom(context, 1);
        const { sampleGreatest, next } = sequence;
        works.push({ task, sequence, context, pin: context.pin(), sampleGreatest, ...next });
      } catch (error) {
        task.fail(error);
      }
    }
    return works;
  }

  /** Hands each sequence its logits, from which it chooses its next token; those that have enough end. */
  async sample(decoded: readonly Decoded[]): Promise<void> {
    for await (const { task, sequence, next } of inTurns(decoded)) {
      if (task.isOver) continue;
      try {
        if (sequence.ready) this.#sampleLater(task, sequence, next, sequence.ready);
        else if (!sequence.take(next)) task.resolve();
      } catch (error) {
        task.fail(error);
      }
    }
    this.forgetEnded();
  }

  /** Others go on meanwhile. */
  #sampleLater(task: Task<void>, sequence: Stepped, next: Decoded["next"], ready: Promise<void>): void {
    this.#late.add(sequence);
    const sample = async (): Promise<void> => {
      try {
        await ready;
        if (!task.isOver && !sequence.take(next)) task.resolve();
      } catch (error) {
        task.fail(error);
      }
      this.#late.delete(sequence);
      this.forgetEnded();
      this.onReady();
    };
    void sample();
  }
}
