import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { type AIMessage, HumanMessage, type UsageMetadata } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { generateText, type ModelMessage } from "ai";
import OpenAI from "openai";
import { describe, expect, test } from "vitest";
import { Engine } from "../../src/engine/engine.js";
import { testApp } from "../../src/server/openai/test-app.suite.js";

const passages = [
  "- Title: Into the Wild\nInto the Wild is a 2007 film directed by Sean Penn and starring Emile Hirsch.\n",
  "- Title: Sean Penn\nSean Penn is an American film director. He is the son of actress Eileen Ryan.\n",
  "- Title: The Lost Daughter\nThe Lost Daughter is a 2021 film directed by Maggie Gyllenhaal.\n",
  "- Title: Maggie Gyllenhaal\nMaggie Gyllenhaal is the daughter of screenwriter Naomi Foner.\n",
  "- Title: Frida Kahlo\nFrida Kahlo was a Mexican painter. She was born in Mexico City.\n",
];
const questions = [
  "Who is the director of film Into the Wild?",
  "Who is the mother of Sean Penn?",
  "Who is the director of film The Lost Daughter?",
  "Who is the mother of Maggie Gyllenhaal?",
  "Where was Frida Kahlo born?",
  "Who is the mother of the director of film Into the Wild?",
];
const maxTokens = 12;

/** Tokens of one turn, as a client tells them. */
interface Turn {
  readonly prompt: number | undefined;
  readonly cached: number | undefined;
  readonly answer: number | undefined;
}

/** Begins a conversation; the function asks a turn: the first with the passages, a text part each. */
type Client = (baseURL: string) => (question: string, isFirst: boolean) => Promise<Turn>;

const partsOf = (question: string) => [...passages, question].map((text) => ({ type: "text" as const, text }));

const clients: Readonly<Record<string, Client>> = {
  "the OpenAI client": (baseURL) => {
    const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
    const messages: OpenAI.ChatCompletionMessageParam[] = [];
    return async (question, isFirst) => {
      messages.push({ role: "user", content: isFirst ? partsOf(question) : question });
      const asked = { model: "any", messages, temperature: 0, max_tokens: maxTokens };
      const { choices, usage } = await client.chat.completions.create(asked);
      messages.push({ role: "assistant", content: choices[0]!.message.content });
      const cached = usage?.prompt_tokens_details?.cached_tokens;
      return { prompt: usage?.prompt_tokens, cached, answer: usage?.completion_tokens };
    };
  },
  "the AI SDK": (baseURL) => {
    const model = createOpenAICompatible({ name: "block-attention", baseURL, apiKey: "none" })("any");
    const messages: ModelMessage[] = [];
    return async (question, isFirst) => {
      messages.push({ role: "user", content: isFirst ? partsOf(question) : question });
      const asked = { model, messages, temperature: 0, maxOutputTokens: maxTokens, maxRetries: 0 };
      const { response, usage } = await generateText(asked);
      messages.push(...response.messages);
      const cached = usage.inputTokenDetails.cacheReadTokens;
      return { prompt: usage.inputTokens, cached, answer: usage.outputTokens };
    };
  },
  LangChain: (baseURL) => {
    const configuration = { baseURL };
    const model = new ChatOpenAI({ model: "any", apiKey: "none", configuration, temperature: 0, maxTokens });
    const messages: (HumanMessage | AIMessage)[] = [];
    return async (question, isFirst) => {
      messages.push(new HumanMessage({ content: isFirst ? partsOf(question) : question }));
      const answer = await model.invoke(messages);
      messages.push(answer);
      const {
        input_tokens: prompt,
        output_tokens,
        input_token_details,
      } = answer.usage_metadata as unknown as UsageMetadata;
      return { prompt, cached: input_token_details?.cache_read, answer: output_tokens };
    };
  },
};

describe.each(["block", "full"] as const)("six turns over five passages in %s mode", (mode) => {
  test.each(Object.keys(clients))("%s: each turn after the first computes its own tokens alone", async (name) => {
    await using engine = await Engine.load({ threads: 1, mode });
    const app = await testApp(engine);
    try {
      const ask = clients[name]!(`${await app.listen({ host: "127.0.0.1", port: 0 })}/v1`);
      let before = 0;
      for (const [turn, question] of questions.entries()) {
        const { prompt = Number.NaN, cached = Number.NaN, answer = Number.NaN } = await ask(question, turn === 0);
        if (turn === 0) expect(cached).toBe(0);
        // All of the turn before but its last drawn token, which nothing was computed after.
        else expect(cached, `turn ${turn + 1} of ${prompt} tokens`).toBeGreaterThanOrEqual(before - 1);
        expect(prompt - cached).toBeGreaterThan(0);
        before = prompt + answer;
      }
    } finally {
      app.server.closeAllConnections();
      await app.close();
    }
  });
});
