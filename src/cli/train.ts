import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { oneOfTexts, wholeNumber } from "../files/options.js";
import { prepareFolder, prepareOutputs, writeAtomically } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { someWords } from "../files/settings.js";
import { checkCheckpoint, checkRun, checkTexts, extraPackages } from "../train/check-run.js";
import { curvesPicture, readCurve } from "../train/curves.js";
import { pythonFolder } from "../train/python-folder.js";
import { runTrainer } from "../train/run-trainer.js";
import { readSettings, type TrainerSettings } from "../train/settings.js";
import type { TrainerEvent } from "../train/trainer-event.js";
import { command, type FlagsOf, flag, mandatory, repeated, toggle } from "./command.js";
import { forceFlag } from "./options.js";
import { otherOnDisk } from "./pull-model.js";
import { note, type Terminal } from "./terminal.js";
import { commandPython, pythonFlag } from "./trainer-python.js";
import { TrainingDisplay } from "./training-display.js";

const dtypes = ["float32", "bfloat16", "float16"] as const;

const settingsFlags = {
  config: mandatory(flag("<file>", "the settings, JSON; docs/fine-tuning.md names them all", someWords)),
  set: repeated("<key=value>", "a setting over the file's, as section.key=value", someWords),
};

const trainFlags = {
  ...settingsFlags,
  processes: flag("<n>", "processes on this machine, one a GPU, under torchrun (default: 1)", wholeNumber(1, 1024)),
  new: toggle("refuse to go on from a checkpoint of the run"),
  python: pythonFlag,
  json: toggle("each event as a line of JSON"),
};

export const trainCommand = command({
  name: "train",
  summary: "Trains a model in both modes, or goes on from its last checkpoint.",
  flags: trainFlags,
  run: runTrain,
  help: `
Examples:
  block-attention train --config python/configs/block_ft.json
  block-attention train --config run.json --set training.steps=100 --set model.path=./Tulu3-SFT --processes 8

Ctrl-C ends after the step with a checkpoint; the same command goes on from there. docs/fine-tuning.md tells the rest.`,
});

const tokenizerFlags = {
  ...settingsFlags,
  output: flag("<folder>", "the folder to write (default: tokenizer, in the run's folder)", someWords),
  force: forceFlag,
  python: pythonFlag,
};

export const trainTokenizerCommand = command({
  name: "train-tokenizer",
  summary: "Trains the tokenizer of a settings file alone.",
  flags: tokenizerFlags,
  run: runTrainTokenizer,
  help: `
Examples:
  block-attention train-tokenizer --config run.json --output ./tokenizer`,
});

const exportFlags = {
  checkpoint: mandatory(flag("<folder>", "a checkpoint of a run", someWords)),
  output: mandatory(flag("<folder>", "the folder to write", someWords)),
  force: forceFlag,
  adapter: toggle("write the adapter of a LoRA run alone, as --adapter takes it (default: merged into the model)"),
  dtype: flag("<type>", `of the weights: ${dtypes.join(", ")} (default: bfloat16)`, oneOfTexts(dtypes)),
  python: pythonFlag,
};

export const exportCommand = command({
  name: "export",
  summary: "Writes a training checkpoint as a Hugging Face folder.",
  flags: exportFlags,
  run: runExport,
  help: `
Examples:
  block-attention export --checkpoint runs/mine/checkpoint-500 --output ./model
  block-attention export --checkpoint runs/lora/checkpoint-500 --adapter --output ./adapter`,
});

interface TrainerFlags {
  readonly python: string | undefined;
  readonly verbose?: boolean | undefined;
}

/** Trains, or goes on from the run's last checkpoint. @returns the trainer's exit code. */
async function runTrain(given: FlagsOf<typeof trainFlags>, terminal: Terminal): Promise<number> {
  const set = [...(given.set ?? []), ...(await modelSetting(await settingsOf(given), terminal))];
  const flags = { ...given, set };
  const settings = await settingsOf(flags);
  const processes = flags.processes ?? 1;
  await checkRun(settings, processes, flags.new ?? false);
  const display = new TrainingDisplay(terminal, () => performance.now());
  let run: string | undefined;
  const code = await start(terminal, flags, display, {
    stage: "Starting Python and PyTorch",
    args: ["train", ...settingsArgs(flags), ...(flags.new ? ["--new"] : []), "--progress-json", "-"],
    processes,
    extraPackages: extraPackages(settings),
    json: flags.json ?? false,
    onEvent: (event) => {
      if (event.event === "start") run = event.run;
    },
  });
  if (code === 0 && run !== undefined) await drawCurve(run, terminal);
  return code;
}

