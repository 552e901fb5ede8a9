import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import { errorResponses } from "./api-error.js";
import { clientGone, ResponseStream } from "./response-stream.js";
import type { RouteContext } from "./route-context.js";

const tokenSchema = z.strictObject({
  id: z.int(),
  text: z.string().describe("its spelling; half a character's bytes spell U+FFFD"),
  bytes: z.array(z.int().min(0).max(255)),
});

/** `POST /v1/tokenize`: a text's tokens, as a block of its own has them: nothing is added. */
export function registerTokenize(app: FastifyInstance, { engine, limits }: RouteContext): void {
  app.withTypeProvider<ZodTypeProvider>().post(
    "/v1/tokenize",
    {
      schema: {
        summary: "Tells a text's tokens, as a block of its own has them",
        tags: ["Block attention"],
        body: z.strictObject({
          text: z.string(),
          special: z.boolean().default(false).describe("whether text that spells a control token becomes it"),
        }),
        response: {
          200: z.strictObject({ count: z.int(), tokens: z.array(tokenSchema) }),
          ...errorResponses,
        },
      },
    },
    async (request, reply) => {
      const signal = clientGone(request, reply);
      const { text, special } = request.body;
      using answer = new ResponseStream(reply, { contentType: "application/json; charset=utf-8" });
      const options = { special, maxTokens: limits.maxTokenizeTokens, signal };
      const tokenize = async (): Promise<void> => {
        await engine.tokenize(text, {
          ...options,
          // Written as they come: a long text has many.
          onTokens(tokens, numTokens) {
            const written = tokens.map((token) => JSON.stringify(token)).join(",");
            return answer.write(answer.isOpen ? `,${written}` : `{"count":${numTokens},"tokens":[${written}`);
          },
        });
        await answer.write("]}");
        await answer.end();
      };
      await tokenize().catch((error: unknown) => {
        if (!answer.isOpen) throw error;
        // Half an answer must not look whole.
        reply.raw.destroy();
        if (!signal.aborted) request.log.error({ err: error }, "an answer broke off");
      });
      return reply;
    },
  );
}
