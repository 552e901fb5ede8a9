// A client that has read enough: leaving the loop closes the connection, and the server frees the request's place.
import OpenAI from "openai";

const { BASE_URL = "http://127.0.0.1:8080", API_KEY = "none" } = process.env;
const client = new OpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: API_KEY });

const stream = await client.chat.completions.create({
  model: "any",
  messages: [{ role: "user", content: "Tell me a long story." }],
  temperature: 0,
  max_tokens: 1500,
  logit_bias: { 1: -100, 2: -100 }, // the default models' end tokens: without them the story goes on
  stream: true,
});
let numChunks = 0;
for await (const _ of stream) {
  numChunks++;
  if (numChunks === 10) break; // the same as stream.controller.abort()
}
console.log(`stopped after ${numChunks} chunks`);

const startedMs = performance.now();
for (;;) {
  const response = await fetch(`${BASE_URL}/metrics`, { headers: { authorization: `Bearer ${API_KEY}` } });
  const running = /^block_attention_requests_running (\d+)$/m.exec(await response.text())?.[1];
  if (running === "0") break;
  if (performance.now() - startedMs > 5_000) throw new Error(`Cannot see the place freed: ${running} still run`);
}
console.log("nothing runs any more");
