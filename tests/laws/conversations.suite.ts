import { expect, test } from "vitest";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import { type PromptSpan, TokenizedPrompt } from "../../src/engine/prompt.js";
import { PAGE_TOKENS } from "../../src/engine/prompt-parts.js";
import { type GenerateResult, nothingReused, type Usage } from "../../src/engine/results.js";
import type { KVType } from "../../src/files/element-types.js";
import { blockKVByteLength } from "../../src/kv/block-kv.js";
import type { AttentionMode } from "../../src/model/block-attention-config.js";
import { architectureModels } from "../models/architecture-models.js";
import { Random } from "../models/random.js";
import type { RandomModelShape } from "../models/random-shape.js";
import { boundedKvTypes, logprobBounds } from "../oracles/compare-engine.js";
import { ChainWatch } from "./chain-watch.js";
import {
  drawBlocks,
  drawIds,
  expectIdle,
  expectOnlyBlocks,
  LawModels,
  lawEngine,
  liveCounts,
  noEnd,
} from "./law-models.js";

export interface ConversationsSize {
  /** Conversations, in worlds of ten each; more where each shape would not have a world. */
  readonly numConversations: number;
}

const conversationsPerWorld = 10;
const turnsPerConversation = 4;
/** A conversation of more tokens is not continued. */
const longTokens = 480;
/** Two tokens whose log-probabilities are nearer are a tie: rounding decides between them. */
const tie = logprobBounds.f32;

/** A conversation as a template writes it: what is asked next is its last span, which is global. */
type Spans = readonly Pick<PromptSpan, "kind" | "tokenIds">[];

const local = (ids: readonly number[]) => ({ kind: "local", tokenIds: Int32Array.from(ids) }) as const;
const global = (...ids: readonly Iterable<number>[]) =>
  ({ kind: "global", tokenIds: Int32Array.from(ids.flatMap((some) => [...some])) }) as const;
const numTokensOf = (spans: Spans) => spans.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);

/** A request as it was made, and what became of it. */
interface Asked {
  readonly prompt: TokenizedPrompt;
  readonly salt: string;
  readonly positionReencoding: boolean;
  readonly keepPrefixes: boolean;
  readonly isScored: boolean;
  readonly answers: readonly Pick<GenerateResult, "tokenIds" | "endToken" | "finishReason">[];
  readonly usage: Usage;
  readonly blocks: GenerateResult["blocks"];
}

/** Draws what is asked next: of conversations so far a continuation, or a variant. */
class Conversations {
  readonly #passages: readonly number[][];
  /** Prompts with their answers. */
  readonly #answered: Spans[] = [];

  constructor(private readonly random: Random) {
    this.#passages = drawBlocks(random, 8, 70);
  }

  begin(): Spans {
    return [...this.#drawPassages(1 + this.random.below(4)), global(this.#question())];
  }

  /** The conversation that goes on, or another one whose beginning is known. */
  next(last: Spans | undefined): Spans {
    const { random } = this;
    const known = this.#answered[random.below(this.#answered.length)] ?? this.begin();
    const from = last === undefined || random.below(3) === 0 ? known : last;
    const kind = random.below(8);
    if (kind === 0) return this.#edited(from);
    if (kind === 1) return this.#reordered(from);
    if (kind === 2) return this.#shortened(from);
    if (kind === 3 || numTokensOf(from) > longTokens) return from;
    const passages = random.below(2) === 0 ? [] : this.#drawPassages(1 + random.below(2));
    return [...from, ...passages, global(this.#question())];
  }

  /** @returns the conversation so far, as the next prompt holds it. */
  answer(asked: Spans, { tokenIds }: Pick<GenerateResult, "tokenIds">): Spans {
    const { random } = this;
    // The template's own tokens; now and then the answer is written otherwise than it was drawn.
    const written = random.below(5) === 0 ? tokenIds.slice(0, -1) : tokenIds;
    const answered = [...asked, global(written, [7, 8].slice(random.below(3)))];
    this.#answered.push(answered);
    return answered;
  }

  #drawPassages(count: number) {
    return Array.from({ length: count }, () => local(this.#passages[this.random.below(8)] as number[]));
  }

  #question(): number[] {
    const { random } = this;
    // Those of whole pages among them, and of one token.
    const length = [1, PAGE_TOKENS, 2 * PAGE_TOKENS, 1 + random.below(20), 1 + random.below(90)][random.below(5)];
    return drawIds(random, length as number);
  }

  #edited(spans: Spans): Spans {
    const at = this.random.below(spans.length);
    return spans.map((span, i) => {
      if (i !== at) return span;
      const tokenIds = span.tokenIds.slice();
      tokenIds[this.random.below(tokenIds.length)] = 249 - this.random.below(3);
      return { ...span, tokenIds };
    });
  }

  #reordered(spans: Spans): Spans {
    const places = [...spans.keys()].filter((i) => spans[i]?.kind === "local");
    const order = this.random.order(places.length).map((i) => spans[places[i] as number]);
    return spans.map((span) => (span.kind === "local" ? (order.shift() as (typeof spans)[number]) : span));
  }

  #shortened(spans: Spans): Spans {
    const globals = [...spans.keys()].filter((i) => spans[i]?.kind === "global");
    const at = globals[this.random.below(globals.length)] as number;
    const { tokenIds } = spans[at] as Spans[number];
    return [...spans.slice(0, at), global(tokenIds.subarray(0, 1 + this.random.below(tokenIds.length)))];
  }
}

