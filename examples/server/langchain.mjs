// LangChain.js: its OpenAI chat model, pointed here. Text parts of a message are blocks.
import { HumanMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { passages, preamble, task } from "./passages.mjs";

const { BASE_URL = "http://127.0.0.1:8080", API_KEY = "none" } = process.env;
const model = new ChatOpenAI({
  model: "any",
  apiKey: API_KEY,
  configuration: { baseURL: `${BASE_URL}/v1` },
  temperature: 0,
  maxTokens: 60,
});

/** @returns the message that LangChain sends: preamble, passages and question, a part each. */
function prompt(question, retrieved) {
  return new HumanMessage({
    content: [preamble, ...retrieved, task(question)].map((text) => ({ type: "text", text })),
  });
}

const answer = await model.invoke([prompt("Who is the director of film The Lost Daughter?", passages)]);
const { input_tokens: total, input_token_details: details } = answer.usage_metadata;
console.log(`${answer.text}\n  ${details.cache_read} of ${total} tokens from the store`);

let whole;
for await (const chunk of await model.stream([prompt("When was Maggie Gyllenhaal born?", passages.toReversed())])) {
  process.stdout.write(chunk.text);
  whole = whole === undefined ? chunk : whole.concat(chunk);
}
const { input_tokens, input_token_details } = whole.usage_metadata;
console.log(`\n  ${input_token_details.cache_read} of ${input_tokens} tokens from the store`);
