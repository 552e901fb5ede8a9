import type { Architecture } from "../architecture.js";
import type { Architecture as Name } from "../config.js";
import { llama } from "./llama.js";
import { qwen3 } from "./qwen3.js";

/** Every architecture, by its name in config.json. */
export const architectures: Readonly<Record<Name, Architecture>> = { llama, mistral: llama, qwen2: llama, qwen3 };
