import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import { errorResponses } from "./api-error.js";
import type { RouteContext } from "./route-context.js";

const tokenSchema = z.strictObject({
  id: z.int(),
  text: z.string().describe("its spelling; half a character's bytes spell U+FFFD"),
  bytes: z.array(z.int().min(0).max(255)),
});

/** `POST /v1/tokenize`: a text's tokens, as a block of its own has them: nothing is added. */
export function registerTokenize(app: FastifyInstance, { host }: RouteContext): void {
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
    async ({ body }) => {
      const tokens = await host.tokenize(body);
      return {
        count: tokens.length,
        tokens: tokens.map(({ id, text, bytes }) => ({ id, text, bytes: [...bytes] })),
      };
    },
  );
}