/** A setting for the trainer, which knows nothing of hf: the path of the hub's model that its settings name so. */
async function modelSetting({ model }: TrainerSettings, terminal: Terminal): Promise<string[]> {
  const path = model.path && (await otherOnDisk(model.path, terminal, "transformers"));
  return path === model.path ? [] : [`model.path=${JSON.stringify(path)}`];
}

/** The run's evaluations as a picture in its folder, if there were any. */
async function drawCurve(run: string, terminal: Terminal): Promise<void> {
  const points = await readCurve(run);
  if (points.length === 0) return;
  const path = join(run, "curves.svg");
  await prepareOutputs({ inputs: [], outputs: [path], force: true });
  await writeAtomically(path, (partial) => writeFile(partial, curvesPicture(basename(run), points)));
  note(terminal, `Drawn: ${path}`);
}

/** Trains a tokenizer alone. @returns the trainer's exit code. */
async function runTrainTokenizer(flags: FlagsOf<typeof tokenizerFlags>, terminal: Terminal): Promise<number> {
  const { config, force } = flags;
  const { tokenizer, output_folder, run_name } = await settingsOf(flags);
  if (tokenizer === null) throw new Error(`Cannot train a tokenizer: ${quote(config)} has no "tokenizer"`);
  await checkTexts(tokenizer.text);
  const folder = flags.output ?? join(output_folder, run_name, "tokenizer");
  const outputs = ["tokenizer.json", "tokenizer_config.json"].map((name) => join(folder, name));
  await prepareOutputs({ inputs: [config, ...tokenizer.text], outputs, force });
  const out = ["--out", folder, ...(force ? ["--force"] : [])];
  const args = ["train-tokenizer", ...settingsArgs(flags), ...out];
  return start(terminal, flags, new TrainingDisplay(terminal, () => performance.now()), {
    stage: "Training the tokenizer",
    args,
  });
}

/** Writes a checkpoint as a Hugging Face folder. @returns the trainer's exit code. */
async function runExport(flags: FlagsOf<typeof exportFlags>, terminal: Terminal): Promise<number> {
  await checkCheckpoint(flags.checkpoint);
  const mark = flags.adapter ? "adapter_config.json" : "config.json";
  await prepareFolder(flags.output, [flags.checkpoint], mark, flags.force);
  const how = [...(flags.adapter ? ["--adapter"] : []), ...(flags.dtype === undefined ? [] : ["--dtype", flags.dtype])];
  const args = ["export", "--checkpoint", flags.checkpoint, "--out", flags.output, ...how];
  return start(terminal, flags, new TrainingDisplay(terminal, () => performance.now()), { stage: "Exporting", args });
}

/** The settings that the trainer will read, checked before anything is installed for it. */
function settingsOf({ config, set = [] }: FlagsOf<typeof settingsFlags>): Promise<TrainerSettings> {
  return readSettings(config, set, pythonFolder());
}

function settingsArgs({ config, set = [] }: FlagsOf<typeof settingsFlags>): string[] {
  return ["--config", config, ...set.flatMap((each) => ["--set", each])];
}

interface Work {
  /** What goes on before the trainer tells anything. */
  readonly stage: string;
  readonly args: readonly string[];
  readonly processes?: number;
  readonly extraPackages?: readonly string[];
  readonly json?: boolean;
  readonly onEvent?: (event: TrainerEvent) => void;
}

async function start(
  terminal: Terminal,
  flags: TrainerFlags,
  display: TrainingDisplay,
  { stage, args, processes = 1, extraPackages, json = false, onEvent }: Work,
): Promise<number> {
  const { env } = terminal;
  const { python, folder } = await commandPython(flags.python, terminal, extraPackages);
  if (!json) display.stage(stage);
  // From here on a signal is the trainer's: it writes a checkpoint, and its exit code counts.
  terminal.endWell();
  try {
    return await runTrainer({
      python,
      pythonFolder: folder,
      args: [...(flags.verbose ? ["--verbose"] : []), ...args],
      processes,
      env,
      platform: process.platform,
      signals: process,
      onEvent: (event) => {
        onEvent?.(event);
        if (json) terminal.stdout.write(`${JSON.stringify(event)}\n`);
        else display.show(event);
      },
      onText: (line) => display.text(line),
      onStopping: () =>
        display.text("Stopping: the trainer writes a checkpoint after this step; a second signal kills it"),
    });
  } finally {
    display.clear();
  }
}