/** A prompt in block mode, or as one text; global spans that stand side by side are one. */
function promptOf(spans: Spans, mode: AttentionMode, isConversation: boolean): TokenizedPrompt {
  const joined: { kind: PromptSpan["kind"]; tokenIds: Int32Array }[] = [];
  for (const { kind, tokenIds } of spans) {
    if (tokenIds.length === 0) continue;
    const last = joined.at(-1);
    if (mode === "full" || (kind === "global" && last?.kind === "global")) {
      if (last === undefined) joined.push(global(tokenIds));
      else last.tokenIds = global(last.tokenIds, tokenIds).tokenIds;
    } else joined.push({ kind, tokenIds });
  }
  return new TokenizedPrompt(mode, joined, [], [], true, isConversation);
}

/** What reuse is explained by: each salt's blocks, and its prompts and answers by how they are seen. Slow and obvious. */
class Known {
  readonly #blocks = new Set<string>();
  readonly #texts = new Map<string, (string | number)[][]>();

  /** What a prompt reuses where all that is known is kept. */
  expected({ prompt, salt, isScored, ...of }: Asked): Usage["reused"] {
    const items = itemsOf(prompt);
    let blocks = 0;
    const own = new Set<string>();
    for (const { kind, tokenIds } of prompt.spans) {
      if (kind === "global") continue;
      const name = `${salt} ${tokenIds}`;
      // The second of two in a prompt waits for the first.
      if (this.#blocks.has(name) || own.has(name)) blocks += tokenIds.length;
      own.add(name);
    }
    let longest = 0;
    for (const text of this.#texts.get(viewOf({ prompt, salt, ...of })) ?? []) {
      let common = 0;
      while (common < items.length && items[common] === text[common]) common += 1;
      longest = Math.max(longest, common);
    }
    // The last token is computed always.
    const shared = items.slice(0, Math.min(longest, items.length - 1)).filter((item) => typeof item === "number");
    const pages = isScored ? 0 : shared.length;
    return { ...nothingReused, blocks, [prompt.isConversation ? "conversation" : "prefix"]: pages };
  }

  add(asked: Asked): void {
    const { prompt, salt, keepPrefixes, answers } = asked;
    for (const { kind, tokenIds } of prompt.spans) if (kind === "local") this.#blocks.add(`${salt} ${tokenIds}`);
    if (!keepPrefixes) return;
    const view = viewOf(asked);
    const texts = this.#texts.get(view) ?? [];
    this.#texts.set(view, texts);
    texts.push(itemsOf(prompt));
    for (const { tokenIds, endToken } of answers) {
      // The last token's row is computed where an end token followed.
      texts.push([...itemsOf(prompt), ...(endToken ? tokenIds : tokenIds.slice(0, -1))]);
    }
  }
}

/** A prompt as what can be common to two: its local blocks, and its global tokens. */
function itemsOf({ spans }: TokenizedPrompt): (string | number)[] {
  return spans.flatMap<string | number>(({ kind, tokenIds }) => (kind === "local" ? [`${tokenIds}`] : [...tokenIds]));
}

function viewOf({ prompt, salt, positionReencoding }: Pick<Asked, "prompt" | "salt" | "positionReencoding">): string {
  return `${salt} ${prompt.mode} ${positionReencoding}`;
}

/** How a conversation is asked about. */
type Settings = { readonly mode: AttentionMode } & Pick<Asked, "salt" | "positionReencoding">;

/** One engine with its conversations. */
class World {
  readonly random: Random;
  readonly #conversations: Conversations;

