import { z } from "zod";
import type { ModelInfo } from "../../engine/model.js";
import { attentionModes } from "../../model/block-attention-config.js";

const modes = z.enum(attentionModes);

export const modelSchema = z
  .object({
    id: z.string(),
    object: z.literal("model"),
    created: z.int().describe("When it was loaded, in seconds since 1970."),
    owned_by: z.string(),
    max_model_len: z.int().describe("The longest prompt plus answer, in tokens."),
    block_attention: z.object({ default_mode: modes, trained_modes: z.array(modes) }),
  })
  .describe("The model that is loaded.");

export const modelListSchema = z.object({ object: z.literal("list"), data: z.array(modelSchema) });

export function modelAnswer(model: ModelInfo, id: string): z.output<typeof modelSchema> {
  return {
    id,
    object: "model",
    created: Math.floor(model.loadedAt),
    owned_by: "block-attention",
    max_model_len: model.contextLength,
    block_attention: { default_mode: model.defaultMode, trained_modes: [...model.trainedModes] },
  };
}
