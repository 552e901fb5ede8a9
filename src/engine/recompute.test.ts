import { expect, test } from "vitest";
import { writeRandomModel } from "../../tests/models/random-model.js";
import { temporaryFolder } from "../files/test-files.suite.js";
import { Engine } from "./engine.js";

const blocks = ["The first text.\n", "The second one is longer.\n", "And a third one.\n", "What is it?"];
const continuation = " It is the";

test.each(["llama", "qwen2"] as const)(
  "recomputing everything equals full mode over the same ids, %s",
  async (architecture) => {
    const model = await temporaryFolder();
    writeRandomModel(model, { architecture });
    await using engine = await Engine.load({ model, kvType: "f32", weights: "f32" });
    const score = async (mode: "full" | "block", repair?: string) =>
      (await engine.score({ blocks }, continuation, { mode, repair })).logprobs;
    const full = await score("full");
    const distance = (found: readonly number[]) => Math.max(...found.map((x, i) => Math.abs(x - (full[i] as number))));
    for (const repair of ["first=all", "deviation=1", "look=1", "lead,first=all"]) {
      expect(distance(await score("block", repair)), repair).toBeLessThan(1e-3);
    }
    console.log(
      distance(await score("block")),
      distance(await score("block", "lead")),
      distance(await score("block", "first=4")),
      distance(await score("block", "deviation=0.3")),
      distance(await score("block", "look=0.3")),
      distance(await score("block", "preamble")),
    );
  },
);
