import { z } from "zod";
import type { GenerateResult, SpelledToken } from "../../engine/results.js";
import { type AnswerHead, finishReason } from "./answer-head.js";
import type { CompletionRequests } from "./completion-request.js";
import { type GatheredChoice, mapChoices } from "./gather.js";
import {
  joinLegacyLogprobs,
  type LegacyLogprobs,
  LegacyLogprobsWriter,
  legacyLogprobsSchema,
  spellTokens,
} from "./legacy-logprobs.js";
import type { ChoiceEvent } from "./run-choices.js";
import { reportOf, reportSchema, usageOf, usageSchema } from "./usage.js";

const choiceSchema = z.object({
  index: z.int().describe("The prompt's number times n, plus the answer's."),
  text: z.string(),
  logprobs: legacyLogprobsSchema.nullable(),
  finish_reason: z.enum(["stop", "length"]),
});

export const completionAnswerSchema = z
  .object({
    id: z.string(),
    object: z.literal("text_completion"),
    created: z.int(),
    model: z.string(),
    system_fingerprint: z.string(),
    choices: z.array(choiceSchema),
    usage: usageSchema,
    ...reportSchema.shape,
  })
  .describe("How texts go on.");

/** A whole answer. */
export async function completionAnswer(
  head: AnswerHead,
  choices: readonly GatheredChoice[],
  asked: CompletionRequests,
): Promise<z.output<typeof completionAnswerSchema>> {
  const results = choices.map(({ result }) => result);
  return {
    ...head,
    object: "text_completion",
    choices: await mapChoices(choices, ({ echo: prompt, text, tokens, result }, index) => {
      const writer = new ChoiceWriter(asked, index);
      writer.takeEcho(prompt);
      const echo = writer.echo();
      return {
        index,
        text: (echo?.text ?? "") + text,
        logprobs: joined([echo?.logprobs, writer.logprobs(tokens, text), writer.logprobs(endOf(result), "")]),
        finish_reason: finishReason(result),
      };
    }),
    usage: usageOf(
      results.map(({ usage }) => usage),
      asked.n,
    ),
    ...reportOf(results[0]!),
  };
}

interface CompletionChunkChoice {
  readonly index: number;
  readonly text: string;
  readonly logprobs: LegacyLogprobs | null;
  readonly finish_reason: "stop" | "length" | null;
}

/** Makes of events what they add to a streamed answer: the `choices` of none or one chunk. */
export function completionChunks(asked: CompletionRequests): (arrival: ChoiceEvent) => CompletionChunkChoice[] {
  const writers = Array.from({ length: asked.requests.length * asked.n }, (_, index) => new ChoiceWriter(asked, index));
  return ({ index, event }) => {
    const writer = writers[index] as ChoiceWriter;
    switch (event.kind) {
      case "echo":
        writer.takeEcho(event.tokens);
        return [];
      case "prompt": {
        const echo = writer.echo();
        return echo === undefined ? [] : [{ index, ...echo, finish_reason: null }];
      }
      case "token": {
        if (event.text === "" && event.spelled === undefined) return [];
        const tokens = event.spelled === undefined ? [] : [event.spelled];
        return [{ index, text: event.text, logprobs: writer.logprobs(tokens, event.text), finish_reason: null }];
      }
      case "done": {
        const logprobs = joined([writer.logprobs(endOf(event.result), "")]);
        return [{ index, text: event.text, logprobs, finish_reason: finishReason(event.result) }];
      }
      default:
        return event satisfies never;
    }
  };
}

/** Writes one choice's echo and log-probabilities, in the order of its events. */
class ChoiceWriter {
  readonly #asked: CompletionRequests;
  /** Of its prompt. */
  readonly #place: number;
  readonly #writer: LegacyLogprobsWriter | undefined;
  #prompt: SpelledToken[] = [];

  constructor(asked: CompletionRequests, index: number) {
    this.#asked = asked;
    this.#place = Math.floor(index / asked.n);
    const { logprobs, topLogprobs } = asked.requests[this.#place]!.options;
    this.#writer = logprobs ? new LegacyLogprobsWriter(topLogprobs ?? 0) : undefined;
  }

  /** The prompt's next tokens. */
  takeEcho(tokens: readonly SpelledToken[]): void {
    for (const token of tokens) this.#prompt.push(token);
  }

  /** The prompt before the answer, once all its tokens were taken; undefined where it is not echoed. */
  echo(): { text: string; logprobs: LegacyLogprobs | null } | undefined {
    if (this.#asked.echoes === undefined) return undefined;
    const tokens = this.#prompt;
    this.#prompt = [];
    const text = this.#asked.echoes[this.#place] ?? spellTokens(tokens);
    return { text, logprobs: this.#writer?.echo(tokens, text) ?? null };
  }

  logprobs(tokens: readonly SpelledToken[], text: string): LegacyLogprobs | null {
    return this.#writer?.answer(tokens, text) ?? null;
  }
}

function endOf({ endToken }: GenerateResult): SpelledToken[] {
  return endToken?.spelled === undefined ? [] : [endToken.spelled];
}

function joined(parts: readonly (LegacyLogprobs | null | undefined)[]): LegacyLogprobs | null {
  const lists = parts.filter((part) => part != null);
  return lists.length === 0 ? null : joinLegacyLogprobs(lists);
}
