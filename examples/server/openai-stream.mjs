// RAG with OpenAI's client: the passages are `documents`, and the server makes the prompt, one block a passage.
import OpenAI from "openai";
import { retrieve } from "./passages.mjs";

const { BASE_URL = "http://127.0.0.1:8080", API_KEY = "none" } = process.env;
const client = new OpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: API_KEY });

for (const question of ["Who is the director of film The Lost Daughter?", "When was Maggie Gyllenhaal born?"]) {
  const stream = await client.responses.create({
    model: "any",
    input: question,
    documents: retrieve(question),
    temperature: 0,
    max_output_tokens: 60,
    stream: true,
  });
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") process.stdout.write(event.delta);
    if (!event.response?.usage) continue;
    const { input_tokens: total, input_tokens_details: details } = event.response.usage;
    console.log(`\n  ${details.cached_tokens} of ${total} tokens from the store`);
  }
}
