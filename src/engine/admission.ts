import type { ByteBudget } from "./byte-budget.js";
import { asEngineError, EngineError } from "./engine-error.js";

/** What an answer gets with its place. */
export interface Entered {
  /** The bytes that it asked for: the caller gives them back. */
  readonly room: Disposable;
  /** How long it waited for room alone. */
  readonly waitMs: number;
}

/** One answer's place, from when its request joins the line to its end. Disposing gives the place back. */
export interface Ticket extends Disposable {
  /** How the answer ended, for the counts; undefined for work that is not counted. Default "finished". */
  outcome: "finished" | "cancelled" | "failed" | undefined;
  /** How many tokens were computed, where it is known. Default: as many as were expected. */
  numTokens: number | undefined;
  /**
   * Waits for a place among those that run, and for memory for what it computes. Both come together: otherwise answers with
   * places could wait for memory of answers that wait for places.
   *
   * @param expectedTokens the most tokens it may compute: its owner is charged so many until it ends.
   * @param bytes to take from the budget. Default 0.
   * @throws the signal's reason; EngineError "queue_full" where another owner's request needed the room to wait.
   */
  enter(expectedTokens: number, signal: AbortSignal, bytes?: number): Promise<Entered>;
}

export interface RequestCounts {
  /** Waiting to be admitted. */
  readonly queued: number;
  readonly running: number;
  readonly finished: number;
  readonly cancelled: number;
  readonly failed: number;
}

interface Place {
  readonly owner: string;
  /** All places of its request, which join and are turned away together. */
  readonly request: readonly Place[];
  state: "joined" | "waiting" | "running" | "refused" | "over";
  charged: number;
  bytes: number;
  /** Since when it waits for room alone, by `performance.now()`. */
  shortFrom: number | undefined;
  settle: { readonly admit: (room: Disposable) => void; readonly refuse: (error: unknown) => void } | undefined;
  /** Why it was turned away before it waited. */
  refusal: EngineError | undefined;
}

/**
 * Places for answers that run at the same time, and a line of those that wait for one.
 *
 * Each free place goes to the owner who has been charged the fewest tokens so far (the virtual token counter of Sheng et
 * al., "Fairness in Serving Large Language Models", OSDI 2024); one owner's answers are admitted first come, first served. An
 * owner who comes back after a pause starts at the lowest charge of the others: a pause earns nothing. Where the line is full,
 * an owner who has less than an equal share of it displaces the newest waiting request of an owner who has more.
 *
 * The answer whose turn it is waits for memory as well. Meanwhile places go to answers that need none, for instance further
 * answers to a prompt that is computed already: the memory that others wait for is freed when these end.
 */
export class Admission {
  /** Called when answers wait that may be admitted. */
  onWaiting: () => void = () => undefined;
  readonly maxRunning: number;
  readonly #maxQueued: number;
  readonly #budget: ByteBudget | undefined;
  /** In order of arrival. */
  readonly #places = new Set<Place>();
  /** Tokens charged to each owner, absent ones included as long as anybody has a place. */
  readonly #charged = new Map<string, number>();
  readonly #ended = { finished: 0, cancelled: 0, failed: 0 };
  #numRunning = 0;
  #onEmpty: () => void = () => undefined;

  /** @param options.budget the memory that answers need. Default: without limit. */
  constructor(options: { readonly maxRunning: number; readonly maxQueued: number; readonly budget?: ByteBudget }) {
    this.maxRunning = options.maxRunning;
    this.#maxQueued = options.maxQueued;
    this.#budget = options.budget;
    if (options.budget) options.budget.onFree = () => this.onWaiting();
  }

