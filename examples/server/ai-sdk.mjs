// RAG with Vercel's AI SDK, through its provider for compatible servers: `providerOptions` carries the passages.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import { retrieve } from "./passages.mjs";

const { BASE_URL = "http://127.0.0.1:8080", API_KEY = "none" } = process.env;
const provider = createOpenAICompatible({
  name: "ours",
  baseURL: `${BASE_URL}/v1`,
  apiKey: API_KEY,
  includeUsage: true,
});

const ask = (question) => ({
  model: provider("any"),
  prompt: question,
  providerOptions: { ours: { documents: retrieve(question) } },
  temperature: 0,
  maxOutputTokens: 60,
});

const { text, usage } = await generateText(ask("Who is the director of film The Lost Daughter?"));
console.log(`${text}\n  ${usage.inputTokenDetails.cacheReadTokens} of ${usage.inputTokens} tokens from the store`);

const streamed = streamText(ask("When was Maggie Gyllenhaal born?"));
for await (const piece of streamed.textStream) process.stdout.write(piece);
const { inputTokens, inputTokenDetails } = await streamed.usage;
console.log(`\n  ${inputTokenDetails.cacheReadTokens} of ${inputTokens} tokens from the store`);
