import { createHash, randomUUID } from "node:crypto";
import { type EngineHost, HostError, type HostModel, type HostResult } from "../engine-host.js";

/** What every answer, and every chunk of one, says of itself. */
export interface AnswerHead {
  readonly id: string;
  /** In seconds since 1970. */
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

/**
 * @param prefix of the id: "chatcmpl" or "cmpl".
 * @param name by which clients know the model.
 * @throws HostError where no model is loaded.
 */
export function answerHead(host: EngineHost, prefix: string, name: string | undefined): AnswerHead {
  const model = loadedModel(host);
  return {
    id: `${prefix}-${randomUUID().replaceAll("-", "")}`,
    created: Math.floor(Date.now() / 1000),
    model: name ?? model.name,
    system_fingerprint: fingerprintOf(model),
  };
}

/** @throws HostError "unavailable" before a model has been loaded. */
export function loadedModel(host: EngineHost): HostModel {
  if (host.model === undefined) {
    throw new HostError("unavailable", `Cannot serve the model: the engine is ${host.status.state}`);
  }
  return host.model;
}

/** How an answer ended, in OpenAI's words. @throws HostError for one that was cut off: nobody may take it for whole. */
export function finishReason({ finishReason: reason }: HostResult): "stop" | "length" {
  if (reason === "cancelled") throw new HostError("failed", "Cannot complete the answer: it was cancelled");
  return reason;
}

/** Changes where the model or what it computes with does. */
function fingerprintOf({ name, kvType, contextLength, vocabSize, defaultMode }: HostModel): string {
  const parts = JSON.stringify([name, kvType, contextLength, vocabSize, defaultMode]);
  return `fp_${createHash("sha256").update(parts).digest("hex").slice(0, 10)}`;
}