  get counts(): RequestCounts {
    return { queued: this.#places.size - this.#numRunning, running: this.#numRunning, ...this.#ended };
  }

  /** Whether `admit()` would give a place away. */
  get hasWaiting(): boolean {
    return this.#next() !== undefined;
  }

  /**
   * Takes a request in, before any work is spent on it.
   *
   * @param owner whose share of the machine the request takes.
   * @param numAnswers how many answers it wants, each with a place of its own.
   * @throws EngineError "queue_full" where as many run and wait as may, and the owner has its share of the line.
   */
  join(owner: string, numAnswers = 1): readonly Ticket[] {
    this.#makeRoom(owner, numAnswers);
    this.#lift(owner);
    const request: Place[] = [];
    for (let i = 0; i < numAnswers; i++) {
      const none = { charged: 0, bytes: 0, shortFrom: undefined, settle: undefined, refusal: undefined };
      const place: Place = { owner, request, state: "joined", ...none };
      request.push(place);
      this.#places.add(place);
    }
    return request.map((place) => this.#ticket(place));
  }

  /**
   * Runs a request's work, counts how it ended, and gives its places back.
   *
   * @param tickets of the request. Default: one, of its own.
   * @throws EngineError for a full queue, and for what the work throws; the signal's reason.
   */
  async run<T>(
    { payer, signal, end }: { readonly payer: string; readonly signal: AbortSignal; readonly end?: () => void },
    work: (ticket: Ticket) => Promise<T>,
    ofRequest?: readonly Ticket[],
  ): Promise<T> {
    let tickets: readonly Ticket[] = ofRequest ?? [];
    try {
      tickets = ofRequest ?? this.join(payer);
      signal.throwIfAborted();
      return await work(tickets[0] as Ticket);
    } catch (error) {
      // Tickets of answers that have ended were counted then, and ignore this.
      const { aborted, reason } = signal;
      // One answer's failure aborts the request's others.
      const isCancelled = aborted && !(reason instanceof EngineError && reason.code === "failed");
      for (const ticket of tickets) ticket.outcome = isCancelled ? "cancelled" : "failed";
      throw signal.aborted ? signal.reason : asEngineError(error);
    } finally {
      for (const ticket of tickets) ticket[Symbol.dispose]();
      end?.();
    }
  }

  /** Gives the free places away. @returns how many answers got one. */
  admit(): number {
    let numAdmitted = 0;
    for (let next = this.#next(); next !== undefined; next = this.#next()) {
      next.state = "running";
      this.#numRunning += 1;
      numAdmitted += 1;
      this.#charge(next.owner, next.charged);
      next.settle?.admit(this.#budget?.takeNow(next.bytes) ?? { [Symbol.dispose]: () => undefined });
    }
    return numAdmitted;
  }

  /** Resolves once no request is under way. */
  async ended(): Promise<void> {
    if (this.#places.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#onEmpty = resolve;
    });
  }

  #ticket(place: Place): Ticket {
    const ticket: Ticket = {
      outcome: "finished",
      numTokens: undefined,
      enter: (expectedTokens, signal, bytes = 0) => this.#enter(place, expectedTokens, signal, bytes),
      [Symbol.dispose]: () => this.#leave(place, ticket),
    };
    return ticket;
  }

  async #enter(place: Place, expectedTokens: number, signal: AbortSignal, bytes: number): Promise<Entered> {
    signal.throwIfAborted();
    if (place.refusal !== undefined) throw place.refusal;
    place.state = "waiting";
    place.charged = expectedTokens;
    place.bytes = bytes;
    return await new Promise<Entered>((resolve, reject) => {
      const abort = () => {
        place.state = "joined";
        reject(signal.reason);
      };
      const settle = () => signal.removeEventListener("abort", abort);
      signal.addEventListener("abort", abort, { once: true });
      place.settle = {
        admit: (room) => {
          settle();
          const { shortFrom } = place;
          resolve({ room, waitMs: shortFrom === undefined ? 0 : performance.now() - shortFrom });
        },
        refuse: (error) => {
          settle();
          reject(error);
        },
      };
      this.onWaiting();
    });
  }

