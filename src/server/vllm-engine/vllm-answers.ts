import { newTimings } from "../../engine/context-maker.js";
import type { TokenizedPrompt } from "../../engine/prompt.js";
import type { AskedAnswers } from "../../engine/request-checks.js";
import { type GenerateEvent, type LikelyToken, nothingReused, type ServedBlock } from "../../engine/results.js";
import type { TokenSpeller } from "../../engine/token-speller.js";
import type { Chunk } from "./vllm-server.js";

interface Answer {
  text: string;
  readonly tokenIds: number[];
  /** When its first token came. */
  firstAt: number | undefined;
  isDone: boolean;
}

/** The answers to one prompt, as they come. */
export class VllmAnswers {
  hasBegun = false;
  readonly #timings = newTimings();
  readonly #answers: readonly Answer[];
  #blocks: readonly ServedBlock[] = [];

  constructor(
    private readonly asked: AskedAnswers,
    private readonly prompt: TokenizedPrompt,
    private readonly speller: TokenSpeller,
    private readonly endTokenIds: ReadonlySet<number>,
    private readonly startedAt: number,
  ) {
    this.#timings.tokenizeMs = performance.now() - startedAt;
    this.#answers = asked.samplers.map(() => ({ text: "", tokenIds: [], firstAt: undefined, isDone: false }));
  }

  begin(blocks: readonly ServedBlock[]): GenerateEvent {
    this.hasBegun = true;
    this.#blocks = blocks;
    const { usage } = this.#used();
    const { mode, opensReasoning } = this.prompt;
    return { kind: "prompt", mode, blocks, ...usage, ...(opensReasoning && { opensReasoning }) };
  }

  *take({ index, text, token_ids, logprobs, finish_reason }: Chunk): Generator<GenerateEvent, void> {
    const answer = this.#answers[index];
    if (answer === undefined || answer.isDone) return;
    answer.firstAt ??= performance.now();
    const { spell, sampling } = this.asked;
    const tokens = (token_ids ?? []).map((id, i): LikelyToken => {
      const top = Object.entries(logprobs?.top_logprobs?.[i] ?? {}).map(([name, logprob]) => ({
        id: Number(name.replace("token_id:", "")),
        logprob,
      }));
      const best = top.sort((a, b) => b.logprob - a.logprob || a.id - b.id).slice(0, sampling.topLogprobs);
      return { id, logprob: logprobs?.token_logprobs[i] ?? undefined, top: best };
    });
    const isEnd = finish_reason === "stop" && this.endTokenIds.has(tokens.at(-1)?.id ?? -1);
    const end = isEnd ? tokens.pop() : undefined;
    answer.text += text;
    for (const [i, token] of tokens.entries()) {
      answer.tokenIds.push(token.id);
      const own = { index, tokenId: token.id, text: i === tokens.length - 1 ? text : "" };
      const { logprob, top } = token;
      yield { kind: "token", ...own, logprob, top, ...(spell && { spelled: this.speller.spell(token) }) };
    }
    if (finish_reason === null || finish_reason === undefined) return;
    // Text that was held back comes with the end, without a token.
    yield this.#done(index, finish_reason === "length" ? "length" : "stop", tokens.length === 0 ? text : "", end);
  }

  /** Ends those that have not ended. */
  *end(reason: "cancelled" | "length"): Generator<GenerateEvent, void> {
    for (const [index, { isDone }] of this.#answers.entries()) if (!isDone) yield this.#done(index, reason, "");
  }

  #used() {
    const cachedTokens = this.#blocks.reduce((sum, { hit, tokens }) => sum + (hit ? tokens : 0), 0);
    return {
      usage: {
        promptTokens: this.prompt.numTokens,
        cachedTokens,
        reused: { ...nothingReused, blocks: cachedTokens },
      },
    };
  }

  #done(index: number, finishReason: "stop" | "length" | "cancelled", text: string, end?: LikelyToken): GenerateEvent {
    const answer = this.#answers[index] as Answer;
    answer.isDone = true;
    const { tokenIds, firstAt } = answer;
    const now = performance.now();
    const timings = {
      ...this.#timings,
      ttftMs: firstAt === undefined ? undefined : firstAt - this.startedAt,
      decodeMs: firstAt === undefined ? 0 : now - firstAt,
    };
    const endToken = end && { ...end, ...(this.asked.spell && { spelled: this.speller.spell(end) }) };
    const result = {
      ...{ text: answer.text, tokenIds, endToken, finishReason, mode: this.prompt.mode, timings, blocks: this.#blocks },
      usage: { ...this.#used().usage, completionTokens: tokenIds.length },
      ...{ seed: this.asked.samplers[index]?.seed ?? 0, warnings: this.prompt.warnings },
    };
    return { kind: "done", index, text, result };
  }
}

/** The sampling as vLLM has it. */
export function bodyOf(
  { sampling, samplers }: AskedAnswers,
  endTokenIds: ReadonlySet<number>,
): Record<string, unknown> {
  const { temperature, topK, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty, stop } = sampling;
  return {
    ...{ temperature, top_k: topK, top_p: topP, min_p: minP, stop, n: samplers.length, seed: samplers[0]?.seed },
    ...{
      repetition_penalty: repetitionPenalty,
      presence_penalty: presencePenalty,
      frequency_penalty: frequencyPenalty,
    },
    ...(sampling.logitBias.size > 0 && { logit_bias: Object.fromEntries(sampling.logitBias) }),
    ...(sampling.logprobs && { logprobs: sampling.topLogprobs, return_tokens_as_token_ids: true }),
    // The model's files say what ends an answer, for both engines the same.
    ...{ ignore_eos: true, stop_token_ids: [...endTokenIds] },
  };
}
