import type { Admission, Ticket } from "./admission.js";
import type { Grammars, LeasedGrammar } from "./constraint/grammars.js";
import { type ContextMaker, type MutableTimings, newTimings, type Prepared } from "./context-maker.js";
import { Drafter, TokenPairs } from "./drafts.js";
import { asEngineError, EngineError } from "./engine-error.js";
import { PromptScorer } from "./logprobs.js";
import type { LoadedModel } from "./model.js";
import { Outbox } from "./outbox.js";
import type { PromptInput, TokenizedPrompt } from "./prompt.js";
import type { AskedAnswers } from "./request-checks.js";
import type { RequestTokens } from "./request-tokens.js";
import { type GenerateEvent, type LikelyToken, nothingReused } from "./results.js";
import type { Sampler } from "./sampler.js";
import { requireLogprobs } from "./sampling-options.js";
import type { Scheduler } from "./scheduler.js";
import { type AnswerStart, Sequence } from "./sequence.js";
import { inTurns, unlessAborted } from "./task.js";
import type { TokenSpeller } from "./token-speller.js";

/** How many events each answer may be ahead of its reader. */
const maxUnreadEvents = 32;
/** Log-probabilities in one `echo` event: a few milliseconds' worth of messages. */
const logprobsOfPart = 2048;

/** Tokens that are looked through at a time: well under a millisecond. */
const tokensAtATime = 4096;
/** Shorter answers are not guessed: a draft would hardly be done before they end. */
const fewestDraftedTokens = 4;

/** The answers to one prompt, while they are computed. */
interface Answering {
  readonly asked: AskedAnswers;
  readonly sequences: readonly Sequence[];
  readonly tickets: readonly Ticket[];
  readonly timings: MutableTimings;
  readonly startedAt: number;
  readonly emit: (event: GenerateEvent) => void;
  /** Ends all answers with an error. */
  readonly fail: (error: unknown) => void;
  /** Emits an answer's `done` event, once. */
  readonly end: (index: number) => void;
  prompt: TokenizedPrompt | undefined;
  prepared: Pick<Prepared, "blocks" | "cachedTokens" | "reused" | "repair" | "misses"> | undefined;
}

interface PromptStart extends AnswerStart {
  readonly prompt: TokenizedPrompt;
  readonly grammar: LeasedGrammar | undefined;
  /** Where guesses come from, made once for all answers; undefined where nothing is guessed. */
  readonly knownText: (() => Promise<TokenPairs>) | undefined;
}

const predictionPassedOver =
  "The prediction is passed over: this engine computes no drafts (--drafts, drafts in the library)";

/** Answers prompts: a prompt is prefilled once, however many answers are wanted, and each answer goes on from it. */
export class Answers {
  constructor(
    private readonly model: LoadedModel,
    private readonly admission: Admission,
    private readonly tokens: RequestTokens,
    private readonly contexts: ContextMaker,
    private readonly scheduler: Scheduler,
    private readonly speller: TokenSpeller,
    private readonly grammars: Grammars,
    private readonly readerTimeoutMs: number,
  ) {}

  /**
   * The events of a prompt's answers, for one reader.
   *
   * @param check called when the reader begins.
   * @param leaving aborted when the reader leaves.
   * @throws EngineError; what `check` throws.
   */
  async *read(
    input: PromptInput | TokenizedPrompt,
    check: () => AskedAnswers,
    leaving: AbortController,
  ): AsyncGenerator<GenerateEvent, void> {
    const asked = check();
    const capacity = maxUnreadEvents * asked.samplers.length;
    const outbox = new Outbox<GenerateEvent>({
      capacity,
      patienceMs: this.readerTimeoutMs,
      onRoom: () => this.scheduler.wake(),
      onStalled: () => leaving.abort(slowReader(this.readerTimeoutMs, capacity)),
    });
    const answered = this.#answer(input, asked, outbox, leaving);
    try {
      yield* outbox.read();
    } finally {
      leaving.abort(new Error("Cannot go on: nobody reads the answer"));
      await answered;
    }
  }

