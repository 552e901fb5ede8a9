import { Worker } from "node:worker_threads";
import type { ToolForm } from "../../blocks/tools.js";
import { InputRangeError } from "../../files/input-error.js";
import { Limit } from "../../files/limit.js";
import { byteAlphabet } from "../../tokenizer/byte-level.js";
import type { Tokenizer } from "../../tokenizer/tokenizer.js";
import { inTurns, unlessAborted } from "../task.js";
import { type Constraint, type GrammarSource, grammarSources } from "./constraint.js";
import type { GrammarAnswer, GrammarRequest, GrammarThreadData } from "./grammar-thread.js";

/** Threads with a grammar each: each takes some 100 MB. */
const maxThreads = 8;
/** Of those, how many stay when nobody uses them. */
const maxIdle = 4;
const maxRefused = 64;
/** How long a grammar may take to be compiled: compiling cannot be interrupted, but its thread can. */
const maxCompileMs = 2000;
/** The same of one that holds nothing of the caller's: it is the vocabulary and the machine that take long. */
const maxLooseMs = 60_000;

/** What takes too long or too much to be compiled. */
class CostlyGrammar extends InputRangeError {}

/** What marks a call, which may be a control token. */
const toolMarks: Readonly<Record<ToolForm, readonly string[]>> = {
  hermes: ["<tool_call>", "</tool_call>"],
  mistral: ["[TOOL_CALLS]"],
  llama: [],
  generic: [],
};

/** A thread with its grammar. */
interface Compiled {
  readonly worker: Worker;
  readonly matchers: Map<number, Matcher>;
  error: Error | undefined;
}

interface Kept {
  readonly compiling: Promise<Compiled>;
  /** Those that use it, or wait for it to be compiled. */
  numUsers: number;
}

/** Which tokens may come next in one answer. */
export class Matcher implements Disposable {
  /** A bit for each token, the lowest ones first. Of the place after the last accepted token, once `ready` has resolved. */
  mask: Int32Array | undefined;
  #waiting: PromiseWithResolversOf | undefined;

  /** @param number of the thread's matchers. */
  constructor(
    private readonly of: Compiled,
    private readonly number: number,
  ) {
    of.matchers.set(number, this);
    this.#ask({ kind: "open", matcher: number });
  }

  /** Resolves once the mask is there. @throws Error where its thread has ended. */
  get ready(): Promise<void> | undefined {
    return this.#waiting?.promise;
  }

  accept(tokenId: number): void {
    this.#ask({ kind: "accept", matcher: this.number, tokenId });
  }

  take(mask: Int32Array): void {
    this.mask = mask;
    this.#waiting?.resolve();
    this.#waiting = undefined;
  }

  fail(error: Error): void {
    this.#waiting?.reject(error);
  }

  [Symbol.dispose](): void {
    if (!this.of.matchers.delete(this.number)) return;
    this.of.worker.postMessage({ kind: "close", matcher: this.number } satisfies GrammarRequest);
  }

  #ask(request: GrammarRequest): void {
    this.mask = undefined;
    this.#waiting = withResolvers();
    if (this.of.error) this.#waiting.reject(this.of.error);
    else this.of.worker.postMessage(request);
  }
}

interface PromiseWithResolversOf {
  readonly promise: Promise<void>;
  resolve(): void;
  reject(error: Error): void;
}

function withResolvers(): PromiseWithResolversOf {
  let settle: Pick<PromiseWithResolversOf, "resolve" | "reject"> | undefined;
  const promise = new Promise<void>((resolve, reject) => {
    settle = { resolve, reject };
  });
  promise.catch(() => undefined);
  return { promise, ...(settle as Pick<PromiseWithResolversOf, "resolve" | "reject">) };
}

/** A grammar while an answer or several use it. */
export interface LeasedGrammar extends Disposable {
  open(): Matcher;
}

/**
 * The grammars of a model's answers: each is compiled in a thread of its own, which ends where that takes too long or too much memory,
 * and which makes the masks too, while tokens are computed. Some are kept for later answers.
 */
export class Grammars implements AsyncDisposable {
  /** Least recently used first. */
  readonly #kept = new Map<string, Kept>();
  /** What was refused, the oldest first: compiling it once more would take as long. */
  readonly #refused = new Map<string, InputRangeError>();
  readonly #limit = new Limit(2);
  #waiting: (() => void)[] = [];
  #vocabulary: Promise<readonly string[]> | undefined;
  #numMatchers = 0;

  /** @param vocabSize logits of a token. @param toolForm how the model writes calls. */
  constructor(
    private readonly tokenizer: Pick<Tokenizer, "vocabSize" | "tokenBytes" | "specialTokenIds">,
    private readonly endTokenIds: ReadonlySet<number>,
    private readonly vocabSize: number,
    private readonly toolForm: ToolForm = "generic",
  ) {}

  /**
   * @throws InputRangeError for what is no grammar, or takes too long or too much memory; Error where XGrammar is not there; the
   * signal's reason.
   */
  async lease(constraint: Constraint, signal: AbortSignal): Promise<LeasedGrammar> {
    if (this.endTokenIds.size === 0)
      throw new InputRangeError("Cannot constrain the answer: the model has no token that ends one");
    const [source, ...others] = grammarSources(constraint, this.toolForm);
    let leased = this.#lease(source, signal);
    for (const other of others) {
      leased = leased.catch((error: unknown) => {
        if (!(error instanceof CostlyGrammar)) throw error;
        return this.#lease(other, signal);
      });
    }
    return await leased;
  }

