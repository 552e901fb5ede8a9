import type { SamplingInput } from "../../engine/sampling-options.js";

/** The fields of a request that steer sampling, null where the client wants the default. */
export interface SamplingFields {
  readonly temperature?: number | null | undefined;
  readonly top_p?: number | null | undefined;
  readonly top_k?: number | null | undefined;
  readonly min_p?: number | null | undefined;
  readonly repetition_penalty?: number | null | undefined;
  readonly presence_penalty?: number | null | undefined;
  readonly frequency_penalty?: number | null | undefined;
  readonly seed?: number | null | undefined;
  readonly stop?: string | readonly string[] | null | undefined;
  readonly logit_bias?: Readonly<Record<string, number>> | null | undefined;
}

/** Sampling as the engine takes it. Defaults are OpenAI's where it has them: temperature 1. */
export function samplingOf(fields: SamplingFields, maxTokens: number): SamplingInput {
  const { stop, top_k: topK, top_p: topP } = fields;
  return {
    temperature: fields.temperature ?? 1,
    // The engine wants more than 0: the smallest number keeps the likeliest token alone.
    topP: topP === 0 ? Number.MIN_VALUE : (topP ?? 1),
    topK: topK === undefined || topK === null || topK === -1 ? 0 : topK,
    minP: fields.min_p ?? 0,
    repetitionPenalty: fields.repetition_penalty ?? 1,
    presencePenalty: fields.presence_penalty ?? 0,
    frequencyPenalty: fields.frequency_penalty ?? 0,
    seed: fields.seed ?? undefined,
    logitBias: fields.logit_bias ?? {},
    maxTokens,
    stop: typeof stop === "string" ? [stop] : [...(stop ?? [])],
  };
}
