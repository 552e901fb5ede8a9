import { repairsSuite } from "./repairs.suite.js";

repairsSuite({ blockTokens: [20, 1, 33], architectures: ["llama", "gemma3_text", "qwen2"] });
