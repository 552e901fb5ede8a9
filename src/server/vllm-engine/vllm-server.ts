import { z } from "zod";
import { EngineError } from "../../engine/engine-error.js";
import { readEventStream } from "../../files/event-stream.js";
import { quote } from "../../files/quote.js";
import { type BlockId, isBlockId } from "../../kv/block-id.js";
import { hashFields } from "../../kv/hash-fields.js";

/** Blocks whose ids are remembered, of each server. */
const maxKnown = 100_000;
/** How long a server that could not be reached is passed over. */
const downMs = 5_000;

const message = z.object({ error: z.object({ message: z.string() }) });
const models = z.object({ data: z.array(z.object({ id: z.string(), max_model_len: z.int() })).min(1) });
const encoded = z.object({
  kv_transfer_params: z.object({
    block_attention: z.object({ ids: z.array(z.string().refine(isBlockId)).length(1) }),
  }),
});
const likely = z.record(z.string(), z.number());
const chunk = z.object({
  choices: z.array(
    z.object({
      index: z.int(),
      text: z.string(),
      token_ids: z.array(z.int()).nullish(),
      logprobs: z
        .object({ token_logprobs: z.array(z.number().nullable()), top_logprobs: z.array(likely.nullable()).nullish() })
        .nullish(),
      finish_reason: z.string().nullish(),
    }),
  ),
});

/** A piece of one of several answers. */
export type Chunk = z.output<typeof chunk>["choices"][number];

/** A block as a server has it. */
export interface StoredBlock {
  readonly id: BlockId;
  /** Whether this process had had it encoded before. */
  readonly hit: boolean;
}

/** A vLLM server with the connector of python/vllm_block_attention. */
export class VllmServer {
  readonly url: string;
  /** Answers under way. */
  running = 0;
  #model = "";
  #downUntilMs = 0;
  readonly #known = new Map<string, BlockId>();
  readonly #encoding = new Map<string, Promise<BlockId>>();

  /** @param key what it asks for (`--api-key`). */
  constructor(
    url: string,
    private readonly key: string | undefined,
  ) {
    this.url = url.replace(/\/+$/, "");
  }

  get isDown(): boolean {
    return performance.now() < this.#downUntilMs;
  }

  /** Asks what it serves. @returns the longest prompt plus answer, in tokens. @throws EngineError. */
  async open(signal?: AbortSignal): Promise<number> {
    const found = models.safeParse(await (await this.#fetch("/v1/models", undefined, signal)).json()).data?.data[0];
    if (found === undefined)
      throw new EngineError("failed", `Cannot use ${quote(this.url)}: it names no model of vLLM's`);
    this.#model = found.id;
    return found.max_model_len;
  }

  /** Has a block encoded unless it is known to be there; those who ask at once share it. @throws EngineError; the signal's reason. */
  async encode(tokenIds: Int32Array, salt: string, signal: AbortSignal): Promise<StoredBlock> {
    const key = keyOf(tokenIds, salt);
    const known = this.#known.get(key);
    if (known !== undefined) return { id: known, hit: true };
    const encoding =
      this.#encoding.get(key) ?? this.#encode(key, tokenIds, salt).finally(() => this.#encoding.delete(key));
    this.#encoding.set(key, encoding);
    const id = await Promise.race([encoding, whenAborted(signal)]);
    return { id, hit: false };
  }

  /** Asks again the next time: an answer could not be had of it. */
  forget(tokenIds: Int32Array, salt: string): void {
    this.#known.delete(keyOf(tokenIds, salt));
  }

  /** Whoever asked may leave; the block is for all. */
  async #encode(key: string, tokenIds: Int32Array, salt: string): Promise<BlockId> {
    const body = { prompt: [...tokenIds], max_tokens: 1, kv_transfer_params: paramsOf({ encode: true }, salt) };
    // One that is there and damaged fails once, and is encoded then.
    const response = await this.#post(body).catch((error: unknown) => {
      if (error instanceof EngineError && error.code === "failed") return this.#post(body);
      throw error;
    });
    const id = encoded.safeParse(await response.json()).data?.kv_transfer_params.block_attention.ids[0];
    if (id === undefined)
      throw new EngineError("failed", `Cannot encode a block: ${quote(this.url)} has no Block-Attention`);
    if (this.#known.size >= maxKnown) this.#known.delete(this.#known.keys().next().value as string);
    this.#known.set(key, id);
    return id;
  }

  /** The pieces of answers to a prompt that begins with such blocks. @throws EngineError; the signal's reason. */
  async *answer(
    tokenIds: readonly number[],
    { blocks, salt }: { readonly blocks: readonly Int32Array[]; readonly salt: string },
    sampling: Readonly<Record<string, unknown>>,
    signal: AbortSignal,
  ): AsyncGenerator<Chunk, void> {
    const lengths = blocks.map(({ length }) => length);
    const params = lengths.length === 0 ? {} : { kv_transfer_params: paramsOf({ blocks: lengths }, salt) };
    const apart = lengths.length === 0 && salt !== "" ? { cache_salt: hashFields("vllm cache salt", [salt]) } : {};
    const body = { prompt: tokenIds, stream: true, return_token_ids: true, ...sampling, ...params, ...apart };
    this.running += 1;
    try {
      const response = await this.#post(body, signal);
      let isDone = false;
      for await (const data of readEventStream(response.body as NonNullable<Response["body"]>)) {
        isDone = data === "[DONE]";
        if (isDone) break;
        const json: unknown = JSON.parse(data);
        const failure = message.safeParse(json).data;
        if (failure !== undefined) throw new EngineError("failed", `vLLM failed: ${failure.error.message}`);
        yield* chunk.parse(json).choices;
      }
      if (!isDone) throw new EngineError("died", `Cannot go on: the answer of ${quote(this.url)} ended early`);
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (error instanceof EngineError) throw error;
      throw new EngineError("died", `Cannot go on: ${quote(this.url)} broke off: ${String(error)}`, { cause: error });
    } finally {
      this.running -= 1;
    }
  }

  #post(body: object, signal?: AbortSignal): Promise<Response> {
    return this.#fetch("/v1/completions", { model: this.#model, ...body }, signal);
  }

  async #fetch(path: string, body?: object, signal?: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = { "content-type": "application/json" };
    if (this.key !== undefined) headers.authorization = `Bearer ${this.key}`;
    const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    const response = await fetch(this.url + path, { headers, ...sent, ...(signal && { signal }) }).catch(
      (error: unknown) => {
        if (signal?.aborted) throw signal.reason;
        this.#downUntilMs = performance.now() + downMs;
        const reason = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error);
        throw new EngineError("unavailable", `Cannot reach vLLM at ${quote(this.url)}: ${reason}`, { cause: error });
      },
    );
    if (response.ok) return response;
    const said = message.safeParse(await response.json().catch(() => undefined)).data?.error.message;
    const code = response.status === 400 ? "invalid" : response.status === 503 ? "unavailable" : "failed";
    throw new EngineError(code, `vLLM refused: status ${response.status}${said === undefined ? "" : `, ${said}`}`);
  }
}

function paramsOf(asked: object, salt: string): object {
  return { block_attention: { ...asked, ...(salt !== "" && { salt }) } };
}

function keyOf(tokenIds: Int32Array, salt: string): string {
  const bytes = new Uint8Array(tokenIds.buffer, tokenIds.byteOffset, tokenIds.byteLength);
  return hashFields("vllm block", [salt, bytes]);
}

function whenAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
