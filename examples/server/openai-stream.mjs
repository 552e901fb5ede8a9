// A streamed answer over `documents`: the server makes the RAG prompt, one block a passage. The last chunk tells the usage.
import OpenAI from "openai";
import { documents } from "./passages.mjs";

const { BASE_URL = "http://127.0.0.1:8080", API_KEY = "none" } = process.env;
const client = new OpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: API_KEY });

for (const question of ["Who is the director of film The Lost Daughter?", "When was Maggie Gyllenhaal born?"]) {
  const stream = await client.chat.completions.create({
    model: "any",
    messages: [{ role: "user", content: question }],
    documents,
    temperature: 0,
    max_tokens: 60,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const { choices, usage } of stream) {
    process.stdout.write(choices[0]?.delta.content ?? "");
    if (!usage) continue;
    console.log(`\n  ${usage.prompt_tokens_details.cached_tokens} of ${usage.prompt_tokens} tokens from the store`);
  }
}
