import { availableParallelism } from "node:os";
import type { Command, Option } from "commander";
import { z } from "zod";
import type { PackSettings } from "../data/pack-work.js";
import type { RowReport } from "../data/row-tally.js";
import { dataFiles } from "../data/rows.js";
import { embeddedModelPath } from "../engine/model.js";
import { oneOfTexts, wholeNumber } from "../files/options.js";
import { prepareOutputs } from "../files/outputs.js";
import { aNumber, someWords } from "../files/settings.js";
import { engineOption, flag, repeatedFlag } from "./options.js";
import { cleanText } from "./paint-blocks.js";
import { type Terminal, write, writeJson } from "./terminal.js";

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
  return flag("--output <file>", what, someWords).makeOptionMandatory();
}

export function workersOption(): Option {
  return flag("--workers <n>", "threads (default: all cores)", wholeNumber(0, 256));
}

export function inputOption(what: string): Option {
  return flag("--input <path>", what, someWords).makeOptionMandatory();
}

export function inputsOption(what: string): Option {
  return repeatedFlag("--input <path>", what, someWords).makeOptionMandatory();
}

export function seedOption(): Option {
  return flag("--seed <text>", "what random choices go by", someWords).default("42");
}

export function templateOption(fallback: TemplateName): Option {
  return flag(
    "--template <name>",
    `own: the model's chat template; tulu: the paper's (default: ${fallback})`,
    oneOfTexts(["own", "tulu"] as const),
  );
}

/** Adds --template, --prefix, --max-tokens, --single-probability, --seed and --workers; --model is the command's own to add. */
export function addCuttingOptions(command: Command, template: TemplateName): Command {
  return command
    .addOption(templateOption(template))
    .addOption(engineOption("prefix"))
    .addOption(flag("--max-tokens <n>", "samples have fewer tokens than this (default: 4096)", wholeNumber(2, 2 ** 24)))
    .addOption(
      flag(
        "--single-probability <p>",
        "share of conversations of one message that are trained in block mode (default: 0.45)",
        aProbability,
      ),
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

export const aProbability = aNumber("a number from 0 to 1", z.number().min(0).max(1));

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
