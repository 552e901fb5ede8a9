import { Command } from "commander";
import { expect, test } from "vitest";
import {
  addEngineOptions,
  addModeOptions,
  addSamplingOptions,
  bytes,
  samplingOptions,
  wholeNumbers,
} from "./options.js";
import { UsageError } from "./usage-error.js";

test("bytes(): plain numbers, decimal and binary units", () => {
  const parse = bytes("--store-bytes");
  expect(["0", "1000", "512MiB", "2GB", "1.5 kib", "3b"].map(parse)).toEqual([0, 1000, 2 ** 29, 2e9, 1536, 3]);
});

test("bytes(): anything else names option, value and what is wanted", () => {
  for (const text of ["", "-1", "1.5", "5XB", "MiB", "1e9", "999999TiB", "NaN", "0x10"]) {
    expect(() => bytes("--store-bytes")(text)).toThrow(
      new UsageError(
        `Cannot use --store-bytes: it is ${JSON.stringify(text)}, wanted a number of bytes from 0 on, for instance 1000000, 512MiB or 2GB`,
      ),
    );
  }
});

test("wholeNumbers(): lists", () => {
  expect(wholeNumbers("--tokens", 1)("512, 1024")).toEqual([512, 1024]);
  expect(() => wholeNumbers("--tokens", 1)("512,,1")).toThrow('it is "", wanted a whole number from 1 on');
});

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
