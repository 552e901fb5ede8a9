// Vercel's AI SDK through its provider for compatible servers: text parts of a message are blocks.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import { passages, preamble, task } from "./passages.mjs";

const { BASE_URL = "http://127.0.0.1:8080", API_KEY = "none" } = process.env;
const provider = createOpenAICompatible({
  name: "block-attention",
  baseURL: `${BASE_URL}/v1`,
  apiKey: API_KEY,
  includeUsage: true,
});

/** The same call for both ways of answering. */
function ask(question, retrieved) {
  const content = [preamble, ...retrieved, task(question)].map((text) => ({ type: "text", text }));
  return { model: provider("any"), messages: [{ role: "user", content }], temperature: 0, maxOutputTokens: 60 };
}

const { text, usage } = await generateText(ask("Who is the director of film The Lost Daughter?", passages));
console.log(`${text}\n  ${usage.inputTokenDetails.cacheReadTokens} of ${usage.inputTokens} tokens from the store`);

const streamed = streamText(ask("When was Maggie Gyllenhaal born?", passages.toReversed()));
for await (const piece of streamed.textStream) process.stdout.write(piece);
const { inputTokens, inputTokenDetails } = await streamed.usage;
console.log(`\n  ${inputTokenDetails.cacheReadTokens} of ${inputTokens} tokens from the store`);
