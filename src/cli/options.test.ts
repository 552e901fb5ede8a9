import { Command } from "commander";
import { expect, test } from "vitest";
import { addEngineOptions, addModeOptions, addSamplingOptions, samplingOptions } from "./options.js";

test("options: what is given arrives under the engine's names, what is not stays absent", () => {
  const command = addEngineOptions(addModeOptions(addSamplingOptions(new Command().exitOverride())));
  command.parse(
    ["--top-k", "5", "--stop", "a", "--stop", "b", "--logit-bias", "3=-1.5", "--logit-bias", "4=2", "--logprobs", "2"],
    { from: "user" },
  );
  expect(samplingOptions(command.opts())).toEqual({
    topK: 5,
    stop: ["a", "b"],
    logitBias: { 3: -1.5, 4: 2 },
    logprobs: true,
    topLogprobs: 2,
  });
  expect(command.opts()).toMatchObject({ positionReencoding: true });
});
