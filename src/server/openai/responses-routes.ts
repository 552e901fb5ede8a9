import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import { errorResponses, errorSchema } from "../api-error.js";
import type { RouteContext } from "../route-context.js";
import { answerHead } from "./answer-head.js";
import { maxValuesOf } from "./fields.js";
import { KeptResponses } from "./kept-responses.js";
import { requestValidator } from "./request-field.js";
import { type ResponseAnswer, type ResponseEvent, ResponseWriter, responseSchema } from "./responses-answer.js";
import { inputItems, itemSchema, responseFields, responseRequests, responsesSchema } from "./responses-request.js";
import { type ChoiceEvent, startAnswers } from "./run-choices.js";
import { answerResponse, eventFrame, streamAnswer } from "./stream-answer.js";

const tags = ["OpenAI"];
const params = z.object({ id: z.string() });
const notKept = errorSchema.describe("No response of this id is kept for this key.");

const itemListSchema = z.object({
  object: z.literal("list"),
  data: z.array(itemSchema),
  first_id: z.string().nullable(),
  last_id: z.string().nullable(),
  has_more: z.boolean(),
});

/** `POST /v1/responses`: a chat completion in OpenAI's newer words, and responses that others go on from. */
export function registerResponses(app: FastifyInstance, { engine, limits, aliases }: RouteContext): void {
  const routes = app.withTypeProvider<ZodTypeProvider>();
  const { responseBytes: maxBytes, responseSeconds } = limits;
  const kept = new KeptResponses({ maxBytes, maxMs: 1000 * responseSeconds, now: Date.now });

  routes.post(
    "/v1/responses",
    {
      schema: {
        tags,
        summary: "Answer, and keep the conversation",
        description: "OpenAI's responses: what a chat completion answers, as items and events.",
        body: responsesSchema(limits),
        response: {
          200: answerResponse(responseSchema, "The response."),
          ...errorResponses,
          404: errorSchema.describe("No response, or item, of an id that is named is kept for this key."),
        },
      },
      validatorCompiler: requestValidator(responseFields(limits), maxValuesOf(limits)),
    },
    async (request, reply) => {
      const { body, tenant } = request;
      const { previous_response_id: previous } = body;
      const input = kept.resolve(tenant.salt, inputItems(body));
      const before = previous == null ? [] : kept.conversation(tenant.salt, previous);
      const asked = responseRequests(body, [...before, ...input], {
        salt: tenant.salt,
        limits,
        reasoning: engine.info?.reasoning,
      });
      const head = answerHead(engine, "resp_", aliases[0]);
      const { events, signal } = startAnswers(engine, asked, request, reply);
      const keep = (response: ResponseAnswer) => kept.put(tenant.salt, response, input);
      const writer = new ResponseWriter(head, body, { ...asked, keep });
      if (!asked.stream) {
        for await (const arrival of events) writer.push(arrival);
        return writer.response;
      }
      const frames = framesOf(events, writer);
      await streamAnswer(reply, { frames, signal, errorFrame: (error) => frameOf(writer.fail(error)) });
      return reply;
    },
  );

  routes.get(
    "/v1/responses/:id",
    {
      schema: {
        tags,
        summary: "A kept response",
        params,
        response: { 200: responseSchema, ...errorResponses, 404: notKept },
      },
    },
    async ({ params: { id }, tenant }) => kept.get(tenant.salt, id).response,
  );

  routes.delete(
    "/v1/responses/:id",
    {
      schema: {
        tags,
        summary: "Forget a kept response",
        description: "What goes on from it can go on no further. The prompt's blocks stay.",
        params,
        response: {
          200: z.object({ id: z.string(), object: z.literal("response"), deleted: z.literal(true) }),
          ...errorResponses,
          404: notKept,
        },
      },
    },
    async ({ params: { id }, tenant }) => {
      kept.delete(tenant.salt, id);
      return { id, object: "response" as const, deleted: true as const };
    },
  );

  routes.get(
    "/v1/responses/:id/input_items",
    {
      schema: {
        tags,
        summary: "What a kept response's request said",
        params,
        querystring: z.strictObject({
          order: z.enum(["asc", "desc"]).default("desc"),
          limit: z.coerce.number().int().min(1).max(100).default(20),
          after: z.string().optional().describe("The id of an earlier list's last one."),
        }),
        response: { 200: itemListSchema, ...errorResponses, 404: notKept },
      },
    },
    async ({ params: { id }, query: { order, limit, after }, tenant }) => {
      const { input } = kept.get(tenant.salt, id);
      const all = order === "asc" ? [...input] : input.toReversed();
      const rest = after === undefined ? all : all.slice(all.findIndex((item) => item.id === after) + 1);
      const data = rest.slice(0, limit);
      const [first, last] = [data[0], data.at(-1)];
      return {
        object: "list" as const,
        data,
        first_id: first?.id ?? null,
        last_id: last?.id ?? null,
        has_more: rest.length > limit,
      };
    },
  );
}

async function* framesOf(events: AsyncIterable<ChoiceEvent>, writer: ResponseWriter): AsyncGenerator<string, void> {
  for await (const arrival of events) {
    const made = writer.push(arrival);
    if (made.length > 0) yield frameOf(made);
  }
}

function frameOf(events: readonly ResponseEvent[]): string {
  return events.map((event) => eventFrame(event, event.type)).join("");
}