  /** Computes all answers into the outbox, however fast they are read. Never throws: the reader gets the error. */
  async #answer(
    input: PromptInput | TokenizedPrompt,
    asked: AskedAnswers,
    outbox: Outbox<GenerateEvent>,
    leaving: AbortController,
  ): Promise<void> {
    const { terms, samplers, callerSignal } = asked;
    try {
      const tickets = this.admission.join(terms.payer, samplers.length);
      const startedAt = performance.now();
      const emit = (event: GenerateEvent) => outbox.push(event);
      const sequences = samplers.map((sampler, index) => this.#sequence(asked, index, sampler, startedAt, outbox));
      const ended = new Set<number>();
      const answering: Answering = {
        ...{ asked, sequences, tickets, timings: newTimings(), startedAt, emit },
        fail: (error) => leaving.abort(asEngineError(error)),
        end: (index) => {
          if (!ended.has(index)) emit(this.#doneEvent(answering, index));
          ended.add(index);
        },
        prompt: undefined,
        prepared: undefined,
      };
      try {
        await this.admission.run(terms, () => this.#compute(input, answering), tickets);
      } catch (error) {
        // An engine that closes and a reader who is too slow are errors; only the caller's own abort is `cancelled`.
        if (callerSignal?.aborted !== true) throw error;
        for (const sequence of sequences) if (sequence.finishReason === undefined) sequence.cancel();
      }
      for (const index of sequences.keys()) answering.end(index);
      outbox.end();
    } catch (error) {
      outbox.fail(error);
    } finally {
      terms.end();
    }
  }

  async #compute(input: PromptInput | TokenizedPrompt, answering: Answering): Promise<void> {
    const { asked, sequences, tickets, timings, startedAt, emit } = answering;
    const { terms, sampling, echo, maxLogprobs, prediction } = asked;
    const { mode, signal } = terms;
    const { logprobs, topLogprobs } = sampling;
    const prompt = await this.tokens.prompt(input, terms);
    answering.prompt = prompt;
    timings.tokenizeMs = performance.now() - startedAt;
    const predicted =
      this.scheduler.drafts === "off" || prediction === undefined
        ? []
        : await this.tokens.text(
            { text: prediction, trusted: "all" },
            this.tokens.contextLength,
            signal,
            "the prediction",
          );
    using grammar = asked.constraint && (await this.grammars.lease(asked.constraint, signal));
    const { isContinued } = prompt;
    const promptIds = idsOf(prompt);
    const maxTokens = Math.min(sampling.maxTokens, this.tokens.contextLength - promptIds.length);
    // The last token's key and value are never read.
    const answerRows = Math.max(0, maxTokens - 1);
    const scoresPrompt = echo && logprobs;
    const needs = this.contexts.needs(prompt, {
      answerRows,
      numForks: sequences.length > 1 && answerRows > 0 ? Math.min(sequences.length, this.admission.maxRunning) : 0,
      scoresPrompt,
      repair: terms.repair,
    });
    if (logprobs) requireLogprobs((maxTokens + (echo ? promptIds.length : 0)) * (1 + topLogprobs), maxLogprobs);
    const queuedFrom = performance.now();
    const entering = (tickets[0] as Ticket).enter(promptIds.length + maxTokens, signal, needs.bytes);
    const { room, waitMs } = await entering.finally(() => {
      timings.queueMs = performance.now() - queuedFrom;
    });
    timings.waitMs = waitMs;
    timings.queueMs -= waitMs;
    using prepared = await this.contexts.prepare(prompt, needs, room, terms, timings, scoresPrompt);
    answering.prepared = prepared;
    const { cachedTokens, reused, finalTokens, context } = prepared;
    const emitPrompt = (echoed: readonly LikelyToken[]) => {
      for (const some of inParts(echo ? echoed : [], Math.ceil(logprobsOfPart / (1 + topLogprobs)))) {
        emit({ kind: "echo", tokens: some.map((token) => this.speller.spell(token)) });
      }
      const { opensReasoning } = prompt;
      const told = { mode, promptTokens: promptIds.length, cachedTokens, reused, blocks: prepared.blocks };
      emit({ kind: "prompt", ...told, ...(opensReasoning && { opensReasoning }) });
    };
    const scorer = scoresPrompt ? new PromptScorer(promptIds, topLogprobs) : undefined;
    if (scorer === undefined) emitPrompt(promptIds.map((id) => ({ id, logprob: undefined, top: [] })));
    const prefillFrom = performance.now();
    const rows = scorer
      ? this.contexts.promptRows(prompt, prepared, terms)
      : this.contexts.lastRows(prepared, finalTokens.length - 1, terms);
    let logits: Float32Array | undefined;
    for await (logits of rows) scorer?.take(logits);
    timings.prefillMs += performance.now() - prefillFrom;
    if (scorer) emitPrompt(scorer.scores);
    // Without the blocks that a repair has taken out.
    const seenIds = prepared.prompt === prompt ? promptIds : idsOf(prepared.prompt);
    const knownText = this.#knownText([...seenIds, ...predicted], maxTokens);
    const start = {
      prompt: prepared.prompt,
      promptIds: seenIds,
      isContinued,
      maxTokens,
      logits: logits as Float32Array,
      grammar,
      knownText,
    };
    const computed = promptIds.length - cachedTokens;
    if (needs.numForks > 0) return await this.#fork(answering, { ...start, context }, needs.numForks, computed);
    for (const [index, sequence] of sequences.entries()) {
      await this.#decode(sequence, { ...start, context }, terms, tickets[index] as Ticket, index === 0 ? computed : 0);
    }
  }

  /** Decodes an answer, and notes what was computed of it, however it ends. @param before tokens that its place computed already. */
  async #decode(
    sequence: Sequence,
    start: PromptStart,
    terms: AskedAnswers["terms"],
    ticket: Ticket,
    before: number,
  ): Promise<void> {
    const { prompt, context } = start;
    using masks = start.grammar?.open();
    try {
      if (masks?.ready) await unlessAborted(masks.ready, terms.signal);
      if (sequence.begin({ ...start, masks })) {
        // After the first token is out. Answers side by side keep their prompt once: the others find its pages.
        await this.contexts.keep(prompt, context, [], terms, false);
        if (start.knownText) sequence.guess(new Drafter(await start.knownText(), start.promptIds));
        await this.scheduler.decode(sequence, terms);
      }
      await this.contexts.keep(prompt, context, sequence.tokenIds, terms, true);
    } finally {
      ticket.numTokens = before + sequence.tokenIds.length;
    }
  }

  /** A text to guess from, made when the first answer asks for it, after its first token is out. */
  #knownText(ids: readonly number[], maxTokens: number): PromptStart["knownText"] {
    if (this.scheduler.drafts === "off" || maxTokens < fewestDraftedTokens) return undefined;
    const make = async (): Promise<TokenPairs> => {
      const text = new TokenPairs(ids.length);
      for await (const some of inTurns(inParts(ids, tokensAtATime))) for (const id of some) text.add(id);
      return text;
    };
    let made: Promise<TokenPairs> | undefined;
    return () => {
      made ??= make();
      return made;
    };
  }

  /** Decodes each answer in a fork of the prompt's context, `numForks` at a time. The first answer has its place already. */
  async #fork(answering: Answering, start: PromptStart, numForks: number, computed: number): Promise<void> {
    const { asked, sequences, tickets, fail, end } = answering;
    const { terms } = asked;
    const answer = async (index: number): Promise<void> => {
      const sequence = sequences[index] as Sequence;
      const ticket = tickets[index] as Ticket;
      if (index > 0) await ticket.enter(start.maxTokens, terms.signal);
      {
        using context = this.contexts.fork(start.context, start.maxTokens - 1);
        await this.#decode(sequence, { ...start, context }, terms, ticket, index === 0 ? computed : 0);
      }
      ticket[Symbol.dispose]();
      end(index);
    };
    const waiting = sequences.keys();
    const lane = async (): Promise<void> => {
      for (const index of waiting) await answer(index);
    };
    const lanes = Array.from({ length: numForks }, () =>
      lane().catch((error: unknown) => {
        fail(error);
        throw error;
      }),
    );
    // The prompt's context is disposed by the caller, after the last fork.
    const ends = await Promise.allSettled(lanes);
    for (const one of ends) if (one.status === "rejected") throw one.reason;
  }

  #sequence(
    { sampling, spell }: AskedAnswers,
    index: number,
    sampler: Sampler,
    startedAt: number,
    outbox: Outbox<GenerateEvent>,
  ): Sequence {
    const { tokenizer, endTokenIds } = this.model;
    return new Sequence({
      ...{ sampler, stop: sampling.stop, endTokenIds, tokenizer, startedAt },
      isPaused: () => outbox.isFull,
      onToken: (sampled, text) => {
        const spelled = spell ? this.speller.spell(sampled) : undefined;
        // Spelled once, sent once: the same objects.
        const { id: tokenId, logprob, top } = spelled ?? sampled;
        outbox.push({ kind: "token", index, tokenId, text, logprob, top, ...(spelled && { spelled }) });
      },
    });
  }

  #doneEvent({ asked, sequences, timings, prompt, prepared }: Answering, index: number): GenerateEvent {
    const sequence = sequences[index] as Sequence;
    const text = sequence.end();
    const { tokenIds, endToken: token, finishReason = "cancelled", ttftMs, decodeMs, seed } = sequence;
    const drafts = this.scheduler.drafts === "off" ? undefined : sequence.drafts;
    const { cachedTokens = 0, reused = nothingReused, blocks = [], repair, misses } = prepared ?? {};
    const usage = {
      promptTokens: prompt?.numTokens ?? 0,
      cachedTokens,
      reused,
      completionTokens: tokenIds.length,
      drafts,
    };
    const isPassedOver = asked.prediction !== undefined && this.scheduler.drafts === "off";
    const warnings = [...(prompt?.warnings ?? []), ...(isPassedOver ? [predictionPassedOver] : [])];
    const endToken = token && asked.spell ? { ...token, spelled: this.speller.spell(token) } : token;
    const result = {
      ...{ text: sequence.text, tokenIds, endToken, finishReason, mode: asked.terms.mode, usage },
      ...{ timings: { ...timings, ttftMs, decodeMs }, blocks, repair, misses, seed, warnings },
    };
    return { kind: "done", index, text, result };
  }
}

function idsOf({ spans }: TokenizedPrompt): number[] {
  return spans.flatMap(({ tokenIds }) => [...tokenIds]);
}

/** The items in parts of a size. */
export function* inParts<T>(items: readonly T[], size: number): Generator<readonly T[], void> {
  for (let first = 0; first < items.length; first += size) yield items.slice(first, first + size);
}

function slowReader(timeoutMs: number, numEvents: number): EngineError {
  return new EngineError(
    "slow_reader",
    `Cannot go on with the answer: for ${timeoutMs} ms nobody read it while ${numEvents} events waited`,
  );
}
