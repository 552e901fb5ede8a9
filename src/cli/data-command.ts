import { availableParallelism } from "node:os";
import { type Command, Option } from "commander";
import type { PackSettings } from "../data/pack-work.js";
import type { RowReport } from "../data/row-tally.js";
import { dataFiles } from "../data/rows.js";
import { embeddedModelPath } from "../engine/model.js";
import { prepareOutputs } from "../files/outputs.js";
import { nonEmpty, oneOf, prefixOption, wholeNumber } from "./options.js";
import { cleanText } from "./paint-blocks.js";
import { type Terminal, write, writeJson } from "./terminal.js";
import { UsageError } from "./usage-error.js";

type TemplateName = PackSettings["template"];

/** Of a command that writes a file of rows. */
export interface RowsFlags {
  readonly output: string;
  readonly force?: boolean;
  readonly json?: boolean;
}

/** What cutting and tokenizing samples goes by. */
export interface CuttingFlags {
  readonly model?: string;
  readonly template?: TemplateName;
  readonly prefix?: string;
  readonly maxTokens?: number;
  readonly singleProbability?: number;
  readonly seed?: string;
  readonly workers?: number;
}

/** prepareOutputs() of a command over data. @param inputs files of rows, or folders of them. @throws as prepareOutputs(). */
export async function prepareData(
  inputs: readonly string[],
  others: readonly string[],
  outputs: readonly string[],
  force: boolean | undefined,
): Promise<void> {
  const files = await Promise.all(inputs.map(dataFiles));
  await prepareOutputs({ inputs: [...files.flat(), ...others], outputs, force });
}

export function outputOption(what: string): Option {
  return new Option("--output <file>", what).argParser(nonEmpty("--output")).makeOptionMandatory();
}

export function workersOption(): Option {
  return new Option("--workers <n>", "threads (default: all cores)").argParser(wholeNumber("--workers", 0, 256));
}

export function inputOption(what: string): Option {
  return new Option("--input <path>", what).argParser(nonEmpty("--input")).makeOptionMandatory();
}

export function inputsOption(what: string): Option {
  return new Option("--input <path>", `${what}; may be given again`)
    .argParser((path: string, before: readonly string[] | undefined) => [...(before ?? []), nonEmpty("--input")(path)])
    .makeOptionMandatory();
}

export function seedOption(): Option {
  return new Option("--seed <text>", "what random choices go by").argParser(nonEmpty("--seed")).default("42");
}

export function templateOption(fallback: TemplateName): Option {
  return new Option(
    "--template <name>",
    `own: the model's chat template; tulu: the paper's (default: ${fallback})`,
  ).argParser(oneOf("--template", ["own", "tulu"] as const));
}

/** Adds --template, --prefix, --max-tokens, --single-probability, --seed and --workers; --model is the command's own to add. */
export function addCuttingOptions(command: Command, template: TemplateName): Command {
  return command
    .addOption(templateOption(template))
    .addOption(prefixOption())
    .addOption(
      new Option("--max-tokens <n>", "samples have fewer tokens than this (default: 4096)").argParser(
        wholeNumber("--max-tokens", 2, 2 ** 24),
      ),
    )
    .addOption(
      new Option(
        "--single-probability <p>",
        "share of conversations of one message that are trained in block mode (default: 0.45)",
      ).argParser(probability("--single-probability")),
    )
    .addOption(seedOption())
    .addOption(workersOption());
}

/** The flags of `addCuttingOptions`, their defaults filled in. */
export function cuttingSettings(
  flags: CuttingFlags,
  template: TemplateName,
): PackSettings & { readonly numWorkers: number } {
  return {
    model: flags.model ?? embeddedModelPath(),
    template: flags.template ?? template,
    prefix: flags.prefix,
    maxTokens: flags.maxTokens ?? 4096,
    singleProbability: flags.singleProbability ?? 0.45,
    seed: flags.seed ?? "42",
    numWorkers: flags.workers ?? availableParallelism(),
  };
}

export function probability(flag: string): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !(value >= 0 && value <= 1)) {
      throw new UsageError(`Cannot use ${flag}: it is "${text}", wanted a number from 0 to 1`);
    }
    return value;
  };
}

/** Tells what was read and written. @returns the exit code: 1 if a row could not be used. */
export function tellRows(
  { json, output }: RowsFlags,
  report: RowReport,
  terminal: Terminal,
  more: readonly string[] = [],
): Promise<number> {
  const lines = [
    `${report.rows} rows, ${report.written} written`,
    ...droppedLines(report.dropped),
    ...badLines(report, 5),
    ...more,
    `Written: ${output}, with .manifest.json`,
  ];
  return tell(report, lines, json, terminal);
}

export function droppedLines(dropped: Readonly<Record<string, number>>): string[] {
  return Object.entries(dropped).map(([reason, count]) => `  ${count} left out: ${reason}`);
}

/** @param most how many errors are told. */
export function badLines(
  { bad, errors }: { readonly bad: number; readonly errors: readonly string[] },
  most = errors.length,
): string[] {
  if (bad === 0) return [];
  return [`${bad} rows could not be used; the first of them:`, ...errors.slice(0, most).map((error) => `  ${error}`)];
}

/** Writes a report, as lines or as JSON. @returns the exit code: 1 if a row could not be used. */
export async function tell(
  report: { readonly bad: number },
  lines: readonly string[],
  json: boolean | undefined,
  terminal: Terminal,
): Promise<number> {
  if (json) await writeJson(terminal, report);
  else await write(terminal.stdout, lines.map((line) => `${cleanText(line)}\n`).join(""), terminal.signal);
  return report.bad === 0 ? 0 : 1;
}
