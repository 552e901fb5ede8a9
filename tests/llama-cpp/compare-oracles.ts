import { join } from "node:path";
import { writeRandomGguf } from "../models/random-gguf.js";
import { oracleModels } from "../oracles/oracle-cases.js";
import { readOracleFixture, writeOracleModel } from "../oracles/oracle-fixtures.js";
import { llamaCppScore } from "./llama-cpp-oracle.js";

/**
 * How far llama.cpp and PyTorch are apart at most on 1,500 tokens in full mode, in log-probability. The two oracles
 * check each other so, and both writers of weights with them.
 */
export async function compareOracles(name: string, folder: string): Promise<number> {
  const cases = writeOracleModel(name, join(folder, name));
  const fixture = readOracleFixture(name, join(folder, name), cases);
  const gguf = join(folder, `${name}.gguf`);
  writeRandomGguf(gguf, oracleModels[name]!);
  const index = cases.findIndex((oracleCase) => oracleCase.name === "full mode, 1,500 tokens");
  const { blockTokenIds, continuationTokenIds } = cases[index]!;
  const steps = await llamaCppScore(gguf, blockTokenIds.flat(), continuationTokenIds);
  const expected = fixture.cases[index]!.logprobs;
  return Math.max(...steps.map(({ logprob }, i) => Math.abs(logprob - expected[i]!)));
}
