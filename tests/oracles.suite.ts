import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { Engine } from "../src/engine/engine.js";
import { openModel } from "../src/model/open-model.js";
import { writeRandomGguf } from "./models/random-gguf.js";
import {
  askEngine,
  boundedKvTypes,
  distanceFromOracle,
  logprobBounds,
  oracleAnswer,
} from "./oracles/compare-engine.js";
import { type BoundCase, expectBound } from "./oracles/faults.js";
import { OnePassModel } from "./oracles/one-pass.js";
import { modelsWithoutGguf, type OracleCase, oracleModels } from "./oracles/oracle-cases.js";
import { readOracleFixture, writeOracleModel } from "./oracles/oracle-fixtures.js";
import { repairedReading } from "./oracles/repairs.js";
import { testDevice } from "./test-device.js";

export interface OraclesSize {
  readonly kinds: readonly ("hugging-face" | "gguf")[];
  /** Every prompt in one batch and token by token, and every fault on all prompts but the longest. Else in turn, and on one. */
  readonly everyCase: boolean;
  readonly threads: number;
}

/** Invariant I1: the engine equals PyTorch, and does not equal what PyTorch would give for another mask, other positions, keys or values. */
export function oraclesSuite({ kinds, everyCase, threads }: OraclesSize): void {
  const folder = mkdtempSync(join(tmpdir(), "block-attention-oracles-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  for (const name of Object.keys(oracleModels)) {
    const written = join(folder, name);
    // Its answers are kept for all tests.
    let onePass: OnePassModel | undefined;
    const setUp = async () => {
      const cases = writeOracleModel(name, written);
      onePass ??= new OnePassModel(await openModel(written));
      return { cases, fixture: readOracleFixture(name, written, cases), onePass };
    };
    /** In full mode a prompt is one block. */
    const asRead = (prompt: OracleCase): OracleCase =>
      prompt.mode === "full" ? { ...prompt, blockTokenIds: [prompt.blockTokenIds.flat()] } : prompt;

    // The faults are those of OnePassModel: it must be PyTorch's equal where it has none.
    test(`OnePassModel.score(): ${name} equals PyTorch under the block mask`, async () => {
      const { cases, fixture, onePass } = await setUp();
      for (const [i, prompt] of cases.entries()) {
        if (!everyCase && prompt.blockTokenIds.flat().length > 250) continue;
        const { repair, continuationTokenIds } = prompt;
        const rows = repair
          ? onePass.read(repairedReading({ ...prompt, ...repair }, onePass), continuationTokenIds.length)
          : onePass.score(asRead(prompt));
        const { logprobs, top } = oracleAnswer(rows, prompt);
        const told = { logprobs, top: top.map((row) => row.map(([id, logprob]) => ({ id, logprob }))) };
        expect(distanceFromOracle(told, fixture.cases[i]!), prompt.name).toBeLessThan(logprobBounds.f32);
      }
    });

    for (const kind of kinds) {
      if (kind === "gguf" && modelsWithoutGguf.includes(name)) continue;
      for (const kvType of boundedKvTypes(oracleModels[name]!).filter((type) => type === "f32" || type === "f16")) {
        test(`Engine.score(): ${name} (${kind}) with ${kvType} KV equals PyTorch under the block mask`, async () => {
          const { cases, fixture, onePass } = await setUp();
          const gguf = join(folder, `${name}.gguf`);
          if (kind === "gguf") writeRandomGguf(gguf, oracleModels[name]!);
          await using engine = await Engine.load({
            model: kind === "gguf" ? gguf : written,
            kvType,
            threads,
            device: testDevice,
          });
          const { vocabSize } = onePass.config;
          const bounded: BoundCase[] = [];
          for (const [i, prompt] of cases.entries()) {
            // Lead-ins are texts to an engine: tests/laws/repairs.suite.ts asks for these.
            if (prompt.repair !== undefined) continue;
            for (const stepwise of everyCase ? [false, true] : [i % 2 === 1]) {
              const found = await askEngine(engine, prompt, { mode: prompt.mode, stepwise, vocabSize });
              bounded.push({
                name: `${prompt.name}, ${stepwise ? "token by token" : "one batch"}`,
                prompt: asRead(prompt),
                distance: (fault) => {
                  if (fault === undefined) return distanceFromOracle(found, fixture.cases[i]!);
                  return distanceFromOracle(found, oracleAnswer(onePass.score(asRead(prompt), fault), prompt, 5));
                },
              });
            }
          }
          // Rounded to F16, a prompt of 300 blocks does not show that the first of them is unseen.
          expectBound(logprobBounds[kvType], bounded, { everyCaseUpTo: everyCase && kvType === "f32" ? 500 : 0 });
        });
      }
    }
  }
}
