import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { type TensorType, weightsConversions } from "../../src/files/element-types.js";
import { LawModels } from "./law-models.js";

const models = new LawModels();
const built = fileURLToPath(new URL("../../dist/model/weights.js", import.meta.url));
// Of the built files, for a child process runs no TypeScript.
const script = `
const [model, conversion, dist] = process.argv.slice(1);
const [{ Backend }, { findGgmlDirectory, loadGgml }, { openModel }, { loadWeights }] = await Promise.all(
  ["ggml/backend.js", "ggml/library.js", "model/open-model.js", "model/weights.js"].map((file) => import(new URL(file, dist))),
);
const source = await openModel(model);
const backend = new Backend(loadGgml(await findGgmlDirectory("cpu")), { threads: 2 });
const before = process.memoryUsage.rss();
let peak = before;
const sample = () => { peak = Math.max(peak, process.memoryUsage.rss()); };
const timer = setInterval(sample, 1);
const weights = await loadWeights(backend, source, { conversion, onProgress: sample });
clearInterval(timer);
sample();
const largestBytes = Math.max(...[...source.tensors.values()].map(({ byteLength }) => byteLength));
console.log(JSON.stringify({ grownBytes: peak - before, finalBytes: weights.byteLength, largestBytes }));
weights[Symbol.dispose]();
backend[Symbol.dispose]();
`;

test
  .skipIf(!existsSync(built))
  .each(
    (["BF16", "Q4_0"] as const satisfies readonly TensorType[]).flatMap((type) =>
      weightsConversions.map((conversion) => [type, conversion] as const),
    ),
  )(
  "loadWeights(): of %s, --weights %s, takes 1.3 x the final size and the largest tensor at most",
  async (type, conversion) => {
    const model = await models.gguf({
      architecture: "llama",
      type,
      cheap: true,
      hiddenSize: 768,
      intermediateSize: 3072,
      numLayers: 6,
      numHeads: 12,
      vocabSize: 16_000,
      seed: 111,
    });
    const dist = new URL("../../dist/", import.meta.url).href;
    const output = execFileSync(process.execPath, ["--input-type=module", "-e", script, model, conversion, dist]);
    const { grownBytes, finalBytes, largestBytes } = JSON.parse(output.toString());
    console.log(`${type} to ${conversion}: grew ${grownBytes}, final ${finalBytes}, largest ${largestBytes}`);
    expect(grownBytes).toBeLessThan(1.3 * finalBytes + largestBytes);
  },
);
