import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { type Command, Option } from "commander";
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
import { flag, forceOption, jsonOption, repeatedFlag } from "./options.js";
import { note, type Terminal } from "./terminal.js";
import { commandPython, pythonOption } from "./trainer-python.js";
import { TrainingDisplay } from "./training-display.js";

const dtypes = ["float32", "bfloat16", "float16"] as const;

interface TrainerFlags {
  readonly python?: string;
  readonly verbose?: boolean;
}

interface SettingsFlags extends TrainerFlags {
  readonly config: string;
  readonly set?: readonly string[];
}

export interface TrainFlags extends SettingsFlags {
  readonly processes?: number;
  readonly new?: boolean;
  readonly json?: boolean;
}

export interface TrainTokenizerFlags extends SettingsFlags {
  readonly output?: string;
  readonly force?: boolean;
}

export interface ExportFlags extends TrainerFlags {
  readonly checkpoint: string;
  readonly output: string;
  readonly force?: boolean;
  readonly dtype?: string;
}

/** Declares `train`'s options. */
export function trainOptions(command: Command): Command {
  return addSettingsOptions(command)
    .addOption(
      flag(
        "--processes <n>",
        "processes on this machine, one a GPU, under torchrun (default: 1)",
        wholeNumber(1, 1024),
      ),
    )
    .addOption(new Option("--new", "refuse to go on from a checkpoint of the run"))
    .addOption(pythonOption())
    .addOption(jsonOption("each event as a line of JSON"));
}

/** Declares `train-tokenizer`'s options. */
export function trainTokenizerOptions(command: Command): Command {
  return addSettingsOptions(command)
    .addOption(flag("--output <folder>", "the folder to write (default: tokenizer, in the run's folder)", someWords))
    .addOption(forceOption())
    .addOption(pythonOption());
}

/** Declares `export`'s options. */
export function exportOptions(command: Command): Command {
  return command
    .addOption(flag("--checkpoint <folder>", "a checkpoint of a run", someWords).makeOptionMandatory())
    .addOption(flag("--output <folder>", "the folder to write", someWords).makeOptionMandatory())
    .addOption(forceOption())
    .addOption(flag("--dtype <type>", `of the weights: ${dtypes.join(", ")} (default: bfloat16)`, oneOfTexts(dtypes)))
    .addOption(pythonOption());
}

/** Trains, or goes on from the run's last checkpoint. @returns the trainer's exit code. */
export async function runTrain(flags: TrainFlags, terminal: Terminal): Promise<number> {
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

/** The run's evaluations as a picture in its folder, if there were any. */
async function drawCurve(run: string, terminal: Terminal): Promise<void> {
  const curve = await readCurve(run, basename(run));
  if (curve.points.length === 0) return;
  const path = join(run, "curves.svg");
  await prepareOutputs({ inputs: [], outputs: [path], force: true });
  await writeAtomically(path, (partial) => writeFile(partial, curvesPicture(basename(run), [curve])));
  note(terminal, `Drawn: ${path}`);
}

/** Trains a tokenizer alone. @returns the trainer's exit code. */
export async function runTrainTokenizer(flags: TrainTokenizerFlags, terminal: Terminal): Promise<number> {
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
export async function runExport(flags: ExportFlags, terminal: Terminal): Promise<number> {
  await checkCheckpoint(flags.checkpoint);
  await prepareFolder(flags.output, [flags.checkpoint], "config.json", flags.force);
  const dtype = flags.dtype === undefined ? [] : ["--dtype", flags.dtype];
  const args = ["export", "--checkpoint", flags.checkpoint, "--out", flags.output, ...dtype];
  return start(terminal, flags, new TrainingDisplay(terminal, () => performance.now()), { stage: "Exporting", args });
}

function addSettingsOptions(command: Command): Command {
  return command
    .addOption(
      flag(
        "--config <file>",
        "the settings, JSON; docs/fine-tuning.md names them all",
        someWords,
      ).makeOptionMandatory(),
    )
    .addOption(repeatedFlag("--set <key=value>", "a setting over the file's, as section.key=value", someWords));
}

/** The settings that the trainer will read, checked before anything is installed for it. */
function settingsOf({ config, set = [] }: SettingsFlags): Promise<TrainerSettings> {
  return readSettings(config, set, pythonFolder());
}

function settingsArgs({ config, set = [] }: SettingsFlags): string[] {
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
