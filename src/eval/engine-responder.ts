import { createHash } from "node:crypto";
import type { GivenRagTexts } from "../blocks/rag-prompt.js";
import { EngineError } from "../engine/engine-error.js";
import type { LocalEngine } from "../engine/local-engine.js";
import type { GenerateResult } from "../engine/results.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import type { RagLine } from "./rag-line.js";
import type { Reply, Responder, RunSettings } from "./responder.js";

export interface EngineResponderOptions {
  readonly engine: LocalEngine;
  readonly mode: AttentionMode;
  /** Default true. */
  readonly positionReencoding?: boolean | undefined;
  /** Of block mode, as requests name it. Default: the engine's. */
  readonly repair?: string | undefined;
  /** The RAG prompt's words, in place of the model's. */
  readonly texts?: GivenRagTexts | undefined;
  /** How many of a line's documents are used, the best ones. Default all. */
  readonly maxDocuments?: number | undefined;
  /** Runs of different salts find none of each other's blocks. Default "". */
  readonly salt?: string | undefined;
}

const formatVersion = 1;

/** An engine in one mode, asked the model's own RAG prompt. What it cannot be asked, for instance because it is too long, is refused. */
export function engineResponder(options: EngineResponderOptions): Responder {
  const { engine, mode, positionReencoding = true, texts, maxDocuments, salt } = options;
  // In full mode there is none.
  const repair = mode === "full" ? "none" : (options.repair ?? engine.defaultRepair);
  const rag = { maxDocuments, texts };
  return {
    keepsPassages: mode === "block",
    settings: async (): Promise<RunSettings> => ({
      version: formatVersion,
      model: await engine.model.identity,
      chat_template: createHash("sha256")
        .update(engine.model.tokenizer.chatTemplate ?? "")
        .digest("hex"),
      kv_type: engine.kvType,
      device: engine.model.backend.device.name,
      mode,
      position_reencoding: positionReencoding,
      max_documents: maxDocuments ?? null,
      ...(repair !== "none" && { repair }),
      ...(texts !== undefined && { texts: JSON.stringify(texts) }),
    }),
    async ask({ question, documents }: RagLine, maxTokens: number, signal: AbortSignal): Promise<Reply> {
      try {
        const result = await engine.complete(
          { question, documents, rag },
          {
            ...{ mode, positionReencoding, repair, salt, signal },
            ...{ maxTokens, temperature: 0, logprobs: false, keepPrefixes: false },
          },
        );
        if (result.finishReason === "cancelled") throw signal.reason;
        return replyOf(result);
      } catch (error) {
        if (!(error instanceof EngineError) || error.code === "queue_full") throw error;
        return { kind: "refused", code: error.code, message: error.message };
      }
    },
  };
}

function replyOf({ text, finishReason, usage, timings, blocks }: GenerateResult): Reply {
  const { promptTokens, completionTokens, cachedTokens } = usage;
  return {
    kind: "answered",
    text,
    finishReason,
    promptTokens,
    completionTokens,
    cachedTokens,
    // Full mode has no local blocks: all of it is computed.
    start: blocks.length > 0 && blocks.every(({ hit }) => hit) ? "stored" : "cold",
    ttftMs: timings.ttftMs,
    times: { encode_ms: timings.encodeMs, prefill_ms: timings.prefillMs, decode_ms: timings.decodeMs },
  };
}
