import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import { embeddedModelPath } from "../src/engine/model.js";
import { openVinoVariable } from "../src/ggml/openvino/library.js";
import { lawEngine, lawFolder } from "./laws/law-models.js";
import { openVinoSkipped, testOpenVino } from "./openvino-place.js";

const openVinoTest = test.skipIf(testOpenVino === undefined);
const model = embeddedModelPath();
const folder = lawFolder();
afterEach(() => vi.unstubAllEnvs());

test("Engine.load(): OpenVINO that is asked for and not there is an error, which says how to install it; auto does without", async () => {
  await expect(lawEngine(model, { products: "openvino" })).rejects.toThrow(
    /^Cannot find OpenVINO: it is not installed \(pip install --no-deps --target ".+" openvino==2026\.4\.0\), and BLOCK_ATTENTION_OPENVINO names no folder$/,
  );
  const warnings: string[] = [];
  const onWarning = (warning: string) => void (/OpenVINO/.test(warning) && warnings.push(warning));
  await (await lawEngine(model, { onWarning }))[Symbol.asyncDispose]();
  expect(warnings).toEqual([]);
  vi.stubEnv(openVinoVariable, folder);
  await expect(lawEngine(model, { products: "openvino" })).rejects.toThrow(/^Cannot find OpenVINO: .+ a folder with/);
  await using engine = await lawEngine(model, { onWarning });
  expect(warnings).toEqual([expect.stringMatching(/^Cannot find OpenVINO: .+; ggml multiplies in its place$/)]);
  expect(engine.model.backend.policy.products).toBeUndefined();
});

openVinoTest(
  `Engine: with OpenVINO answers are the same from the store as without one, and near ggml's${openVinoSkipped}`,
  async () => {
    vi.stubEnv(openVinoVariable, testOpenVino as string);
    const options = { weights: "q8_0", kvType: "f16" } as const;
    const documents = [
      "Mira keeps a red kite in the attic.",
      "Tom sold his boat to Ada in May.",
      "The harbour closes at nine.",
    ];
    const blocks = documents.map((text) => `${text}\n`);
    const prompt = { blocks: [...blocks, "Who sold a boat?"] };
    const store = join(folder, "blocks");
    const scores = async (products: "ggml" | "openvino", more: object = {}) => {
      await using engine = await lawEngine(model, { ...options, products, ...more });
      // A folder keeps new blocks once all its files have been looked at: this waits for it.
      await engine.encode(["first"]);
      const first = (await engine.score(prompt, " Tom sold a boat.")).logprobs;
      const shuffled = { blocks: [...blocks.toReversed(), "Who sold a boat?"] };
      await engine.score(shuffled, " Tom sold a boat.");
      const again = await engine.score(prompt, " Tom sold a boat.");
      expect(again.logprobs).toEqual(first);
      return { first, cached: again.usage.cachedTokens };
    };
    const producers = () =>
      readdirSync(join(store, "blocks"), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map(({ parentPath, name }) => readFileSync(join(parentPath, name)).subarray(0, 4096).toString("latin1"))
        .map((head) => /"producer":"([^"]+)"/.exec(head)?.[1]);
    const plain = await scores("openvino");
    const stored = await scores("openvino", { store });
    const reloaded = await scores("openvino", { store });
    expect(stored.first).toEqual(plain.first);
    expect(reloaded.first).toEqual(plain.first);
    expect(plain.cached).toBeGreaterThan(0);
    expect(new Set(producers())).toEqual(new Set([expect.stringMatching(/^ggml .+, OpenVINO 2026\.\d\.\d int8$/)]));
    const ggml = await scores("ggml", { store });
    // Another producer's blocks are misses, and are replaced.
    expect(producers().join()).not.toContain("OpenVINO");
    // Both round rows to 8 bits in groups of 32, each in its own way: neither is much farther from what is not rounded. Attention rounds nothing.
    const exact = await scores("ggml", { weights: "f32" });
    const attended = await scores("openvino", { weights: "f32" });
    const largest = Math.max(...attended.first.map((value, i) => Math.abs(value - (exact.first[i] as number))));
    expect(largest).toBeLessThan(1e-3);
    const distance = ({ first }: typeof exact) =>
      Math.sqrt(first.reduce((sum, value, i) => sum + (value - (exact.first[i] as number)) ** 2, 0) / first.length);
    expect(distance(plain)).toBeLessThan(2 * distance(ggml));
    expect(distance(plain)).toBeGreaterThan(0.01);
  },
);
