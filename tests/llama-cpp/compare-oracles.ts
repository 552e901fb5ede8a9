import { join } from "node:path";
import { openModel } from "../../src/model/open-model.js";
import { writeRandomGguf } from "../models/random-gguf.js";
import { distanceFromOracle, logprobBounds, oracleAnswer } from "../oracles/compare-engine.js";
import { type BoundCase, expectBound, oneBlockFaults } from "../oracles/faults.js";
import { OnePassModel } from "../oracles/one-pass.js";
import { oracleModels } from "../oracles/oracle-cases.js";
import { readOracleFixture, writeOracleModel } from "../oracles/oracle-fixtures.js";
import { llamaCppScores } from "./llama-cpp-oracle.js";

/**
 * Expects llama.cpp's full mode to equal PyTorch's, up to 1,500 tokens. The two oracles check each other so, both
 * writers of weights with them. What llama.cpp must not equal is the pass of ours, with faults.
 */
export async function expectSameOracles(name: string, folder: string): Promise<void> {
  const model = join(folder, name);
  const cases = writeOracleModel(name, model);
  const fixture = readOracleFixture(name, model, cases);
  const gguf = `${model}.gguf`;
  writeRandomGguf(gguf, oracleModels[name]!);
  const onePass = new OnePassModel(await openModel(model));
  const bounded: BoundCase[] = [];
  for (const [i, oracleCase] of cases.entries()) {
    if (oracleCase.mode !== "full") continue;
    const prompt = { ...oracleCase, blockTokenIds: [oracleCase.blockTokenIds.flat()] };
    const [steps] = await llamaCppScores(gguf, prompt.blockTokenIds, prompt.continuationTokenIds);
    const found = { logprobs: steps!.map(({ logprob }) => logprob), top: steps!.map(() => []) };
    bounded.push({
      name: oracleCase.name,
      prompt,
      distance: (fault) => {
        const expected = fault ? oracleAnswer(onePass.score(prompt, fault), prompt) : fixture.cases[i]!;
        return distanceFromOracle(found, { ...expected, top: found.top });
      },
    });
  }
  expectBound(logprobBounds.f32, bounded, { faults: oneBlockFaults });
}
