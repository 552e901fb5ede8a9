import { constraintField } from "../engine/constraint/constraint.js";
import type { Engine } from "../engine/engine.js";
import { EngineError } from "../engine/engine-error.js";
import type { GenerateOptions, RequestOptions } from "../engine/engine-options.js";
import type { PromptInput } from "../engine/prompt.js";
import { repairField } from "../engine/repair.js";
import type { GenerateEvent, GenerateResult } from "../engine/results.js";
import { type SamplingInput, samplingFields } from "../engine/sampling-options.js";
import { unlessAborted } from "../engine/task.js";
import { type JsonValue, parseJson } from "../files/bounded-json.js";
import { InputRangeError, InputTypeError } from "../files/input-error.js";
import {
  aFunction,
  anySignal,
  anyText,
  anything,
  type FieldsOf,
  oneOfTexts,
  optionOf,
  optionsOf,
  show,
  wholeNumber,
} from "../files/options.js";
import { type AttentionMode, attentionModes } from "../model/block-attention-config.js";
import { applyPatch, changesBetween, type JsonPatchOperation, type StateChange } from "./json-patch.js";
import { copyState, cutState, type JsonStateOptions, type StateCut, stateCut, stateFields } from "./json-state.js";

const updatePolicies = ["newest", "queue"] as const;

export interface StateSessionOptions extends JsonStateOptions {
  /** What the model is told before every state: the rules of a game, say. It is a block of its own. Default: nothing. */
  readonly system?: string | undefined;
  /**
   * What becomes of questions under way when the next frame comes. "queue": they are answered over their own frame, and those over the
   * next one wait for them. "newest": they end with a `FrameReplacedError`. Default "queue".
   */
  readonly onUpdate?: (typeof updatePolicies)[number] | undefined;
  /** A block that stood in none of so many frames that were asked about is let go of. Default 8. */
  readonly keepFrames?: number | undefined;
  /** Keeps tenants apart: no two salts share a block. Default "". */
  readonly salt?: string | undefined;
}

/** A state, whole, as a value or as JSON text, or what changes in the one before. */
export type StateFrame =
  | { readonly state: unknown }
  | { readonly json: string }
  | { readonly patch: readonly JsonPatchOperation[] };

export interface FrameReport {
  /** Of this session, from 1 on. */
  readonly frame: number;
  /** What differs from the frame before; of the first frame its whole, as added. */
  readonly changes: readonly StateChange[];
  /** How many texts the state is cut into. */
  readonly numBlocks: number;
  /** Those that the frame before did not have. */
  readonly numNewBlocks: number;
}

export interface StateAskOptions
  extends SamplingInput,
    Pick<GenerateOptions, "constraint">,
    Pick<RequestOptions, "repair" | "signal"> {
  /** Default "block". */
  readonly mode?: AttentionMode | undefined;
  /** Called with the answer's events as they come; the answer waits for what it returns. */
  readonly onEvent?: ((event: GenerateEvent) => unknown) | undefined;
}

export interface StateAnswer extends GenerateResult {
  /** Which frame it is about. */
  readonly frame: number;
  /** Local blocks, and their tokens, that were computed for it: what changed, where the frame before was asked about. */
  readonly computed: { readonly blocks: number; readonly tokens: number };
}

/**
 * Why a question has no answer: a newer frame came, and the session answers the newest alone.
 *
 * @example
 * await using engine = await Engine.load({ model: embeddedModelPath(), threads: 1 });
 * await using session = new StateSession(engine, { onUpdate: "newest" });
 * session.update({ state: { pot: 30 } });
 * const answer = session.ask("How large is the pot?").catch((error) => error);
 * session.update({ state: { pot: 40 } });
 * (await answer) instanceof FrameReplacedError; // true
 */
export class FrameReplacedError extends Error {
  override readonly name = "FrameReplacedError";
}

const readSession = optionsOf({
  ...stateFields,
  system: anyText,
  onUpdate: oneOfTexts(updatePolicies),
  keepFrames: wholeNumber(1, 1_000_000),
  salt: anyText,
} satisfies FieldsOf<StateSessionOptions>);
const readFrame = optionsOf(
  {
    state: anything,
    json: anyText,
    patch: optionOf<readonly JsonPatchOperation[]>(Array.isArray, "a list of operations"),
  },
  "field",
);
const readAsk = optionsOf({
  ...samplingFields,
  constraint: constraintField,
  mode: oneOfTexts(attentionModes),
  repair: repairField,
  signal: anySignal,
  onEvent: aFunction<StateAskOptions["onEvent"]>(),
} satisfies FieldsOf<StateAskOptions>);

