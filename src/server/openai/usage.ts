import { z } from "zod";
import { type PassageInput, type PassageLabel, unloadPassage } from "../../blocks/passage.js";
import type { GenerateResult, Usage } from "../../engine/results.js";
import { attentionModes } from "../../model/block-attention-config.js";

const tokens = z.int().min(0);

export const usageSchema = z
  .object({
    prompt_tokens: z.int().min(0),
    completion_tokens: z.int().min(0),
    total_tokens: z.int().min(0),
    prompt_tokens_details: z.object({
      cached_tokens: tokens.describe(
        "Prompt tokens whose keys and values came from the store, whatever they were part of.",
      ),
    }),
    completion_tokens_details: z
      .object({
        accepted_prediction_tokens: tokens.describe("Tokens that were guessed and are in the answer."),
        rejected_prediction_tokens: tokens.describe(
          "Tokens that were guessed, computed and not used: nobody pays for them.",
        ),
      })
      .optional()
      .describe("Where the engine guesses tokens, from the prompt's text or from `prediction`."),
  })
  .describe("Tokens. A prompt counts once, however many answers it gets.");

const ms = z.number().min(0);

const timingsSchema = z
  .object({
    tokenize_ms: ms.describe("Templates, cutting and tokens."),
    queue_ms: ms.describe("Waiting for its turn and for memory."),
    encode_ms: ms.describe("Looking blocks up and encoding those that were not there."),
    assemble_ms: ms.describe("Laying blocks out and turning their keys to their places."),
    prefill_ms: ms.describe("Computing the final block."),
    ttft_ms: ms.nullable().describe("From the engine's call to the first token; null where there was none."),
    decode_ms: ms.describe("From the first token to the last."),
  })
  .describe("What the engine took, in milliseconds; of several answers, the first's.");

/** What a passage was given with, as its blocks tell it. */
export const passageLabel = z
  .strictObject({
    id: z.union([z.string(), z.number()]).optional(),
    metadata: z.record(z.string(), z.unknown()).optional(),
    score: z.number().optional(),
    part: z.int().min(0).optional().describe("Which part it is of a passage that was split, from 0 on."),
    text: z.string().optional().describe("Of a part that was encoded ahead, its text."),
  })
  .describe("What the passage was given with.");

/** A passage's label with what the passage carries; of one that was split, the id alone from the second part on. */
export function loadedLabel(label: PassageLabel, given: readonly PassageInput[]): PassageLabel {
  const passage = given[label.index];
  if (passage === undefined) return label;
  const [, load] = unloadPassage(passage);
  if ((label.part ?? 0) === 0) return { ...label, ...load };
  return load.id === undefined ? label : { ...label, id: load.id };
}

/** The passage that something is, where it is one. */
const passage = passageLabel
  .extend({ index: z.int().min(0).describe("Its place among `documents`, from 0 on.") })
  .optional()
  .describe("The document that it is, where it is one.");

const missSchema = z
  .object({
    kind: z.enum(["block", "prefix", "conversation"]),
    passage,
    token: tokens.describe("The place of the first token that differs, from the prompt's start."),
    before: z.string().describe("The text before it, which is alike."),
    asked: z.string().describe("This prompt's text from there on."),
    stored: z.string().describe("The stored text from there on."),
    reason: z.string().describe("The likely reason."),
  })
  .describe("Where reuse ended though it could be expected to go on.");

const blockAttentionSchema = z
  .object({
    mode: z.enum(attentionModes),
    blocks: z.array(
      z.object({
        id: z.string(),
        tokens,
        hit: z.boolean().describe("Whether its keys and values were there already."),
        passage,
      }),
    ),
    reused: z
      .object({
        blocks: tokens.describe("Local blocks, in any order."),
        prefix: tokens.describe("What the prompt begins with, as an earlier one did."),
        conversation: tokens.describe("A conversation that goes on."),
      })
      .describe("Prompt tokens from the store, by what they were part of."),
    computed: tokens.describe("Prompt tokens that were computed."),
    repair: z
      .object({
        text: z.string().describe("As it can be asked for."),
        recomputed: tokens.describe("Tokens of local blocks that were computed again."),
        kept: z
          .array(tokens)
          .optional()
          .describe("With keep: which of `blocks` stayed in the prompt, by their index; the others were taken out."),
      })
      .optional()
      .describe("What was done about what block mode loses."),
    warnings: z.array(z.string()),
    misses: z.array(missSchema).optional().describe("Where `explain` asked for them."),
  })
  .describe("The prompt's local blocks as they were served, and what was reused; of several answers, the first's.");

/** What was done for a request, beside the answer. */
export const reportSchema = z.object({ timings: timingsSchema, block_attention: blockAttentionSchema });

/** @param n answers of each prompt. */
export function usageOf(usages: readonly Usage[], n: number): z.output<typeof usageSchema> {
  const perPrompt = usages.filter((_, i) => i % n === 0);
  const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
  const promptTokens = sum(perPrompt.map((usage) => usage.promptTokens));
  const completionTokens = sum(usages.map((usage) => usage.completionTokens));
  const drafts = usages.flatMap((usage) => usage.drafts ?? []);
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: sum(perPrompt.map((usage) => usage.cachedTokens)) },
    ...(drafts.length > 0 && {
      completion_tokens_details: {
        accepted_prediction_tokens: sum(drafts.map(({ accepted }) => accepted)),
        rejected_prediction_tokens: sum(drafts.map(({ rejected }) => rejected)),
      },
    }),
  };
}

export function reportOf(first: GenerateResult): z.output<typeof reportSchema> {
  const { timings, mode, blocks, usage, repair, warnings, misses } = first;
  return {
    timings: {
      tokenize_ms: timings.tokenizeMs,
      queue_ms: timings.queueMs + timings.waitMs,
      encode_ms: timings.encodeMs,
      assemble_ms: timings.assembleMs,
      prefill_ms: timings.prefillMs,
      ttft_ms: timings.ttftMs ?? null,
      decode_ms: timings.decodeMs,
    },
    block_attention: {
      mode,
      blocks: blocks.map(({ id, tokens, hit, passage }) => ({ id, tokens, hit, ...(passage && { passage }) })),
      reused: usage.reused,
      computed: usage.promptTokens - usage.cachedTokens,
      ...(repair && {
        repair: {
          text: repair.text,
          recomputed: repair.recomputedTokens,
          ...(repair.kept && { kept: [...repair.kept] }),
        },
      }),
      warnings: [...warnings],
      ...(misses && { misses: [...misses] }),
    },
  };
}
