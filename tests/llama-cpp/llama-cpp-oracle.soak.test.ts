import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, test } from "vitest";
import { oracleModels } from "../oracles/oracle-cases.js";
import { expectSameOracles } from "./compare-oracles.js";
import { whyNoLlamaCpp } from "./llama-cpp-oracle.js";

const folder = mkdtempSync(join(tmpdir(), "block-attention-llama-cpp-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const reason = await whyNoLlamaCpp();

for (const name of Object.keys(oracleModels)) {
  test(`llamaCppScores(): equals PyTorch on ${name}`, async ({ skip }) => {
    if (reason !== undefined) skip(reason);
    await expectSameOracles(name, folder);
  });
}
