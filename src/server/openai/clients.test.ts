import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { generateObject, generateText, type LanguageModel, stepCountIs, streamObject, streamText, tool } from "ai";
import { expect, test } from "vitest";
import { z } from "zod";
import { FakeEngine } from "../fake-engine.suite.js";
import { serveOpenAi } from "./test-app.suite.js";

const city = z.object({ city: z.string() });
const rome = '{"city": "Rome"}';
const call = `<tool_call>\n{"name": "get_weather", "arguments": ${rome}}\n</tool_call>`;
const prompt = "The weather in Rome?";
const documents = [{ id: "a", title: "Weather", text: "It is sunny in Rome." }, "It rains in Oslo."];

/** What an engine was asked last. */
const lastPrompt = (engine: FakeEngine) => engine.asked.at(-1)?.prompt as { messages: object[]; documents?: object[] };

const aiSdkModels: [name: string, (baseURL: string) => LanguageModel][] = [
  ["@ai-sdk/openai, whose default is Responses", (baseURL) => createOpenAI({ baseURL, apiKey: "none" })("any")],
  ["@ai-sdk/openai, chat", (baseURL) => createOpenAI({ baseURL, apiKey: "none" }).chat("any")],
  [
    "@ai-sdk/openai-compatible",
    (baseURL) =>
      createOpenAICompatible({ name: "ours", baseURL, includeUsage: true, supportsStructuredOutputs: true })("any"),
  ],
];

test.each(aiSdkModels)("AI SDK: texts and objects, whole and streamed, by %s", async (_, modelOf) => {
  const engine = new FakeEngine({ answer: ["It is sunny.", "It is sunny.", rome] });
  await using server = await serveOpenAi(engine);
  const model = modelOf(server.client.baseURL);
  const whole = await generateText({ model, system: "Be short.", prompt, temperature: 0, maxOutputTokens: 20 });
  expect([whole.text, whole.finishReason, whole.usage.outputTokens]).toEqual(["It is sunny.", "stop", 3]);
  expect(lastPrompt(engine).messages).toMatchObject([{ role: "system", content: "Be short." }, { role: "user" }]);
  const streamed = streamText({ model, prompt });
  const pieces: string[] = [];
  for await (const piece of streamed.textStream) pieces.push(piece);
  expect([pieces.join(""), pieces.length > 1]).toEqual(["It is sunny.", true]);
  expect((await streamed.usage).inputTokens).toBe(4);

  const { object } = await generateObject({ model, prompt, schema: city });
  expect(object).toEqual({ city: "Rome" });
  expect(engine.asked.at(-1)?.options.constraint).toMatchObject({ type: "jsonSchema", schema: { required: ["city"] } });
  const growing = streamObject({ model, prompt, schema: city });
  for await (const _ of growing.partialObjectStream);
  expect(await growing.object).toEqual({ city: "Rome" });
});

test.each(aiSdkModels)("AI SDK: tools over several steps, by %s", async (_, modelOf) => {
  for (const streams of [false, true]) {
    const engine = new FakeEngine({ answer: [`I look. ${call}`, call.replace("Rome", "Oslo"), "Sunny in both."] });
    await using server = await serveOpenAi(engine);
    const asked: string[] = [];
    const get_weather = tool({
      inputSchema: city,
      execute: async (input) => {
        asked.push(input.city);
        return "sunny";
      },
    });
    const options = {
      model: modelOf(server.client.baseURL),
      prompt,
      tools: { get_weather },
      stopWhen: stepCountIs(5),
    };
    const text = streams ? await streamText(options).text : (await generateText(options)).text;
    expect([text, asked]).toEqual(["Sunny in both.", ["Rome", "Oslo"]]);
    expect(lastPrompt(engine).messages).toMatchObject([
      { role: "user" },
      { role: "assistant", content: "I look.", toolCalls: [{ name: "get_weather" }] },
      { role: "tool", content: "sunny" },
      { role: "assistant", toolCalls: [{ name: "get_weather" }] },
      { role: "tool", content: "sunny" },
    ]);
  }
});

test("AI SDK: reasoning is apart from the text, and documents go by providerOptions", async () => {
  const info = { reasoning: { switches: ["enable_thinking" as const], isTagged: true } };
  const engine = new FakeEngine({ info, answer: "<think>\nSunny?\n</think>\n\nYes." });
  await using server = await serveOpenAi(engine);
  const { text, reasoningText } = await generateText({
    model: aiSdkModels[2]![1](server.client.baseURL),
    prompt,
    providerOptions: { ours: { documents } },
  });
  expect([text, reasoningText]).toEqual(["Yes.", "Sunny?"]);
  expect(lastPrompt(engine).documents).toEqual([{ title: "Weather", text: "It is sunny in Rome." }, documents[1]]);
});

test.each([false, true])(
  "LangChain.js: texts, objects, tools and documents, with Responses %s",
  async (useResponsesApi) => {
    const engine = new FakeEngine({ answer: ["It is sunny.", "It is sunny.", rome, `I look. ${call}`, "Sunny."] });
    await using server = await serveOpenAi(engine);
    const fields = {
      model: "any",
      apiKey: "none",
      configuration: { baseURL: server.client.baseURL },
      temperature: 0,
      useResponsesApi,
    };
    const model = new ChatOpenAI({ ...fields, modelKwargs: { documents } });
    expect((await model.invoke(prompt)).text).toBe("It is sunny.");
    expect(lastPrompt(engine).documents).toHaveLength(2);
    const pieces: string[] = [];
    for await (const piece of await model.stream(prompt)) pieces.push(piece.text);
    expect([pieces.join(""), pieces.length > 1]).toEqual(["It is sunny.", true]);

    const plain = new ChatOpenAI(fields);
    expect(await plain.withStructuredOutput(city, { name: "place" }).invoke(prompt)).toEqual({ city: "Rome" });
    expect(engine.asked.at(-1)?.options.constraint).toMatchObject({ type: "jsonSchema" });
    const withTools = plain.bindTools([
      { type: "function", function: { name: "get_weather", parameters: z.toJSONSchema(city) } },
    ]);
    const question = new HumanMessage(prompt);
    const asked = await withTools.invoke([question]);
    expect(asked.tool_calls).toMatchObject([{ name: "get_weather", args: { city: "Rome" } }]);
    const result = new ToolMessage({ content: "sunny", tool_call_id: asked.tool_calls?.[0]?.id as string });
    expect((await withTools.invoke([question, asked, result])).text).toBe("Sunny.");
    expect(lastPrompt(engine).messages).toMatchObject([
      { role: "user" },
      { role: "assistant", toolCalls: [{ name: "get_weather" }] },
      { role: "tool", content: "sunny" },
    ]);
  },
);
