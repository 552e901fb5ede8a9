import type { PassageInput } from "../blocks/passage.js";
import type { BlockInfo } from "../kv/block-store.js";
import type { DocumentInfo } from "../kv/documents.js";
import type {
  DocumentsOptions,
  EncodeOptions,
  GenerateOptions,
  RequestOptions,
  ScoreOptions,
  TokenizeOptions,
} from "./engine-options.js";
import { LocalEngine } from "./local-engine.js";
import type { ModelInfo } from "./model.js";
import type { PromptInput } from "./prompt.js";
import type { EncodeResult, EngineStats, GenerateEvent, ScoreResult } from "./results.js";
import type { EngineStatus } from "./status-source.js";

/**
 * What answers prompts, in this process or another. Arguments and results are plain data, except signals and callbacks.
 * Every implementation passes the suite `engine.suite.ts`.
 */
export interface Engine extends AsyncDisposable {
  readonly status: EngineStatus;
  /** Calls the listener whenever the status changes, until the function that it returns is called. */
  onStatus(listener: (status: EngineStatus) => void): () => void;
  /** What is loaded; undefined before the model has been loaded for the first time. */
  readonly info: ModelInfo | undefined;
  /**
   * Answers a prompt, token by token: `echo` events where `echo` asks for them, one `prompt` event, then each answer's
   * tokens and its `done` event. A reader who reads slowly slows its own answer down: few events are ever held for it.
   * Leaving the loop early, or an abort, frees the request's place within 200 ms; after an abort the last event of each
   * answer says `cancelled`.
   *
   * @throws EngineError; the signal's reason where it aborts before the engine has the prompt.
   */
  generate(input: PromptInput, options?: GenerateOptions & RequestOptions): AsyncIterable<GenerateEvent>;
  /** How likely each of several continuations is after a prompt. @throws EngineError; the signal's reason. */
  scoreEach(
    input: PromptInput,
    continuations: readonly (string | readonly number[])[],
    options?: ScoreOptions,
  ): Promise<readonly ScoreResult[]>;
  /**
   * Encodes passages ahead, at index time. One that cannot be encoded has its error in its place. It waits for what
   * `onBlock` returns, and ends with what that throws.
   *
   * @throws EngineError; the signal's reason.
   */
  encode(passages: readonly PassageInput[], options?: EncodeOptions): Promise<EncodeResult>;
  /** A text's ids, as a block of its own has them. It waits for what `onTokens` returns. @throws EngineError; the signal's reason. */
  tokenize(text: string, options?: TokenizeOptions): Promise<readonly number[]>;
  /** A kept block of this salt; undefined where there is none, another salt's among them. @throws EngineError. */
  block(id: string, options?: Pick<RequestOptions, "salt">): Promise<BlockInfo | undefined>;
  /** Forgets a block of this salt. @returns whether there was one. @throws EngineError. */
  deleteBlock(id: string, options?: Pick<RequestOptions, "salt">): Promise<boolean>;
  /** Some documents of this salt, in an order of their own: passages that were encoded with an `id`. @throws EngineError. */
  documents(options?: DocumentsOptions): Promise<readonly DocumentInfo[]>;
  /**
   * Forgets a document of this salt, its blocks, and all blocks and pages that saw them, but for passages that another document of
   * the salt has too. @returns whether there was one. @throws EngineError; Error where something of it could not be removed.
   */
  deleteDocument(id: string, options?: Pick<RequestOptions, "salt">): Promise<boolean>;
  /** @throws EngineError. */
  stats(): EngineStats | Promise<EngineStats>;
  /** Ends what runs with an error of code `unavailable`, then the engine. Again does nothing. */
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Loads an engine into this process.
 *
 * @example
 * await using engine = await Engine.load({ model: embeddedModelPath(), threads: 1 });
 * for await (const event of engine.generate({ blocks: ["A passage.\n", "Question: …"] }, { maxTokens: 8 })) {
 *   if (event.kind === "token") process.stdout.write(event.text);
 * }
 */
export const Engine = { load: LocalEngine.load satisfies (...options: never[]) => Promise<Engine> };
