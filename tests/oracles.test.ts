import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { Engine } from "../src/engine/engine.js";
import { distanceFromOracle, logprobBounds } from "./oracles/compare-engine.js";
import { oracleModels } from "./oracles/oracle-cases.js";
import { readOracleFixture, writeOracleModel } from "./oracles/oracle-fixtures.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-oracles-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

for (const name of Object.keys(oracleModels)) {
  for (const kvType of ["f32", "f16"] as const) {
    test(`Engine.score(): ${name} with ${kvType} KV equals PyTorch under the block mask`, async () => {
      const model = join(folder, name);
      const cases = writeOracleModel(name, model);
      const fixture = readOracleFixture(name, model, cases);
      // One thread: two would wait for each other at every node while other test files hold the cores.
      await using engine = await Engine.load({ model, kvType, threads: 1 });
      const distances: Record<string, number> = {};
      for (const [i, oracleCase] of cases.entries()) {
        // In turn, so that both ways stand; the soak test takes every prompt both ways.
        const distance = await distanceFromOracle(engine, oracleCase, fixture.cases[i]!, i % 2 === 1);
        distances[oracleCase.name] = distance;
      }
      const tooFar = Object.entries(distances).filter(([, distance]) => !(distance < logprobBounds[kvType]));
      expect(tooFar).toEqual([]);
    });
  }
}