/** Questions of a session that wait or are answered at a time. */
const maxQuestions = 256;
/** copyState() has limits of its own. */
const jsonLimits = { maxDepth: 1000, uniqueKeys: true };

interface Frame {
  readonly number: number;
  readonly state: JsonValue;
  readonly texts: readonly string[];
  /** Questions about it that are under way, each with what stops it. */
  readonly questions: Map<Promise<StateAnswer>, AbortController>;
  /** Resolves when its questions may be answered. */
  readonly turn: Promise<void>;
}

/**
 * Answers questions about a state that hardly changes, frame after frame: a game's. Its blocks are cut by path (`jsonStateBlocks()`), so that
 * of each frame only what changed is computed, once for all questions about it. Blocks that left the state are let go of.
 *
 * A session owns no engine: one engine serves many. It deletes only blocks that were computed for itself; another session of the same salt
 * that shares one computes it again.
 *
 * @example
 * await using engine = await Engine.load({ model: embeddedModelPath(), threads: 1 });
 * await using session = new StateSession(engine, { keyFields: ["seat"] });
 * session.update({ state: { pot: 30, players: [{ seat: 1, bet: 10 }, { seat: 2, bet: 20 }] } });
 * session.update({ patch: [{ op: "replace", path: "/players/0/bet", value: 20 }] }).changes; // [{ "kind": "changed", "path": "/players/0/bet" }]
 * const { text } = await session.ask("What does seat 1 do?", { constraint: { type: "choice", choices: ["check", "raise"] } });
 */
export class StateSession implements AsyncDisposable {
  readonly #engine: Engine;
  readonly #options: ReturnType<typeof readSession>;
  readonly #cut: StateCut;
  #frame: Frame | undefined;
  /** Under way, of all frames. */
  readonly #questions = new Map<Promise<StateAnswer>, AbortController>();
  /** Blocks of frames that were asked about: the last one that each stood in, and whether it was computed for this session. */
  readonly #blocks = new Map<string, { readonly asked: number; readonly isOwn: boolean }>();
  /** Frames that were asked about, counted, and the number of the newest. */
  #numAsked = 0;
  #newestAsked = 0;
  #isClosed = false;

  /** @throws TypeError for options of the wrong kind, RangeError for ones out of range. */
  constructor(engine: Engine, options: StateSessionOptions = {}) {
    if (typeof engine?.generate !== "function" || typeof engine.deleteBlock !== "function") {
      throw new InputTypeError(`Cannot begin a session: the engine is ${show(engine)}, wanted an Engine`);
    }
    this.#engine = engine;
    this.#options = readSession("begin a session", options);
    this.#cut = stateCut("begin a session", this.#options);
  }

  /** The last frame's texts; put together they are its state as JSON. Empty before the first frame. */
  get texts(): readonly string[] {
    return this.#frame?.texts ?? [];
  }