  async #lease(source: GrammarSource, signal: AbortSignal): Promise<LeasedGrammar> {
    const key = `${source.kind} ${source.text}`;
    for (;;) {
      signal.throwIfAborted();
      const before = this.#refused.get(key);
      if (before !== undefined) throw before;
      if (!this.#kept.has(key) && !(await this.#makeRoom(signal))) continue;
      const kept = this.#kept.get(key) ?? this.#begin(key, source);
      // To the end, as the one that was used last.
      this.#kept.delete(key);
      this.#kept.set(key, kept);
      const leased = this.#leased(kept);
      try {
        const compiled = await unlessAborted(kept.compiling, signal);
        if (compiled.error === undefined) return { open: () => new Matcher(compiled, this.#numMatchers++), ...leased };
        this.#forget(key, kept);
      } catch (error) {
        leased[Symbol.dispose]();
        throw error;
      }
      leased[Symbol.dispose]();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const all = [...this.#kept.values()];
    this.#kept.clear();
    for (const { compiling } of all) await compiling.then(({ worker }) => worker.terminate()).catch(() => undefined);
  }

  #begin(key: string, source: GrammarSource): Kept {
    const kept: Kept = { compiling: this.#limit.run(() => this.#compile(source)), numUsers: 0 };
    kept.compiling.catch((error: unknown) => {
      this.#forget(key, kept);
      if (error instanceof InputRangeError) this.#refuse(key, error);
    });
    return kept;
  }

  /** Counts one more user, until it is disposed. */
  #leased(kept: Kept): Disposable {
    kept.numUsers += 1;
    let isOut = true;
    return {
      [Symbol.dispose]: () => {
        if (!isOut) return;
        isOut = false;
        kept.numUsers -= 1;
        if (kept.numUsers === 0) void this.#endIdle(maxIdle).then(() => this.#wake());
      },
    };
  }

  /** @returns whether there is room for one more thread; else waits until one is idle. */
  async #makeRoom(signal: AbortSignal): Promise<boolean> {
    if (this.#kept.size < maxThreads) return true;
    if (await this.#endIdle(maxThreads - 1)) return this.#kept.size < maxThreads;
    await unlessAborted(new Promise<void>((resolve) => this.#waiting.push(resolve)), signal);
    return false;
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** Ends threads that nobody uses, the least recently used first, until so many are left in all. @returns whether any ended. */
  async #endIdle(most: number): Promise<boolean> {
    let hasEnded = false;
    for (const [key, kept] of [...this.#kept]) {
      if (this.#kept.size <= most) break;
      if (kept.numUsers > 0 || this.#kept.get(key) !== kept) continue;
      this.#kept.delete(key);
      hasEnded = true;
      await kept.compiling.then(({ worker }) => worker.terminate()).catch(() => undefined);
    }
    return hasEnded;
  }

  #refuse(key: string, error: InputRangeError): void {
    const [oldest] = this.#refused.keys();
    if (this.#refused.size >= maxRefused && oldest !== undefined) this.#refused.delete(oldest);
    this.#refused.set(key, error);
  }

  #forget(key: string, kept: Kept): void {
    if (this.#kept.get(key) === kept) this.#kept.delete(key);
    this.#wake();
  }

  async #compile(source: GrammarSource): Promise<Compiled> {
    this.#vocabulary ??= this.#spell();
    const vocabulary = await this.#vocabulary;
    const data: GrammarThreadData = { source, vocabulary, endTokenIds: [...this.endTokenIds] };
    const worker = new Worker(new URL("./grammar-thread.js", import.meta.url), {
      workerData: data,
      stdout: true,
      stderr: true,
      resourceLimits: { maxOldGenerationSizeMb: 512 },
    });
    worker.unref();
    const compiled: Compiled = { worker, matchers: new Map(), error: undefined };
    await new Promise<void>((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined;
      const fail = (error: Error) => {
        clearTimeout(timer);
        compiled.error ??= error;
        reject(error);
        for (const matcher of compiled.matchers.values()) matcher.fail(compiled.error);
      };
      const maxMs = "isLoose" in source && source.isLoose ? maxLooseMs : maxCompileMs;
      const tooLong = () => {
        fail(refused(`compiling it takes over ${maxMs} ms`, CostlyGrammar));
        void worker.terminate();
      };
      worker.on("message", (answer: GrammarAnswer) => {
        if (answer.kind === "mask") compiled.matchers.get(answer.matcher)?.take(answer.mask);
        else if (answer.kind === "loaded") timer = setTimeout(tooLong, maxMs);
        else if (answer.kind === "refused")
          fail(refused(answer.error, /too much memory/.test(answer.error) ? CostlyGrammar : InputRangeError));
        else {
          clearTimeout(timer);
          resolve();
        }
      });
      worker.on("error", (error) => fail(new Error(`Cannot constrain the answer: ${error.message}`, { cause: error })));
      worker.on("exit", () => fail(new Error("Cannot constrain the answer: the grammar's thread ended")));
    });
    return compiled;
  }

  async #spell(): Promise<readonly string[]> {
    const alphabet = byteAlphabet();
    const { tokenizer, vocabSize, endTokenIds } = this;
    const marks = toolMarks[this.toolForm];
    const isSpecial = (id: number) =>
      tokenizer.specialTokenIds.has(id) && !marks.includes(Buffer.from(tokenizer.tokenBytes(id)).toString());
    const spelled: string[] = [];
    for await (const id of inTurns(Array.from({ length: vocabSize }, (_, i) => i))) {
      const isNever = id >= tokenizer.vocabSize || endTokenIds.has(id) || isSpecial(id);
      spelled.push(isNever ? "" : Array.from(tokenizer.tokenBytes(id), (byte) => alphabet[byte]).join(""));
    }
    return spelled;
  }
}

function refused(why: string, Kind = InputRangeError): InputRangeError {
  return new Kind(`Cannot constrain the answer: ${why}`);
}
