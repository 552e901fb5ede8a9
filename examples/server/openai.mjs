// The official client, unchanged: each text part of a message is a block. The passages come again in reverse order, and
// come from the store.
import OpenAI from "openai";
import { passages, preamble, task } from "./passages.mjs";

const { BASE_URL = "http://127.0.0.1:8080", API_KEY = "none" } = process.env;
const client = new OpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: API_KEY });

const question = "Who is the mother of the director of film The Lost Daughter?";
for (const retrieved of [passages, passages.toReversed()]) {
  const texts = [preamble, ...retrieved, task(question)];
  const completion = await client.chat.completions.create({
    model: "any",
    messages: [{ role: "user", content: texts.map((text) => ({ type: "text", text })) }],
    temperature: 0,
    max_tokens: 60,
  });
  const { prompt_tokens: total, prompt_tokens_details: details } = completion.usage;
  console.log(completion.choices[0].message.content);
  console.log(`  ${details.cached_tokens} of ${total} prompt tokens from the store`);
  // What this server tells beside the protocol.
  const { block_attention: done, timings } = completion;
  const hits = done.blocks.filter(({ hit }) => hit).length;
  console.log(`  ${hits} of ${done.blocks.length} blocks, first token after ${timings.ttft_ms.toFixed(0)} ms`);
}
