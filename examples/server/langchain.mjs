// RAG with LangChain.js, through its model of OpenAI's: `modelKwargs` carries the passages.
import { ChatOpenAI } from "@langchain/openai";
import { retrieve } from "./passages.mjs";

const { BASE_URL = "http://127.0.0.1:8080", API_KEY = "none" } = process.env;
const configuration = { baseURL: `${BASE_URL}/v1` };
const fields = { model: "any", apiKey: API_KEY, configuration, temperature: 0, maxTokens: 60 };
const modelFor = (question) => new ChatOpenAI({ ...fields, modelKwargs: { documents: retrieve(question) } });

const first = "Who is the director of film The Lost Daughter?";
const answer = await modelFor(first).invoke(first);
const { input_tokens: total, input_token_details: details } = answer.usage_metadata;
console.log(`${answer.text}\n  ${details.cache_read} of ${total} tokens from the store`);

const next = "When was Maggie Gyllenhaal born?";
let whole;
for await (const chunk of await modelFor(next).stream(next)) {
  process.stdout.write(chunk.text);
  whole = whole === undefined ? chunk : whole.concat(chunk);
}
const { input_tokens, input_token_details } = whole.usage_metadata;
console.log(`\n  ${input_token_details.cache_read} of ${input_tokens} tokens from the store`);
