export type { ChatMessage, SegmentedPrompt, TextBlock, ToolCall } from "./blocks/block.js";
export { joinLocalBlocks } from "./blocks/block.js";
export { type ChatPromptOptions, segmentMessages } from "./blocks/chat-prompt.js";
export { type ChatTemplate, compileChatTemplate } from "./blocks/chat-template.js";
export {
  DEMONSTRATION_RULES,
  type Demonstration,
  type DemonstrationRule,
  type InContextInput,
  inContextPrompt,
  segmentDemonstrations,
} from "./blocks/in-context.js";
export type { Passage, PassageInput, PassageLabel } from "./blocks/passage.js";
export {
  DEFAULT_RAG_PROMPT_TEXTS,
  type GivenRagTexts,
  type RagPromptInput,
  type RagPromptOptions,
  type RagPromptTexts,
  ragPrompt,
} from "./blocks/rag-prompt.js";
export { DEFAULT_BLOCK_LIMIT, DEFAULT_DELIMITERS, type SegmentOptions, segmentText } from "./blocks/segment.js";
export { type ToolCallPiece, ToolCallReader } from "./blocks/tool-calls.js";
export type { Tool } from "./blocks/tools.js";
export type { Constraint } from "./engine/constraint/constraint.js";
export { Engine } from "./engine/engine.js";
export { EngineError, type EngineErrorCode } from "./engine/engine-error.js";
export type {
  DocumentsOptions,
  EncodeOptions,
  EngineOptions,
  GenerateOptions,
  RequestOptions,
  ScoreOptions,
  TokenizeOptions,
} from "./engine/engine-options.js";
export type { LocalEngine } from "./engine/local-engine.js";
export {
  type DefaultModel,
  defaultModel,
  embeddedModelPath,
  type LoadedModel,
  type ModelInfo,
} from "./engine/model.js";
export type { DocumentOptions, PromptCut, PromptInput, SplitLong, TokenizedPrompt } from "./engine/prompt.js";
export type {
  EncodedPassage,
  EncodeResult,
  EndToken,
  EngineStats,
  FailedPassage,
  FinishReason,
  GenerateEvent,
  GenerateResult,
  LikelyToken,
  ScoreResult,
  ServedBlock,
  SpelledLogprob,
  SpelledToken,
  Timings,
  Token,
  TokenLogprob,
  Usage,
} from "./engine/results.js";
export type { SamplingInput } from "./engine/sampling-options.js";
export type { EngineStatus } from "./engine/status-source.js";
export type { KVType, WeightsConversion } from "./files/element-types.js";
export type { BackendKind } from "./ggml/library.js";
export { type PulledFile, type PulledModel, type PullOptions, pull } from "./hub/pull.js";
export type { BlockId } from "./kv/block-id.js";
export type { BlockInfo, BlockStoreStats } from "./kv/block-store.js";
export type { DocumentInfo } from "./kv/documents.js";
export type { AttentionMode } from "./model/block-attention-config.js";
export type { LoadProgress } from "./model/weights.js";
export type { JsonPatchOperation, StateChange } from "./state/json-patch.js";
export { type JsonStateOptions, jsonStateBlocks } from "./state/json-state.js";
export {
  FrameReplacedError,
  type FrameReport,
  type StateAnswer,
  type StateAskOptions,
  type StateFrame,
  StateSession,
  type StateSessionOptions,
} from "./state/state-session.js";
export type { Tokenizer } from "./tokenizer/tokenizer.js";
