import { createHash, randomUUID } from "node:crypto";
import type { Engine } from "../../engine/engine.js";
import { EngineError } from "../../engine/engine-error.js";
import type { ModelInfo } from "../../engine/model.js";
import type { GenerateResult } from "../../engine/results.js";

/** What every answer, and every chunk of one, says of itself. */
export interface AnswerHead {
  readonly id: string;
  /** In seconds since 1970. */
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

/**
 * @param prefix of the id: "chatcmpl-", "cmpl-" or "resp_".
 * @param name by which clients know the model.
 * @throws EngineError where no model is loaded.
 */
export function answerHead(engine: Engine, prefix: string, name: string | undefined): AnswerHead {
  const model = loadedModel(engine);
  return {
    id: newId(prefix),
    created: Math.floor(Date.now() / 1000),
    model: name ?? model.name,
    system_fingerprint: fingerprintOf(model),
  };
}

/** An id that no other has. @example newId("msg_") is "msg_" and 32 hexadecimal digits */
export function newId(prefix: string): string {
  return `${prefix}${randomUUID().replaceAll("-", "")}`;
}

/** @throws EngineError "unavailable" before a model has been loaded. */
export function loadedModel(engine: Engine): ModelInfo {
  if (engine.info === undefined) {
    throw new EngineError("unavailable", `Cannot serve the model: the engine is ${engine.status.state}`);
  }
  return engine.info;
}

/** How an answer ended, in OpenAI's words. @throws EngineError for one that was cut off: nobody may take it for whole. */
export function finishReason({ finishReason: reason }: GenerateResult): "stop" | "length" {
  if (reason === "cancelled") throw new EngineError("failed", "Cannot complete the answer: it was cancelled");
  return reason;
}

/** Changes where the model or what it computes with does. */
function fingerprintOf({ name, kvType, contextLength, vocabSize, defaultMode }: ModelInfo): string {
  const parts = JSON.stringify([name, kvType, contextLength, vocabSize, defaultMode]);
  return `fp_${createHash("sha256").update(parts).digest("hex").slice(0, 10)}`;
}
