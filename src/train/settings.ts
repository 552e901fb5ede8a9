import { join } from "node:path";
import { z } from "zod";
import { isJsonObject, type JsonObject, type JsonValue, parseJson, readJson } from "../files/bounded-json.js";
import { quote } from "../files/quote.js";
import { issueSentence } from "../files/schema-issue.js";

/** The settings of a training run that are looked at here; python/settings.schema.json names all. Absent ones are null. */
export interface TrainerSettings {
  readonly output_folder: string;
  readonly run_name: string;
  readonly model: {
    readonly path: string | null;
    readonly architecture: JsonObject | null;
    readonly tokenizer: string | null;
    readonly repair: string;
    readonly lead: string | null;
  };
  readonly tokenizer: {
    readonly text: readonly string[];
    readonly special_tokens: readonly string[];
    readonly pad_token: string;
    readonly eos_token: string;
    readonly bos_token: string | null;
  } | null;
  readonly data: {
    readonly train: readonly string[];
    readonly text: readonly string[];
    readonly evaluation: readonly string[];
    readonly modes: readonly string[];
    readonly max_tokens: number;
    readonly loss_on_prompt: boolean;
    readonly shuffled_row_groups: number;
  };
  readonly packing: { readonly tokens_per_row: number | null; readonly open_rows: number };
  readonly schedule: { readonly warmup_steps: number | null; readonly warmup_fraction: number | null };
  readonly training: {
    readonly steps: number | null;
    readonly epochs: number | null;
    readonly rows_per_step: number;
    readonly seed: number;
    readonly distributed: string;
    readonly deepspeed_config: string | null;
  };
  readonly lora: { readonly quantize: string; readonly adapter: string | null } | null;
  readonly distillation: object | null;
  readonly evaluation: { readonly every_steps: number | null; readonly at_start: boolean };
  readonly logging: { readonly wandb: boolean };
  readonly export: object | null;
}

/**
 * Reads a settings file as the trainer will, with `section.key=value` (the value as JSON, else as text) put over it.
 *
 * The schema is the trainer's own; so are the rules that no schema says, those of the validators in
 * python/block_attention_trainer/settings.py. Python checks again: what passes here may still be refused there.
 *
 * @param pythonFolder the folder that holds settings.schema.json.
 * @throws Error of one line that names the first key that is wrong.
 * @example "training.rows_per_step": 0 gives 'Cannot use "a.json": "training.rows_per_step" is 0, wanted 1 or more'
 */
export async function readSettings(
  path: string,
  overrides: readonly string[],
  pythonFolder: string,
): Promise<TrainerSettings> {
  let value = await readJson(path);
  if (!isJsonObject(value)) throw new Error(`Cannot read ${quote(path)}: it is no JSON object`);
  for (const override of overrides) value = overridden(value as JsonObject, override);
  const schema = await readJson(join(pythonFolder, "settings.schema.json"));
  const { success, data, error } = z.fromJSONSchema(schema as z.core.JSONSchema.JSONSchema).safeParse(value);
  const settings = data as TrainerSettings;
  const problem = success ? broken(settings) : issueSentence(error, value, "setting", (path) => path.join("."));
  if (problem !== undefined) throw new Error(`Cannot use ${quote(path)}: ${problem}`);
  return settings;
}

function overridden(settings: JsonObject, override: string): JsonObject {
  const [, key, text] = /^([^=]*)=(.*)$/s.exec(override) ?? [];
  const keys = key?.split(".") ?? [];
  if (text === undefined || keys.some((each) => each === "")) {
    throw new Error(`Cannot use ${quote(`--set ${override}`)}: wanted section.key=value`);
  }
  let value: JsonValue;
  try {
    value = parseJson(text, "the value");
  } catch {
    value = text;
  }
  const put = (section: JsonObject, [first = "", ...rest]: readonly string[]): JsonObject => {
    if (rest.length === 0) return { ...section, [first]: value };
    const inner = Object.hasOwn(section, first) ? section[first] : {};
    if (!isJsonObject(inner)) {
      throw new Error(`Cannot use ${quote(`--set ${override}`)}: ${quote(first)} is no section`);
    }
    return { ...section, [first]: put(inner, rest) };
  };
  return put(settings, keys);
}

/** What the validators of settings.py say, in their order and words; undefined where all agree. */
function broken(settings: TrainerSettings): string | undefined {
  const { model, tokenizer, data, packing, schedule, training, lora, distillation, evaluation } = settings;
  const tokens = tokenizer && { pad: tokenizer.pad_token, eos: tokenizer.eos_token, bos: tokenizer.bos_token };
  const noToken = Object.entries(tokens ?? {}).find(
    ([, token]) => token !== null && !tokenizer?.special_tokens.includes(token),
  );
  const rules: readonly (readonly [isBroken: boolean, says: string])[] = [
    [(model.path === null) === (model.architecture === null), '"model": wanted either "path" or "architecture"'],
    [
      model.architecture !== null && !Object.hasOwn(model.architecture, "model_type"),
      '"model": "architecture" has no "model_type"',
    ],
    [
      (model.repair === "lead") !== (model.lead !== null),
      '"model": wanted "lead" with "repair": "lead", and only there',
    ],
    [noToken !== undefined, `"tokenizer": "${noToken?.[0]}_token" is "${noToken?.[1]}", which is no special token`],
    [(data.train.length === 0) === (data.text.length === 0), '"data": wanted either "train" or "text"'],
    [new Set(data.modes).size < data.modes.length, '"data": "modes" names one twice'],
    [
      schedule.warmup_steps !== null && schedule.warmup_fraction !== null,
      '"schedule": wanted either "warmup_steps" or "warmup_fraction"',
    ],
    [(training.steps === null) === (training.epochs === null), '"training": wanted either "steps" or "epochs"'],
    [
      (training.distributed === "deepspeed") !== (training.deepspeed_config !== null),
      '"training": wanted "deepspeed_config" with "distributed": "deepspeed", and only there',
    ],
    [
      packing.tokens_per_row !== null && packing.tokens_per_row < data.max_tokens,
      `"packing.tokens_per_row" is ${packing.tokens_per_row}, "data.max_tokens" is ${data.max_tokens}: a sample may not fit into a row`,
    ],
    [model.architecture !== null && lora !== null, '"lora" adapts trained weights, "model.architecture" has none'],
    [
      model.architecture !== null && model.tokenizer === null && tokenizer === null,
      '"model.architecture" needs "model.tokenizer" or "tokenizer"',
    ],
    [
      tokenizer !== null && (model.architecture === null || model.tokenizer !== null),
      '"tokenizer" trains one for "model.architecture" without "model.tokenizer"',
    ],
    [
      distillation !== null && (data.loss_on_prompt || !data.modes.includes("block")),
      '"distillation" teaches answers in block mode: wanted "block" in "data.modes", and no "data.loss_on_prompt"',
    ],
    [
      distillation !== null && training.distributed !== "ddp",
      '"distillation" wants the whole model in each process: "training.distributed" "ddp"',
    ],
    [
      data.text.length > 0 && !data.modes.includes("full"),
      '"data.text" is learned in full mode, "data.modes" has no "full"',
    ],
    [
      (evaluation.every_steps !== null || evaluation.at_start) && data.evaluation.length === 0,
      '"evaluation" is asked for, "data.evaluation" names no files',
    ],
  ];
  return rules.find(([isBroken]) => isBroken)?.[1];
}