  constructor(
    seed: number,
    private readonly engine: LocalEngine,
    private readonly fresh: LocalEngine,
  ) {
    this.random = new Random(seed, "world");
    this.#conversations = new Conversations(this.random);
  }

  /** The turns of one conversation, one after another. @param after called after each. */
  async converse(mayAbort: boolean, after: (asked: Asked) => Promise<void> | void): Promise<void> {
    const { random } = this;
    let last: Spans | undefined;
    let of = this.#drawSettings();
    for (let turn = 0; turn < turnsPerConversation; turn++) {
      const spans = turn === 0 && random.below(2) === 0 ? this.#conversations.begin() : this.#conversations.next(last);
      if (random.below(6) === 0) of = this.#drawSettings();
      const asked = await this.#ask(spans, turn > 0, mayAbort, of);
      await after(asked);
      const [answer] = asked.answers;
      if (answer) last = this.#conversations.answer(spans, answer);
    }
  }

  #drawSettings(): Settings {
    const { random } = this;
    return {
      mode: random.below(3) === 0 ? "full" : "block",
      salt: random.below(3) === 0 ? "other" : "",
      positionReencoding: random.below(8) > 0,
    };
  }

  async #ask(spans: Spans, isConversation: boolean, mayAbort: boolean, of: Settings): Promise<Asked> {
    const { random } = this;
    const prompt = promptOf(spans, of.mode, isConversation);
    const common = { ...of, keepPrefixes: random.below(4) > 0, explain: random.below(3) === 0 };
    const alone = { ...common, keepPrefixes: false, explain: false };
    if (random.below(6) === 0) {
      const text = drawIds(random, 1 + random.below(9));
      const stepwise = random.below(2) === 0;
      const { usage, logprobs } = await this.engine.score(prompt, text, { ...common, stepwise });
      const expected = await this.fresh.score(prompt, text, { ...alone, stepwise });
      this.#expectNear(logprobs, expected.logprobs);
      return { prompt, ...common, isScored: false, answers: [], usage, blocks: [] };
    }
    const isScored = random.below(12) === 0;
    const wanted = {
      n: random.below(4) === 0 ? 2 + random.below(2) : 1,
      maxTokens: random.below(8) === 0 ? 70 : random.below(14),
      temperature: random.below(4) === 0 ? 1 : 0,
      echo: isScored,
      logitBias: random.below(3) === 0 ? undefined : noEnd,
    };
    const answers: GenerateResult[] = [];
    const logprobs: number[][] = Array.from({ length: wanted.n }, () => []);
    const abort = new AbortController();
    if (mayAbort && random.below(3) === 0) void turns(random.below(120)).then(() => abort.abort());
    const { signal } = abort;
    for await (const event of this.engine.generate(prompt, { ...wanted, ...common, signal })) {
      if (event.kind === "token") logprobs[event.index]?.push(event.logprob as number);
      if (event.kind === "done") answers[event.index] = event.result;
    }
    for (const [index, { tokenIds }] of answers.entries()) {
      if (tokenIds.length === 0) continue;
      const { logprobs: expected } = await this.fresh.score(prompt, tokenIds, alone);
      this.#expectNear(logprobs[index] as number[], expected);
    }
    if (wanted.temperature === 0 && this.engine.kvType === "f32") {
      const { maxTokens, logitBias } = wanted;
      const expected = await this.fresh.complete(prompt, { maxTokens, logitBias, temperature: 0, ...alone });
      for (const { tokenIds } of answers) await this.#expectSame(prompt, tokenIds, expected.tokenIds, alone);
    }
    const { usage, blocks } = answers[0] as GenerateResult;
    return { prompt, ...common, isScored, answers, usage, blocks };
  }

  #expectNear(found: readonly number[], expected: readonly number[]): void {
    expect(found).toHaveLength(expected.length);
    const farthest = Math.max(...found.map((logprob, i) => Math.abs(logprob - (expected[i] as number))));
    expect(farthest).toBeLessThan(logprobBounds[this.engine.kvType]);
  }

  /** Expects the same tokens, as far as an aborted answer went, up to a tie. */
  async #expectSame(
    prompt: TokenizedPrompt,
    found: readonly number[],
    expected: readonly number[],
    alone: object,
  ): Promise<void> {
    const at = found.findIndex((id, i) => id !== expected[i]);
    if (at < 0) return;
    const likely = async (id: number | undefined) =>
      (await this.fresh.score(prompt, [...found.slice(0, at), id as number], alone)).logprobs[at] as number;
    const apart = Math.abs((await likely(found[at])) - (await likely(expected[at])));
    expect(apart, `token ${at}: ${found} instead of ${expected}`).toBeLessThan(tie);
  }
}

