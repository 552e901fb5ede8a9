import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { isJsonObject, readJson } from "../files/bounded-json.js";
import { makeWritable, prepareFolder } from "../files/outputs.js";
import { pathExists } from "../files/path-exists.js";
import { quote } from "../files/quote.js";
import { describeFileError, openRegularFile } from "../files/regular-file.js";
import type { TrainerSettings } from "./settings.js";

/**
 * Checks what a run's settings name: models, data and the folder that is written to, which is made where it is not there.
 *
 * @param processes on this machine.
 * @param isNew whether the run may not go on from a checkpoint.
 * @throws Error of one line for the first that will not do.
 */
export async function checkRun(settings: TrainerSettings, processes: number, isNew: boolean): Promise<void> {
  const { model, data, training } = settings;
  const rows = training.rows_per_step;
  if (rows % processes !== 0) {
    throw new Error(`Cannot share "training.rows_per_step" among processes: ${rows} rows, ${processes} processes`);
  }
  for (const each of [model, model.mean_with, settings.export?.mean_with]) {
    if (each?.path && !(await isHubName(each.path))) await checkModelFolder(each.path);
  }
  if (model.tokenizer !== null && !(await isHubName(model.tokenizer)))
    await checkFolder(model.tokenizer, "a tokenizer", []);
  for (const path of [...data.train, ...data.evaluation]) await checkParquet(path);
  if (training.deepspeed_config !== null) await readJson(training.deepspeed_config);
  await checkTexts([...data.text, ...(settings.tokenizer?.text ?? [])]);
  const run = join(settings.output_folder, settings.run_name);
  const entries = await readdir(run).catch(() => []);
  const steps = entries.flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? []).map(Number);
  if (steps.length > 0) {
    if (isNew) throw new Error(`Cannot start anew: ${quote(run)} has checkpoints; name another run, or delete them`);
    await checkPlan(join(run, `checkpoint-${Math.max(...steps)}`), settings);
  }
  if (settings.export === null) return makeWritable(run);
  const read = [model.path, model.mean_with?.path, settings.export.mean_with?.path];
  // What a run that is done has exported is exported again.
  await prepareFolder(
    join(run, "export"),
    read.filter((path) => typeof path === "string"),
    "config.json",
    true,
  );
}

/** Checks that a run's order of samples has stayed the same, as far as its settings alone say; the trainer checks the rest. */
async function checkPlan(checkpoint: string, { data, packing, training }: TrainerSettings): Promise<void> {
  const plan = await readJson(join(checkpoint, "plan.json"));
  const now = {
    seed: training.seed,
    rows_per_step: training.rows_per_step,
    tokens_per_row: packing.tokens_per_row,
    open_rows: packing.open_rows,
    shuffled_row_groups: data.shuffled_row_groups,
  };
  for (const [key, value] of Object.entries(now)) {
    const before = isJsonObject(plan) ? (plan[key] ?? null) : null;
    if (before !== value) {
      throw new Error(
        `Cannot go on from ${quote(checkpoint)}: ${quote(key)} was ${JSON.stringify(before)}, now it is ${value}; the order of samples would be another`,
      );
    }
  }
}

/** Packages that these settings use and the trainer's own environment lacks. */
export function extraPackages({ training, lora, logging }: TrainerSettings): string[] {
  return [
    ...(training.distributed === "deepspeed" ? ["deepspeed"] : []),
    ...(lora?.quantize === "4bit" ? ["bitsandbytes"] : []),
    ...(logging.wandb ? ["wandb"] : []),
  ];
}

/** Checks texts to learn from. @throws Error of one line. */
export async function checkTexts(paths: readonly string[]): Promise<void> {
  for (const path of paths) await (await openRegularFile(path)).handle.close();
}

/**
 * Checks a checkpoint that is to be exported.
 *
 * @throws Error of one line for a folder that is none.
 */
export async function checkCheckpoint(folder: string): Promise<void> {
  const cannot = (reason: string) => new Error(`Cannot export ${quote(folder)}: ${reason}`);
  const names = await readdir(folder).catch((error: unknown) => {
    throw cannot(reasonOf(describeFileError(error, folder)));
  });
  // An adapter's checkpoint has no config.json of the model.
  if (names.includes("adapter_config.json")) return;
  if (!names.includes("config.json")) throw cannot('it is no checkpoint, it has no "config.json"');
  const config = await readJson(join(folder, "config.json"));
  if (!isJsonObject(config) || !isJsonObject(config.block_attention ?? null)) {
    throw cannot('its config.json has no "block_attention"');
  }
}

/** What describeFileError() says after the colon. */
function reasonOf(error: Error): string {
  return error.message.replace(/^Cannot read "(?:[^"\\]|\\.)*": /, "");
}

/** Whether it is no folder here, and may be a name on Hugging Face's hub: one with at most one owner before it. */
async function isHubName(path: string): Promise<boolean> {
  return /^[A-Za-z0-9][\w.-]*(?:\/[A-Za-z0-9][\w.-]*)?$/.test(path) && !(await pathExists(path));
}

/**
 * Checks that a folder may hold a model or an encoder for Transformers.
 *
 * @throws Error of one line.
 */
export function checkModelFolder(path: string): Promise<void> {
  return checkFolder(path, "a model", ["config.json"]);
}

async function checkFolder(path: string, what: string, files: readonly string[]): Promise<void> {
  const cannot = (reason: string) => new Error(`Cannot load ${what} from ${quote(path)}: ${reason}`);
  const names = await readdir(path).catch((error: NodeJS.ErrnoException) => {
    throw cannot(error.code === "ENOTDIR" ? "it is no folder" : reasonOf(describeFileError(error, path)));
  });
  const lacking = files.find((file) => !names.includes(file));
  if (lacking !== undefined) throw cannot(`it has no ${quote(lacking)}`);
}

async function checkParquet(path: string): Promise<void> {
  const { handle, size } = await openRegularFile(path);
  try {
    const ends = Buffer.alloc(8);
    await handle.read(ends, 0, 4, 0);
    await handle.read(ends, 4, 4, Math.max(0, size - 4));
    if (ends.toString("latin1") !== "PAR1PAR1") throw new Error(`Cannot read ${quote(path)}: it is no Parquet file`);
  } finally {
    await handle.close();
  }
}