  /**
   * Takes the next frame; nothing is computed until a question comes. A frame that cannot be used changes nothing.
   *
   * @throws TypeError for what is no JSON (see jsonStateBlocks()) or no patch; RangeError for one too deep or too large, for text that is
   *   no JSON or names a key twice, and for a patch that leads nowhere; Error once the session is closed.
   */
  update(frame: StateFrame): FrameReport {
    this.#throwIfClosed("update the state");
    const before = this.#frame;
    const state = stateOf(frame, before?.state);
    const texts = cutState(state, this.#cut);
    const number = (before?.number ?? 0) + 1;
    let turn = Promise.resolve();
    if (before && this.#options.onUpdate === "newest") {
      const reason = new FrameReplacedError(
        `Cannot answer: frame ${number} came while frame ${before.number} was asked about`,
      );
      for (const stop of before.questions.values()) stop.abort(reason);
    } else if (before) {
      turn = Promise.allSettled([before.turn, ...before.questions.keys()]).then(() => undefined);
    }
    this.#frame = { number, state, texts, questions: new Map(), turn };
    const known = new Set(before?.texts);
    return {
      frame: number,
      changes: before ? changesBetween(before.state, state, this.#cut.keyFields) : [{ kind: "added", path: "" }],
      numBlocks: texts.length,
      numNewBlocks: texts.filter((text) => !known.has(text)).length,
    };
  }

  /**
   * Answers a question about the last frame. Several may be asked at once: they share its blocks.
   *
   * @throws TypeError and RangeError for a question or options that cannot be used, or without a frame; EngineError; FrameReplacedError; the
   *   signal's reason where it aborts before the engine has the prompt; Error once the session is closed.
   */
  async ask(question: string, options: StateAskOptions = {}): Promise<StateAnswer> {
    this.#throwIfClosed("ask");
    const asked = readAsk("ask", options);
    if (typeof question !== "string" || question === "") {
      throw new InputTypeError(`Cannot ask: the question is ${show(question)}, wanted text`);
    }
    const frame = this.#frame;
    if (frame === undefined) throw new InputRangeError("Cannot ask: there is no state, wanted update() before");
    if (this.#questions.size >= maxQuestions) {
      throw new EngineError("queue_full", `Cannot ask: ${maxQuestions} questions are under way`);
    }
    const stop = new AbortController();
    const answer = this.#answer(frame, question, asked, stop);
    for (const questions of [frame.questions, this.#questions]) questions.set(answer, stop);
    try {
      return await answer;
    } finally {
      for (const questions of [frame.questions, this.#questions]) questions.delete(answer);
    }
  }

  async #answer(
    frame: Frame,
    question: string,
    { signal: caller, onEvent, mode = "block", ...asked }: ReturnType<typeof readAsk>,
    stop: AbortController,
  ): Promise<StateAnswer> {
    const { salt = "" } = this.#options;
    const signal = caller ? AbortSignal.any([stop.signal, caller]) : stop.signal;
    let result: GenerateResult | undefined;
    try {
      await unlessAborted(frame.turn, signal);
      // The state before the question does not come again: there is nothing to keep but its blocks.
      const request = { ...asked, mode, salt, signal, keepPrefixes: false };
      for await (const event of this.#engine.generate(this.#prompt(frame, question), request)) {
        await onEvent?.(event);
        if (event.kind === "done") result = event.result;
      }
    } catch (error) {
      throw stop.signal.aborted ? stop.signal.reason : error;
    }
    stop.signal.throwIfAborted();
    if (result === undefined) throw new Error("Cannot answer: the answer did not end");
    await this.#letGo(frame, result);
    const computed = result.blocks.filter(({ hit }) => !hit);
    const tokens = computed.reduce((sum, block) => sum + block.tokens, 0);
    return { ...result, frame: frame.number, computed: { blocks: computed.length, tokens } };
  }

  #prompt({ texts }: Frame, question: string): PromptInput {
    const { system } = this.#options;
    const last = `\n${question}`;
    if (!this.#engine.info?.hasChatTemplate) return { blocks: [...(system ? [`${system}\n`] : []), ...texts, last] };
    const before = system ? [{ role: "system", content: system }] : [];
    return { messages: [...before, { role: "user", content: [...texts, last] }], cut: "parts" };
  }

  /** Notes the blocks of an answer, and deletes those that no recent frame had. */
  async #letGo(frame: Frame, { blocks }: GenerateResult): Promise<void> {
    if (frame.number > this.#newestAsked) {
      this.#newestAsked = frame.number;
      this.#numAsked += 1;
    }
    for (const { id, hit } of blocks) {
      this.#blocks.set(id, { asked: this.#numAsked, isOwn: !hit || this.#blocks.get(id)?.isOwn === true });
    }
    const { keepFrames = 8 } = this.#options;
    await this.#deleteBlocks((asked) => asked <= this.#numAsked - keepFrames);
  }

  async #deleteBlocks(isGone: (asked: number) => boolean): Promise<void> {
    const { salt = "" } = this.#options;
    const gone = [...this.#blocks].filter(([, { asked }]) => isGone(asked));
    for (const [id] of gone) this.#blocks.delete(id);
    const own = gone.filter(([, { isOwn }]) => isOwn);
    // What cannot be deleted, of an engine that was closed for instance, makes room as any other block does.
    await Promise.allSettled(own.map(([id]) => this.#engine.deleteBlock(id, { salt })));
  }

  #throwIfClosed(action: string): void {
    if (this.#isClosed) throw new Error(`Cannot ${action}: the session was closed`);
  }

  /** Ends the questions under way with an error, and deletes the blocks that were computed for this session. Again does nothing. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    const questions = [...this.#questions];
    for (const [, stop] of questions) stop.abort(new Error("Cannot answer: the session was closed"));
    await Promise.allSettled(questions.map(([answer]) => answer));
    await this.#deleteBlocks(() => true);
    this.#frame = undefined;
  }
}

function stateOf(frame: StateFrame, before: JsonValue | undefined): JsonValue {
  const given = readFrame("update the state", frame);
  const numGiven = Object.values(given).filter((value) => value !== undefined).length;
  if (numGiven !== 1) {
    throw new InputTypeError(`Cannot update the state: the frame has ${numGiven} of state, json and patch, wanted one`);
  }
  if (given.json !== undefined) return copyState(parseJson(given.json, "the state", jsonLimits));
  if (given.patch === undefined) return copyState(given.state);
  if (before === undefined)
    throw new InputRangeError("Cannot patch a state: there is none yet, wanted a whole one first");
  // A patch may make a state too deep or too large.
  return copyState(applyPatch(before, given.patch));
}
