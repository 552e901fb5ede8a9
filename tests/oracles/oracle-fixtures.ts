import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeRandomModel } from "../models/random-model.js";
import { resolveShape } from "../models/random-shape.js";
import { countTokens } from "../models/random-tokenizer.js";
import {
  makeOracleCases,
  type OracleCase,
  type OracleFixture,
  type OracleScores,
  oracleModels,
} from "./oracle-cases.js";

const fixtures = new URL("../fixtures/oracle/", import.meta.url);

/** Writes a model's Hugging Face folder and returns its prompts. */
export function writeOracleModel(name: string, folder: string): OracleCase[] {
  const options = oracleModels[name];
  if (options === undefined) throw new RangeError(`Cannot write an oracle model: "${name}" is not in oracleModels`);
  writeRandomModel(folder, options);
  // The embedding's rows past the tokenizer's ids are in no prompt.
  return makeOracleCases(countTokens(), resolveShape(options).seed);
}

/** Writes models and their prompts under a folder, for the Python oracle: NAME/config.json …, NAME/cases.json. Default: every model. */
export function writeOracleCases(folder: string, wanted: readonly string[]): string[] {
  const names = wanted.length > 0 ? [...wanted] : Object.keys(oracleModels);
  for (const name of names) {
    const cases = writeOracleModel(name, join(folder, name));
    writeFileSync(join(folder, name, "cases.json"), JSON.stringify({ cases }));
  }
  return names;
}

/** Joins a model's prompts with the oracle's results (NAME/results.json) into a fixture. */
export function writeOracleFixture(name: string, folder: string): void {
  const results: { versions: Record<string, string>; cases: Omit<OracleScores, "caseSha256">[] } = JSON.parse(
    readFileSync(join(folder, name, "results.json"), "utf8"),
  );
  const { cases }: { cases: OracleCase[] } = JSON.parse(readFileSync(join(folder, name, "cases.json"), "utf8"));
  const scores = cases.map((oracleCase, i): OracleScores => {
    const { logprobs, top } = results.cases[i]!;
    return { name: oracleCase.name, caseSha256: caseDigest(oracleCase), logprobs, top };
  });
  const fixture: OracleFixture = {
    model: name,
    modelSha256: fileDigest(join(folder, name, "model.safetensors")),
    versions: results.versions,
    cases: scores,
  };
  // A line a case, so that a change shows which cases it touched.
  const { cases: _, ...head } = fixture;
  const lines = scores.map((score) => JSON.stringify(score)).join(",\n");
  mkdirSync(fixtures, { recursive: true });
  writeFileSync(new URL(`${name}.json`, fixtures), `${JSON.stringify(head).slice(0, -1)},"cases":[\n${lines}\n]}\n`);
}

/**
 * The fixture of a model whose folder was written, checked to be for these weights and these prompts.
 * @throws Error where either has changed since: then `node scripts/oracle-fixtures.mjs` makes new ones.
 */
export function readOracleFixture(name: string, folder: string, cases: readonly OracleCase[]): OracleFixture {
  const fixture: OracleFixture = JSON.parse(readFileSync(new URL(`${name}.json`, fixtures), "utf8"));
  const digest = fileDigest(join(folder, "model.safetensors"));
  if (fixture.modelSha256 !== digest) {
    throw new Error(
      `Cannot use fixture "${name}": its weights are ${fixture.modelSha256}, those written are ${digest}`,
    );
  }
  cases.forEach((oracleCase, i) => {
    if (fixture.cases[i]?.caseSha256 !== caseDigest(oracleCase)) {
      throw new Error(`Cannot use fixture "${name}": the prompt "${oracleCase.name}" has changed since it was made`);
    }
  });
  return fixture;
}

function fileDigest(path: string): string {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}

function caseDigest(oracleCase: OracleCase): string {
  const { mode, positionReencoding, blockTokenIds, isGlobal, continuationTokenIds } = oracleCase;
  const kinds = isGlobal === undefined ? [] : [isGlobal];
  const text = JSON.stringify([mode, positionReencoding, blockTokenIds, continuationTokenIds, ...kinds]);
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}
