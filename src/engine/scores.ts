import type { Admission } from "./admission.js";
import type { AssembledContext } from "./assemble.js";
import { type ContextMaker, newTimings, type Prepared } from "./context-maker.js";
import { createExp, tokenLogprobs } from "./logprobs.js";
import type { PromptInput, TokenizedPrompt } from "./prompt.js";
import type { AskedScores } from "./request-checks.js";
import type { RequestTokens } from "./request-tokens.js";
import type { LikelyToken, ScoreResult, TokenLogprob } from "./results.js";
import type { Scheduler } from "./scheduler.js";

/** Rows of continuations that are computed together; a longer continuation is computed alone. */
const maxRowsAtATime = 512;

/** A continuation, and the log-probabilities of its tokens so far. */
class ScoredText {
  readonly logprobs: number[] = [];
  readonly top: (readonly TokenLogprob[])[] = [];
  readonly #exp = createExp();

  constructor(
    readonly tokenIds: readonly number[],
    private readonly numTop: number,
  ) {}

  /** Takes the logits of its next token. @returns whether there is more to score. */
  take(logits: Float32Array): boolean {
    const next = this.tokenIds[this.logprobs.length] as number;
    const { logprob, top } = tokenLogprobs(logits, next, this.numTop, this.#exp);
    this.logprobs.push(logprob);
    this.top.push(top);
    return this.logprobs.length < this.tokenIds.length;
  }

  /** The tokens to compute: all but the last, since nothing reads what follows it. */
  get rows(): readonly number[] {
    return this.tokenIds.slice(0, -1);
  }
}

/** Scores continuations of prompts: a prompt is prefilled once, however many of them there are. */
export class Scores {
  constructor(
    private readonly admission: Admission,
    private readonly tokens: RequestTokens,
    private readonly contexts: ContextMaker,
    private readonly scheduler: Scheduler,
  ) {}

  /** @returns in the order of the continuations. @throws EngineError; the signal's reason. */
  each(
    input: PromptInput | TokenizedPrompt,
    continuations: readonly (string | readonly number[])[],
    { terms, numTop, stepwise }: AskedScores,
  ): Promise<ScoreResult[]> {
    const { mode, signal } = terms;
    return this.admission.run(terms, async (ticket) => {
      const prompt = await this.tokens.prompt(input, terms);
      const promptTokens = prompt.numTokens;
      const texts: ScoredText[] = [];
      for (const continuation of continuations) {
        texts.push(new ScoredText(await this.tokens.continuation(continuation, promptTokens, signal), numTop));
      }
      const numTokens = texts.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
      const batches = stepwise ? [] : batchesOf(texts);
      const longest = Math.max(0, ...texts.map(({ rows }) => rows.length));
      const needs = this.contexts.needs(prompt, {
        moreRows: Math.max(0, ...batches.map(rowsOf)),
        answerRows: stepwise ? longest : 0,
        numForks: stepwise && texts.length > 1 && longest > 0 ? 1 : 0,
        repair: terms.repair,
      });
      const { room } = await ticket.enter(promptTokens + numTokens, signal, needs.bytes);
      using prepared = await this.contexts.prepare(prompt, needs, room, terms, newTimings());
      const { cachedTokens, reused, repair, context } = prepared;
      const numPlaces = prepared.prompt.numTokens;
      if (stepwise) await this.#scoreStepwise(texts, prepared, numPlaces, terms);
      else await this.#scoreAtOnce(texts, batches, prepared, numPlaces, terms);
      await this.contexts.keep(prepared.prompt, context, [], terms, true);
      ticket.numTokens = promptTokens - cachedTokens + numTokens;
      return texts.map(({ tokenIds, logprobs, top }) => ({
        blockTokenIds: prompt.cutTokenIds,
        continuationTokenIds: tokenIds,
        ...{ logprobs, top, mode, repair },
        usage: { promptTokens, cachedTokens, reused, completionTokens: tokenIds.length },
      }));
    });
  }

  /** Computes continuations side by side after the prompt: each sees the prompt and itself. */
  async #scoreAtOnce(
    texts: readonly ScoredText[],
    batches: readonly (readonly ScoredText[])[],
    { context, finalTokens, finalPosition }: Prepared,
    promptTokens: number,
    of: AskedScores["terms"],
  ): Promise<void> {
    for (const [i, batch] of batches.entries()) {
      // The first batch brings the prompt's end along; each later one is written over the batch before it.
      const end = i === 0 ? finalTokens : new Int32Array();
      if (i > 0) context.length = promptTokens;
      const tokenIds = Int32Array.from([...end, ...batch.flatMap(({ rows }) => rows)]);
      if (tokenIds.length === 0) continue;
      const positions = Int32Array.from([
        ...Array.from(end, (_, row) => finalPosition + row),
        ...batch.flatMap(({ rows }) => rows.map((_, row) => promptTokens + row)),
      ]);
      const spans = [
        { kind: "global", numRows: end.length } as const,
        ...batch.map(({ rows }) => ({ kind: "local", numRows: rows.length, preamble: promptTokens }) as const),
      ].filter(({ numRows }) => numRows > 0);
      const firstWanted = Math.max(0, end.length - 1);
      const logits = this.scheduler.prefill(context, tokenIds, positions, firstWanted, of, spans);
      if (i === 0) {
        const last = (await logits.next()).value as Float32Array;
        for (const text of texts) text.take(last);
      }
      const readers = batch.flatMap((text) => text.rows.map(() => text)).values();
      for await (const row of logits) readers.next().value?.take(row);
    }
  }

  /** Decodes continuations token by token, as an answer is, one after another. */
  async #scoreStepwise(
    texts: readonly ScoredText[],
    prepared: Prepared,
    promptTokens: number,
    of: AskedScores["terms"],
  ): Promise<void> {
    let last: Float32Array | undefined;
    for await (last of this.contexts.lastRows(prepared, prepared.finalTokens.length - 1, of));
    const decode = async (text: ScoredText, context: AssembledContext): Promise<void> => {
      // It chooses nothing, and so gets logits.
      const take = (logits: Float32Array | LikelyToken) => text.take(logits as Float32Array);
      const sequence = {
        context,
        isPaused: false,
        take,
        get next() {
          const done = text.logprobs.length;
          return { tokenId: text.tokenIds[done - 1] as number, position: promptTokens + done - 1 };
        },
      };
      await this.scheduler.decode(sequence, of);
    };
    for (const text of texts) {
      if (!text.take(last as Float32Array)) continue;
      if (texts.length === 1) {
        await decode(text, prepared.context);
        continue;
      }
      using fork = this.contexts.fork(prepared.context, text.rows.length);
      await decode(text, fork);
    }
  }
}

function rowsOf(batch: readonly ScoredText[]): number {
  return batch.reduce((sum, { rows }) => sum + rows.length, 0);
}

/** Batches of as many continuations as there is room for, one at least. */
function batchesOf(texts: readonly ScoredText[]): ScoredText[][] {
  const batches: ScoredText[][] = [];
  for (const text of texts) {
    const batch = batches.at(-1);
    if (batch && rowsOf(batch) + text.rows.length <= maxRowsAtATime) batch.push(text);
    else batches.push([text]);
  }
  return batches;
}
