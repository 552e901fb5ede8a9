import { join } from "node:path";
import { expect, test } from "vitest";
import { modelIdentity } from "../../src/engine/model-identity.js";
import { findGgmlDirectory, loadGgml } from "../../src/ggml/library.js";
import { openModel } from "../../src/model/open-model.js";
import { lawFolder } from "../laws/law-models.js";
import { runCli } from "../run-cli.js";
import { realModel, realModels } from "./real-models.js";
import { realModelSuite } from "./real-models.suite.js";

const { file } = realModels[0]!;
// What CI has time for.
realModelSuite(file, { numPrompts: 10, textTokens: 1000, numPassages: [2, 10], numMutations: 20 });

const folder = lawFolder();

test(`${file}: a folder in BF16 and GGUF of the same numbers in BF16 and F16 are one model, the quantized file is another`, async ({
  skip,
}) => {
  const model = await realModel(file);
  if (model.kind === "missing") return skip(model.why);
  const ggml = loadGgml(await findGgmlDirectory("cpu"));
  const identityOf = async (path: string) =>
    modelIdentity(ggml, await openModel(path), "keep", { cacheDir: join(folder, "cache") });
  const [first, back] = [join(folder, "first"), join(folder, "back")];
  const convert = async (...args: string[]) => expect(await runCli(["convert", ...args])).toMatchObject({ code: 0 });
  await convert("--model", model.path, "--to", "hf", "--output", first);
  const found = [await identityOf(first)];
  for (const weights of ["keep", "f16"]) {
    const output = join(folder, `${weights}.gguf`);
    await convert("--model", first, "--to", "gguf", "--weights", weights, "--output", output);
    found.push(await identityOf(output));
  }
  await convert("--model", join(folder, "f16.gguf"), "--to", "hf", "--output", back);
  found.push(await identityOf(back));
  expect(new Set(found).size).toBe(1);
  expect(await identityOf(model.path)).not.toBe(found[0]);
});
