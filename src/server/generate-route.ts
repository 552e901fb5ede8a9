import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import type { PromptInput } from "../engine/prompt.js";
import type { GenerateEvent } from "../engine/results.js";
import type { AttentionMode } from "../model/block-attention-config.js";
import { ApiError, errorBody, errorResponses, toApiError } from "./api-error.js";
import { clientGone, ResponseStream } from "./response-stream.js";
import type { RouteContext } from "./route-context.js";

/** What ends an answer in the reference's protocol. @see docs/reference.md "The reference's protocol". */
const stops = ["<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>", "Question:"];
const defaultMaxTokens = 200;

const blocksAnswer = z.strictObject({
  ret: z.literal(0),
  generated: z.string().describe("the answer"),
  message: z.literal(""),
});
const promptAnswer = z.strictObject({
  text: z.string().describe("the prompt and the answer"),
  generated: z.string().describe("the answer"),
});

/**
 * `POST /generate`, the reference's protocol: `{"blocks": […], "num_local_attention_blocks"?: n}` in block mode,
 * `{"prompt": "…"}` in full mode, each with `"stream": true` as lines of JSON `{"text": ["…"]}`, one a token. Greedy, at
 * most 200 tokens.
 *
 * @see docs/reference.md "The reference's protocol".
 */
export function registerGenerate(app: FastifyInstance, { engine, limits }: RouteContext): void {
  const stream = z.boolean().nullish().describe("lines of JSON, one a token: the prompt and the answer so far");
  const blocksForm = z.strictObject({
    blocks: z
      .array(z.string())
      .min(1)
      .max(limits.maxBlocks)
      .describe("the prompt's blocks; the last one, the final block, sees all others"),
    num_local_attention_blocks: z
      .int()
      .min(0)
      .nullish()
      .describe("blocks past so many join the final block; 0 is full attention"),
    stream,
  });
  const promptForm = z.strictObject({ prompt: z.string().min(1).describe("one text, in full attention"), stream });

  app.withTypeProvider<ZodTypeProvider>().post(
    "/generate",
    {
      schema: {
        summary: "The reference's protocol: answers blocks, or one prompt",
        tags: ["Block attention"],
        body: z.union([blocksForm, promptForm], 'wanted an object with "blocks" or "prompt"'),
        response: {
          200: {
            description: "The answer; with `stream` one line for each token.",
            content: {
              "application/json": { schema: z.union([blocksAnswer, promptAnswer]) },
              "application/x-ndjson": { schema: z.string() },
            },
          },
          ...errorResponses,
        },
      },
    },
    async (request, reply) => {
      const { body } = request;
      const signal = clientGone(request, reply);
      const [prompt, mode, promptText] = promptOf(body);
      const maxTokens = Math.min(defaultMaxTokens, limits.maxTokens);
      const { salt } = request.tenant;
      const sampling = { temperature: 0, maxTokens, stop: stops, logprobs: false };
      const events = engine.generate(prompt, { ...sampling, mode, salt, signal });
      if (body.stream === true) {
        using answer = new ResponseStream(reply, { contentType: "application/x-ndjson" });
        await streamText(events, promptText, answer, request.log);
        return reply;
      }
      let generated = "";
      for await (const event of events) if ("text" in event) generated += event.text;
      if (signal.aborted) throw new ApiError(408, "Cancelled: the client has gone");
      reply.type("application/json; charset=utf-8");
      return "blocks" in body
        ? { ret: 0 as const, generated, message: "" as const }
        : { text: promptText + generated, generated };
    },
  );
}

type Body =
  | { readonly blocks: readonly string[]; readonly num_local_attention_blocks?: number | null | undefined }
  | { readonly prompt: string };

function promptOf(body: Body): readonly [PromptInput, AttentionMode, string] {
  if ("prompt" in body) return [{ prompt: body.prompt }, "full", body.prompt];
  const { blocks, num_local_attention_blocks: numLocal } = body;
  const prompt = { blocks, numLocalAttentionBlocks: numLocal ?? undefined };
  return [prompt, numLocal === 0 ? "full" : "block", blocks.join("")];
}

/** One line a token; a failure after the first line is the last line. */
async function streamText(
  events: AsyncIterable<GenerateEvent>,
  prompt: string,
  answer: ResponseStream,
  log: { error(details: object, message: string): void },
): Promise<void> {
  let text = prompt;
  const line = (): Promise<void> => answer.write(`${JSON.stringify({ text: [text] })}\n`);
  try {
    for await (const event of events) {
      if (!("text" in event)) continue;
      text += event.text;
      if (event.kind === "token" || event.text !== "" || !answer.isOpen) await line();
    }
  } catch (error) {
    if (!answer.isOpen) throw error;
    const told = toApiError(error);
    log.error({ err: told }, "an answer broke off");
    await answer.write(`${JSON.stringify(errorBody(told))}\n`);
  }
  await answer.end();
}
