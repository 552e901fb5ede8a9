import { z } from "zod";
import { EngineError } from "../../engine/engine-error.js";
import { readEventStream } from "../../files/event-stream.js";
import { quote } from "../../files/quote.js";
import { type BlockId, isBlockId } from "../../kv/block-id.js";
import { hashFields } from "../../kv/hash-fields.js";

/** Blocks whose ids are remembered, of each server. */
const maxKnown = 100_000;
/** How long a server may take to say that it lives. */
const checkTimeoutMs = 5_000;

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
  /** Requests that it has. */
  running = 0;
  /** Called when it goes down, and when it is back. */
  onChange: () => void = () => undefined;
  #model = "";
  #downReason: string | undefined = "it was not asked yet";
  #check: Promise<void> | undefined;
  readonly #known = new Map<string, BlockId>();
  readonly #encoding = new Map<string, Promise<BlockId>>();

  /**
   * @param key what it asks for (`--api-key`).
   * @param closing ends the checks.
   */
  constructor(
    url: string,
    private readonly key: string | undefined,
    private readonly closing: AbortSignal,
  ) {
    this.url = url.replace(/\/+$/, "");
  }

  /** Why it gets no requests; undefined where it gets them. */
  get downReason(): string | undefined {
    return this.#downReason;
  }

  /** Asks what it serves. @returns the longest prompt plus answer, in tokens. @throws EngineError. */
  async open(signal: AbortSignal): Promise<number> {
    const found = models.safeParse(await (await this.#fetch("/v1/models", undefined, signal)).json()).data?.data[0];
    if (found === undefined)
      throw new EngineError("failed", `Cannot use ${quote(this.url)}: it names no model of vLLM's`);
    this.#model = found.id;
    this.#downReason = undefined;
    return found.max_model_len;
  }

  /** Asks whether it lives; those who ask at once share the answer. Never fails. @param wanted the shortest context that does, in tokens. */
  check(wanted: number): Promise<void> {
    this.#check ??= this.#ask(wanted).finally(() => {
      this.#check = undefined;
    });
    return this.#check;
  }

  async #ask(wanted: number): Promise<void> {
    const signal = AbortSignal.any([this.closing, AbortSignal.timeout(checkTimeoutMs)]);
    const before = this.#downReason;
    try {
      await (await this.#fetch("/health", undefined, signal)).body?.cancel();
      if (before === undefined) return;
      const length = await this.open(signal);
      if (length < wanted) {
        // Not to be taken for a change.
        this.#downReason = before;
        throw new EngineError("failed", `Cannot use ${quote(this.url)}: its context is ${length}, wanted ${wanted}`);
      }
      // It may have lost what it had.
      this.#known.clear();
      this.onChange();
    } catch (error) {
      if (!this.closing.aborted) this.#goDown(error instanceof Error ? error.message : String(error));
    }
  }

  #goDown(reason: string): void {
    const wasUp = this.#downReason === undefined;
    this.#downReason = reason;
    if (wasUp) this.onChange();
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
        const reason = error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error);
        const words = `Cannot reach vLLM at ${quote(this.url)}: ${reason}`;
        this.#goDown(words);
        throw new EngineError("unavailable", words, { cause: error });
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

/** Names a block of a salt in this process. */
export function keyOf(tokenIds: Int32Array, salt: string): string {
  const bytes = new Uint8Array(tokenIds.buffer, tokenIds.byteOffset, tokenIds.byteLength);
  return hashFields("vllm block", [salt, bytes]);
}

function whenAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