  #leave(place: Place, { outcome, numTokens = place.charged }: Ticket): void {
    if (place.state === "over") return;
    if (place.state === "running") {
      this.#numRunning -= 1;
      this.#charge(place.owner, numTokens - place.charged);
    }
    place.state = "over";
    if (outcome !== undefined) this.#ended[outcome] += 1;
    // One that was turned away has left the line already.
    if (!this.#places.delete(place)) return;
    if (this.#places.size > 0) {
      this.onWaiting();
      return;
    }
    this.#charged.clear();
    this.#onEmpty();
  }

  /** The answer that gets the next place; undefined where none is free, or there is no room for the one whose turn it is. */
  #next(): Place | undefined {
    if (this.#numRunning >= this.maxRunning) return undefined;
    const first = this.#leastCharged(() => true);
    if (first === undefined || this.#budget === undefined || this.#budget.has(first.bytes)) return first;
    first.shortFrom ??= performance.now();
    return this.#leastCharged(({ bytes }) => bytes === 0);
  }

  /** Of the waiting answers that are meant, the first one of the owner who was charged least. */
  #leastCharged(isMeant: (place: Place) => boolean): Place | undefined {
    let best: Place | undefined;
    for (const place of this.#places) {
      if (place.state !== "waiting" || !isMeant(place)) continue;
      if (best === undefined || this.#chargedTo(place.owner) < this.#chargedTo(best.owner)) best = place;
    }
    return best;
  }

  #chargedTo(owner: string): number {
    return this.#charged.get(owner) ?? 0;
  }

  #charge(owner: string, numTokens: number): void {
    this.#charged.set(owner, this.#chargedTo(owner) + numTokens);
  }

  /** An owner who comes back after a pause has no claim on what others were given meanwhile. */
  #lift(owner: string): void {
    /** What each owner has been charged for answers that have ended. */
    const active = new Map<string, number>();
    for (const place of this.#places) {
      const charged = active.get(place.owner) ?? this.#chargedTo(place.owner);
      active.set(place.owner, charged - (place.state === "running" ? place.charged : 0));
    }
    if (active.has(owner) || active.size === 0) return;
    const least = Math.min(...active.values());
    for (const [other, charged] of this.#charged)
      if (charged <= least && !active.has(other)) this.#charged.delete(other);
    this.#charged.set(owner, Math.max(this.#chargedTo(owner), least));
  }

  #makeRoom(owner: string, numAnswers: number): void {
    const most = this.maxRunning + this.#maxQueued;
    const isFull = () => this.#places.size > 0 && this.#places.size + numAnswers > most;
    if (!isFull()) return;
    const queued = new Map<string, number>([[owner, 0]]);
    for (const { owner, state } of this.#places) {
      queued.set(owner, (queued.get(owner) ?? 0) + (state === "running" ? 0 : 1));
    }
    const share = this.#maxQueued / queued.size;
    const own = queued.get(owner) ?? 0;
    const isWithinShare = queued.size > 1 && (own === 0 || own + numAnswers <= share);
    if (!isWithinShare) {
      this.#ended.failed += numAnswers;
      throw this.#queueFull();
    }
    for (const place of [...this.#places].reverse()) {
      if (!isFull()) return;
      const others = queued.get(place.owner) ?? 0;
      // Owners within their share keep theirs, and so does what has begun: the line may then be longer by one request.
      if (others <= share || place.request.some(({ state }) => state === "running" || state === "over")) continue;
      queued.set(place.owner, others - place.request.length);
      for (const one of place.request) this.#refuse(one);
    }
  }

  /** Turns a waiting answer away; its request gives back what it holds. */
  #refuse(place: Place): void {
    this.#places.delete(place);
    place.state = "refused";
    place.refusal = this.#queueFull();
    place.settle?.refuse(place.refusal);
  }

  #queueFull(): EngineError {
    const { running, queued } = this.counts;
    return new EngineError(
      "queue_full",
      `Cannot take the request: ${running} run and ${queued} wait, at most ${this.#maxQueued} may wait`,
    );
  }
}