/** So many turns of the event loop. */
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(setImmediate);
}

function expectSum({ usage: { promptTokens, cachedTokens, reused } }: Asked): void {
  expect(reused.blocks + reused.prefix + reused.conversation).toBe(cachedTokens);
  expect(promptTokens - cachedTokens).toBeGreaterThan(0);
}

/** Answers over what conversations have in common equal those of an engine that knows nothing of them. */
export function conversationsSuite(size: ConversationsSize): void {
  const models = new LawModels();
  const shapes = Object.values(architectureModels).filter((shape) => boundedKvTypes(shape).length > 0);
  const numWorlds = Math.max(shapes.length, Math.ceil(size.numConversations / conversationsPerWorld / 2));

  /** Runs a world on an engine of its own, and expects that nothing of it stays. */
  async function inWorld(seed: number, storeTokens: number, run: (world: World, engine: LocalEngine) => Promise<void>) {
    const index = seed % shapes.length;
    const shape = shapes[index] as RandomModelShape;
    const model = models.huggingFace({ ...shape, contextLength: 1024, logitScale: 8 });
    const before = await liveCounts();
    {
      // In the next round of shapes each has another.
      const kvTypes = boundedKvTypes(shape);
      const kvType = kvTypes[(index + Math.floor(seed / shapes.length)) % kvTypes.length] as KVType;
      await using fresh = await lawEngine(model, { kvType, storeBytes: 0, keepPrefixes: false });
      const { numLayers, numKvHeads, headSize } = fresh.model.source.config;
      const storeBytes = blockKVByteLength({ numLayers, numKvHeads, headSize, numTokens: storeTokens, type: kvType });
      await using engine = await lawEngine(model, { kvType, storeBytes, maxRunning: 3 });
      const own = await liveCounts();
      await run(new World(seed, engine, fresh), engine);
      expectIdle(engine);
      await expectOnlyBlocks(own, engine, fresh);
    }
    expect(await liveCounts()).toEqual(before);
  }

  test.each(Array.from({ length: numWorlds }, (_, i) => i))(
    "Engine: turns, one at a time, reuse all that was kept and answer as a fresh engine, world %d",
    async (seed) => {
      const known = new Known();
      let numReused = 0;
      await inWorld(seed, 1 << 18, async (world, engine) => {
        for (let i = 0; i < conversationsPerWorld; i++) {
          await world.converse(false, (asked) => {
            expectSum(asked);
            expect(asked.usage.reused).toEqual(known.expected(asked));
            known.add(asked);
            numReused += asked.usage.reused.conversation;
            expectIdle(engine);
          });
        }
        expect(engine.stats().store.evictionsByReason).toMatchObject({ room: 0, deleted: 0 });
      });
      expect(numReused).toBeGreaterThan(2 * PAGE_TOKENS);
    },
  );

  test.each(Array.from({ length: numWorlds }, (_, i) => i))(
    "Engine: conversations at the same time, aborts and evictions change no answer, and what pages stand on outlives them, world %d",
    async (seed) => {
      const storeTokens = [150, 400, 900, 2000][new Random(seed, "store").below(4)] as number;
      let numPages = 0;
      await inWorld(seed, storeTokens, async (world, engine) => {
        using watch = new ChainWatch(engine);
        const all: Asked[] = [];
        const conversation = () =>
          world.converse(true, async (asked) => {
            all.push(asked);
            const block = asked.blocks[world.random.below(8)];
            if (block) await watch.deleteBlock(block.id, asked.salt);
          });
        for (let i = 0; i < conversationsPerWorld; i += 5) await Promise.all(Array.from({ length: 5 }, conversation));
        for (const asked of all) {
          if (asked.answers.some(({ finishReason }) => finishReason === "cancelled") && asked.usage.cachedTokens === 0)
            continue;
          expectSum(asked);
          // By what all others asked, those at the same time among them.
          const known = new Known();
          for (const other of all) if (other !== asked) known.add(other);
          const expected = known.expected(asked);
          expect(asked.usage.reused.blocks).toBeLessThanOrEqual(expected.blocks);
          expect(asked.usage.reused.prefix).toBeLessThanOrEqual(expected.prefix);
          expect(asked.usage.reused.conversation).toBeLessThanOrEqual(expected.conversation);
        }
        numPages = await watch.expectChains(all);
      });
      expect(numPages).toBeGreaterThan(0);
    },
  );
}
