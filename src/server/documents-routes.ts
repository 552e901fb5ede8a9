import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import { maxDocumentsListed } from "../engine/engine-options.js";
import { ApiError, errorResponses, errorSchema } from "./api-error.js";
import { endUserSalt, ownerOf, type RouteContext } from "./route-context.js";

const documentSchema = z.strictObject({
  id: z.union([z.string(), z.number()]),
  metadata: z.record(z.string(), z.unknown()).optional(),
  blocks: z
    .array(z.strictObject({ id: z.string(), tokens: z.int() }))
    .describe("its passages' blocks as they were told; some may have been evicted since"),
});

/** `GET /v1/documents` lists what passages with an `id` were encoded of; `DELETE /v1/documents/:id` forgets one with all that saw it. */
export function registerDocuments(app: FastifyInstance, { engine }: RouteContext): void {
  const typed = app.withTypeProvider<ZodTypeProvider>();
  const tags = ["Block attention"];
  typed.get(
    "/v1/documents",
    {
      schema: {
        summary: "Lists documents, by the ids of passages that were encoded ahead",
        tags,
        querystring: z.strictObject({
          limit: z.coerce
            .number()
            .int()
            .min(1)
            .max(maxDocumentsListed)
            .default(100)
            .describe("the most that are listed"),
          after: z.string().optional().describe("the id of the last one of an earlier list"),
          salt: endUserSalt,
        }),
        response: {
          200: z.strictObject({
            documents: z.array(documentSchema).describe("in an order of their own"),
            has_more: z.boolean(),
          }),
          ...errorResponses,
        },
      },
    },
    async ({ query: { limit, after, salt: endUser }, tenant }) => {
      const { salt } = ownerOf(tenant.salt, endUser);
      const documents = await engine.documents({ limit, after, salt });
      const last = documents.at(-1);
      const isFull = last !== undefined && documents.length === limit;
      const more = isFull ? await engine.documents({ limit: 1, after: String(last.id), salt }) : [];
      return { documents: documents.map((one) => ({ ...one, blocks: [...one.blocks] })), has_more: more.length > 0 };
    },
  );
  typed.delete(
    "/v1/documents/:id",
    {
      schema: {
        summary: "Forgets a document, its blocks, and all that saw them",
        description: "Passages that another document of the key has too stay.",
        tags,
        params: z.strictObject({ id: z.string().min(1).describe("the document's id, percent-encoded") }),
        querystring: z.strictObject({ salt: endUserSalt }),
        response: {
          200: z.strictObject({ id: z.string(), deleted: z.literal(true) }),
          ...errorResponses,
          404: errorSchema.describe("There is no such document of this key."),
        },
      },
    },
    async ({ params: { id }, query, tenant }) => {
      const { salt } = ownerOf(tenant.salt, query.salt);
      if (!(await engine.deleteDocument(id, { salt }))) {
        throw new ApiError(404, "Cannot find the document: none with this id is kept", {
          code: "document_not_found",
          param: "id",
        });
      }
      return { id, deleted: true as const };
    },
  );
}
