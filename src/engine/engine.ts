import { LocalEngine } from "./local-engine.js";

/** What answers prompts: see `LocalEngine`. */
export type Engine = LocalEngine;

/**
 * @example
 * await using engine = await Engine.load({ model: "models/tiny-rag" });
 * for await (const event of engine.generate({ blocks: ["a passage\n", "Question: …"] })) {
 *   if (event.kind === "token") process.stdout.write(event.text);
 * }
 */
export const Engine = { load: LocalEngine.load };
