import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { Engine } from "../src/engine/engine.js";
import { writeRandomGguf } from "./models/random-gguf.js";
import { distanceFromOracle, logprobBounds } from "./oracles/compare-engine.js";
import { oracleModels } from "./oracles/oracle-cases.js";
import { readOracleFixture, writeOracleModel } from "./oracles/oracle-fixtures.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-oracles-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

for (const name of Object.keys(oracleModels)) {
  for (const kind of ["hugging-face", "gguf"] as const) {
    for (const kvType of ["f32", "f16"] as const) {
      test(`Engine.score(): ${name} (${kind}) with ${kvType} KV equals PyTorch on every prompt, both ways`, async () => {
        const written = join(folder, name);
        const cases = writeOracleModel(name, written);
        const fixture = readOracleFixture(name, written, cases);
        const gguf = join(folder, `${name}.gguf`);
        if (kind === "gguf") writeRandomGguf(gguf, oracleModels[name]!);
        await using engine = await Engine.load({ model: kind === "gguf" ? gguf : written, kvType, threads: 2 });
        const distances: [string, number][] = [];
        for (const [i, oracleCase] of cases.entries()) {
          for (const stepwise of [false, true]) {
            const distance = await distanceFromOracle(engine, oracleCase, fixture.cases[i]!, stepwise);
            distances.push([`${oracleCase.name}, ${stepwise ? "token by token" : "one batch"}`, distance]);
          }
        }
        const [worstCase, worst] = distances.reduce((a, b) => (a[1] > b[1] ? a : b));
        console.log(`${name} ${kind} ${kvType}: at most ${worst.toExponential(1)} (${worstCase})`);
        expect(distances.filter(([, distance]) => !(distance < logprobBounds[kvType]))).toEqual([]);
      });
    }
  }
}
