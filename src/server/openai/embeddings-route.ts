import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import { ApiError, errorResponses } from "../api-error.js";
import type { TextEmbedder } from "../embeddings/embedder.js";
import { clientGone } from "../response-stream.js";
import {
  informationalField,
  neutralField,
  passedOver,
  type RequestFields,
  readField,
  requestSchema,
  requestValidator,
} from "./request-field.js";

const text = z.string();
const maxEmbeddingInputs = 2048;

/** Of `POST /v1/embeddings`. */
export const embeddingFields = {
  input: {
    schema: z.union([
      text.min(1),
      z
        .array(z.unknown() as z.ZodType<string>)
        .min(1)
        .max(maxEmbeddingInputs)
        .check(({ value, issues }) => {
          // One issue for all that are no texts.
          const wrong = value.findIndex((one) => typeof one !== "string" || one === "");
          if (wrong >= 0) issues.push({ code: "custom", input: value, path: [wrong], message: "wanted text" });
        })
        .meta({ items: { type: "string", minLength: 1 } }),
    ]),
    use: "read" as const,
    wanted: `text, or a list of 1 to ${maxEmbeddingInputs} texts, none empty`,
    about:
      "What is embedded. One that is too long is refused, not cut. Token ids are no input: they are another model's.",
  },
  model: readField(text, "text", "Any name; answers name the model that is loaded."),
  encoding_format: readField(
    z.enum(["float", "base64"]),
    '"float" or "base64"',
    "How vectors are written. Default `float`.",
  ),
  dimensions: neutralField(z.null(), "none", "vectors have the model's own size"),
  user: informationalField(text, "text", "Keys tell who asks."),
} satisfies RequestFields;

const embeddingsSchema = z
  .object({
    object: z.literal("list"),
    data: z.array(
      z.object({
        object: z.literal("embedding"),
        index: z.int().min(0),
        embedding: z.union([z.array(z.number()), z.string().describe("Base64 of 32-bit floats, little-endian.")]),
      }),
    ),
    model: z.string(),
    usage: z.object({ prompt_tokens: z.int().min(0), total_tokens: z.int().min(0) }),
    warnings: z.array(z.string()).optional().describe("Fields that do nothing. Not OpenAI's."),
  })
  .describe("Vectors of length 1, in the texts' order.");

/**
 * `POST /v1/embeddings`.
 *
 * @param embedder undefined where the server has no embedding model.
 * @param onComputed called with a request's tokens.
 */
export function registerEmbeddings(
  app: FastifyInstance,
  embedder: TextEmbedder | undefined,
  onComputed: (tokens: number) => void = () => undefined,
): void {
  app.withTypeProvider<ZodTypeProvider>().post(
    "/v1/embeddings",
    {
      schema: {
        tags: ["OpenAI"],
        summary: "Embed texts",
        description: "OpenAI's embeddings, of the encoder that --embedding-model names.",
        body: requestSchema(embeddingFields),
        response: { 200: embeddingsSchema, ...errorResponses },
      },
      validatorCompiler: requestValidator(embeddingFields, 2 * maxEmbeddingInputs),
    },
    async (request, reply) => {
      if (embedder === undefined) {
        const message =
          "Cannot embed: this server has no embedding model, wanted --embedding-model and the folder of an ONNX encoder";
        throw new ApiError(400, message, { code: "no_embedding_model" });
      }
      const { input, encoding_format: format } = request.body;
      const texts = typeof input === "string" ? [input] : (input ?? []);
      const { vectors, numTokens } = await embedder.embed(texts, clientGone(request, reply));
      onComputed(numTokens);
      const warnings = passedOver({ user: embeddingFields.user }, request.body);
      return {
        object: "list" as const,
        data: vectors.map((vector, index) => ({
          object: "embedding" as const,
          index,
          embedding: format === "base64" ? base64Of(vector) : [...vector],
        })),
        model: embedder.name,
        usage: { prompt_tokens: numTokens, total_tokens: numTokens },
        ...(warnings.length > 0 && { warnings }),
      };
    },
  );
}

function base64Of(vector: Float32Array): string {
  const bytes = Buffer.alloc(4 * vector.length);
  for (const [i, value] of vector.entries()) bytes.writeFloatLE(value, 4 * i);
  return bytes.toString("base64");
}
