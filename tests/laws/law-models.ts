import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect } from "vitest";
import { Engine } from "../../src/engine/engine.js";
import type { EngineOptions } from "../../src/engine/engine-options.js";
import type { LocalEngine } from "../../src/engine/local-engine.js";
import { expectError } from "../../src/files/test-files.suite.js";
import type { NativeCounts } from "../../src/ggml/library.js";
import { ggmlQuantizer } from "../models/ggml-quantizer.js";
import type { Random } from "../models/random.js";
import { type RandomGgufOptions, writeRandomGguf } from "../models/random-gguf.js";
import { type RandomModelOptions, writeRandomModel } from "../models/random-model.js";
import { makeTokenizer } from "../models/random-tokenizer.js";
import { testDevice, testGgml } from "../test-device.js";

const { eosTokenId, endOfTurnTokenId } = makeTokenizer();

/** A logit bias that bans the end tokens of the random models, so that every answer has its length. */
export const noEnd = { [eosTokenId]: -100, [endOfTurnTokenId]: -100 };

/** A folder for a test file's models, removed when its tests are over. */
export function lawFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "block-attention-laws-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** The random models of a test file, each written when it is first asked for. */
export class LawModels {
  readonly #folder = lawFolder();
  readonly #paths = new Map<string, string>();

  huggingFace(options: RandomModelOptions): string {
    return this.#write(JSON.stringify(options), (path) => writeRandomModel(path, options));
  }

  async gguf(options: Omit<RandomGgufOptions, "quantizeRows">): Promise<string> {
    const quantizeRows = await ggmlQuantizer();
    return this.#write(`${JSON.stringify(options)}.gguf`, (path) =>
      writeRandomGguf(path, { ...options, quantizeRows }),
    );
  }

  #write(key: string, write: (path: string) => void): string {
    const known = this.#paths.get(key);
    if (known !== undefined) return known;
    const path = join(this.#folder, `${this.#paths.size}${key.endsWith(".gguf") ? ".gguf" : ""}`);
    write(path);
    this.#paths.set(key, path);
    return path;
  }
}

export async function liveCounts(): Promise<NativeCounts> {
  return { ...testGgml.live };
}

/** An engine with room for small models. One thread: small graphs gain nothing from more, and the cores are shared. */
export function lawEngine(model: string, options: Omit<EngineOptions, "model"> = {}): Promise<LocalEngine> {
  return Engine.load({
    model,
    threads: 1,
    mode: "block",
    kvType: "f32",
    storeBytes: 1 << 28,
    contextBytes: 1 << 28,
    device: testDevice,
    ...options,
  });
}

/** Expects a one-line error of the project's own, not one that JavaScript throws of itself, and gives its message. */
export async function expectRefusal(promise: Promise<unknown>, part: string | RegExp = /^Cannot /): Promise<string> {
  const message = await expectError(promise, part);
  expect(message).not.toMatch(/^Cannot (read|set) propert|^Cannot convert undefined|is not (a function|iterable)/);
  return message;
}

/** Resolves once blocks that leave the device are copied, which goes on after the requests that they are of. */
export async function copiesEnded(engine: LocalEngine): Promise<void> {
  const { numEncoding, tiers } = engine.stats().store;
  if (tiers.length === 0 || numEncoding + tiers.reduce((sum, { savingBytes }) => sum + savingBytes, 0) === 0) return;
  await new Promise((resolve) => setTimeout(resolve, 1));
  await copiesEnded(engine);
}

/** What must hold whenever no request runs: invariant I6, and nothing of a request left. */
export function expectIdle(engine: LocalEngine): void {
  const { store, contexts, kvMemory, hostMemory, requests } = engine.stats();
  expect(requests.running).toBe(0);
  expect(contexts.usedBytes).toBe(0);
  expect(kvMemory.usedBytes).toBe(store.idleBytes);
  expect(hostMemory?.usedBytes).toBe(store.tiers.find(({ name }) => name === "host")?.usedBytes);
  for (const { usedBytes, capBytes = usedBytes } of store.tiers) expect(usedBytes).toBeLessThanOrEqual(capBytes);
  expect(store).toMatchObject({ leasedBytes: 0, unkeptBytes: 0, numEncoding: 0 });
  expect(store.leasedBytes + store.idleBytes + store.freeBytes).toBe(store.capBytes);
}

/**
 * Expects that all that the native side holds since `idle` was counted are these engines' slabs, and that all that is used
 * of them are blocks at rest.
 */
export async function expectOnlyBlocks(idle: NativeCounts, ...engines: readonly LocalEngine[]): Promise<void> {
  const now = await liveCounts();
  let [numSlabs, reservedBytes] = [0, 0];
  for (const engine of engines) {
    const { kvMemory, hostMemory, store } = engine.stats();
    expect(kvMemory.usedBytes).toBe(store.idleBytes);
    numSlabs += kvMemory.numSlabs + (hostMemory?.numSlabs ?? 0);
    reservedBytes += kvMemory.reservedBytes + (hostMemory?.reservedBytes ?? 0);
  }
  expect(now).toEqual({
    ...idle,
    buffers: idle.buffers + numSlabs,
    contexts: idle.contexts + numSlabs,
    bufferBytes: idle.bufferBytes + reservedBytes,
  });
}

/** Random ids that any tokenizer of the random models has. */
export function drawIds(random: Random, length: number): number[] {
  return Array.from({ length }, () => random.below(250));
}

/** Blocks of random ids, of 1 to `maxLength` tokens each. */
export function drawBlocks(random: Random, count: number, maxLength: number): number[][] {
  return Array.from({ length: count }, () => drawIds(random, 1 + random.below(maxLength)));
}
