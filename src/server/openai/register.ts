import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import type { ModelInfo } from "../../engine/model.js";
import { quote } from "../../files/quote.js";
import { attentionModes } from "../../model/block-attention-config.js";
import { ApiError, errorBody, errorResponses, errorSchema } from "../api-error.js";
import type { RouteContext } from "../route-context.js";
import { type AnswerHead, answerHead, loadedModel } from "./answer-head.js";
import { chatAnswer, chatAnswerSchema, chatChunks } from "./chat-answer.js";
import { type ChoiceRequests, chatRequests, chatSchema } from "./chat-request.js";
import { completionAnswer, completionAnswerSchema, completionChunks } from "./completion-answer.js";
import { completionRequests, completionSchema } from "./completion-request.js";
import { chatFields, completionFields, maxValuesOf } from "./fields.js";
import { type GatheredChoice, gather } from "./gather.js";
import { requestValidator } from "./request-field.js";
import { type ChoiceEvent, startAnswers } from "./run-choices.js";
import { answerResponse, chunkFrames, eventFrame, streamAnswer } from "./stream-answer.js";

const tags = ["OpenAI"];
const modes = z.enum(attentionModes);

const modelSchema = z
  .object({
    id: z.string(),
    object: z.literal("model"),
    created: z.int().describe("When it was loaded, in seconds since 1970."),
    owned_by: z.string(),
    max_model_len: z.int().describe("The longest prompt plus answer, in tokens."),
    block_attention: z.object({
      default_mode: modes,
      trained_modes: z.array(modes),
      adapters: z
        .array(z.object({ name: z.string(), scale: z.number() }))
        .optional()
        .describe("Merged into its weights."),
      note: z.string().optional().describe("Of a model that was not trained for block attention: what it reuses."),
    }),
  })
  .describe("The model that is loaded.");

const modelListSchema = z.object({ object: z.literal("list"), data: z.array(modelSchema) });

/** How answers of one route are written. */
interface AnswerForm<A> {
  readonly idPrefix: Parameters<typeof answerHead>[1];
  readonly chunkObject: string;
  readonly choicesOf: (arrival: ChoiceEvent) => readonly object[];
  readonly whole: (head: AnswerHead, choices: readonly GatheredChoice[]) => Promise<A>;
}

/** OpenAI's protocol: `/v1/chat/completions`, `/v1/completions`, `/v1/models`. */
export function registerOpenAi(app: FastifyInstance, context: RouteContext): void {
  const { engine, limits, aliases } = context;
  const routes = app.withTypeProvider<ZodTypeProvider>();
  const maxValues = maxValuesOf(limits);
  const asking = ({ tenant }: FastifyRequest) => ({ salt: tenant.salt, limits, reasoning: engine.info?.reasoning });
  /** Whole, or as it comes. */
  const answer = async <A>(
    request: FastifyRequest,
    reply: FastifyReply,
    asked: ChoiceRequests,
    { idPrefix, chunkObject, choicesOf, whole }: AnswerForm<A>,
  ): Promise<A | FastifyReply> => {
    const head = answerHead(engine, idPrefix, aliases[0]);
    const { events, signal } = startAnswers(engine, asked, request, reply);
    const { requests, n, stream, includeUsage, continuousUsage } = asked;
    const numChoices = n * requests.length;
    if (!stream) return whole(head, await gather(events, numChoices));
    const written = { head: { ...head, object: chunkObject }, choicesOf, includeUsage, continuousUsage };
    const frames = chunkFrames({ ...written, events, numChoices, n });
    await streamAnswer(reply, { frames, signal, errorFrame: (error) => eventFrame(errorBody(error)) });
    return reply;
  };

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
    (request, reply) => {
      const asked = chatRequests(request.body, asking(request));
      return answer(request, reply, asked, {
        idPrefix: "chatcmpl-",
        chunkObject: "chat.completion.chunk",
        choicesOf: chatChunks(asked),
        whole: (head, choices) => chatAnswer(head, choices, asked.n, asked),
      });
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
    (request, reply) => {
      const { contextLength } = loadedModel(engine);
      const asked = completionRequests(request.body, request.tenant.salt, limits, contextLength);
      return answer(request, reply, asked, {
        idPrefix: "cmpl-",
        chunkObject: "text_completion",
        choicesOf: completionChunks(asked),
        whole: (head, choices) => completionAnswer(head, choices, asked),
      });
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

function modelAnswer(model: ModelInfo, id: string): z.output<typeof modelSchema> {
  return {
    id,
    object: "model",
    created: Math.floor(model.loadedAt),
    owned_by: "block-attention",
    max_model_len: model.contextLength,
    block_attention: {
      default_mode: model.defaultMode,
      trained_modes: [...model.trainedModes],
      ...(model.adapters && { adapters: model.adapters.map((one) => ({ ...one })) }),
      note: model.reuseNote,
    },
  };
}
