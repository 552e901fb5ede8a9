import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import type { ModelInfo } from "../../engine/model.js";
import { quote } from "../../files/quote.js";
import { ApiError, errorResponses, errorSchema } from "../api-error.js";
import { clientGone } from "../response-stream.js";
import type { RouteContext } from "../route-context.js";
import { answerHead, loadedModel } from "./answer-head.js";
import { chatAnswer, chatAnswerSchema, chatChunks } from "./chat-answer.js";
import { chatRequests, chatSchema } from "./chat-request.js";
import { completionAnswer, completionAnswerSchema, completionChunks } from "./completion-answer.js";
import { completionRequests, completionSchema } from "./completion-request.js";
import { chatFields, completionFields, maxValuesOf } from "./fields.js";
import { gather } from "./gather.js";
import { modelAnswer, modelListSchema, modelSchema } from "./models-answer.js";
import { requestValidator } from "./request-field.js";
import { runChoices, withReport } from "./run-choices.js";
import { streamAnswer } from "./stream-answer.js";

const tags = ["OpenAI"];

/** An answer, whole or as server-sent events. */
function answerResponse(schema: z.ZodType, description: string) {
  // An event as readers of event streams give it.
  const data = z.string().describe("A chunk as JSON, or `[DONE]`, the last one.");
  const events = z.looseObject({ data }).describe("With `stream`: server-sent events, each with these fields.");
  return {
    description,
    content: { "application/json": { schema }, "text/event-stream": { schema: events } },
  };
}

/** OpenAI's protocol: `/v1/chat/completions`, `/v1/completions`, `/v1/models`. */
export function registerOpenAi(app: FastifyInstance, context: RouteContext): void {
  const { engine, limits, aliases } = context;
  const routes = app.withTypeProvider<ZodTypeProvider>();
  const maxValues = maxValuesOf(limits);

  routes.post(
    "/v1/chat/completions",
    {
      schema: {
        tags,
        summary: "Answer a conversation",
        description: "OpenAI's chat completions. Content parts and documents are blocks, found again in any order.",
        body: chatSchema(limits),
        response: { 200: answerResponse(chatAnswerSchema, "The answer."), ...errorResponses },
      },
      validatorCompiler: requestValidator(chatFields(limits), maxValues),
    },
    async (request, reply) => {
      const asked = chatRequests(request.body, request.tenant.salt, limits);
      const head = answerHead(engine, "chatcmpl", aliases[0]);
      const signal = clientGone(request, reply);
      const { n } = asked;
      const events = withReport(runChoices(engine, asked.requests, n, signal), asked);
      const numChoices = n * asked.requests.length;
      if (!asked.stream) return chatAnswer(head, await gather(events, numChoices), n);
      await streamAnswer(reply, {
        events,
        head: { ...head, object: "chat.completion.chunk" },
        choicesOf: chatChunks,
        numChoices,
        n,
        includeUsage: asked.includeUsage,
        continuousUsage: asked.continuousUsage,
        signal,
      });
      return reply;
    },
  );

  routes.post(
    "/v1/completions",
    {
      schema: {
        tags,
        summary: "Go on from a text",
        description: "OpenAI's completions, with echo and log-probabilities of the prompt.",
        body: completionSchema(limits),
        response: { 200: answerResponse(completionAnswerSchema, "The answers, by index."), ...errorResponses },
      },
      validatorCompiler: requestValidator(completionFields(limits), maxValues),
    },
    async (request, reply) => {
      const { contextLength } = loadedModel(engine);
      const asked = completionRequests(request.body, request.tenant.salt, limits, contextLength);
      const head = answerHead(engine, "cmpl", aliases[0]);
      const signal = clientGone(request, reply);
      const events = withReport(runChoices(engine, asked.requests, asked.n, signal), asked);
      const numChoices = asked.n * asked.requests.length;
      if (!asked.stream) return completionAnswer(head, await gather(events, numChoices), asked);
      await streamAnswer(reply, {
        events,
        head: { ...head, object: "text_completion" },
        choicesOf: completionChunks(asked),
        numChoices,
        n: asked.n,
        includeUsage: asked.includeUsage,
        continuousUsage: asked.continuousUsage,
        signal,
      });
      return reply;
    },
  );

  routes.get(
    "/v1/models",
    { schema: { tags, summary: "The model that is loaded", response: { 200: modelListSchema, ...errorResponses } } },
    async () => {
      const model = loadedModel(engine);
      return { object: "list" as const, data: namesOf(model, aliases).map((name) => modelAnswer(model, name)) };
    },
  );

  routes.get(
    "/v1/models/:model",
    {
      schema: {
        tags,
        summary: "A model by its name",
        params: z.object({ model: z.string() }),
        response: {
          200: modelSchema,
          ...errorResponses,
          404: errorSchema.describe("No model of this name is loaded."),
        },
      },
    },
    async (request) => {
      const model = loadedModel(engine);
      const { model: wanted } = request.params;
      const names = namesOf(model, aliases);
      if (!names.includes(wanted)) {
        const known = names.map((name) => quote(name)).join(" or ");
        throw new ApiError(404, `Cannot find the model ${quote(wanted, 80)}: ${known} is loaded`, {
          code: "model_not_found",
          param: "model",
        });
      }
      return modelAnswer(model, wanted);
    },
  );
}

function namesOf(model: ModelInfo, aliases: readonly string[]): readonly string[] {
  return aliases.length > 0 ? aliases : [model.name];
}
