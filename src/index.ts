export type { ChatMessage, RagDocument } from "./blocks/block.js";
export { Engine, type EngineOptions } from "./engine/engine.js";
