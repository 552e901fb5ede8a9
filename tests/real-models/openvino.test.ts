import { expect, test, vi } from "vitest";
import { Engine } from "../../src/engine/engine.js";
import { openVinoVariable } from "../../src/ggml/openvino/library.js";
import { openVinoSkipped, testOpenVino } from "../openvino-place.js";
import { realModel, realModels } from "./real-models.js";
import { realPassages } from "./real-texts.js";

const { file } = realModels[0]!;

test.skipIf(testOpenVino === undefined)(
  `${file}: with OpenVINO log-probabilities of passages are at most 1.25 times as far from F32 weights as with ggml${openVinoSkipped}`,
  async ({ skip }) => {
    const model = await realModel(file);
    if (model.kind === "missing") return skip(model.why);
    vi.stubEnv(openVinoVariable, testOpenVino as string);
    const texts = realPassages()
      .map(({ title, text }) => ({ title, text }))
      .filter(({ text }) => text.length > 400)
      .slice(0, 12);
    const logprobsOf = async (options: object): Promise<number[]> => {
      await using engine = await Engine.load({ model: model.path, ...options });
      const all: number[] = [];
      for (const { title, text } of texts) {
        all.push(...(await engine.score({ blocks: [`${title}\n`] }, text, { mode: "full" })).logprobs);
      }
      return all;
    };
    const exact = await logprobsOf({ products: "ggml", weights: "f32" });
    const distanceOf = async (products: "ggml" | "openvino") => {
      const found = await logprobsOf({ products });
      return Math.sqrt(found.reduce((sum, value, i) => sum + (value - (exact[i] as number)) ** 2, 0) / found.length);
    };
    const [ggml, openVino] = [await distanceOf("ggml"), await distanceOf("openvino")];
    expect(exact.length).toBeGreaterThan(1000);
    expect(openVino).toBeLessThan(1.25 * ggml);
    expect(openVino).not.toBe(ggml);
  },
);
