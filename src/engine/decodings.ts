import { type AssembledContext, requireRoom } from "./assemble.js";
import type { DecodedRows, DecodeWork } from "./decode-steps.js";
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
  /** Guesses what follows the token. */
  readonly draft?: DecodeWork["draft"];
  /** Told how many tokens of a draft followed, and how many did not. */
  onDraft?(numAccepted: number, numRejected: number): void;
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

/** A sequence of which a token was computed, and perhaps a draft, with the logits of what follows, or what was chosen by them. */
export interface Decoded extends DecodedRows {
  readonly task: Task<void>;
  readonly sequence: Stepped;
}

/** The sequences that are decoded, and how each chooses its next token. */
export class Decodings {
  readonly #all = new Map<Task<void>, Stepped>();
  /** Those that wait for what decides about their next token. */
  readonly #late = new Set<Stepped>();
  /** Tokens of drafts so far, and how many of them were chosen. */
  readonly drafts = { computed: 0, accepted: 0 };

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
        const { sampleGreatest, draft, next } = sequence;
        works.push({ task, sequence, context, pin: context.pin(), sampleGreatest, draft, ...next });
      } catch (error) {
        task.fail(error);
      }
    }
    return works;
  }

  /** Hands each sequence its logits, from which it chooses its next tokens; those that have enough end. */
  async sample(decoded: readonly Decoded[]): Promise<void> {
    for await (const one of inTurns(decoded)) this.#choose(one, 0);
    this.forgetEnded();
  }

  /** Chooses tokens by the rows from one on, as long as the draft's tokens are what is chosen. */
  #choose(one: Decoded, first: number): void {
    const { task, sequence, draftIds, next } = one;
    let row = first;
    try {
      for (; ; row++) {
        if (task.isOver) return;
        if (sequence.ready) {
          this.#chooseLater(one, row, sequence.ready);
          return;
        }
        if (!sequence.take(next[row] as Float32Array | LikelyToken)) {
          task.resolve();
          break;
        }
        if (row === draftIds.length || sequence.isPaused || sequence.next.tokenId !== draftIds[row]) break;
        // The key and value of the draft's token are there.
        sequence.context.length += 1;
      }
      this.drafts.computed += draftIds.length;
      this.drafts.accepted += row;
      sequence.onDraft?.(row, draftIds.length - row);
    } catch (error) {
      task.fail(error);
    }
  }

  /** Others go on meanwhile. */
  #chooseLater(one: Decoded, row: number, ready: Promise<void>): void {
    const { task, sequence } = one;
    this.#late.add(sequence);
    const choose = async (): Promise<void> => {
      await ready.catch((error: unknown) => task.fail(error));
      this.#late.delete(sequence);
      this.#choose(one, row);
      this.forgetEnded();
      this.onReady();
    };
    void choose();
  }
}
