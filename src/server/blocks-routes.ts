import type { FastifyInstance } from "fastify";
import type { ZodTypeProvider } from "fastify-type-provider-zod";
import { z } from "zod";
import { type PassageInput, passageSchema, unloadPassage } from "../blocks/passage.js";
import { EngineError } from "../engine/engine-error.js";
import type { EncodeOptions } from "../engine/engine-options.js";
import type { EncodedPassage, EncodeResult } from "../engine/results.js";
import { ApiError, errorBody, errorResponses, errorSchema, toApiError } from "./api-error.js";
import { ragRequest, repairText, splitLong } from "./openai/fields.js";
import { loadedLabel, passageLabel } from "./openai/usage.js";
import { clientGone, ResponseStream } from "./response-stream.js";
import { endUserSalt, ownerOf, type RouteContext } from "./route-context.js";

const index = z.int().min(0).describe("the passage's place in the request, from 0 on");
const encodedBlock = z.strictObject({
  index,
  id: z.string().describe("the block's id: the same for the same tokens, model and key"),
  tokens: z.int(),
  hit: z.boolean().describe("whether it was kept already"),
  durable: z.boolean().optional().describe("with `--store`: whether it is there for the next process"),
  passage: passageLabel.optional(),
});
const failedPassage = z.strictObject({
  index,
  passage: passageLabel.optional(),
  error: z.strictObject({ code: z.string(), message: z.string() }).describe("why the passage was not encoded"),
});
const keptBlock = z.strictObject({
  id: z.string(),
  tokens: z.int(),
  bytes: z.int().describe("of its keys and values"),
  in_use: z.boolean().describe("whether a request of this key uses it now"),
});
const noBlock = errorSchema.describe(
  "There is no such block: it was never encoded with this key, or had to make room.",
);

/** `POST /v1/blocks` encodes passages ahead, at index time; `GET` and `DELETE /v1/blocks/:id` look at one and forget it. */
export function registerBlocks(app: FastifyInstance, { engine, limits }: RouteContext): void {
  const body = z.strictObject({
    passages: z
      .array(passageSchema)
      .min(1)
      .max(limits.maxBlocks)
      .describe("each becomes the block that it is among `documents` of /v1/chat/completions"),
    rag: ragRequest
      .pick({ passage: true, preamble: true })
      .nullish()
      .describe("as `block_attention.rag` of prompts will have it; `preamble` with the repair `preamble` alone"),
    system: z.string().nullish().describe("with the repair `preamble`: the system message of prompts to come"),
    split_long: splitLong,
    salt: endUserSalt,
    repair: repairText.describe("as `block_attention.repair` of prompts will have it"),
    stream: z.boolean().nullish().describe("a line of JSON for each passage as it is there, then a line with the sums"),
  });
  const typed = app.withTypeProvider<ZodTypeProvider>();
  const tags = ["Block attention"];

  typed.post(
    "/v1/blocks",
    {
      schema: {
        summary: "Encodes passages ahead, at index time",
        tags,
        body,
        response: {
          200: {
            description:
              "The passages' blocks in order, with the error of one that failed in its place; with `stream` one line for each.",
            content: {
              "application/json": {
                schema: z.strictObject({
                  blocks: z.array(z.union([encodedBlock, failedPassage])),
                  failed: z.int().describe("how many passages were not encoded"),
                }),
              },
              "application/x-ndjson": { schema: z.string() },
            },
          },
          ...errorResponses,
        },
      },
    },
    async (request, reply) => {
      const { passages, stream, rag, system, repair, split_long, salt } = request.body;
      const signal = clientGone(request, reply);
      const encode = (onBlock?: EncodeOptions["onBlock"]) =>
        engine.encode(passages.map(ofDocument), {
          maxBlocks: limits.maxBlocks,
          ...(rag != null && {
            texts: { passage: rag.passage ?? undefined, preamble: rag.preamble ?? undefined },
          }),
          system: system ?? undefined,
          ...(split_long != null && { splitLong: split_long }),
          repair: repair ?? undefined,
          ...ownerOf(request.tenant.salt, salt),
          signal,
          onBlock,
        });
      if (stream === true) {
        using answer = new ResponseStream(reply, { contentType: "application/x-ndjson" });
        await streamBlocks(encode, passages, answer, signal, request.log);
        return reply;
      }
      const { blocks, failed } = await encode();
      reply.type("application/json; charset=utf-8");
      return { blocks: blocks.map((block) => entryOf(block, passages)), failed };
    },
  );

  // Of any form: what is no id names no block.
  const params = z.strictObject({ id: z.string().min(1).max(128).describe("a block's id, as answers tell it") });
  const querystring = z.strictObject({ salt: endUserSalt });
  typed.get(
    "/v1/blocks/:id",
    {
      schema: {
        summary: "Tells of a kept block",
        tags,
        params,
        querystring,
        response: { 200: keptBlock, ...errorResponses, 404: noBlock },
      },
    },
    async ({ params: { id }, query, tenant }) => {
      const { salt } = ownerOf(tenant.salt, query.salt);
      const block = await engine.block(id, { salt });
      if (block === undefined) throw notFound();
      return { id: block.id, tokens: block.tokens, bytes: block.bytes, in_use: block.inUse };
    },
  );
  typed.delete(
    "/v1/blocks/:id",
    {
      schema: {
        summary: "Forgets a kept block",
        tags,
        params,
        querystring,
        response: {
          200: z.strictObject({ id: z.string(), deleted: z.literal(true) }),
          ...errorResponses,
          404: noBlock,
        },
      },
    },
    async ({ params: { id }, query, tenant }) => {
      const { salt } = ownerOf(tenant.salt, query.salt);
      if (!(await engine.deleteBlock(id, { salt }))) throw notFound();
      return { id, deleted: true as const };
    },
  );
}

