import { Command } from "commander";
import { expect, test } from "vitest";
import { addCommand, command, type FlagsOf } from "./command.js";
import { engineFlags, modeFlags, samplingFlags, samplingOptions } from "./options.js";
import type { Terminal } from "./terminal.js";

test("options: what is given arrives under the engine's names, what is not stays absent", async () => {
  const program = new Command().exitOverride();
  const flags = { ...samplingFlags, ...modeFlags, ...engineFlags };
  let given: FlagsOf<typeof flags> | undefined;
  const run = async (flags: NonNullable<typeof given>) => {
    given = flags;
    return 0;
  };
  addCommand(program, command({ name: "x", summary: "", flags, run, help: "" }), {} as Terminal, () => undefined);
  await program.parseAsync(
    [
      ...["x", "--top-k", "5", "--stop", "a", "--stop", "b"],
      ...["--adapter", "a,b=2", "--adapter", "c", "--adapter-scale", "-0.5", "--adapter", "d"],
      ...["--logit-bias", "3=-1.5", "--logit-bias", "4=2", "--logprobs", "2"],
    ],
    { from: "user" },
  );
  expect(samplingOptions(given as NonNullable<typeof given>)).toEqual({
    topK: 5,
    stop: ["a", "b"],
    logitBias: { 3: -1.5, 4: 2 },
    logprobs: true,
    topLogprobs: 2,
  });
  const adapters = [{ path: "a,b=2" }, { path: "c", scale: -0.5 }, { path: "d" }];
  expect(given).toMatchObject({ positionReencoding: true, adapters });
  expect(given).not.toHaveProperty("adapterScale");
  for (const [args, message] of [
    [["--adapter-scale", "1"], "Cannot use --adapter-scale: no --adapter stands before it"],
    [["--adapter", "a", "--adapter-scale", "x"], 'Cannot use --adapter-scale: it is "x", wanted a number'],
    [["--adapter", ""], 'Cannot use --adapter: it is "", wanted the path of an adapter'],
  ] as const) {
    await expect(program.parseAsync(["x", ...args], { from: "user" })).rejects.toThrow(message);
  }
});
