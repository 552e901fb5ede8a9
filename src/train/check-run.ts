import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { parquetColumns } from "../data/rows.js";
import { isJsonObject, type JsonObject, readJson } from "../files/bounded-json.js";
import { makeWritable, prepareFolder } from "../files/outputs.js";
import { quote } from "../files/quote.js";
import { describeFileError, openRegularFile, pathExists } from "../files/regular-file.js";
import type { TrainerSettings } from "./settings.js";

/**
 * Checks what a run's settings name: models, data and the folder that is written to, which is made where it is not there.
 *
 * @param processes on this machine.
 * @param isNew whether the run may not go on from a checkpoint.
 * @throws Error of one line for the first that will not do.
 */
export async function checkRun(settings: TrainerSettings, processes: number, isNew: boolean): Promise<void> {
  const { model, tokenizer, data, training } = settings;
  const rows = training.rows_per_step;
  if (rows % processes !== 0) {
    throw new Error(`Cannot share "training.rows_per_step" among processes: ${rows} rows, ${processes} processes`);
  }
  if (model.path !== null && !(await isHubName(model.path))) await checkModelFolder(model.path);
  const tokenizerFolder = model.tokenizer ?? model.path;
  if (tokenizerFolder?.startsWith("hf:")) {
    throw new Error(
      `Cannot load a tokenizer from ${quote(tokenizerFolder)}: wanted a folder, or OWNER/REPO without hf:, which Transformers fetches`,
    );
  }
  if (tokenizerFolder !== null && !(await isHubName(tokenizerFolder)))
    await checkFolder(tokenizerFolder, "a tokenizer", tokenizerParts);
  if (settings.lora?.adapter != null) await checkFolder(settings.lora.adapter, "an adapter", adapterParts);
  const samples = [...data.train, ...data.evaluation];
  await checkSamples(samples);
  if (training.deepspeed_config !== null) await readObject(training.deepspeed_config);
  const texts = [...data.text, ...(tokenizer?.text ?? [])];
  await checkTexts(texts);
  const run = join(settings.output_folder, settings.run_name);
  const entries = await readdir(run).catch(() => []);
  const steps = entries.flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? []).map(Number);
  if (steps.length > 0) {
    if (isNew) throw new Error(`Cannot start anew: ${quote(run)} has checkpoints; name another run, or delete them`);
    await checkPlan(join(run, `checkpoint-${Math.max(...steps)}`), settings);
  }
  if (settings.export === null) return makeWritable(run);
  // What a run that is done has exported is exported again.
  await prepareFolder(
    join(run, "export"),
    [model.path, model.tokenizer, ...samples, ...texts, training.deepspeed_config].filter(
      (path) => typeof path === "string",
    ),
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
  const config = await readObject(join(folder, "config.json"));
  if (!isJsonObject(config.block_attention ?? null)) throw cannot('its config.json has no "block_attention"');
}

/** What describeFileError() says after the colon. */
function reasonOf(error: Error): string {
  return error.message.replace(/^Cannot read "(?:[^"\\]|\\.)*": /, "");
}

/** Whether it is no folder here, and may be a name on Hugging Face's hub: one with at most one owner before it. */
async function isHubName(path: string): Promise<boolean> {
  return /^[A-Za-z0-9][\w.-]*(?:\/[A-Za-z0-9][\w.-]*)?$/.test(path) && !(await pathExists(path));
}

/** What a folder needs for Transformers to load a model, or a tokenizer, from it. */
const modelParts: readonly (readonly [name: RegExp, what: string])[] = [
  [/^config\.json$/, '"config.json"'],
  [/\.(?:safetensors|bin)$/, "weights, a .safetensors or .bin file"],
];
const adapterParts = [[/^adapter_config\.json$/, '"adapter_config.json"']] as const;
const tokenizerParts = [[/^(?:tokenizer|vocab|spiece|sentencepiece|tekken)/, "tokenizer"]] as const;

/**
 * Checks that a folder may hold a model or an encoder for Transformers.
 *
 * @throws Error of one line.
 */
export async function checkModelFolder(path: string): Promise<void> {
  await checkFolder(path, "a model", modelParts);
  await readObject(join(path, "config.json"));
}

async function checkFolder(path: string, what: string, parts: typeof modelParts): Promise<void> {
  const cannot = (reason: string) => new Error(`Cannot load ${what} from ${quote(path)}: ${reason}`);
  const names = await readdir(path).catch((error: NodeJS.ErrnoException) => {
    throw cannot(error.code === "ENOTDIR" ? "it is no folder" : reasonOf(describeFileError(error, path)));
  });
  const lacking = parts.find(([part]) => !names.some((name) => part.test(name)));
  if (lacking !== undefined) throw cannot(`it has no ${lacking[1]}`);
}

async function readObject(path: string): Promise<JsonObject> {
  const value = await readJson(path);
  if (!isJsonObject(value)) throw new Error(`Cannot read ${quote(path)}: it is no JSON object`);
  return value;
}

/** What the trainer reads of samples: COLUMNS and SPAN_COLUMNS of python/block_attention_trainer/samples.py. */
const sampleColumns = ["input_ids", "labels", "modes", "sample_id"];
const spanColumns = ["span_lengths", "is_global"];

/** Checks files of samples by what stands at their ends: the rows are the trainer's to read. */
async function checkSamples(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    const columns = await parquetColumns(path);
    const lengths = spanColumns.some((name) => columns.includes(name)) ? spanColumns : ["block_lengths"];
    const lacking = [...sampleColumns, ...lengths].find((name) => !columns.includes(name));
    if (lacking !== undefined)
      throw new Error(`Cannot read ${quote(path)}: it has no column ${quote(lacking)}, wanted what "data pack" writes`);
  }
}