/** A passage with what is kept of its document, where it has an id. */
function ofDocument(passage: PassageInput): PassageInput {
  const [bare, { id, metadata }] = unloadPassage(passage);
  return id === undefined || typeof bare === "string" ? bare : { ...bare, id, metadata };
}

/** What became of a passage. */
function entryOf({ passage, ...told }: EncodedPassage, passages: readonly PassageInput[]) {
  const { index, ...label } = loadedLabel(passage, passages);
  const place = { index, ...(Object.keys(label).length > 0 && { passage: label }) };
  if (told.error === undefined) {
    const { id, tokens, hit, durable } = told;
    return { ...place, id, tokens, hit, ...(durable !== undefined && { durable }) };
  }
  const { message, code } = toApiError(new EngineError(told.error.code, told.error.message));
  return { ...place, error: { message, code: code as string } };
}

function notFound(): ApiError {
  return new ApiError(404, "Cannot find the block: none with this id is kept", {
    code: "block_not_found",
    param: "id",
  });
}

async function streamBlocks(
  encode: (onBlock: (block: EncodedPassage) => Promise<void>) => Promise<EncodeResult>,
  passages: readonly PassageInput[],
  answer: ResponseStream,
  signal: AbortSignal,
  log: { error(details: object, message: string): void },
): Promise<void> {
  try {
    const { blocks, failed } = await encode((block) => answer.write(`${JSON.stringify(entryOf(block, passages))}\n`));
    const encoded = blocks.filter((block) => block.error === undefined);
    const sums = {
      blocks: encoded.length,
      failed,
      tokens: encoded.reduce((sum, { tokens }) => sum + tokens, 0),
      hits: encoded.filter(({ hit }) => hit).length,
    };
    await answer.write(`${JSON.stringify({ done: true, ...sums })}\n`);
  } catch (error) {
    if (!answer.isOpen) throw error;
    if (!signal.aborted) {
      const told = toApiError(error);
      log.error({ err: told }, "indexing broke off");
      await answer.write(`${JSON.stringify(errorBody(told))}\n`);
    }
  }
  await answer.end();
}
